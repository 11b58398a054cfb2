"""For stories about a node that waits for a slow drive: each read of one file takes long, the pack's and ComfyUI's own.

POST /slow {"name": "part of a path", "seconds": 1.0} begins it and {"name": null} ends it.
"""

import os
import threading
import time

import comfy.utils
from aiohttp import web
from server import PromptServer

NODE_CLASS_MAPPINGS = {}

_name, _seconds = None, 0.0
_preadv, _sendfile, _whole = os.preadv, os.sendfile, comfy.utils.load_torch_file


def _wait(fd):
    if _name is not None and threading.current_thread().name.startswith("residency") and _name in os.readlink(f"/proc/self/fd/{fd}"):
        time.sleep(_seconds)


def preadv(fd, *args):
    _wait(fd)
    return _preadv(fd, *args)


def sendfile(into, fd, *args):
    _wait(fd)
    return _sendfile(into, fd, *args)


def load_torch_file(path, *args, **kwargs):
    if _name is not None and _name in str(path):
        time.sleep(3 * _seconds)
    return _whole(path, *args, **kwargs)


os.preadv, os.sendfile, comfy.utils.load_torch_file = preadv, sendfile, load_torch_file


@PromptServer.instance.routes.post("/slow")
async def post_slow(request):
    global _name, _seconds
    asked = await request.json()
    _name, _seconds = asked["name"], asked.get("seconds", 0.0)
    return web.json_response({})
