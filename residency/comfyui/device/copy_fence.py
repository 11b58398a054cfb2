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


class Gate:
    """The copies of one stream. On the executor thread. `open`: nobody waits here, so who announces copies must wait for all of them."""

    def __init__(self) -> None:
        self.open = True
        self._arrives: weakref.WeakKeyDictionary[Any, torch.cuda.Event] = weakref.WeakKeyDictionary()

    def announce(self, module: Any, stream: torch.cuda.Stream) -> None:
        """The module's copy is the last thing announced on the stream."""
        if not self.open:
            self._arrives[module] = stream.record_event()

    def under_way(self) -> bool:
        """Whether anything announced may not have arrived."""
        return bool(self._arrives)

    def wait(self, modules: Iterable[Any]) -> bool:
        """What is announced on the current stream from here on finds the modules' bytes; whether it has to wait for any."""
        if not self._arrives:
            return False
        waits = False
        for module in modules:
            event = self._arrives.pop(module, None)
            if event is not None:
                event.wait()
                waits = True
        return waits

    def forget(self) -> None:
        """Everything announced has arrived."""
        self._arrives.clear()
