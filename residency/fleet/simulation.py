"""A fleet on a virtual clock: each policy over the same requests, and a bound below them all.

Under the other policies a prompt's worker is chosen when it comes, and each worker runs its own in that order; ours binds a prompt when a
worker is free for it (`virtual_door`). A prompt waits for weights as long as the simulator's host takes to bring its components from where
they lie (`forecast`). After it they lie on the device and in host memory, both of which give up the component first that was used longest
ago. Every policy gets the same workers: they differ in the choice alone, and reading ahead while another prompt runs is credited to none.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from ..simulate import Machine
from ..simulate.standing import policy_of
from .forecast import Forecast, Job, Place
from .policies import OURS, policies
from .routing import Router, Worker
from .traffic import Request
from .virtual_door import Held, Line, VirtualDoor

BOUND = "bound"


@dataclass(frozen=True, slots=True)
class Result:
    """One policy over one trace. Latency is from a request's arrival to its end; `prompts_per_gpu_hour` of the time in which a worker is
    busy. `decision_…` are seconds that choosing took on this machine, the only figures that a second run need not repeat: the slow ones are
    those that had to simulate a prompt of a new shape."""

    policy: str
    p50_s: float
    p95_s: float
    p99_s: float
    mean_s: float
    stall_s_per_prompt: float
    read_bytes: int
    prompts_per_gpu_hour: float
    decision_p50_s: float | None = None
    decision_p99_s: float | None = None


class _Server:
    """One worker's own clock and memory, beside the `Worker` that policies see."""

    def __init__(self, worker: Worker, device_bytes: int) -> None:
        self.worker = worker
        self.free_s = 0.0
        self.ends: deque[tuple[float, float, float]] = deque()  # start, end, expected seconds of what is queued or runs
        self.backlog_s = 0.0
        self._held = Held(device_bytes, worker.room_bytes)
        worker.places, worker.held = self._held.places, self._held.held

    def keep(self, job: Job) -> None:
        """The prompt's weights are the last that were used."""
        self._held.keep(job)
        self.worker.last_model = job.model

    def settle(self, now_s: float) -> None:
        """Forget the prompts that have ended by now; say when the rest are expected to."""
        while self.ends and self.ends[0][1] <= now_s:
            self.backlog_s -= self.ends.popleft()[2]
        self.worker.queued = len(self.ends)
        if self.ends:
            start_s, _, expected_s = self.ends[0]
            # what runs longer than expected is expected to end now
            self.worker.ready_s = max(now_s, start_s + expected_s) + self.backlog_s - expected_s
        else:
            self.backlog_s = 0.0


def simulate(requests: Sequence[Request], machine: Machine, workers: int, seed: int = 0, only: Sequence[str] = ()) -> list[Result]:
    """Every policy (or `only` these), and the bound last."""
    forecast = Forecast(machine, policy_of(machine.device_bytes or None, exchanges=True))
    names = [name for name in (*policies(seed), OURS) if not only or name in only]
    found = [_ours(requests, forecast, workers) if name == OURS else _run(name, seed, requests, forecast, workers) for name in names]
    if not only or BOUND in only:
        found.append(bound(requests, forecast, workers))
    return found


def _memory(machine: Machine) -> tuple[int, int]:
    """Bytes of weights that a worker's device and its host memory take."""
    device_bytes = machine.device_bytes - machine.device_overhead_bytes
    return device_bytes, max(device_bytes, machine.host_bytes - machine.budget_floor_bytes)


def _run(name: str, seed: int, requests: Sequence[Request], forecast: Forecast, count: int) -> Result:
    device_bytes, room_bytes = _memory(forecast.machine)
    workers = [Worker(f"worker-{index}", forecast, room_bytes) for index in range(count)]
    choose = policies(seed)[name]
    servers = [_Server(worker, device_bytes) for worker in workers]
    busy: list[tuple[float, int]] = []  # when each prompt ends, and where
    latencies: list[float] = []
    deciding: list[float] = []
    stall_s = busy_s = 0.0
    read_bytes = 0
    for request in requests:
        now_s, job = request.time_s, request.job
        while busy and busy[0][0] <= now_s:
            servers[heapq.heappop(busy)[1]].settle(now_s)
        started = time.perf_counter()
        index = choose(job, workers, now_s)
        deciding.append(time.perf_counter() - started)
        server = servers[index]
        expected = forecast.of(job, workers[index].places)
        server.keep(job)
        start_s = max(now_s, server.free_s)
        took_s = job.compute_s * request.compute_share + expected.stall_s
        server.free_s = start_s + took_s
        expected_s = job.compute_s + expected.stall_s
        server.ends.append((start_s, server.free_s, expected_s))
        server.backlog_s += expected_s
        server.settle(now_s)
        heapq.heappush(busy, (server.free_s, index))
        latencies.append(server.free_s - now_s)
        stall_s += expected.stall_s
        busy_s += took_s
        read_bytes += expected.read_bytes
    return _result(name, latencies, stall_s, read_bytes, busy_s, deciding)


def _ours(requests: Sequence[Request], forecast: Forecast, count: int) -> Result:
    device_bytes, room_bytes = _memory(forecast.machine)
    router = Router([Worker(f"worker-{index}", forecast, room_bytes) for index in range(count)])
    door = VirtualDoor(router, [Line(Held(device_bytes, room_bytes)) for index in range(count)])
    for request in requests:
        door.takes(request)
    door.runs_until(math.inf)
    ended = door.begun
    latencies, busy_s = [one.latency_s for one in ended], sum(one.took_s for one in ended)
    return _result(OURS, latencies, sum(one.stall_s for one in ended), sum(one.read_bytes for one in ended), busy_s, door.deciding)


def bound(requests: Sequence[Request], forecast: Forecast, count: int) -> Result:
    """No policy that runs prompts in the order of their arrival is faster: one queue for all workers, whoever is free first takes the next,
    and a prompt waits only for weights that no prompt before it, on any worker, has brought into any memory."""
    seen: dict[str, Place] = {}
    free = [0.0] * count
    latencies: list[float] = []
    stall_s = busy_s = 0.0
    read_bytes = 0
    for request in requests:
        expected = forecast.of(request.job, seen)
        seen.update(dict.fromkeys(request.job.keys, Place.DEVICE))
        start_s = max(request.time_s, heapq.heappop(free))
        took_s = request.job.compute_s * request.compute_share + expected.stall_s
        heapq.heappush(free, start_s + took_s)
        latencies.append(start_s + took_s - request.time_s)
        stall_s += expected.stall_s
        busy_s += took_s
        read_bytes += expected.read_bytes
    return _result(BOUND, latencies, stall_s, read_bytes, busy_s)


def _result(
    name: str, latencies: Sequence[float], stall_s: float, read_bytes: int, busy_s: float, deciding: Sequence[float] = ()
) -> Result:
    count = len(latencies)
    p50_s, p95_s, p99_s = (at(latencies, share) for share in (0.5, 0.95, 0.99))
    decisions = (at(deciding, 0.5), at(deciding, 0.99)) if deciding else (None, None)
    per_hour = 3600 * count / busy_s if busy_s else 0.0
    return Result(name, p50_s, p95_s, p99_s, sum(latencies) / count, stall_s / count, read_bytes, per_hour, *decisions)


def at(values: Sequence[float], share: float) -> float:
    """The value that this share of the others does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
