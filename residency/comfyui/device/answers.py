"""The instructions of the device tier that stand, and the answers to all of them: each is answered once, whatever happens to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ...core.component import Component, Tier
from ...core.events import Event, Evicted, TransferDone, TransferMoved, TransferStopped
from ...core.instructions import Exchange, Prefetch
from .evidence import Evidence
from .proofs import DisprovedError, Feature


@dataclass(slots=True)
class Pending:
    """A Prefetch that has not been answered. Not `ahead`: the node that runs computes with it."""

    component: Component
    size_bytes: int
    ahead: bool
    started_s: float | None = None  # when the first bytes were announced
    future: Future[None] = field(default_factory=Future)
    moved_bytes: int = 0
    present_bytes: int = 0
    retry_bytes: int = 0  # room at which it is worth another look: each one goes through every module of the model


class Answers:
    """By component: each Prefetch that is `pending`, each Exchange that is `placed` for the node that runs, and which of those are
    `unanswered`. `present_bytes(key)`: bytes of the component on the device. With the mover's lock held, but for the answers themselves."""

    def __init__(
        self, tell: Callable[[Event], Any], clock: Callable[[], float], present_bytes: Callable[[str], int], evidence: Evidence
    ) -> None:
        self.pending: dict[str, Pending] = {}  # in the order in which they came
        self.placed: dict[str, Exchange] = {}  # they hold for each load of the node
        self.unanswered: set[str] = set()
        self._tell, self._clock, self._present_bytes, self._evidence = tell, clock, present_bytes, evidence

    def begin(self, instruction: Prefetch) -> Pending:
        """A Prefetch that will be answered; it is `pending` once it is put there."""
        pending = Pending(instruction.component, instruction.size_bytes, instruction.ahead)
        pending.future.set_running_or_notify_cancel()
        return pending

    def place(self, instruction: Exchange) -> None:
        """Remember it until ComfyUI loads the model."""
        self.placed[instruction.component.key] = instruction
        self.unanswered.add(instruction.component.key)

    def node_starts(self) -> None:
        """Another node: the exchange for the last one is over."""
        if self.placed:
            self.placed = {key: one for key, one in self.placed.items() if key in self.unanswered}

    def cancel(self, key: str, reason: str) -> None:
        """Answer all that stands of the component."""
        pending = self.pending.pop(key, None)
        if pending is not None:
            self.finish(pending, reason)
        if key in self.unanswered:
            self.stop(key, reason)

    def take_all(self) -> tuple[list[Pending], list[str]]:
        """Nothing stands any more. Returns the unanswered: each Prefetch, and the component of each Exchange."""
        pending, self.pending = list(self.pending.values()), {}
        unanswered, self.unanswered, self.placed = sorted(self.unanswered), set(), {}
        return pending, unanswered

    @contextmanager
    def answering(self, key: str, feature: Feature, patcher: Any = None) -> Iterator[None]:
        """Answer the instruction with the reason where anything fails in here: it costs time, and ComfyUI loads the rest itself."""
        try:
            yield
        except Exception as error:
            if patcher is not None and isinstance(error, DisprovedError):
                reason = self._evidence.disproved(patcher, error)
            else:
                reason = self._evidence.failed(key, feature, error)
            pending = self.pending.get(key)
            if pending is not None:
                pending.present_bytes = self._present_bytes(key)
            self.cancel(key, reason)

    # --- answers ---

    def finish(self, pending: Pending, reason: str) -> None:
        """Of a Prefetch, which is not pending any more. `reason`: why not all of it has come; empty where it has."""
        now_s, key = self._clock(), pending.component.key
        duration_s = now_s - (pending.started_s or now_s)
        if reason:
            self._tell(TransferStopped(now_s, key, Tier.DEVICE, pending.moved_bytes, pending.present_bytes, duration_s, reason))
        else:
            self._tell(TransferDone(now_s, key, Tier.DEVICE, pending.moved_bytes, pending.present_bytes, duration_s))
        pending.future.set_result(None)

    def moved(self, pending: Pending) -> None:
        """Of a Prefetch that goes on later: how far it is."""
        now_s, moved = self._clock(), (pending.moved_bytes, pending.present_bytes)
        self._tell(TransferMoved(now_s, pending.component.key, Tier.DEVICE, *moved, now_s - (pending.started_s or now_s)))

    def exchanged(self, now_s: float, key: str, brought_bytes: int, duration_s: float) -> None:
        """Of an Exchange: so much has come back."""
        self.unanswered.discard(key)
        self._tell(TransferDone(now_s, key, Tier.DEVICE, brought_bytes, self._present_bytes(key), duration_s))

    def stop(self, key: str, reason: str) -> None:
        """Of an Exchange that does not take place."""
        self.unanswered.discard(key)
        self.placed.pop(key, None)
        self._tell(TransferStopped(self._clock(), key, Tier.DEVICE, 0, self._present_bytes(key), 0.0, reason))

    def evicted(self, key: str, freed_bytes: int, reason: str) -> None:
        """Bytes have left, by an Evict or in an exchange."""
        self._tell(Evicted(self._clock(), key, Tier.DEVICE, freed_bytes, reason))
