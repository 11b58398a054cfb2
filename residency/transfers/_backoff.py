"""The moments at which reading ahead yields: no memory for another chunk stops a transfer, tasks that wait for memory slow it down."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ..units import size

# The system is asked so often, not at every chunk: asking opens six files, and after each a thread waits for the interpreter, which a node
# that computes gives away every 5 ms. Between two looks all bytes read count as taken.
LOOK_S = 0.1


@dataclass(slots=True)
class Backoff:
    """`slow_percent` is the PSI "some avg10" above which every chunk first waits `pause_s`. Threads may share one: they race for
    no more than a look."""

    available: Callable[[], int]
    headroom_bytes: int
    pressure: Callable[[], float]
    slow_percent: float
    pause_s: float
    look_s: float = LOOK_S
    _looked_s: float = field(default=float("-inf"), init=False)
    _available_bytes: int = field(default=0, init=False)
    _pressure: float = field(default=0.0, init=False)

    def refusal(self, size_bytes: int) -> str | None:
        """Why a chunk of `size_bytes` must not be read now; None when it may."""
        if time.perf_counter() - self._looked_s >= self.look_s:
            self._look()
        elif self._available_bytes - size_bytes < self.headroom_bytes:
            self._look()  # an old look refuses nobody
        available_bytes = self._available_bytes
        if available_bytes - size_bytes >= self.headroom_bytes:
            self._available_bytes = available_bytes - size_bytes
            return None
        return f"only {size(available_bytes)} of host memory are available and {size(self.headroom_bytes)} must stay so"

    def pause(self) -> float:
        """Seconds to wait before the next chunk, one that was not refused."""
        return self.pause_s if self._pressure > self.slow_percent else 0.0

    def _look(self) -> None:
        self._looked_s = time.perf_counter()
        self._available_bytes = self.available()
        self._pressure = self.pressure()
