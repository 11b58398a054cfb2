"""Copies under way, module by module: what computes with one waits for that copy, on the device, and for no other.

A whole model takes 0.2 to 0.5 s to cross the link, its first layer a millisecond: the first pass runs behind the copies instead of after
them. Every module of a dynamic model goes through `comfy.ops.cast_modules_with_vbar` before its weights are used, patched ones and ones
that ComfyUI copies anew included, so that is where `wait` is called.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch

LEAST_BURST_BYTES = 256 * 1024**2  # less is over before its own start has been paid for


class Gate:
    """The copies of one stream. On the executor thread. `open`: nobody waits here, so who announces copies must wait for all of them."""

    def __init__(self) -> None:
        self.open = True
        self._arrives: weakref.WeakKeyDictionary[Any, torch.cuda.Event] = weakref.WeakKeyDictionary()

    def announce(self, module: Any, stream: torch.cuda.Stream) -> None:
        """The module's copy is the last thing announced on the stream."""
        if not self.open:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(stream)
            self._arrives[module] = event

    def wait(self, modules: Iterable[Any]) -> None:
        """What is announced on the current stream from here on finds the modules' bytes."""
        if not self._arrives:
            return
        for module in modules:
            event = self._arrives.pop(module, None)
            if event is not None:
                event.wait()

    def forget(self) -> None:
        """Everything announced has arrived."""
        self._arrives.clear()


class LinkRate:
    """How fast bursts of copies crossed the link, by the device's own clock."""

    def __init__(self) -> None:
        self._bursts: list[tuple[int, torch.cuda.Event, torch.cuda.Event]] = []

    def begin(self, stream: torch.cuda.Stream) -> torch.cuda.Event:
        """Before a burst is announced."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(stream)
        return event

    def end(self, began: torch.cuda.Event, stream: torch.cuda.Stream, moved_bytes: int) -> None:
        """After so many bytes of it were announced; small ones are not counted."""
        if moved_bytes >= LEAST_BURST_BYTES:
            ended = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            ended.record(stream)
            self._bursts.append((moved_bytes, began, ended))

    def take(self) -> tuple[int, float]:
        """(bytes, seconds) of the bursts that have ended since the last call; those under way are left for the next."""
        over = [burst for burst in self._bursts if burst[2].query()]  # type: ignore[no-untyped-call]
        self._bursts = [burst for burst in self._bursts if burst not in over]
        seconds = sum(began.elapsed_time(ended) / 1e3 for _, began, ended in over)
        return sum(moved_bytes for moved_bytes, _, _ in over), seconds
