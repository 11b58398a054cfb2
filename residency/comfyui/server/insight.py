"""The routes that only an open panel asks: where weights lie at this moment, and how long a prompt would have taken under other terms.

GET /residency/memory, GET /residency/assessment[?prompt_id=…]. Nothing is computed before somebody asks, nothing on ComfyUI's event loop
and nothing on the thread that runs the nodes. An assessment is computed once.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from typing import Any

from aiohttp import web

from ...core.component import Component
from ...runtime import KEPT_TRACES
from ...simulate.what_if import Installed, assessed
from ...transfers import memory
from ...transfers.pagecache import cached_around
from ...units import shown
from ..device.memory_usage import device_memory_bytes
from ..host import ComfyHost
from .apart import Apart, HangsError
from .requests import error_answer


class Assessor:
    """Of the last prompts; thread-safe, one is computed at a time."""

    def __init__(self, host: ComfyHost) -> None:
        self._host = host
        self._lock = threading.Lock()
        self._done: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def of(self, prompt_id: str | None) -> dict[str, Any] | None:
        """Of the prompt, or of the last that has ended; None where there is none."""
        traces = (trace for trace in reversed(self._host.runtime.traces) if trace.outcome is not None)
        trace = next((trace for trace in traces if prompt_id in (None, trace.prompt_id)), None)
        if trace is None:
            return None
        with self._lock:
            found = self._done.get(trace.prompt_id)
            if found is None:
                installed = Installed(memory.host_memory().total_bytes, device_memory_bytes())
                found = self._done[trace.prompt_id] = assessed(trace.as_dict(), installed)
                while len(self._done) > KEPT_TRACES:
                    self._done.popitem(last=False)
            return found


def add_insight(routes: web.RouteTableDef, host: ComfyHost, apart: Apart) -> None:
    """Register the routes."""
    assessor = Assessor(host)

    @routes.get("/residency/assessment")
    async def get_assessment(request: web.Request) -> web.Response:
        prompt_id = request.query.get("prompt_id")
        found = await asyncio.to_thread(assessor.of, prompt_id)
        if found is None and prompt_id is not None:
            return web.json_response({"error": f"no prompt {shown(prompt_id)} that has ended is kept"}, status=404)
        return web.json_response(found)

    @routes.get("/residency/memory")
    async def get_memory(request: web.Request) -> web.Response:
        try:
            return web.json_response(await apart.ask(memory_now, host))
        except HangsError as error:
            return error_answer(503, str(error))


def memory_now(host: ComfyHost) -> dict[str, Any]:
    """Bytes by place; docs/http.md describes the keys. Asked of ComfyUI and of the page cache, nothing is decided by it."""
    runtime = host.runtime
    manager, contents, ram = runtime.manager, runtime.contents, memory.host_memory()
    device_bytes, on_device = device_memory_bytes(), host.on_device()
    pinned = (contents.device.in_host if contents.device is not None else None) or {}
    loaded = contents.host.loaded if contents.host is not None else {}
    coming = runtime.coming()
    known: dict[str, Component] = {}
    for trace in runtime.traces:
        known.update((component.key, component) for component in trace.components())
    found = []
    for key, component in known.items():
        around = cached_around(component.extents, 0) if component.extents else None
        one = {
            "key": key,
            "name": component.name,
            "kind": component.kind,
            "size_bytes": component.size_bytes,
            "device_bytes": on_device.get(key, 0),
            "pinned_bytes": max(pinned.get(key, 0), loaded.get(key, 0) - on_device.get(key, 0)),
            "cached_bytes": None if around is None else sum(around),
            "coming_bytes": coming.get(key, 0),
        }
        if any(one[part] for part in ("device_bytes", "pinned_bytes", "cached_bytes", "coming_bytes")):
            found.append(one)
    room_bytes = contents.device.room_bytes if contents.device is not None else None
    return {
        "components": found,
        "device": None
        if device_bytes is None
        else {"total_bytes": device_bytes, "room_bytes": room_bytes, "limit_bytes": manager.device_limit_bytes},
        "ram": {"total_bytes": ram.total_bytes, "available_bytes": ram.available_bytes, "limit_bytes": manager.host.limit_bytes},
    }
