"""Routes and websocket messages: what the panel and programs can ask and be told.

GET /residency/status, POST /residency/mode, GET and POST /residency/settings, GET /residency/trace[?prompt_id=…][&format=chrome],
GET /residency/traces, and the websocket event "residency.update". docs/http.md describes them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import folder_paths
from aiohttp import web
from server import PromptServer

from .. import __version__, user_settings
from ..chrome import chrome
from ..component import Mode
from ..trace import Trace
from .host import ComfyHost
from .idle import IdleRelease
from .settings import parse_mode

log = logging.getLogger("residency")

EVENT = "residency.update"
UPDATE_S = 0.25
# a message may cost this share of the time at most: a trace of 10,000 nodes takes 0.1 s to copy
UPDATE_SHARE = 0.02
# the newest ones; GET /residency/trace has them all
UPDATE_DECISIONS = 200


def queued_prompts() -> Iterator[tuple[str, Any, list[str]]]:
    """The prompts behind the running one in the order in which they will run: (id, prompt, outputs to execute)."""
    _, queued = PromptServer.instance.prompt_queue.get_current_queue_volatile()
    for item in sorted(queued, key=lambda item: item[0]):
        yield item[1], item[2], list(item[4])


def settings_file() -> Path:
    """Where the last accepted settings are kept, for a server without a browser."""
    return Path(folder_paths.get_user_directory(), "residency", "settings.json")


def idle_release() -> IdleRelease:
    """Asks ComfyUI, as its own /free does, to take the models off the device; results stay in its cache."""
    server = PromptServer.instance
    queue = server.prompt_queue
    return IdleRelease(server.loop, lambda: queue.get_tasks_remaining() > 0, lambda: queue.set_flag("unload_models", True))


def on_prompt(handler: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Let `handler` see, and change, each prompt before it is checked."""
    PromptServer.instance.add_on_prompt_handler(handler)


class Announcer:
    """Sends the running trace to the open browsers, rarely enough to cost nothing.

    What happens too soon after a message is sent a moment later by ComfyUI's own event loop: the last word before a long node is not
    lost. `lock` is the runtime's: a trace changes only under it.
    """

    def __init__(self, lock: Callable[[], AbstractContextManager[object]]) -> None:
        self._lock = lock
        self._next_s = 0.0
        self._waiting = False

    def announce(self, trace: Trace, ended: bool) -> None:
        """Called after every event; most calls only look at the clock."""
        server = PromptServer.instance
        if not server.sockets or (self._waiting and not ended):
            return
        delay_s = self._next_s - time.monotonic()
        if ended or delay_s <= 0:
            self._send(trace, ended)
        else:
            self._waiting = True
            server.loop.call_soon_threadsafe(server.loop.call_later, delay_s, self._send_late, trace)

    def _send_late(self, trace: Trace) -> None:
        self._waiting = False
        with self._lock():
            if trace.outcome is None:
                self._send(trace, ended=False)

    def _send(self, trace: Trace, ended: bool) -> None:
        started_s = time.monotonic()
        data = trace.as_dict()
        data["decisions"] = data["decisions"][-UPDATE_DECISIONS:]
        message = {"prompt_id": trace.prompt_id, "mode": trace.mode.value, "running": not ended, "trace": data}
        PromptServer.instance.send_sync(EVENT, message)
        cost_s = time.monotonic() - started_s
        self._next_s = started_s + max(UPDATE_S, cost_s / UPDATE_SHARE)


def add_routes(host: ComfyHost) -> None:
    """Register the routes; ComfyUI adds its table of routes to the application after the packs are loaded."""
    routes = PromptServer.instance.routes

    @routes.get("/residency/status")
    async def get_status(request: web.Request) -> web.Response:
        return web.json_response(status(host))

    @routes.post("/residency/mode")
    async def post_mode(request: web.Request) -> web.Response:
        try:
            asked = (await request.json())["mode"]
        except (ValueError, KeyError, TypeError):
            return _error(400, 'the body must be JSON with a mode, like {"mode": "auto"}')
        mode = parse_mode(asked)
        if mode is None:
            return _error(400, f"{asked!r} is not a mode; choose one of {', '.join(mode.value for mode in Mode)}")
        _accept(host, replace(host.standing, mode=mode))
        return web.json_response(status(host))

    @routes.get("/residency/settings")
    async def get_settings(request: web.Request) -> web.Response:
        return web.json_response(host.standing.as_dict())

    @routes.post("/residency/settings")
    async def post_settings(request: web.Request) -> web.Response:
        try:
            asked = await request.json()
        except ValueError as error:
            return _error(400, f"the settings must be a JSON object: {error}")
        # what is not sent stays as it is
        wanted = user_settings.parse({**host.standing.as_dict(), **asked} if isinstance(asked, dict) else asked)
        if isinstance(wanted, str):
            return _error(400, wanted)
        _accept(host, wanted)
        return web.json_response(wanted.as_dict())

    @routes.get("/residency/trace")
    async def get_trace(request: web.Request) -> web.Response:
        prompt_id = request.query.get("prompt_id")
        with host.runtime.locked():
            host.runtime.look()
            traces = [trace for trace in host.runtime.traces if prompt_id in (None, trace.prompt_id)]
            data = traces[-1].as_dict() if traces else None
        if data is None:
            return _error(404, f"no trace of prompt {prompt_id}" if prompt_id else "no prompt has run yet")
        if request.query.get("format") == "chrome":
            headers = {"Content-Disposition": 'attachment; filename="residency-trace.json"'}
            return web.json_response(chrome(data), headers=headers)
        return web.json_response(data)

    @routes.get("/residency/traces")
    async def get_traces(request: web.Request) -> web.Response:
        keys = ("prompt_id", "outcome", "mode", "started_unix_s", "duration_s", "summary")
        traces = [{key: head[key] for key in keys} for head in (trace.head() for trace in reversed(host.runtime.traces))]
        return web.json_response({"traces": traces})


def status(host: ComfyHost) -> dict[str, Any]:
    """What is on, what is off, and why."""
    manager, traces = host.runtime.manager, host.runtime.traces
    resolved = manager.mode if traces else None
    return {
        "version": __version__,
        "installed": host.installed,
        "mode": host.user.mode.value,
        "mode_reason": resolved.reason if resolved and host.installed else f"set by {host.user.source}",
        "features": [{"name": fit.name, "on": fit.fits, "reason": fit.reason} for fit in host.features()],
        "failures": host.failures,
        "budget": {"host_limit_bytes": manager.host.limit_bytes, "host_held_bytes": manager.host.used_bytes},
        "threads": [thread.name for thread in threading.enumerate() if thread.name.startswith("residency")],
        "last_prompt_id": traces[-1].prompt_id if traces else None,
    }


def _accept(host: ComfyHost, wanted: user_settings.UserSettings) -> None:
    host.apply(wanted)
    path = settings_file()
    try:
        user_settings.write(path, wanted)
    except OSError as error:
        log.warning("residency: the settings hold until ComfyUI ends, they could not be kept in %s: %s", path, error)


def _error(code: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=code)
