"""For stories about strangers: GET /opened tells which paths with a mark in them this process has opened or listed, and forgets them."""

import sys

from aiohttp import web
from server import PromptServer

NODE_CLASS_MAPPINGS = {}
MARK = "canary"

_opened = []


def _hear(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and MARK in str(arguments[0]):
        _opened.append(str(arguments[0]))


sys.addaudithook(_hear)


@PromptServer.instance.routes.get("/opened")
async def get_opened(request):
    told, _opened[:] = [*_opened], []
    return web.json_response(told)
