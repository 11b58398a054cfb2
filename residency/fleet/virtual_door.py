"""Ours on a virtual clock, as the door does it: scores, turns, and what a free worker begins are the door's own code.

Where the door looks again at every worker that has nothing to do, this one looks at a worker when its prompt ends: nothing else has become
better for what waits.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .ahead import GROUPED, Queued, is_put_off_no_more
from .dispatch import dispatch
from .forecast import Job
from .routing import Decision, Router, Turns
from .traffic import Request


@dataclass(slots=True)
class Waiting:
    """A prompt that has not begun. `number` is its turn."""

    request: Request
    number: float
    overtaken: float = 0.0


@dataclass(slots=True)
class Line:
    """One worker: `keeps` its weights in memory for a job, and runs until about `ready_s` (None: it has nothing to do)."""

    keeps: Callable[[Job], None]
    ready_s: float | None = None


@dataclass(frozen=True, slots=True)
class Begun:
    """One prompt's seconds, and what was read for it."""

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
        self._ends: list[tuple[float, int]] = []
        self._waiting: dict[str, Waiting] = {}
        self._free = set(range(len(lines)))
        self._taken = 0
        self.begun: list[Begun] = []
        self.deciding: list[float] = []

    def takes(self, request: Request) -> None:
        """The request begins where a free worker is the best for it."""
        now_s, job = request.time_s, request.job
        self.runs_until(now_s)
        started = time.perf_counter()
        decision = self._router.decide(job, now_s)
        self.deciding.append(time.perf_counter() - started)
        self._router.demand.asked(job.keys, now_s)
        name = str(self._taken)
        self._taken += 1
        self._waiting[name] = Waiting(request, self._turns.of(request.client, decision.score.stall_s + job.compute_s))
        if decision.index in self._free:
            if any(is_put_off_no_more(one.overtaken) for one in self._waiting.values()):
                self._dispatch(decision.index, now_s)
            else:
                self._begins(name, decision.index, now_s)

    def runs_until(self, now_s: float) -> None:
        """Whatever ends by then ends."""
        while self._ends and self._ends[0][0] <= now_s:
            at_s, index = heapq.heappop(self._ends)
            self._free.add(index)
            self._lines[index].ready_s = None
            self._knows(index)
            if self._waiting:
                started = time.perf_counter()
                self._dispatch(index, at_s)
                self.deciding.append(time.perf_counter() - started)

    def _dispatch(self, index: int, now_s: float) -> None:
        router, workers = self._router, self._router.workers

        def cost_s(one: Queued) -> float:
            score = router.score(index, one.job, now_s)
            return math.inf if score is None else score.total_s - score.compute_s

        def decide(one: Queued, behind: Sequence[Queued]) -> Decision:
            for other in behind:
                workers[other.worker].ready_s = max(now_s, workers[other.worker].ready_s) + other.compute_s
                workers[other.worker].queued += 1
            try:
                return router.decide(one.job, now_s)
            finally:
                for other in behind:
                    self._knows(other.worker)

        first = heapq.nsmallest(GROUPED, self._waiting.items(), key=lambda item: item[1].number)
        waiting = [
            Queued(name, -1, one.request.client, one.request.job, one.number, one.request.job.compute_s,
                   now_s - one.request.time_s, overtaken=one.overtaken)
            for name, one in first
        ]  # fmt: skip
        for one, at in dispatch(index, waiting, self._free, cost_s, decide):
            self._begins(one.name, at, now_s)

    def _begins(self, name: str, index: int, now_s: float) -> None:
        me, line, worker = self._waiting.pop(name), self._lines[index], self._router.workers[index]
        assert line.ready_s is None
        job = me.request.job
        for one in self._waiting.values():
            if one.number < me.number:
                one.overtaken += 1 / len(self._lines)
        expected = worker.forecast.of(job, worker.places)
        took_s = job.compute_s * me.request.compute_share + expected.stall_s
        line.keeps(job)
        line.ready_s = now_s + job.compute_s + expected.stall_s
        self._free.discard(index)
        self._knows(index)
        self._turns.begins(me.number)
        if not self._waiting:
            self._turns.rest()
        heapq.heappush(self._ends, (now_s + took_s, index))
        self.begun.append(Begun(me.number, me.request.time_s, now_s, took_s, expected.stall_s, expected.read_bytes))

    def _knows(self, index: int) -> None:
        worker, ready_s = self._router.workers[index], self._lines[index].ready_s
        worker.queued, worker.ready_s = (0, 0.0) if ready_s is None else (1, ready_s)
