"""Workers of one host on the story's own clock: one drive that they read in turn, one page cache, a device each.

A model is read from the drive into the page cache, which forgets the one that was used longest ago, and goes from there to the device of
the worker that runs it. While a worker computes, the weights of the prompt behind are read, as the pack does. The door is the real one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from scripted_worker import MODEL_BYTES, RAM, Worker

TICK_S = 0.25


@dataclass
class Host:
    """`room_bytes` of page cache; `cached` are bytes by model, the first to be forgotten first. `read_bytes` came from the drive."""

    room_bytes: int
    drive_bytes_per_s: float = 1e9
    on_device: int = 2  # models, of each worker
    cached: dict[str, float] = field(default_factory=dict)
    workers: list[HostWorker] = field(default_factory=list)
    read_bytes: float = 0.0
    reading: str | None = None

    def uses(self, model: str) -> None:
        if model in self.cached:
            self.cached[model] = self.cached.pop(model)

    def holds(self, model: str) -> bool:
        return self.cached.get(model, 0.0) >= MODEL_BYTES

    async def passes(self, tick_s: float = TICK_S) -> list[str]:
        """The ids of the prompts that have ended meanwhile."""
        self._read(tick_s * self.drive_bytes_per_s)
        ended = []
        for worker in self.workers:
            ended += await worker.passes(tick_s)
        return ended

    def _read(self, left_bytes: float) -> None:
        """What runs comes first; a turn lasts for one model."""
        wanted = [model for worker in self.workers for model in worker.waits_for()]
        wanted += [model for worker in self.workers for model in worker.reads_ahead()]
        wanted = [model for model in dict.fromkeys(wanted) if not self.holds(model)]
        while left_bytes > 0 and wanted:
            if self.reading not in wanted:
                self.reading = wanted[0]
            assert self.reading is not None
            some_bytes = min(left_bytes, MODEL_BYTES - self.cached.get(self.reading, 0.0))
            self.cached[self.reading] = self.cached.pop(self.reading, 0.0) + some_bytes
            self.read_bytes += some_bytes
            left_bytes -= some_bytes
            if self.holds(self.reading):
                wanted.remove(self.reading)
                self.reading = None
            over_bytes = sum(self.cached.values()) - self.room_bytes
            for model in list(self.cached):
                if over_bytes <= 0:
                    break
                gone_bytes = min(over_bytes, self.cached[model])
                self.cached[model] -= gone_bytes
                over_bytes -= gone_bytes
                if not self.cached[model]:
                    del self.cached[model]


class HostWorker(Worker):
    """`on_device` are models, the first to leave first."""

    def __init__(self, host: Host, name: str, holds: str, compute_s: float) -> None:
        super().__init__(name, compute_s=compute_s, machine="host")
        self.host, self.on_device, self.left_s, self.ran_s = host, [holds], 0.0, 0.0
        host.cached[holds] = float(MODEL_BYTES)
        host.workers.append(self)
        self.ram |= {"total_bytes": 1 << 38, "available_bytes": host.room_bytes + RAM["reserve_bytes"]}

    def waits_for(self) -> list[str]:
        return [model for item in self.running if (model := _model(item)) not in self.on_device]

    def reads_ahead(self) -> list[str]:
        if not self.running or self.waits_for():
            return []
        return [model for item in sorted(self.pending, key=lambda item: item[0])[:1] if (model := _model(item)) not in self.on_device]

    async def passes(self, tick_s: float) -> list[str]:
        ended = []
        if self.running:
            self.ran_s += tick_s
            model = _model(self.running[0])
            if model not in self.on_device and self.host.holds(model):
                self.on_device = [*self.on_device, model][-self.host.on_device :]
            if model in self.on_device:
                self.host.uses(model)
                self.on_device = [one for one in self.on_device if one != model] + [model]
                self.left_s -= tick_s
                if self.left_s <= 0:
                    ended.append(await self.end(self.ran_s))
        if not self.running and self.pending:
            await self.begin()
            self.left_s, self.ran_s = self.compute_s, 0.0
        return ended

    def _lies(self, model: str) -> dict[str, Any]:
        device_bytes = MODEL_BYTES if model in self.on_device else 0
        cached_bytes = int(self.host.cached.get(model, 0.0))
        return {"size_bytes": MODEL_BYTES, "device_bytes": device_bytes, "pinned_bytes": 0, "cached_bytes": cached_bytes}

    async def _state(self, request: web.Request) -> web.Response:
        known = dict.fromkeys([*self.on_device, *self.host.cached])
        components = [{"key": model, "name": model, "kind": "MODEL", **self._lies(model)} for model in known]
        rates = {"read_bytes_per_s": {"drive": self.host.drive_bytes_per_s}, "onload_bytes_per_s": 25e9}
        limit_bytes = self.host.on_device * MODEL_BYTES + MODEL_BYTES // 5
        device = {"total_bytes": 2 * limit_bytes, "limit_bytes": limit_bytes}
        told = {"version": "1.0", "comfyui": "0.33.0", "installed": True, "exchanges": True, "components": components}
        return web.json_response({**told, "rates": rates, "device": device, "ram": self.ram})


def _model(item: Any) -> str:
    return str(item[2]["1"]["inputs"]["unet_name"])
