"""Copies under way, module by module: what computes with one waits for that copy, on the device, and for no other.

A whole model takes 0.2 to 0.5 s to cross the link, its first layer a millisecond: the first pass runs behind the copies instead of after
them. Every module of a dynamic model goes through `comfy.ops.cast_modules_with_vbar` before its weights are used, patched ones and ones
that ComfyUI copies anew included, so that is where `wait` is called. A block that is replayed as a recorded graph does not; its pages are
asked for as a whole, which is where `wait_for_range` is called. Whether that holds for a ComfyUI is seen by `coverage.py`.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Gate:
    """The copies of one stream. On the executor thread. `open`: nobody waits here, so who announces copies must wait for all of them."""

    def __init__(self) -> None:
        self.open = True
        self._arrives: weakref.WeakKeyDictionary[Any, torch.cuda.Event] = weakref.WeakKeyDictionary()
        self._seen: set[int] | None = None  # modules that were asked for, by number, while somebody watches
        self._ranges: set[tuple[int, int, int]] = set()  # (number of the buffer, first address, end) that were asked for
        self._aside = False

    def announce(self, module: Any, stream: torch.cuda.Stream) -> None:
        """The module's copy is the last thing announced on the stream."""
        if not self.open:
            self._arrives[module] = stream.record_event()

    def wait(self, modules: Iterable[Any]) -> None:
        """What is announced on the current stream from here on finds the modules' bytes."""
        if self._seen is not None and not self._aside:
            self._seen.update(map(id, modules))
        if not self._arrives:
            return
        for module in modules:
            event = self._arrives.pop(module, None)
            if event is not None:
                event.wait()

    def wait_for_range(self, buffer: Any, address: int, size_bytes: int) -> None:
        """The same for all that lies there in the buffer. Copies are announced in the order of the addresses."""
        if self._aside:
            return
        end = address + size_bytes
        if self._seen is not None:
            self._ranges.add((id(buffer), address, end))
        if not self._arrives:
            return
        for module in list(self._arrives):
            own, start, own_bytes = module._v
            if own is buffer and start < end and start + own_bytes > address:
                self.wait([module])

    def forget(self) -> None:
        """Everything announced has arrived."""
        self._arrives.clear()

    # --- what was asked for ---

    def watch(self, on: bool) -> None:
        """Begin to see, from nothing, or end it."""
        self._seen = set() if on else None
        self._ranges.clear()

    @property
    def watches(self) -> bool:
        return self._seen is not None

    def seen(self) -> tuple[set[int], dict[int, list[tuple[int, int]]]]:
        """Numbers of the modules that were asked for since, and what was asked for with its address: by the number of the buffer, spans
        in order that do not overlap."""
        spans: dict[int, list[tuple[int, int]]] = {}
        for buffer, start, end in sorted(self._ranges):
            own = spans.setdefault(buffer, [])
            if own and start <= own[-1][1]:
                own[-1] = (own[-1][0], max(end, own[-1][1]))
            else:
                own.append((start, end))
        return self._seen or set(), spans

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Pages are asked for in here that nobody computes with."""
        before, self._aside = self._aside, True
        try:
            yield
        finally:
            self._aside = before
