"""A server that speaks as much of ComfyUI's API as the door asks of a worker, and does what a story says: prompts run when it says so.

Over real sockets; what real servers do instead is told by tests/comfyui/test_fleet.py.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from residency.fleet.seats import EndedError, Found, LostError, Seat

MODEL_BYTES = 10_000_000_000
RAM = {"total_bytes": 64_000_000_000, "available_bytes": 60_000_000_000, "reserve_bytes": 4_000_000_000, "limit_bytes": None}


class Worker:
    """Started by `start`, gone by `die`. `holds` are models on its device, `lacks` names of files, `compute_s` that of every prompt."""

    def __init__(self, name: str, *holds: str, compute_s: float = 5.0, pack: bool = True, machine: str = "") -> None:
        self.name, self.holds, self.compute_s, self.pack, self.machine = name, set(holds), compute_s, pack, machine
        self.lacks: set[str] = set()
        self.cached: set[str] = set()
        self.forgot: set[str] = set()  # models of which it tells that they are on the drive
        self.ram: dict[str, int | None] = dict(RAM)
        self.exchanges: bool | None = False  # None: it does not tell
        self.versions = ("1.0", "0.33.0")
        self.life, self.url = "", None
        self.running: list[Any] = []
        self.pending: list[Any] = []
        self.history: dict[str, Any] = {}
        self.begun: list[str] = []
        self.watched: list[Any] = []
        self.interrupted: list[Any] = []
        self.sockets: dict[str, web.WebSocketResponse] = {}
        self.deaf = False  # heard, never answered
        self.ignores: set[tuple[str, str]] = set()  # methods and paths to which it is deaf
        self.unanswered: list[tuple[str, str]] = []  # what it was asked while it was deaf
        self.swallows = False  # POST /prompt is taken, and the connection cut
        self.takes_late: asyncio.Event | None = None  # it is cut, and the prompt is taken when this is set
        self.before_it_takes: Callable[[], Awaitable[None]] | None = None  # of POST /prompt, when it is in the queue
        self.before_a_deletion: Callable[[], Awaitable[None]] | None = None
        self.before_an_estimate: Callable[[], Awaitable[None]] | None = None
        self.before_an_answer: Callable[[], Awaitable[None]] | None = None  # of GET /queue, when what it says is known
        self.untraced = False  # nobody can tell whether it lives
        self.failure = ""  # what its actor says where it has no server
        self.endings = 0
        self._runner: web.AppRunner | None = None

    @property
    def seat(self) -> Seat:
        return Seat(self.name, self._find, self._end, self.machine or self.name)

    async def start(self) -> Worker:
        app = web.Application(middlewares=[self._maybe_deaf])
        app.add_routes(
            [
                web.get("/ws", self._socket),
                web.get("/queue", self._queue),
                web.post("/queue", self._change_queue),
                web.get("/history", self._history),
                web.get("/history/{id}", self._history),
                web.post("/prompt", self._prompt),
                web.post("/interrupt", self._interrupt),
                web.get("/api/jobs/{id}", self._no_job),
                web.post("/api/jobs/{id}/cancel", self._cancel_job),
                web.get("/residency/state", self._state),
                web.post("/residency/estimate", self._estimate),
                web.post("/residency/watch", self._watch),
                web.get("/residency/trace", self._trace),
                web.get("/api/userdata/{file}", self._echo),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.life, self.url = uuid.uuid4().hex, f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        self.running, self.pending, self.history = [], [], {}
        self.deaf = False
        return self

    async def die(self) -> None:
        """As a killed process: nothing of what it had is left."""
        self.url = None
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def begin(self) -> str:
        """The next prompt of its queue runs from now on; its id."""
        self.pending.sort(key=lambda item: item[0])
        item = self.pending.pop(0)
        self.running = [item]
        self.begun.append(item[1])
        await self.say(item[3]["client_id"], "execution_start", {"prompt_id": item[1]})
        return str(item[1])

    async def end(self, seconds: float = 5.0) -> str:
        """What runs has ended well."""
        (item,) = self.running
        self.running = []
        messages = [["execution_start", {"timestamp": 0}], ["execution_success", {"timestamp": 1000 * seconds}]]
        images = {"9": {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}}
        status = {"status_str": "success", "completed": True, "messages": messages}
        self.history[item[1]] = {"prompt": item, "outputs": images, "status": status}
        await self.say(item[3]["client_id"], "execution_success", {"prompt_id": item[1]})
        return str(item[1])

    async def say(self, client_id: str, kind: str, data: dict[str, Any]) -> None:
        socket = self.sockets.get(client_id)
        if socket is not None and not socket.closed:
            await socket.send_str(json.dumps({"type": kind, "data": data}))

    async def _find(self) -> Found | None:
        if self.untraced:
            raise LostError("its actor does not answer")
        if self.url is None and self.failure:
            raise EndedError(self.failure)
        return Found(self.life, self.url) if self.url is not None else None

    async def _end(self) -> None:
        self.endings += 1
        await self.die()

    @web.middleware
    async def _maybe_deaf(self, request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
        asked, life = (request.method, request.path), self.life
        if self.deaf or asked in self.ignores:
            await request.read()
            self.unanswered.append(asked)
        while self.deaf or asked in self.ignores:
            await asyncio.sleep(0.05)
        return await handler(request) if self.life == life else web.Response(status=503)

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets[request.query["clientId"]] = socket
        async for _ in socket:
            pass
        return socket

    async def _queue(self, request: web.Request) -> web.Response:
        told = {"queue_running": [*self.running], "queue_pending": [*self.pending]}
        if self.before_an_answer is not None:
            hook, self.before_an_answer = self.before_an_answer, None
            await hook()
        return web.json_response(told)

    async def _change_queue(self, request: web.Request) -> web.Response:
        if self.before_a_deletion is not None:
            hook, self.before_a_deletion = self.before_a_deletion, None
            await hook()
        asked = await request.json()
        gone = asked.get("delete", ())
        for prompt_id in gone:  # one of each id, as ComfyUI does
            first = next((item for item in self.pending if item[1] == prompt_id), None)
            self.pending = [item for item in self.pending if item is not first]
        self.pending = [] if asked.get("clear") else self.pending
        return web.Response()

    async def _history(self, request: web.Request) -> web.Response:
        one = request.match_info.get("id")
        return web.json_response({key: told for key, told in self.history.items() if one in (None, key)})

    async def _prompt(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        file = body["prompt"]["1"]["inputs"]["unet_name"]
        if file in self.lacks:
            about = {"input_name": "unet_name", "input_config": None, "received_value": file}
            error = {"type": "value_not_in_list", "message": "Value not in list", "details": "", "extra_info": about}
            errors = {"1": {"errors": [error], "dependent_outputs": [], "class_type": "UNETLoader"}}
            return web.json_response({"error": {"type": "prompt_outputs_failed_validation"}, "node_errors": errors}, status=400)
        if self.takes_late is not None:
            assert request.transport is not None
            request.transport.close()
            await self.takes_late.wait()
        self.pending.append([body["number"], body["prompt_id"], body["prompt"], {"client_id": body["client_id"]}, ["1"]])
        if self.before_it_takes is not None:
            hook, self.before_it_takes = self.before_it_takes, None
            await hook()
        if self.swallows:
            assert request.transport is not None
            request.transport.close()
        return web.json_response({"prompt_id": body["prompt_id"], "number": body["number"], "node_errors": {}})

    async def _interrupt(self, request: web.Request) -> web.Response:
        self.interrupted.append(await request.json())
        return web.Response()

    async def _watch(self, request: web.Request) -> web.Response:
        self.watched.append(await request.json())
        return web.json_response({})

    async def _trace(self, request: web.Request) -> web.Response:
        return web.json_response(self.name)

    async def _echo(self, request: web.Request) -> web.Response:
        return web.json_response(request.raw_path)

    async def _no_job(self, request: web.Request) -> web.Response:
        return web.json_response({"error": "Job not found"}, status=404)

    async def _cancel_job(self, request: web.Request) -> web.Response:
        before = len(self.pending)
        self.pending = [item for item in self.pending if item[1] != request.match_info["id"]]
        return web.json_response({"cancelled": len(self.pending) < before})

    def _lies(self, model: str) -> dict[str, Any]:
        on_device = MODEL_BYTES if model in self.holds else 0
        cached = MODEL_BYTES if model in self.cached | self.holds else 0
        return {"size_bytes": MODEL_BYTES, "device_bytes": on_device, "pinned_bytes": 0, "cached_bytes": cached}

    async def _state(self, request: web.Request) -> web.Response:
        if not self.pack:
            return web.Response(status=404)
        components = [
            {"key": model, "name": model, "kind": "MODEL", **self._lies(model)} for model in sorted(self.holds | self.cached | self.forgot)
        ]
        rates = {"read_bytes_per_s": {"drive": 1e9}, "onload_bytes_per_s": 25e9}
        device = {"total_bytes": 24_000_000_000, "limit_bytes": 22_000_000_000}
        told = {"version": self.versions[0], "comfyui": self.versions[1], "installed": True, "components": components}
        told |= {} if self.exchanges is None else {"exchanges": self.exchanges}
        return web.json_response({**told, "rates": rates, "device": device, "ram": self.ram})

    async def _estimate(self, request: web.Request) -> web.Response:
        if not self.pack:
            return web.Response(status=404)
        if self.before_an_estimate is not None:
            hook, self.before_an_estimate = self.before_an_estimate, None
            await hook()
        model = (await request.json())["prompt"]["1"]["inputs"]["unet_name"]
        if model in self.lacks:
            return web.json_response({"components": {}, "steps": [], "compute_s": 0.0, "warnings": [f"{model} is not here"]})
        step = {"node_id": "1", "class_type": "UNETLoader", "compute_s": self.compute_s, "passes": 20, "working_set_bytes": 0}
        return web.json_response(
            {
                "components": {model: {"name": model, "kind": "MODEL", **self._lies(model)}},
                "steps": [{**step, "components": [model]}],
                "compute_s": self.compute_s,
                "warnings": [],
            }
        )


def prompt(model: str) -> dict[str, Any]:
    """A prompt that computes with one model."""
    return {"1": {"class_type": "UNETLoader", "inputs": {"unet_name": model}}}
