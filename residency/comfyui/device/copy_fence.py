"""Copies under way, module by module: each computation waits, on the device, for the copy that it uses and for no other.

A whole model takes 0.2 to 0.5 s to cross the link, its first layer a millisecond: the first pass runs behind the copies instead of after
them. Every module of a dynamic model goes through `comfy.ops.cast_modules_with_vbar` before its weights are used, patched ones and ones
that ComfyUI copies anew included, so that is where `wait` is called. A block that is replayed as a recorded graph does not; its pages are
asked for as a whole, which is where `wait_for_range` is called. Whether that holds for a ComfyUI is seen by `coverage.py`.
"""

from __future__ import annotations

import weakref
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Gate:
    """The copies of one stream. On the executor thread. `open`: nobody waits here, so who announces copies must wait for all of them."""

    def __init__(self) -> None:
        self.open = True
        self._arrives: weakref.WeakKeyDictionary[Any, torch.cuda.Event] = weakref.WeakKeyDictionary()
        # by the number of the buffer: first addresses of what was announced in it, in order, and which module that is
        self._places: dict[int, tuple[list[int], dict[int, weakref.ReferenceType[Any]]]] = {}
        self._idle = True  # nothing is announced and nobody watches: what a thousand modules ask at each step must cost nothing
        self._seen: set[int] | None = None  # modules that were asked for, by number, while somebody watches
        self._ranges: set[tuple[int, int, int]] = set()  # (number of the buffer, first address, end) that were asked for
        self._aside = False

    def announce(self, module: Any, stream: torch.cuda.Stream) -> None:
        """The module's copy is the last thing announced on the stream."""
        if self.open:
            return
        if not self._arrives:
            self._places.clear()
        self._arrives[module] = stream.record_event()
        buffer, address, _ = module._v
        addresses, modules = self._places.setdefault(id(buffer), ([], {}))
        if address not in modules:
            insort(addresses, address)
        modules[address] = weakref.ref(module)
        self._idle = False

    @property
    def is_aside(self) -> bool:
        """Whether pages are asked for that nobody computes with."""
        return self._aside

    def under_way(self) -> bool:
        """Whether anything announced may not have arrived."""
        return bool(self._arrives)

    def wait(self, modules: Iterable[Any]) -> bool:
        """Make the current stream wait for the modules' copies; whether any were announced that may not have arrived."""
        if self._idle:
            return False
        if self._seen is not None and not self._aside:
            self._seen.update(map(id, modules))
        if not self._arrives:
            return False
        waits = False
        for module in modules:
            event = self._arrives.pop(module, None)
            if event is not None:
                event.wait()
                waits = True
        return waits

    def wait_for_range(self, buffer: Any, address: int, size_bytes: int) -> None:
        """The same for all that lies there in the buffer."""
        if self._idle or self._aside:
            return
        end = address + size_bytes
        if self._seen is not None:
            self._ranges.add((id(buffer), address, end))
        if not self._arrives or id(buffer) not in self._places:
            return
        addresses, modules = self._places[id(buffer)]
        for start in addresses[max(0, bisect_right(addresses, address) - 1) : bisect_left(addresses, end)]:
            module = modules[start]()
            event = self._arrives.get(module) if module is not None and start + module._v[2] > address else None
            if event is not None:
                del self._arrives[module]
                event.wait()

    def forget(self) -> None:
        """Everything announced has arrived."""
        self._arrives.clear()
        self._places.clear()
        self._idle = self._seen is None

    # --- what was asked for ---

    def watch(self, on: bool) -> None:
        """Begin to see, from nothing, or end it."""
        self._seen = set() if on else None
        self._ranges.clear()
        self._idle = not on and not self._arrives

    @property
    def watches(self) -> bool:
        return self._seen is not None

    def seen(self) -> tuple[set[int], dict[int, list[tuple[int, int]]]]:
        """Numbers of the modules that were asked for since, and the ranges that were asked for by address: by the number of the buffer,
        spans in order that do not overlap."""
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
