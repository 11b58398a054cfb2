"""The times of copies to the device, by the device's own clock: announcing 9.3 GB took the host 0.08 s, and they need 0.19 s."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...core.events import Copied

LEAST_CHUNK_BYTES = 128 * 1024**2  # between two marks of one stream
LEAST_BURST_BYTES = 512 * 1024**2  # less is over before its own start has been paid for, and tells nothing of the rate


@dataclass(frozen=True, slots=True)
class Begun:
    """Before a burst. `zero` was reached by the device at `zero_s` of the host's clock."""

    zero: torch.cuda.Event
    zero_s: float
    event: torch.cuda.Event


class Link:
    """The bursts of one stream. On the executor thread."""

    def __init__(self, clock: Callable[[], float], timed_event: Callable[[], torch.cuda.Event] | None) -> None:
        """`timed_event` None: no device, nothing ever crosses."""
        self._clock = clock
        self._timed_event = timed_event
        self._zero: tuple[torch.cuda.Event, float] | None = None
        self._bursts: list[tuple[Begun, torch.cuda.Event, tuple[str, int, int, bool]]] = []
        self._crossed_bytes, self._crossing_s = 0, 0.0

    def begin(self, stream: torch.cuda.Stream) -> Begun:
        """Before a burst is announced."""
        assert self._timed_event is not None
        event = self._timed_event()
        idle = stream.query()
        event.record(stream)
        if self._zero is None or idle:  # reached at once
            self._zero = event, self._clock()
        return Begun(*self._zero, event)

    def end(self, begun: Begun, stream: torch.cuda.Stream, component: str, size_bytes: int, present_bytes: int, *, ahead: bool) -> None:
        """After so many bytes of it were announced."""
        if size_bytes:
            assert self._timed_event is not None
            ended = self._timed_event()
            ended.record(stream)
            self._bursts.append((begun, ended, (component, size_bytes, present_bytes, ahead)))

    def mark(self, stream: torch.cuda.Stream) -> torch.cuda.Event:
        """An event at this point of the stream, for `between`."""
        assert self._timed_event is not None
        event = self._timed_event()
        event.record(stream)
        return event

    def between(self, begun: torch.cuda.Event, ended: torch.cuda.Event, size_bytes: int) -> None:
        """So many bytes of an exchange have crossed from the one mark to the other, and both were reached. Counts for the rate; the mover
        tells the exchange itself. Where all weights have one copy nothing else crosses: nobody would ever know the rate."""
        if size_bytes >= LEAST_CHUNK_BYTES:
            self._crossed_bytes += size_bytes
            self._crossing_s += begun.elapsed_time(ended) / 1e3

    def take(self) -> list[Copied]:
        """Those that have ended since the last call; those under way are left for the next."""
        if not self._bursts:
            return []
        over = [burst for burst in self._bursts if burst[1].query()]  # type: ignore[no-untyped-call]
        self._bursts = [burst for burst in self._bursts if burst not in over]
        found = []
        for begun, ended, told in over:
            start_s = begun.zero_s + begun.zero.elapsed_time(begun.event) / 1e3
            took_s = begun.event.elapsed_time(ended) / 1e3
            copied = Copied(self._clock(), *told, start_s, start_s + took_s)
            if copied.size_bytes >= LEAST_BURST_BYTES:
                self._crossed_bytes += copied.size_bytes
                self._crossing_s += took_s
            found.append(copied)
        return found

    def crossed(self) -> tuple[int, float]:
        """(bytes, seconds) of the large ones that were taken since the last call."""
        told = self._crossed_bytes, self._crossing_s
        self._crossed_bytes, self._crossing_s = 0, 0.0
        return told
