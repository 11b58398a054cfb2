"""The future of a worker's queue: the order of its prompts, their seconds, and where weights lie by then. Pure.

Clients take turns. A prompt whose weights are at hand goes before one that would have to load; each second that the other has waited longer
counts AGE_SHARE of one of loading, and the less the longer prompts wait here at all: loading delays whoever is behind, and where many are,
fewer changes of model get the queue done sooner. So prompts of one model run together. In the same measure short prompts go before long
ones: many wait less for it, and few longer. Nobody is put off for ever: a prompt that was overtaken MOST_OVERTAKEN times per worker is
overtaken no more. A limit in seconds would not do: once all have waited for so long, all run in turn, each of them loads, and the queue
grows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from .forecast import Forecast, Job, Place

AGE_SHARE = 0.2  # of a second that a prompt has waited longer: worth so many seconds of loading
LONG_S = 120.0  # where the longest has waited so long, having waited counts half, and a second of computing as half a second of loading
GAIN_S = 1.0  # of loading that is saved: less is not worth putting anybody off
MOST_OVERTAKEN = 25.0  # times per worker of the fleet
ROUNDING = 1e-9
GROUPED = 64  # prompts of a queue that are looked at for the next

TakesS = Callable[[float, float], float]
"""Seconds that a prompt takes of which so many were predicted, the second number of them for loading"""


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
    overtaken: float = 0.0  # how often one of a later turn has begun while it waited, per worker of the fleet


class Memory:
    """The contents of one worker's memory: the device holds the weights that were used last, those that it gives up stay in RAM, and RAM,
    which has `room_bytes` for weights, forgets first those that came longest ago. What passes through it to the device lies there, too.
    Without `device_bytes` the device's memory is RAM. Without `room_bytes` RAM forgets nothing. `in_ram`, bytes by component, are of those
    in RAM, wherever else they lie; the first leave first.
    """

    def __init__(
        self,
        places: Mapping[str, Place],
        sizes: Mapping[str, int],
        device_bytes: int | None,
        room_bytes: int | None = None,
        in_ram: Iterable[str] = (),
    ) -> None:
        self.places, self._sizes, self._device_bytes, self._room_bytes = dict(places), dict(sizes), device_bytes, room_bytes
        self._on_device = {key: None for key, near in places.items() if near is Place.DEVICE}
        self.in_ram = {key: self._sizes[key] for key in in_ram}
        self._forget()

    def take(self, job: Job) -> None:
        """Change the places to those after a run of the job."""
        for key in job.keys:
            self._sizes[key] = job.sizes[key]
            if self.places.get(key) is not Place.DEVICE or self._device_bytes is None:
                self._comes_to_ram(key)
            self._on_device.pop(key, None)
            self._on_device[key] = None
            self.places[key] = Place.DEVICE
        if self._device_bytes is not None:
            over_bytes = sum(self._sizes[key] for key in self._on_device) - self._device_bytes
            for key in list(self._on_device):
                if over_bytes <= 0 or key in job.sizes:
                    break
                over_bytes -= self._sizes[key]
                del self._on_device[key]
                self.places[key] = Place.PINNED
                self._comes_to_ram(key)
        self._forget()

    def _comes_to_ram(self, key: str) -> None:
        self.in_ram.pop(key, None)
        self.in_ram[key] = self._sizes[key]

    def _forget(self) -> None:
        over_bytes = sum(self.in_ram.values()) - (math.inf if self._room_bytes is None else self._room_bytes)
        for key in list(self.in_ram):
            if over_bytes <= 0:
                return
            over_bytes -= self.in_ram.pop(key)
            if self._device_bytes is None:
                self._on_device.pop(key, None)
            if key not in self._on_device:
                del self.places[key]


def ahead(
    queue: Iterable[Queued], memory: Memory, forecast: Forecast | None, takes_s: TakesS, until: str = ""
) -> tuple[list[Queued], float]:
    """The prompts that run before the one of this name (all, where there is none), in their order, and the seconds that they take; `memory`
    is left as it will be by then; `takes_s`: as the worker's. Without a forecast nothing is known of loading."""
    order: list[Queued] = []
    seconds = 0.0
    left = sorted(queue, key=lambda one: (one.left_s is None, one.number))
    while left:
        one = left[0] if left[0].left_s is not None else pick(left[:GROUPED], lambda one: _stall_s(one.job, memory, forecast))
        if one.name == until:
            break
        if one.left_s is not None:
            seconds += one.left_s
        else:
            stall_s = _stall_s(one.job, memory, forecast)
            seconds += takes_s(stall_s + one.compute_s, stall_s)
        memory.take(one.job)
        order.append(one)
        left.remove(one)
    return order, seconds


def is_put_off_no_more(overtaken: float) -> bool:
    """Whether a prompt was overtaken as often as it may be."""
    return overtaken >= MOST_OVERTAKEN - ROUNDING


def pick(left: Sequence[Queued], cost_s: Callable[[Queued], float]) -> Queued:
    """The first of these that costs the least by more than GAIN_S; nobody goes before an earlier prompt of its own client in the same
    queue, nor before one whose client has said when it is to run."""
    most_waited_s = max(one.waited_s for one in left)
    short = 1 / (1 + max(0.0, most_waited_s) / LONG_S)
    share, computing = AGE_SHARE * short, 1 - short

    def in_all_s(one: Queued) -> float:
        return cost_s(one) + computing * one.compute_s - share * one.waited_s

    best, best_s = left[0], in_all_s(left[0])
    own = set()
    for one in left:
        if (one.client, one.worker) not in own:
            own.add((one.client, one.worker))
            one_s = in_all_s(one)
            if one_s < best_s - GAIN_S and not one.fixed:
                best, best_s = one, one_s
        if one.fixed or is_put_off_no_more(one.overtaken) or best_s - GAIN_S <= -share * most_waited_s:
            break
    return best


def _stall_s(job: Job, memory: Memory, forecast: Forecast | None) -> float:
    return forecast.of(job, memory.places).stall_s if forecast is not None else 0.0
