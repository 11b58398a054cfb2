"""The seconds for which the running node waits for weights inside its forward pass, under dynamic VRAM.

Every module's weights pass `comfy.ops.cast_modules_with_vbar`. Where they are not on the device, ComfyUI reads them from the file into host
memory on this thread and announces a copy, for which the device then waits. Measured around that call:

- on CUDA by two events: one on the computing stream before the call, one on the stream of the copy behind it. The time between them by the
  device's clock is that in which it had nothing to compute with: a read that outlasts the device's pending work counts with the rest of its
  time, one behind which the device was busy not at all. Nothing is ever synchronised: the events are read when the device has passed them,
  at the next step or later.
- elsewhere by the host's clock.

Cost: a call whose modules are on the device takes one look at the buffer and one at the clock; one that misses takes three more calls
of the driver, beside the copy that it announces.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...core.events import Stepped, Waited

log = logging.getLogger("residency")


FOLDED = 512  # a node that reports no steps may miss a million times: those that the device has passed are added up now and then

_Wait = tuple[Any, list[Any]]  # events before the call, and behind it


def _is_passed(wait: _Wait) -> bool:
    """And so every wait before it: the device passes them in their order."""
    before, behind = wait
    return bool(before.query()) and all(event.query() for event in behind)


@dataclass(slots=True)
class _Stretch:
    """From one step, or the start of the node, to the next."""

    seconds: float = 0.0
    since_s: float | None = None  # when weights were asked for first
    waits: list[_Wait] = field(default_factory=list)
    end_s: float = 0.0
    steps: int = 0  # that end with it

    def is_passed(self) -> bool:
        """Whether the device has got to its end."""
        return not self.waits or _is_passed(self.waits[-1])

    def take(self, upto: int) -> list[Any]:
        """Add up the first waits, which the device has passed; their events, to be used again."""
        used = []
        for before, behind in self.waits[:upto]:
            self.seconds += max(0.0, *(before.elapsed_time(event) for event in behind)) / 1e3
            used += [before, *behind]
        del self.waits[:upto]
        return used


@dataclass(slots=True)
class Asked:
    """Before the call, one for each module of each pass: not frozen, which would take a microsecond more. `event` None: measured by the
    host's clock."""

    time_s: float
    event: Any = None


class WeightWaits:
    """The meter of one executor's thread; other threads are not measured. `cuda` None: no device that tells when it has passed an event."""

    def __init__(self, clock: Callable[[], float], cuda: Any = None) -> None:
        self._clock, self._cuda = clock, cuda
        self._thread: int | None = None
        self._now = _Stretch()
        self._over: deque[_Stretch] = deque()
        self._spare: list[Any] = []
        self.fails = ""  # why nothing is measured with this ComfyUI

    def begin(self) -> None:
        """A node begins on this thread."""
        self._thread = threading.get_ident()
        if self._now.since_s is not None:  # else nothing was asked for since
            self._now = _Stretch()

    def forget(self) -> None:
        """No node of ours runs any more."""
        self._thread = None
        self._now, self._over = _Stretch(), deque()

    def asks(self, modules: Sequence[Any], *, copies_under_way: bool) -> Asked | None:
        """Weights are asked for. `copies_under_way`: the device may wait for one that was announced earlier."""
        if threading.get_ident() != self._thread or self.fails:
            return None
        try:
            time_s = self._clock()
            if self._cuda is None or not (copies_under_way or is_missing(modules)) or self._cuda.capturing():
                return Asked(time_s)
            return Asked(time_s, self._mark(self._cuda.computing()))
        except Exception as error:
            self._failed(error)
            return None

    def given(self, asked: Asked | None, modules: Sequence[Any], stream: Any, waited: bool) -> None:
        """They are announced on the stream (None: on the computing one). `waited`: the device waits for an earlier copy of them."""
        if asked is None:
            return
        try:
            missed = False
            for module in modules:
                if not module._prefetch["resident"]:
                    missed = True
                    break
            if asked.event is None:
                if missed:
                    self._add(asked.time_s, self._clock() - asked.time_s)
            elif missed or waited:
                computing = self._cuda.computing()
                streams = [computing] * waited + [stream or computing] * missed
                self._add(asked.time_s, 0.0)
                waits = self._now.waits
                waits.append((asked.event, [self._mark(one) for one in streams]))
                if len(waits) % FOLDED == 0 and _is_passed(waits[len(waits) // 2]):
                    self._spare += self._now.take(len(waits) // 2)
            else:
                self._spare.append(asked.event)
        except Exception as error:
            self._failed(error)

    def steps_end(self, steps: int) -> list[Waited | Stepped]:
        """So many have ended since the last time. Returns the waits known by now, of them and of earlier ones."""
        return self._take(steps)

    def node_ends(self) -> list[Waited | Stepped]:
        """As `steps_end`. Waits that the device has not got to yet are told at the next step or node."""
        return self._take(0)

    def _take(self, steps: int) -> list[Waited | Stepped]:
        if not steps and not self._over and self._now.since_s is None:
            return []
        stretch, self._now = self._now, _Stretch()
        stretch.end_s, stretch.steps = self._clock(), steps
        self._over.append(stretch)
        told: list[Waited | Stepped] = []
        try:
            while self._over and self._over[0].is_passed():
                told += self._told(self._over.popleft())
        except Exception as error:
            self._failed(error)
        return told

    def _told(self, stretch: _Stretch) -> list[Waited | Stepped]:
        self._spare += stretch.take(len(stretch.waits))
        told: list[Waited | Stepped] = []
        if stretch.since_s is not None and stretch.seconds > 0:
            told.append(Waited(stretch.end_s, stretch.since_s, stretch.seconds))
        if stretch.steps:
            told.append(Stepped(stretch.end_s, stretch.steps))
        return told

    def _add(self, since_s: float, seconds: float) -> None:
        self._now.seconds += seconds
        if self._now.since_s is None:
            self._now.since_s = since_s

    def _mark(self, stream: Any) -> Any:
        event = self._spare.pop() if self._spare else self._cuda.timed_event()
        event.record(stream)
        return event

    def _failed(self, error: Exception) -> None:
        """Measure nothing more, and let no node stop for it; whoever reads the trace is told."""
        self.fails = f"{type(error).__name__}: {str(error)[:80]}"
        self._now, self._over, self._spare = _Stretch(), deque(), []
        log.warning("residency: waiting for weights inside a forward pass is not measured from here on: %s", self.fails)


def is_missing(modules: Sequence[Any]) -> bool:
    """Whether one of the modules may not be on the device. Those on the device lie in front in the model's buffer, mostly: behind a hole
    the host's clock tells."""
    for module in modules:
        buffer, address, size_bytes = module._v
        if address + size_bytes > buffer.base_addr + buffer.loaded_size():
            return True
    return False
