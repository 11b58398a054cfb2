"""Idle release: gives the device back to other programs when nothing has run for a while. ComfyUI loads the next models again.

A timer on the server's event loop, no thread: from the end of a prompt to the start of the next, and only while a time is set.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger("residency")


class IdleRelease:
    """`after_s` 0: never. `busy()` says whether something runs or is queued; `release()` gives the memory back, once in each silence.

    Every method may be called on any thread; the timer itself lives on `loop`, where `busy` and `release` are called.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, busy: Callable[[], bool], release: Callable[[], None]) -> None:
        self._loop = loop
        self._busy = busy
        self._release = release
        self._after_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def set(self, after_s: float) -> None:
        """Wait `after_s` seconds of silence from now on; 0 ends the timer."""
        self._loop.call_soon_threadsafe(self._set, after_s)

    def restart(self) -> None:
        """Something has ended: the silence begins now."""
        if self._after_s > 0:
            self._loop.call_soon_threadsafe(self._set, self._after_s)

    def _set(self, after_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._after_s = after_s
        self._timer = self._loop.call_later(after_s, self._fire) if after_s > 0 else None

    def _fire(self) -> None:
        self._timer = None
        if self._busy():
            return  # the end of what runs starts the next silence
        log.info("residency: nothing has run for %g min: models leave the device", round(self._after_s / 60, 2))
        self._release()
