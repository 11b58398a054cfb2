"""For stories about a drive that hangs: what reads one file of it waits, in the system call, until it is let go.

POST /hang {"name": "part of a path"} begins it and {"name": null} ends it; {"locks": true} holds the locks under which the pack's movers
work. Only Python's own calls can be held up this way: ComfyUI reads weights through other libraries, and goes on.
"""

import asyncio
import os
import sys
import threading

from aiohttp import web
from server import PromptServer

NODE_CLASS_MAPPINGS = {}

_over = threading.Event()
_over.set()
_name = ""
_HELD = ("residency", "answers of residency", "asyncio")  # the pack's own threads, and those on which its routes look at files


def _held(function, path_of, place=0):
    def call(*args, **kwargs):
        if not _over.is_set() and threading.current_thread().name.startswith(_HELD) and _name in path_of(args[place]):
            _over.wait()
        return function(*args, **kwargs)

    return call


def _path_of(fd):
    return os.readlink(f"/proc/self/fd/{fd}")


os.open = _held(os.open, str)
os.preadv = _held(os.preadv, _path_of)
os.sendfile = _held(os.sendfile, _path_of, 1)
os.posix_fadvise = _held(os.posix_fadvise, _path_of)


def _hold_locks(held):
    host = next(module for name, module in sys.modules.items() if name.endswith("residency.comfyui.lifecycle")).host
    with host.execution._lock, host.runtime._lock:
        held.set()
        _over.wait()


@PromptServer.instance.routes.post("/hang")
async def post_hang(request):
    global _name
    asked = await request.json()
    if asked.get("name") is None and not asked.get("locks"):
        _over.set()
        return web.json_response({})
    _over.clear()
    _name = asked.get("name") or "\0"
    if asked.get("locks"):
        held = threading.Event()
        threading.Thread(target=_hold_locks, args=(held,), daemon=True).start()
        while not held.is_set():
            await asyncio.sleep(0.01)
    return web.json_response({})
