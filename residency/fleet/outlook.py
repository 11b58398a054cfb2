"""The workers as the door knows them, in the router's words: the seconds of each queue, and where weights will lie when it is done.

A prompt is known by one worker's estimate of it. The contents of a worker's memory are its own word, asked for anew after STATE_S, carried
on over its queue; workers of one machine share its page cache, so weights that one of them has read or reads now are warm for all and count
once. RAM has room for so many of them as its worker says is available: the rest comes from the drive again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from ..simulate import GB, OURS, Step, of_rates
from ..simulate.standing import policy_of
from .ahead import Memory, Queued, ahead
from .asking import PATIENT_S, Seats
from .forecast import Forecast, Job, Place
from .routing import Router, Worker
from .seats import Answer, LostError, Seat, wants

STATE_S = 1.0  # for so long a worker's own word of what is warm holds
ESTIMATE_S = 10.0
WARM_SHARE = 0.9  # of a component's bytes in a place or nearer: it lies there
SEEN_SECONDS = 20.0  # of a prompt whose seconds nobody knows, until one has ended
SEEN_SHARE = 0.2
ASSUMED_BYTES = 6 * GB  # of a model of which only the name is known
DISK_BYTES_PER_S, LINK_BYTES_PER_S = 1.5 * GB, 25.0 * GB  # until a worker has measured its own
UNKNOWN = Forecast(of_rates(DISK_BYTES_PER_S, LINK_BYTES_PER_S, 24 * GB, 64 * GB), OURS)


@dataclass(frozen=True, slots=True)
class Known:
    """A prompt as the workers know it. `cached` lies in the page cache of the `machine` that was asked; `why_not`: why nobody knows it."""

    job: Job
    compute_s: float
    cached: frozenset[str] = frozenset()
    machine: str = ""
    why_not: str = ""


@dataclass(slots=True)
class Outlook:
    """Of all workers; `router.workers` are in the order of the seats."""

    seats: Seats
    clock: Callable[[], float]
    router: Router = field(init=False)
    seconds: float = SEEN_SECONDS
    _forecasts: dict[tuple[Any, ...], Forecast] = field(default_factory=dict)
    _hearing: dict[int, tuple[asyncio.Task[None], float]] = field(default_factory=dict)  # by worker: its word, asked for at this time

    def __post_init__(self) -> None:
        each = (self.seats[index] for index in range(len(self.seats)))
        workers = [Worker(seat.name, UNKNOWN, 64 * GB, machine=seat.machine or seat.name) for seat in each]
        drives = {worker.machine: worker.drives for worker in workers}
        for worker in workers:
            worker.drives = drives[worker.machine]
        self.router = Router(workers)

    async def know(self, prompt: Any, without: frozenset[int] = frozenset()) -> Known:
        """Ask for an estimate. Of several answers the one that knows the most: a worker without a file cannot tell of it."""
        wanted = wants(prompt)
        why_not = "no worker has the pack: by last model and queue"
        best: dict[str, Any] | None = None
        machine = ""
        able = [
            index
            for index in range(len(self.seats))
            if index not in without and self.seats[index].answers and not self.seats[index].lacking(wanted, self.clock())
        ]
        async with aclosing(self._estimates(prompt, able)) as estimates:
            async for index, answer in estimates:
                if answer.status == 400:
                    why_not = "the pack cannot read this prompt"
                told = answer.json
                if told is None or "steps" not in told:
                    continue
                if best is None or len(told["components"]) > len(best["components"]):
                    best, machine = told, self.seats[index].machine
                if not told["warnings"]:
                    break
        if best is None:
            return Known(by_names(prompt), 0.0, why_not=why_not)
        sizes = {key: int(one["size_bytes"]) for key, one in best["components"].items()}
        steps = tuple(
            Step(one["node_id"], one["class_type"], one["compute_s"], tuple(one["components"]), one["passes"], one["working_set_bytes"])
            for one in best["steps"]
        )
        computing = max((step for step in steps if step.components), key=lambda step: step.compute_s, default=None)
        model = max(computing.components, key=sizes.__getitem__) if computing is not None else ""
        cached = frozenset(key for key, one in best["components"].items() if place(one) <= Place.CACHED)
        return Known(Job(steps, sizes, model, wants=wanted), float(best["compute_s"]), cached, machine)

    def seen(self, seconds: float) -> None:
        """A prompt has taken so long."""
        self.seconds += SEEN_SHARE * (seconds - self.seconds)

    def ended(self, index: int, expected_s: float, seconds: float, stall_s: float) -> None:
        """One whose seconds were expected, so many of them for loading, has taken so long there."""
        self.seen(seconds)
        self.router.workers[index].took(expected_s, seconds, stall_s)

    async def listen(self) -> None:
        """Ask every worker whose word is old for its state; of one that does not answer soon the old word is used, and the new one once it
        comes."""
        now_s, loop = self.clock(), asyncio.get_running_loop()
        for index in range(len(self.seats)):
            if self.seats[index].answers and now_s - self.seats[index].state_at_s > STATE_S and index not in self._hearing:
                self._hearing[index] = asyncio.create_task(self._hear(index, now_s)), loop.time()
        soon = {task: left_s for task, asked_s in self._hearing.values() if (left_s := asked_s + PATIENT_S - loop.time()) > 0}
        if soon:
            await asyncio.wait(soon, timeout=max(soon.values()))

    async def close(self) -> None:
        """Wait for nobody's word any more."""
        for task in (tasks := [task for task, _ in self._hearing.values()]):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def update(
        self,
        known: Known,
        me: Queued,
        others: Sequence[Queued],
        without: frozenset[int] = frozenset(),
        only: Sequence[int] | None = None,
    ) -> None:
        """Bring the router (of it `only` these workers) up to this moment, for one prompt among others."""
        now_s = self.clock()
        shared = self._shared(others, known)
        queues: dict[int, list[Queued]] = {}
        for one in others:
            queues.setdefault(one.worker, []).append(one)
        for index in range(len(self.seats)) if only is None else only:
            seat, worker = self.seats[index], self.router.workers[index]
            mine = queues.get(index, [])
            worker.takes_prompts = seat.takes_prompts and index not in without
            worker.lacks = seat.lacking(known.job.wants, now_s)
            worker.tells = seat.state is not None
            memory, forecast = self._memory(seat.state, shared[worker.machine])
            before, seconds = ahead([*mine, replace(me, worker=index)], memory, forecast, worker.takes_s, me.name)
            worker.queued, worker.ready_s = len(before), now_s + seconds
            if seat.state is None or forecast is None:
                worker.places = {}
                for key in list(worker.held):
                    self.router.loses(index, key)
                continue
            worker.forecast, worker.room_bytes = forecast, _room_bytes(seat.state)
            self.router.lies(index, memory.places, memory.in_ram, sum(memory.in_ram.values()))

    def order(self, index: int, queue: Sequence[Queued], others: Sequence[Queued]) -> list[Queued]:
        """Of this worker's queue, as it should run; `others` are those of the other workers."""
        seat, worker = self.seats[index], self.router.workers[index]
        memory, forecast = self._memory(seat.state, self._shared(others)[worker.machine])
        return ahead(queue, memory, forecast, worker.takes_s)[0]

    def _shared(self, others: Sequence[Queued], known: Known | None = None) -> dict[str, dict[str, int]]:
        """Bytes by component that each machine's page cache holds, or gets for those of `others` that run. What was `known` to be cached
        when its prompt came counts where no worker of that machine tells of it now."""
        found: dict[str, dict[str, int]] = {worker.machine: {} for worker in self.router.workers}
        told: dict[str, set[str]] = {worker.machine: set() for worker in self.router.workers}
        for index, worker in enumerate(self.router.workers):
            for one in (self.seats[index].state or {}).get("components", ()):
                told[worker.machine].add(one["key"])
                if (one["cached_bytes"] or 0) >= WARM_SHARE * max(1, one["size_bytes"]):
                    found[worker.machine][one["key"]] = one["size_bytes"]
        if known is not None and known.machine in found:
            sizes = known.job.sizes
            found[known.machine].update((key, sizes[key]) for key in known.cached if key not in told[known.machine])
        for one in others:
            if one.left_s is not None:
                found[self.router.workers[one.worker].machine].update(one.job.sizes)
        return found

    def _memory(self, state: Mapping[str, Any] | None, shared: Mapping[str, int]) -> tuple[Memory, Forecast | None]:
        """A worker's memory now, and its forecast; `shared`: bytes by component in the page cache, in no order that is known. Without the
        pack nothing is known."""
        if state is None:
            return Memory({}, {}, None), None
        places = dict.fromkeys(shared, Place.CACHED)
        places.update((one["key"], near) for one in state["components"] if (near := place(one)) < Place.DISK)
        sizes = {**shared, **{one["key"]: int(one["size_bytes"]) for one in state["components"]}}
        device_bytes = state["device"]["limit_bytes"] if state["device"] is not None else None
        in_ram = [key for key, near in places.items() if key in shared or near is not Place.DEVICE or device_bytes is None]
        return Memory(places, sizes, device_bytes, _room_bytes(state), in_ram), self._forecast(state)

    def _forecast(self, state: Mapping[str, Any]) -> Forecast:
        """One for each kind of machine, so that a simulation for one worker serves its twins."""
        rates = state["rates"]
        disk = max(rates["read_bytes_per_s"].values(), default=0.0) or DISK_BYTES_PER_S
        device_bytes = state["device"]["limit_bytes"] if state["device"] is not None else None
        exchanges = state.get("exchanges", False)  # an earlier version of the pack does not tell
        link = rates["onload_bytes_per_s"] or LINK_BYTES_PER_S
        about = [float(f"{value:.1g}") for value in (disk, link, _room_bytes(state))]
        kind = (*about, device_bytes, exchanges)
        if kind not in self._forecasts:
            machine = of_rates(about[0], about[1], device_bytes, int(about[2]))
            self._forecasts[kind] = Forecast(machine, policy_of(device_bytes, exchanges=exchanges))
        return self._forecasts[kind]

    async def _estimates(self, prompt: Any, able: Sequence[int]) -> AsyncGenerator[tuple[int, Answer], None]:
        """Those of these workers, asked one after the other. Who does not answer soon is waited for beside the next."""
        left = list(able)
        asked: dict[asyncio.Task[Answer], int] = {}
        try:
            while left or asked:
                if left:
                    index = left.pop(0)
                    asking = self.seats.ask(index, "POST", "/residency/estimate", {"prompt": prompt}, timeout_s=ESTIMATE_S)
                    asked[asyncio.create_task(asking)] = index
                timeout_s = PATIENT_S if left else None
                done, _ = await asyncio.wait(asked, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    index = asked.pop(task)
                    try:
                        answer = task.result()
                    except LostError:
                        continue
                    yield index, answer
        finally:
            for task in asked:
                task.cancel()

    async def _hear(self, index: int, now_s: float) -> None:
        seat = self.seats[index]
        found = seat.found
        try:
            told = await self.seats.ask_json(index, "/residency/state", ESTIMATE_S)
        except LostError:
            told = None
        finally:
            del self._hearing[index]
        if seat.found == found:
            seat.state = told if isinstance(told, dict) and told.get("installed") else None
            seat.state_at_s = now_s


def _room_bytes(state: Mapping[str, Any]) -> int:
    """The most that RAM takes of this worker's weights: all that is available, as the page cache is, and that it holds itself."""
    ram = state["ram"]
    places = ("pinned_bytes",) if state["device"] is not None else ("pinned_bytes", "device_bytes")
    own_bytes = sum(one[near] or 0 for one in state["components"] for near in places)
    return max(0, min(int(ram["total_bytes"]), int(ram["available_bytes"]) + own_bytes) - int(ram["reserve_bytes"]))


def place(lies: Mapping[str, Any]) -> Place:
    """The place of a component as a whole, by bytes in each."""
    enough_bytes = WARM_SHARE * max(1, lies["size_bytes"])
    there_bytes = 0
    for near, name in ((Place.DEVICE, "device_bytes"), (Place.PINNED, "pinned_bytes"), (Place.CACHED, "cached_bytes")):
        there_bytes += lies[name] or 0
        if there_bytes >= enough_bytes:
            return near
    return Place.DISK


def warm_in(seat: Seat) -> list[str]:
    """Names of the components that are in its memory or on its device."""
    return [one["name"] for one in (seat.state or {}).get("components", ()) if place(one) < Place.DISK]


def by_names(prompt: Any) -> Job:
    """Of a prompt that no worker can estimate: its model is the first input that ends in `_name`, of a size that is worth staying for."""
    wanted = wants(prompt)
    names = [
        str(value)
        for node in (prompt.values() if isinstance(prompt, dict) else ())
        if isinstance(node, dict) and isinstance(node.get("inputs"), dict)
        for name, value in node["inputs"].items()
        if isinstance(value, str) and name.endswith("_name")
    ]
    model = names[0] if names else ""
    sizes = {model: ASSUMED_BYTES} if model else {}
    return Job((Step("1", "Prompt", 0.0, tuple(sizes)),), sizes, model, wants=wanted)


def seconds_of(history: Mapping[str, Any]) -> float | None:
    """Of an ended prompt, by its own messages; None of one that has not succeeded."""
    at = {name: data.get("timestamp") for name, data in history.get("status", {}).get("messages", ()) if isinstance(data, dict)}
    start, end = at.get("execution_start"), at.get("execution_success")
    return (end - start) / 1000 if start is not None and end is not None else None
