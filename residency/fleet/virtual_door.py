"""Ours on a virtual clock, as the door does it: scores, turns, and the choice of a free worker's next prompt are the door's own code.

A prompt that cannot begin at once lies in the queue of the worker that was chosen for it, and counts there: whoever is decided about next
sees that worker as it will be behind it. Another worker that becomes free may begin it all the same.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from .ahead import Queued, is_put_off_no_more
from .dispatch import dispatch, looked_at
from .forecast import Job, Place
from .routing import Router, Turns
from .traffic import Request


class Held:
    """A worker's device and its host memory: both give up the component first that was used longest ago."""

    def __init__(self, device_bytes: int, room_bytes: int) -> None:
        self._device_bytes, self._room_bytes = device_bytes, room_bytes
        self.places: dict[str, Place] = {}
        self.held: dict[str, int] = {}
        self.held_bytes = 0
        self._device: dict[str, int] = {}
        self._on_device_bytes = 0

    def copy(self) -> Held:
        other = Held(self._device_bytes, self._room_bytes)
        other.places, other.held, other._device = self.places.copy(), self.held.copy(), self._device.copy()
        other.held_bytes, other._on_device_bytes = self.held_bytes, self._on_device_bytes
        return other

    def keep(self, job: Job) -> None:
        """The prompt's weights are the last that were used."""
        for key in job.keys:
            size_bytes = job.sizes[key]
            self.held_bytes += size_bytes - self.held.pop(key, 0)
            self.held[key] = size_bytes
            self.places[key] = Place.DEVICE
            self._on_device_bytes += size_bytes - self._device.pop(key, 0)
            self._device[key] = size_bytes
        while self._on_device_bytes > self._device_bytes and self._device:
            key = next(iter(self._device))
            self._on_device_bytes -= self._device.pop(key)
            self.places[key] = Place.PINNED
        while self.held_bytes > self._room_bytes and self.held:
            key = next(iter(self.held))
            self.held_bytes -= self.held.pop(key)
            del self.places[key]
            self._on_device_bytes -= self._device.pop(key, 0)


@dataclass(slots=True)
class Waiting:
    """A prompt that has not begun, in the queue of `worker`. `number` is its turn; `expected_s` are its seconds there once it begins,
    `cost_s` its stall and displacement there."""

    name: str
    request: Request
    number: float
    worker: int
    expected_s: float
    cost_s: float
    overtaken: float = 0.0


@dataclass(slots=True)
class Line:
    """One worker: the weights that it holds now, its queue, and the expected seconds of its running prompt (None: none runs)."""

    held: Held
    begun_s: float = 0.0
    expected_s: float | None = None
    queue: list[Waiting] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Begun:
    """One prompt's seconds, and the bytes that were read for it."""

    number: float
    came_s: float
    begun_s: float
    took_s: float
    stall_s: float
    read_bytes: int

    @property
    def latency_s(self) -> float:
        return self.begun_s + self.took_s - self.came_s


class VirtualDoor:
    """Takes requests in the order of their arrival. `begun` grows in the order in which they begin, `deciding` are seconds of this
    machine's that each choice took."""

    def __init__(self, router: Router, lines: Sequence[Line]) -> None:
        self._router, self._lines = router, lines
        self._turns = Turns()
        self._now_s = 0.0
        self._ends: list[tuple[float, int]] = []
        self._due: list[tuple[float, int]] = []  # when each prompt that runs is expected to end
        self._late: set[int] = set()  # workers whose prompt should have ended
        self._waiting: dict[str, Waiting] = {}
        self._taken = 0
        self.begun: list[Begun] = []
        self.deciding: list[float] = []

    def takes(self, request: Request) -> None:
        """The request begins where a worker that has nothing to do is the best for it; else it waits at the best one."""
        job = request.job
        self.runs_until(request.time_s)
        started = time.perf_counter()
        self._look_at_late()
        decision = self._router.decide(job, self._now_s)
        self.deciding.append(time.perf_counter() - started)
        self._router.demand.asked(job.keys, self._now_s)
        index, score = decision.index, decision.score
        number, expected_s = self._turns.of(request.client, score.stall_s + job.compute_s), score.stall_s + score.compute_s
        me = Waiting(str(self._taken), request, number, index, expected_s, score.stall_s + score.displaced_s)
        self._taken += 1
        self._waiting[me.name] = me
        self._lines[index].queue.append(me)
        if self._lines[index].expected_s is not None:
            self._knows(index)
        elif any(is_put_off_no_more(one.overtaken) for one in self._waiting.values()):
            self._dispatch(index)
        else:
            self._begins(me, index)

    def runs_until(self, now_s: float) -> None:
        """Every prompt that ends by then ends, and its worker begins the next."""
        while self._ends and self._ends[0][0] <= now_s:
            self._now_s, index = heapq.heappop(self._ends)
            self._lines[index].expected_s = None
            self._late.discard(index)
            started = time.perf_counter()
            self._dispatch(index)
            self.deciding.append(time.perf_counter() - started)
        self._now_s = now_s

    def _dispatch(self, index: int) -> None:
        router, line, now_s = self._router, self._lines[index], self._now_s
        if self._waiting:
            self._lies(index, ())
            waiting = [
                Queued(one.name, one.worker, one.request.client, one.request.job, one.number, one.request.job.compute_s,
                       now_s - one.request.time_s, overtaken=one.overtaken)
                for one in looked_at(index, self._waiting.values())
            ]  # fmt: skip

            likely: dict[str, float] = {}

            def cost_s(one: Queued) -> float:
                score = router.score(index, one.job, now_s, likely)
                return math.inf if score is None else score.total_s - score.compute_s

            def stays_s(one: Queued) -> tuple[float, float]:
                me = self._waiting[one.name]
                wait_s = self._left_s(me.worker)
                for other in self._lines[me.worker].queue:
                    if other is me:
                        break
                    wait_s += other.expected_s
                return wait_s, me.cost_s

            found = dispatch(index, waiting, cost_s, stays_s)
            if found is not None:
                self._begins(self._waiting[found.name], index)
                return
        assert not line.queue
        self._knows(index)

    def _begins(self, me: Waiting, index: int) -> None:
        line, worker, job, now_s = self._lines[index], self._router.workers[index], me.request.job, self._now_s
        assert line.expected_s is None
        del self._waiting[me.name]
        self._lines[me.worker].queue.remove(me)
        for one in self._waiting.values():
            if one.number < me.number:
                one.overtaken += 1 / len(self._lines)
        expected = worker.forecast.of(job, line.held.places)
        took_s = job.compute_s * me.request.compute_share + expected.stall_s
        line.held.keep(job)
        line.begun_s, line.expected_s = now_s, job.compute_s + expected.stall_s
        heapq.heappush(self._due, (now_s + line.expected_s, index))
        heapq.heappush(self._ends, (now_s + took_s, index))
        for one_index in {index, me.worker}:
            self._knows(one_index)
        self._turns.begins(me.number)
        if not self._waiting:
            self._turns.rest()
        self.begun.append(Begun(me.number, me.request.time_s, now_s, took_s, expected.stall_s, expected.read_bytes))

    def _left_s(self, index: int) -> float:
        line = self._lines[index]
        if line.expected_s is None:
            return 0.0
        return self._router.workers[index].left_s(line.expected_s, self._now_s - line.begun_s)

    def _look_at_late(self) -> None:
        while self._due and self._due[0][0] <= self._now_s:
            due_s, index = heapq.heappop(self._due)
            line = self._lines[index]
            if line.expected_s is not None and line.begun_s + line.expected_s == due_s:
                self._late.add(index)
        for index in self._late:
            self._waits(index)

    def _knows(self, index: int) -> None:
        """The router gets the worker as it will be behind its queue."""
        self._lies(index, self._lines[index].queue)
        self._waits(index)

    def _waits(self, index: int) -> None:
        line, worker = self._lines[index], self._router.workers[index]
        worker.queued = len(line.queue) + (line.expected_s is not None)
        worker.ready_s = self._now_s + self._left_s(index) + sum(one.expected_s for one in line.queue)

    def _lies(self, index: int, queue: Sequence[Waiting]) -> None:
        held = self._lines[index].held.copy()
        for one in queue:
            held.keep(one.request.job)
        self._router.lies(index, held.places, held.held, held.held_bytes)
        if not queue:
            worker = self._router.workers[index]
            worker.queued, worker.ready_s = 0, self._now_s
