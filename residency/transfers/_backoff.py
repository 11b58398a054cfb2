"""When reading ahead must yield: no memory for another chunk stops a transfer, tasks that wait for memory slow it down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

_GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Backoff:
    """`slow_percent` is the PSI "some avg10" above which every chunk first waits `pause_s`."""

    available: Callable[[], int]
    headroom_bytes: int
    pressure: Callable[[], float]
    slow_percent: float
    pause_s: float

    def refusal(self, size_bytes: int) -> str | None:
        """Why a chunk of `size_bytes` must not be read now; None when it may."""
        available = self.available()
        if available - size_bytes >= self.headroom_bytes:
            return None
        return f"only {available / _GIB:.2f} GiB of host memory are available and {self.headroom_bytes / _GIB:.2f} GiB must stay so"

    def pause(self) -> float:
        """Seconds to wait before the next chunk."""
        return self.pause_s if self.pressure() > self.slow_percent else 0.0
