"""The streams of copies between the device and host memory: which copies are under way on them, and who waits for which."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .copy_fence import Gate
from .cuda import Cuda
from .link import Link


@dataclass(frozen=True, slots=True)
class Streams:
    """Of copies: `into` the device and `out` of it; `link` learns how fast they cross."""

    into: torch.cuda.Stream
    out: torch.cuda.Stream
    link: Link


class CopyStreams:
    """Those of one device, made when the first copy is; `cuda` None: nothing is ever copied. `gate`: whether a module's copy has arrived;
    `link`: when copies crossed. On the executor's thread."""

    def __init__(self, cuda: Cuda | None, clock: Callable[[], float]) -> None:
        self.cuda = cuda
        self.gate = Gate()
        self.link = Link(clock, None if cuda is None else cuda.timed_event)
        self._made: Streams | None = None

    def both(self) -> Streams:
        if self._made is None:
            assert self.cuda is not None
            self._made = Streams(self.cuda.stream(), self.cuda.stream(), self.link)
        return self._made

    def reaches(self, patcher: Any) -> bool:
        """Whether pages of the model can be filled on them: a dynamic one on their device."""
        return self.cuda is not None and bool(patcher.is_dynamic()) and patcher.load_device == self.cuda.device

    def settle(self) -> None:
        """Nobody needs to wait for copies that have arrived."""
        if self._made is not None and self._made.into.query():
            self.gate.forget()

    def wait_for_copies(self) -> None:
        """Make all computing from here on wait for every copy announced so far."""
        if self._made is not None and self.cuda is not None:
            self.cuda.computing().wait_stream(self._made.into)

    def before_pin(self) -> None:
        """ComfyUI is about to pin a module's bytes, and may take another module's pinned memory for it: copies from there must be over."""
        if self._made is not None and not self._made.into.query():
            self._made.into.synchronize()

    def give_up(self) -> None:
        """Wait until all announced copies have arrived, and let nobody else wait for them."""
        if self._made is not None:
            self._made.into.synchronize()
        self.gate.forget()
