"""For stories about faults: POST /faults {"fault": name} makes that happen to the pack alone, from then on; {"fault": null} ends it.

What ComfyUI itself does is left alone: a drive's faults meet the pack's own threads only, and hooks are broken before they are put in.
"""

import builtins
import errno
import gc
import os
import sqlite3
import sys
import threading
import time

import folder_paths
from aiohttp import web
from server import PromptServer

_fault = ""

# ComfyUI collects garbage wherever it frees all memory, 0.36 s each time, of which the objects that its imports have made take the most.
gc.freeze()


def _is_ours():
    return threading.current_thread().name.startswith("residency")


def _error(number):
    def fail(*args):
        raise OSError(number, os.strerror(number))

    return fail


def _dies(*args):
    raise SystemExit("a thread is ended from outside")


def _sleeps(*args):
    time.sleep(0.5)


def _breaks(*args, **kwargs):
    raise RuntimeError("sabotage")


READ = ("sendfile", "preadv")
# fault: what happens in the pack's own calls of the functions, before one or, where it returns something, in its place
CALLS = {
    "read error": (READ, _error(errno.EIO)),
    "network share gone": (READ, _error(errno.ESTALE)),
    "short read": (READ, lambda *args: 0),
    "slow drive": (READ, _sleeps),
    "thread ended": (READ, _dies),
    "out of memory in a read": (READ, _error(errno.ENOMEM)),
    "permission denied": (("open",), _error(errno.EACCES)),
    "no file handles": (("open",), _error(errno.EMFILE)),
    "file gone at open": (("open",), _error(errno.ENOENT)),
    "cannot be dropped": (("posix_fadvise",), _error(errno.EINVAL)),
}


_OUR_CODE = os.path.join("custom_nodes", "residency", "")


def _faulty(name, function):
    def call(*args, **kwargs):
        if _fault == "no handles for us" and name == "open" and _OUR_CODE in sys._getframe(1).f_code.co_filename:
            _error(errno.EMFILE)()
        where, happens = CALLS.get(_fault, ((), None))
        if name in where and _is_ours():
            answer = happens(*args)
            if answer is not None:
                return answer
        return function(*args, **kwargs)

    return call


for _name in (*READ, "open", "posix_fadvise"):
    setattr(os, _name, _faulty(_name, getattr(os, _name)))
builtins.open = _faulty("open", builtins.open)

_start = threading.Thread.start


def _no_thread(self):
    if _fault == "no threads" and self.name.startswith("residency"):
        raise RuntimeError("can't start new thread")
    _start(self)


threading.Thread.start = _no_thread

_connect = sqlite3.connect


def _without(database):
    if os.path.isdir(database):
        os.rmdir(database)
    for side in ("", "-wal", "-shm"):
        if os.path.exists(f"{database}{side}"):
            os.unlink(f"{database}{side}")


_profiles = set()


def _full(database, *args, **kwargs):
    """The profiles begin anew on a drive with room for one page, as something else, or where a folder lies."""
    ours = _fault.startswith("profiles") and "residency" in str(database)
    if ours and str(database) not in _profiles:
        _profiles.add(str(database))
        if _fault != "profiles: corrupt":  # the same file as ever, and not another in its place, which another server may have put there
            _without(database)
        if _fault == "profiles: a folder":
            os.mkdir(database)
        elif _fault == "profiles: locked":
            holder = _connect(database, isolation_level=None, check_same_thread=False)
            holder.execute("CREATE TABLE held (x)")
            holder.execute("BEGIN EXCLUSIVE")
            _mend.append(holder.close)
        elif _fault == "profiles: corrupt":
            with open(database, "wb") as file:
                file.write(b"SQLite format 3\0" + b"\xff" * 8_000)
    connection = _connect(database, *args, **kwargs)
    if ours and _fault == "profiles: disk full":
        connection.execute("PRAGMA max_page_count = 1")
    if ours and _fault == "profiles: read-only":
        connection.execute("PRAGMA query_only = 1")
    return connection


sqlite3.connect = _full


def _module(name):
    return next(module for key, module in sys.modules.items() if key.endswith(f"residency.{name}"))


def _host():
    return _module("comfyui.lifecycle").host


def _broken_at(host, fault):
    """(object, name) of what raises."""
    kind, _, name = fault.partition(": ")
    own = host.execution
    if kind == "hook raises":
        return next(one for one in (own, own.stalls) if hasattr(one, name)), name
    if kind == "limits raise":
        return host.limits, name
    if kind == "look raises":
        return own._sights._in_host, "look"
    if kind == "errand raises":
        return own.look_ahead, name
    if kind == "system refuses":
        return _module("transfers._system").current, name
    if kind == "memory":
        return _module("transfers.memory"), "_asked"
    if kind in ("core fails", "core fails at"):
        return host.runtime.manager, "handle"
    if kind == "panel fails":
        return host.runtime, "on_update"
    if kind == "recording fails":
        return host.runtime, "recorder"
    if kind == "mover raises":
        return next(iter(host.runtime.movers.values())), name
    if kind == "doctor raises":
        return _module("comfyui.server.doctor"), name
    if kind == "waits raise":
        return _module("comfyui.server.waits"), name
    if kind == "results raise":
        return own._cached, name
    return None


_refuses = _error(errno.ENOSYS)


def _later(function, then):
    left = [12]

    def call(*args, **kwargs):
        left[0] -= 1
        return (then if left[0] < 0 else function)(*args, **kwargs)

    return call


def _in_prompt(*args):
    """These are asked whether or not a prompt runs under the pack, and look for that first."""
    return _host().execution.runs() and _breaks()


def _at(event, function):
    def call(told):
        return (_breaks if type(told).__name__ == event else function)(told)

    return call


def _little(available_bytes):
    memory = _module("transfers._interface").HostMemory
    return lambda root: memory(1 << 33, available_bytes, "memory.max")


def _broken(fault, function):
    """What is in the function's place."""
    if fault.endswith((": chooses", ": teaches")):
        return _in_prompt
    if fault.startswith("core fails at"):
        return _at(fault.partition(": ")[2], function)
    if fault.startswith("system") or fault == "memory: unknown":
        then = _refuses
    elif fault.startswith("memory"):
        then = _little(0 if fault == "memory: none" else 32 << 20)
    else:
        then = _breaks
    return _later(function, then) if fault.endswith("later") else then


_mend = []


@PromptServer.instance.routes.post("/faults")
async def post_faults(request):
    global _fault
    host = _host()
    while _mend:
        _mend.pop()()
    _fault = (await request.json())["fault"] or ""
    mode = host.user.mode
    place = _broken_at(host, _fault)
    if place is not None:
        thing, name = place
        before = vars(thing).get(name, _breaks)
        broken = _broken(_fault, getattr(thing, name))
        setattr(thing, name, broken)

        def mend():
            if vars(thing).get(name) is not broken:
                return
            if before is _breaks:  # it was the class's own
                delattr(thing, name)
            else:
                setattr(thing, name, before)

        _mend.append(mend)
    if _fault == "hook raises: choose_node":  # without a device the order is ComfyUI's, and nobody is asked
        host.execution.chooses = host.execution.runs
        _mend.append(lambda: delattr(host.execution, "chooses"))
    if _fault == "profiles: corrupt":
        file = _module("profiles").database_in(folder_paths.get_user_directory())
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    if not _fault:
        for database in _profiles:
            if os.path.isdir(database):
                os.rmdir(database)
        _profiles.clear()
    if _fault.startswith(("hook raises", "profiles")) or not _fault:
        # what is bound to the seams, and the profiles, are made when the pack is switched on
        host.set_user_mode(type(mode).OFF, "faults")
        host.set_user_mode(mode, "faults")
    return web.json_response({"fault": _fault})


@PromptServer.instance.routes.get("/faults/open")
async def get_open(request):
    """Files that this process has open, and its threads that are the pack's."""
    files = []
    for handle in os.listdir("/proc/self/fd"):
        try:
            files.append(os.readlink(f"/proc/self/fd/{handle}"))
        except OSError:
            continue
    return web.json_response({"files": sorted(files), "threads": _host().threads()})


NODE_CLASS_MAPPINGS = {}
