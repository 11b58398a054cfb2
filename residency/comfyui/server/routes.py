"""Routes and websocket messages for the panel and for programs.

GET /residency/status, POST /residency/mode, GET and POST /residency/settings, GET /residency/trace[?prompt_id=…][&format=chrome],
GET /residency/traces, GET /residency/doctor, POST /residency/watch, those of insight.py and warmth.py, and the websocket event
"residency.update".
docs/http.md describes them.

Handlers run on ComfyUI's event loop, where everybody waits for whoever waits. They take no lock that a mover may hold; the settings file is
written by a thread of its own, and a big trace is copied by one of asyncio's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import folder_paths
from aiohttp import web
from server import PromptServer

from ... import __version__, findings
from ...record.trace import Mark, Trace
from ...record.trace_events import chrome
from ...settings import user as user_settings
from ...settings.prompt import DEFAULT, MODES, parse_mode
from ...units import shown
from ..host import ComfyHost
from ..prompt.background import Errands
from ..prompt.queued import whole_nodes
from .apart import Apart, HangsError
from .doctor import Doctor
from .idle import IdleRelease
from .insight import add_insight
from .requests import BadRequestError, body, error_answer
from .warmth import add_warmth

log = logging.getLogger("residency")

EVENT = "residency.update"
UPDATE_S = 0.1
AHEAD_S = 1.0  # what is to come is up to 200 nodes, and the panel itself moves it along
# a message may cost this share of the time at most: a trace of 10,000 nodes takes 0.1 s to copy
UPDATE_SHARE = 0.02
# the newest ones; GET /residency/trace has them all
UPDATE_DECISIONS = 200

# how long an answer waits for what mostly takes milliseconds: a small file to be written, threads without work to end
SETTLE_S = 1.0
LOOK_S = 0.01

_keeper = Errands("residency settings")


def queued_prompts() -> Iterator[tuple[str, Any, list[str]]]:
    """The prompts behind the running one in the order in which they will run: (id, prompt, outputs to execute)."""
    _, queued = PromptServer.instance.prompt_queue.get_current_queue_volatile()
    for item in sorted(queued, key=lambda item: item[0]):
        yield item[1], whole_nodes(item[2]), list(item[4])


def settings_file() -> Path:
    """The file of the last accepted settings, for a server without a browser."""
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
    """Sends the running trace to the browsers whose panel is open, rarely enough to cost nothing; where none is, nothing is made.

    Who begins to look gets all of the trace, and from then on its news. News too soon after a message are sent a moment later:
    the last word before a long node is not lost. ComfyUI's own event loop keeps the time, a thread of asyncio's copies the trace.
    """

    def __init__(self, foresee: Callable[[Trace], dict[str, Any] | None]) -> None:
        """`foresee(trace)`: the forecast of that prompt's rest; None where it does not run, or nothing is known yet."""
        self._foresee = foresee
        self._lock = threading.Lock()  # one message is made at a time, and none after the last one
        self._next_s = 0.0
        self._waiting = False
        self._watching: frozenset[str] = frozenset()  # ids of ComfyUI's websockets
        self._told: tuple[str, Mark] = "", Mark()  # of which prompt they know how much
        self._ahead_of: tuple[str, int, float] = "", 0, 0.0  # prompt, nodes that had begun, and when that was foretold

    def watch(self, client_id: str, on: bool, trace: Trace | None) -> None:
        """A browser's panel has been opened, and is told at once of the `trace` that runs; or it has been closed."""
        if on and client_id in PromptServer.instance.sockets:
            self._watching |= {client_id}
            if trace is not None:
                self._send_whole(trace, client_id)
        else:
            self._watching -= {client_id}

    def _watchers(self) -> frozenset[str]:
        self._watching &= PromptServer.instance.sockets.keys()
        return self._watching

    def announce(self, trace: Trace, ended: bool) -> None:
        """Called after every event; most calls only look at the clock."""
        if not self._watching or (self._waiting and not ended):
            return
        delay_s = self._next_s - time.monotonic()
        if ended or delay_s <= 0:
            self._send(trace, ended)
        else:
            server = PromptServer.instance
            self._waiting = True
            late = partial(server.loop.run_in_executor, None, self._send_late, trace)
            server.loop.call_soon_threadsafe(server.loop.call_later, delay_s, late)

    def _send_late(self, trace: Trace) -> None:
        self._waiting = False
        self._send(trace, ended=False)

    def _send_whole(self, trace: Trace, client_id: str) -> None:
        ahead = self._foresee(trace)  # takes the runtime's lock, which comes before this one
        with self._lock:
            if trace.outcome is None:
                data = trace.as_dict()
                told = {**data, "ahead": ahead, "decisions": data["decisions"][-UPDATE_DECISIONS:]}
                self._say(trace, True, {"trace": told}, [client_id])

    def _send(self, trace: Trace, ended: bool) -> None:
        started_s = time.monotonic()
        begun = trace.mark().nodes
        due = self._ahead_of[:2] != (trace.prompt_id, begun) or started_s - self._ahead_of[2] >= AHEAD_S
        ahead = {} if ended or not due else {"ahead": self._foresee(trace)}
        with self._lock:
            if trace.outcome is not None and not ended:
                return
            known = self._told[1] if self._told[0] == trace.prompt_id else Mark()
            self._told = trace.prompt_id, trace.mark()
            if ahead.get("ahead"):
                self._ahead_of = trace.prompt_id, begun, started_s
            self._say(trace, not ended, {"new": {**trace.since(known, UPDATE_DECISIONS), **ahead}}, self._watchers())
            cost_s = time.monotonic() - started_s
            self._next_s = started_s + max(UPDATE_S, cost_s / UPDATE_SHARE)

    def _say(self, trace: Trace, running: bool, told: dict[str, Any], clients: Iterable[str]) -> None:
        message = {"prompt_id": trace.prompt_id, "mode": trace.mode.value, "running": running, **told}
        for client_id in clients:
            PromptServer.instance.send_sync(EVENT, message, client_id)


def add_routes(host: ComfyHost, announcer: Announcer) -> None:
    """Register the routes; ComfyUI adds its table of routes to the application after the packs are loaded."""
    routes = PromptServer.instance.routes

    apart = Apart()
    add_insight(routes, host, apart)
    add_warmth(routes, host, apart)
    doctor = Doctor(host)
    host.counted["doctor"] = lambda: doctor.failures

    @routes.get("/residency/status")
    async def get_status(request: web.Request) -> web.Response:
        return web.json_response(status(host))

    @routes.post("/residency/mode")
    async def post_mode(request: web.Request) -> web.Response:
        try:
            asked = await body(request)
        except BadRequestError as error:
            return error_answer(400, str(error))
        if not isinstance(asked, dict) or "mode" not in asked:
            return error_answer(400, 'the body must be JSON with a mode, like {"mode": "auto"}')
        mode = parse_mode(asked["mode"])
        if mode is None:
            return error_answer(400, f"{shown(asked['mode'])} is not a mode; choose one of {', '.join(MODES)}")
        await _accept(host, replace(host.standing, mode=mode))
        return web.json_response(status(host))

    @routes.get("/residency/settings")
    async def get_settings(request: web.Request) -> web.Response:
        return web.json_response(host.standing.as_dict())

    @routes.post("/residency/settings")
    async def post_settings(request: web.Request) -> web.Response:
        try:
            asked = await body(request)
        except BadRequestError as error:
            return error_answer(400, str(error))
        # what is not sent stays as it is
        wanted = user_settings.parse({**host.standing.as_dict(), **asked} if isinstance(asked, dict) else asked)
        if isinstance(wanted, str):
            return error_answer(400, wanted)
        await _accept(host, wanted)
        return web.json_response(wanted.as_dict())

    @routes.get("/residency/trace")
    async def get_trace(request: web.Request) -> web.Response:
        prompt_id, form = request.query.get("prompt_id"), request.query.get("format")
        if form not in (None, "chrome"):
            return error_answer(400, f"{shown(form)} is not a format; leave it out, or choose chrome")
        trace = next((trace for trace in reversed(host.runtime.traces) if prompt_id in (None, trace.prompt_id)), None)
        if trace is None:
            if prompt_id is None and form is None:
                return web.json_response(None)  # an error would stand in the browser's console
            return error_answer(404, f"no trace of prompt {shown(prompt_id)}" if prompt_id else "no prompt has run yet")

        def text() -> str:
            host.runtime.look(wait=False)
            if form:
                return json.dumps(chrome(trace.as_dict()))
            return json.dumps({**trace.as_dict(), "ahead": host.execution.foresee(trace)})

        headers = {"Content-Disposition": 'attachment; filename="residency-trace.json"'} if form else None
        return web.json_response(text=await asyncio.to_thread(text), headers=headers)

    @routes.post("/residency/watch")
    async def post_watch(request: web.Request) -> web.Response:
        try:
            asked = await body(request)
        except BadRequestError as error:
            return error_answer(400, str(error))
        if not isinstance(asked, dict) or not isinstance(asked.get("client_id"), str) or not isinstance(asked.get("on"), bool):
            return error_answer(400, 'the body must be JSON like {"client_id": "of the websocket", "on": true}')
        await asyncio.to_thread(announcer.watch, asked["client_id"], asked["on"], host.runtime.trace)
        return web.json_response({})

    @routes.get("/residency/doctor")
    async def get_doctor(request: web.Request) -> web.Response:
        try:
            return web.Response(text=findings.text(await apart.ask(doctor.look)) + "\n")
        except HangsError as error:
            return error_answer(503, str(error))

    @routes.get("/residency/traces")
    async def get_traces(request: web.Request) -> web.Response:
        keys = ("prompt_id", "outcome", "mode", "started_unix_s", "duration_s", "summary")
        traces = [{key: head[key] for key in keys} for head in (trace.head() for trace in reversed(host.runtime.traces))]
        return web.json_response({"traces": traces})


def status(host: ComfyHost) -> dict[str, Any]:
    """The status as JSON-ready data: features on and off, with reasons."""
    manager, traces, threads = host.runtime.manager, host.runtime.traces, host.threads()
    resolved = manager.mode if traces else None
    return {
        "version": __version__,
        "works": host.works(),
        "installed": host.installed,
        "closing": bool(threads) and not host.installed,
        "mode": host.user.mode.value,
        "mode_reason": resolved.reason if resolved and host.installed else _chosen_by(host),
        "features": [{"name": fit.name, "on": fit.fits, "reason": fit.reason} for fit in host.features()],
        "failures": host.guard.failures,
        "contained_failures": host.contained(),
        "budget": {"host_limit_bytes": manager.host.limit_bytes, "host_held_bytes": manager.host.used_bytes},
        "threads": threads,
        "last_prompt_id": traces[-1].prompt_id if traces else None,
    }


def _chosen_by(host: ComfyHost) -> str:
    return f"{DEFAULT}: no other mode has been chosen" if host.user.source == DEFAULT else f"set by {host.user.source}"


async def _accept(host: ComfyHost, wanted: user_settings.UserSettings) -> None:
    """Enact and keep the settings. The answer waits a moment, no longer, for the file and for the threads that `off` ends."""
    host.apply(wanted)
    kept = asyncio.wrap_future(_keeper.submit(partial(_keep, wanted)))
    await asyncio.wait([kept], timeout=SETTLE_S)
    until_s = time.monotonic() + SETTLE_S
    while not host.installed and host.threads() and time.monotonic() < until_s:
        await asyncio.sleep(LOOK_S)


def _keep(wanted: user_settings.UserSettings) -> None:
    path = settings_file()
    try:
        user_settings.write(path, wanted)
    except OSError as error:
        log.warning("residency: the settings hold until ComfyUI ends, they could not be kept in %s: %s", path, error)
