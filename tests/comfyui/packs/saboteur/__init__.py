"""For stories about failures of our own: makes methods of the live host raise, and mends them.

POST /saboteur {"break": ["_step"]}; an empty list mends all.
"""

import sys

from aiohttp import web
from server import PromptServer


def _host():
    return next(module.host for name, module in list(sys.modules.items()) if name.endswith("residency.comfyui.lifecycle"))


def _broken(*args):
    raise RuntimeError("sabotage")


@PromptServer.instance.routes.post("/saboteur")
async def _sabotage(request):
    host, wanted = _host(), (await request.json())["break"]
    for name in [name for name, value in vars(host).items() if value is _broken]:
        delattr(host, name)
    for name in wanted:
        setattr(host, name, _broken)
    return web.json_response({"broken": wanted})


NODE_CLASS_MAPPINGS = {}
