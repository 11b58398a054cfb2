"""For stories about a device that hangs: POST /device {"hangs": true} has what was copied for the pack arrive no more, {"hangs": false}
ends it. The patience of the pack is short here."""

import sys
import threading
from types import SimpleNamespace

from aiohttp import web
from server import PromptServer

NODE_CLASS_MAPPINGS = {}
PATIENCE_S = 2.0

_answers = threading.Event()
_answers.set()


def _module(name):
    return next(module for key, module in sys.modules.items() if key.endswith(f"residency.comfyui.{name}"))


@PromptServer.instance.routes.post("/device")
async def post_device(request):
    device = _module("lifecycle").host.device
    _module("device.mover").PATIENCE_S = PATIENCE_S
    if (await request.json())["hangs"]:
        _answers.clear()
        device.streams._made = SimpleNamespace(into=SimpleNamespace(synchronize=_answers.wait, query=_answers.is_set))
    else:
        _answers.set()
        device.streams._made = None
    return web.json_response({})
