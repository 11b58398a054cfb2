"""What a worker's queue will do: in which order its prompts run, for how long, and what lies where by then. Pure.

Clients take turns. A prompt whose weights are at hand goes before one that would have to load, as long as that one has not waited for
PATIENCE_S, and never before an earlier one of its own client or one that was given a place by its client: so prompts of one model are run
together, and nobody is put off for long.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .forecast import Forecast, Job, Place

PATIENCE_S = 30.0
GAIN_S = 1.0  # of loading that is saved: less is not worth putting anybody off
GROUPED = 64  # prompts of a queue that are looked at for the next


@dataclass(frozen=True, slots=True)
class Queued:
    """A prompt on a worker. `left_s`: it runs, and has so many seconds to go. `fixed`: its client has said when it is to run."""

    name: str
    worker: int
    client: str
    job: Job
    number: float
    compute_s: float
    waited_s: float = 0.0
    left_s: float | None = None
    fixed: bool = False


class Memory:
    """What lies where on one worker: the device holds what was used last, and what it gives up stays in RAM."""

    def __init__(self, places: Mapping[str, Place], sizes: Mapping[str, int], device_bytes: int | None) -> None:
        self.places, self._sizes, self._device_bytes = dict(places), dict(sizes), device_bytes
        self._on_device = {key: None for key, near in places.items() if near is Place.DEVICE}

    def take(self, job: Job) -> None:
        """The job runs."""
        for key in job.keys:
            self._sizes[key] = job.sizes[key]
            self._on_device.pop(key, None)
            self._on_device[key] = None
            self.places[key] = Place.DEVICE
        if self._device_bytes is None:
            return
        over_bytes = sum(self._sizes[key] for key in self._on_device) - self._device_bytes
        for key in list(self._on_device):
            if over_bytes <= 0 or key in job.sizes:
                break
            over_bytes -= self._sizes[key]
            del self._on_device[key]
            self.places[key] = Place.PINNED


def ahead(queue: Iterable[Queued], memory: Memory, forecast: Forecast | None, margin: float, until: str = "") -> tuple[list[Queued], float]:
    """The prompts that run before the one of this name (all, where there is none), in their order, and the seconds that they take; `memory`
    is left as it will be by then. Without a forecast nothing is known of loading."""
    order: list[Queued] = []
    seconds = 0.0
    left = sorted(queue, key=lambda one: (one.left_s is None, one.number))
    while left:
        one = left[0] if left[0].left_s is not None else _next(left, memory, forecast, seconds)
        if one.name == until:
            break
        if one.left_s is not None:
            seconds += one.left_s
        else:
            seconds += (_stall_s(one.job, memory, forecast) + one.compute_s) * margin
        memory.take(one.job)
        order.append(one)
        left.remove(one)
    return order, seconds


def _next(left: Sequence[Queued], memory: Memory, forecast: Forecast | None, seconds: float) -> Queued:
    head = left[0]
    most_s = _stall_s(head.job, memory, forecast)
    if most_s < GAIN_S or head.fixed or head.waited_s + seconds > PATIENCE_S:
        return head
    best, best_s = head, most_s
    clients, models = {head.client}, {head.job.keys}
    for one in left[1:GROUPED]:
        if one.fixed:
            break
        if one.client not in clients and one.job.keys not in models:
            models.add(one.job.keys)
            stall_s = _stall_s(one.job, memory, forecast)
            if stall_s < best_s:
                best, best_s = one, stall_s
        clients.add(one.client)
    return best if most_s - best_s >= GAIN_S else head


def _stall_s(job: Job, memory: Memory, forecast: Forecast | None) -> float:
    return forecast.of(job, memory.places).stall_s if forecast is not None else 0.0
