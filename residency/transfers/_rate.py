"""The rate of a drive while it reads, in bytes a second: an exponential average over busy time, however many threads share the work."""

from __future__ import annotations

import math

_MEMORY_S = 5.0  # busy seconds after which a reading weighs 1/e


class RateMeter:
    """Not thread-safe: the lane's lock guards it. Times are the caller's clock."""

    def __init__(self) -> None:
        self._active = 0
        self._last_s = 0.0
        self._bytes = 0.0
        self._busy_s = 0.0

    def begin(self, now_s: float) -> None:
        self._advance(now_s)
        self._active += 1

    def end(self, now_s: float, size_bytes: int) -> None:
        self._advance(now_s)
        self._active -= 1
        self._bytes += size_bytes

    def bytes_per_s(self) -> float | None:
        """None before the first read."""
        return self._bytes / self._busy_s if self._busy_s > 0 and self._bytes > 0 else None

    def _advance(self, now_s: float) -> None:
        if self._active and now_s > self._last_s:
            passed_s = now_s - self._last_s
            fade = math.exp(-passed_s / _MEMORY_S)
            self._bytes *= fade
            self._busy_s = self._busy_s * fade + passed_s
        self._last_s = max(self._last_s, now_s)
