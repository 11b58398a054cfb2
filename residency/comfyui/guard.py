"""The guard between the pack and ComfyUI: an error inside is logged, counted, and the prompt is left to ComfyUI."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ..graph import AllowanceError
from ..runtime import Runtime
from .device.mover import DeviceHangsError

log = logging.getLogger("residency")

MAX_FAILURES = 3


class Guard:
    """Calls functions of the pack for ComfyUI, and answers for their errors. On any thread.

    `abandon(reason, told)` leaves the running prompt to ComfyUI; after MAX_FAILURES, or where the device hangs, `give_up()` takes every
    hook out.
    """

    def __init__(self, runtime: Runtime, abandon: Callable[[str, bool], object], give_up: Callable[[], object]) -> None:
        self.failures = 0
        self._runtime = runtime
        self._abandon, self._give_up = abandon, give_up

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except Exception as error:
            self._failed(function, error)

    def timed(self, function: Callable[..., Any], *args: Any) -> Any:
        """The same for calls on the executor's thread; its time counts as the pack's own and as no stall."""
        runtime = self._runtime
        started_s, stalled_s, trace = runtime.clock(), runtime.stalled_s, runtime.trace
        try:
            return function(*args)
        except Exception as error:
            self._failed(function, error)
        finally:
            runtime.spent(started_s, stalled_s, trace)

    def forgive(self) -> None:
        """The hooks are in again: failures are counted anew."""
        self.failures = 0

    def _failed(self, function: Callable[..., Any], error: Exception) -> None:
        """Log it once, leave the prompt to ComfyUI, and after a few of them every prompt."""
        if isinstance(error, AllowanceError):
            log.warning("residency: the prompt goes on without the pack: %s", error)
            self._abandon(f"left to ComfyUI: {error}", True)
            return
        self.failures += 1
        log.error("residency: %s failed; ComfyUI goes on without it", function.__name__, exc_info=error)
        self._abandon(f"left to ComfyUI: {function.__name__} failed: {type(error).__name__}: {str(error)[:60]}", False)
        hangs = isinstance(error, DeviceHangsError)  # the next hook would wait as long
        if hangs or self.failures >= MAX_FAILURES:
            why = error if hangs else f"{self.failures} failures"
            log.error("residency: %s, taking every hook out; choose a mode again to retry", why)
            self._give_up()
