"""Feeds events to the manager, hands its instructions to the movers, and writes both into the trace. Every host runs on it.

Thread-safe: the host posts from its executor thread, movers from theirs. Events are handled one at a time in the order in which
they were posted; a mover that answers from inside a call is queued behind the event that caused it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from .component import Component, Tier
from .events import (
    BudgetChanged,
    Cancel,
    Event,
    Evict,
    Evicted,
    Instruction,
    Outcome,
    Prefetch,
    PromptEnded,
    PromptStarted,
    TransferDone,
    TransferMoved,
    TransferStopped,
    Wait,
)
from .manager import Manager
from .trace import Prediction, Trace, UnderWay

log = logging.getLogger(__name__)

KEPT_TRACES = 20


class Mover(Protocol):
    """Enacts instructions for one tier and answers each with an event through the `post` it was made with.

    No method may block on a transfer or raise for what happens to the user's files; a refusal is a TransferStopped event.
    """

    def prefetch(self, instruction: Prefetch) -> Future[None]:
        """Start or queue the transfer; the future is done when its TransferDone or TransferStopped has been posted."""

    def cancel(self, instruction: Cancel) -> None: ...

    def evict(self, instruction: Evict) -> None: ...

    def progress(self, key: str) -> int:
        """Bytes of the component's last Prefetch that are there by now."""

    def so_far(self, key: str) -> TransferMoved | None:
        """How far the component's unanswered Prefetch is; None before it has begun, and where it is not told."""

    def close(self, *, wait: bool = True) -> None:
        """Stop everything and join every thread. Without `wait` no drive, device or thread is waited for: what is unanswered is answered
        at once, and the threads end by themselves."""


@dataclass(frozen=True, slots=True)
class Hold:
    """What a node waits for: enough bytes of a component, or the end of their transfer. `future` ends with the transfer."""

    future: Future[None]
    size_bytes: int
    progress: Callable[[], int]

    def over(self) -> bool:
        return self.future.done() or self.progress() >= self.size_bytes


class Runtime:
    """One manager, its movers and the traces of the last prompts.

    `movers` are made by the host with `runtime.post` as their callback and set once. `clock` gives monotonic seconds.
    `on_update(trace, ended)`, when set, is called after each event of the running prompt, on the thread that posted it.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        unix_clock: Callable[[], float] = time.time,
        device_limit_bytes: int | None = None,
    ) -> None:
        self.clock = clock
        self.manager = Manager(device_limit_bytes=device_limit_bytes)
        self.movers: Mapping[Tier, Mover] = {}
        self.traces: tuple[Trace, ...] = ()  # replaced, never changed: any thread may go through it
        self.trace: Trace | None = None  # of the running prompt
        self.on_update: Callable[[Trace, bool], None] | None = None
        self.stalled_s = 0.0  # of all prompts
        self._unix_clock = unix_clock
        self._lock = threading.RLock()
        self._queue: deque[Event] = deque()
        self._draining = False
        self._closed = False
        self._futures: dict[tuple[str, Tier], Future[None]] = {}
        self._under_way: dict[tuple[str, Tier], UnderWay] = {}  # between two prompts

    def post(self, event: Event) -> list[Hold]:
        """Handle one event. Returns what the node that has just started must wait for (empty for every other event)."""
        if self._closed:
            self._queue.append(event)
            return []
        with self._lock:
            self._queue.append(event)
            if self._draining:  # a mover answering from inside a call: the loop below, further up this thread, takes it
                return []
            self._draining = True
            try:
                waits: list[Hold] = []
                while self._queue:
                    waits += self._handle(self._queue.popleft())
                return waits
            finally:
                self._draining = False

    def look(self, *, wait: bool = True) -> None:
        """Write into the running trace how far its transfers have come, and tell whoever follows it. Else that is done at each event.

        Without `wait` not while an event is handled: a mover may be at work, and the event looks itself.
        """
        if not self._lock.acquire(blocking=wait):
            return
        try:
            if self.trace is not None:
                self._look_at_transfers(self.trace)
                if self.on_update is not None:
                    self.on_update(self.trace, False)
        finally:
            self._lock.release()

    def stalled(self, seconds: float, *, waited: bool = False) -> None:
        """Add stall time to the running node of the running trace."""
        with self._lock:
            self.stalled_s += seconds
            if self.trace is not None:
                self.trace.stalled(seconds, waited=waited)

    def spent(self, start_s: float, stalled_s: float, trace: Trace | None) -> None:
        """Add what the host has done since then on the thread that runs the nodes to the pack's own time, less what was stall of it.

        `stalled_s` and `trace` are what they were at the start: the prompt may have begun or ended since.
        """
        with self._lock:
            trace = self.trace or trace
            if trace is not None:
                trace.spent(start_s, self.clock(), self.stalled_s - stalled_s)

    def foretold(self, prediction: Prediction) -> None:
        """Write into the running trace what earlier runs say of its prompt."""
        with self._lock:
            if self.trace is not None:
                self.trace.foretold(prediction)

    def copied(self, component: str, size_bytes: int, present_bytes: int, ahead: bool, start_s: float, end_s: float) -> None:
        """Write into the running trace when bytes of a component crossed the link to the device; `ahead`: its node was not running yet."""
        with self._lock:
            if self.trace is not None:
                self.trace.copied(component, size_bytes, present_bytes, ahead, start_s, end_s)

    def kept(self, component: Component, reason: str) -> None:
        """Write into the running trace that a component stays loaded which its prompt does not use."""
        with self._lock:
            if self.trace is not None:
                self.trace.kept(self.clock(), component, reason)

    def given_up(self, component: Component, reason: str) -> None:
        """Write into the running trace that a component does not stay loaded, though something needs it again."""
        with self._lock:
            if self.trace is not None:
                self.trace.given_up(self.clock(), component, reason)

    def crossed(self, size_bytes: int, seconds: float) -> None:
        """Write into the running trace that so many bytes crossed the link to the device in so long, at its full pace."""
        with self._lock:
            if self.trace is not None:
                self.trace.crossed(size_bytes, seconds)

    def abandon(self, reason: str) -> None:
        """The host follows the running prompt no longer: its trace ends, and nothing more is moved for it or for what is queued behind it;
        also where the manager is what has failed."""
        with self._lock:
            trace = self.trace
            ended = PromptEnded(self.clock(), trace.prompt_id if trace is not None else "", Outcome.ABANDONED, reason)
            try:
                self.post(ended)
            except Exception:
                log.exception("residency: the prompt could not be ended in good order")
                self._queue.clear()
                self.trace = None
                if trace is not None and trace.outcome is None:
                    cancels = [Cancel(one.component, one.tier, reason) for one in trace.under_way()]
                    trace.record(ended, cancels)
                    self._dispatch(cancels)
                    if self.on_update is not None:
                        self.on_update(trace, True)

    def set_host_limit(self, limit_bytes: int) -> None:
        """Tell the manager what the host tier may hold, when it has changed."""
        if limit_bytes != self.manager.host.limit_bytes:
            self.post(BudgetChanged(self.clock(), Tier.HOST, limit_bytes))

    def open(self, movers: Mapping[Tier, Mover]) -> None:
        """Go on with these movers after a close that did not wait."""
        self.movers = movers
        self._closed = False

    def close(self, *, wait: bool = True) -> None:
        """Cancel everything, join the movers' threads.

        Without `wait` nothing is waited for, not even an event that is being handled: what the movers answer is kept, and handled before
        the first event after `open`.
        """
        self._closed = not wait
        for mover in self.movers.values():
            mover.close(wait=wait)

    def _handle(self, event: Event) -> list[Hold]:
        instructions = self.manager.handle(event)
        if isinstance(event, PromptStarted):
            self._futures = {key: future for key, future in self._futures.items() if not future.done()}
            self.trace = Trace(event, self._unix_clock(), self._under_way.values())
            self.traces = (*self.traces, self.trace)[-KEPT_TRACES:]
        elif isinstance(event, TransferDone | TransferStopped):
            self._under_way.pop((event.component, event.tier), None)
        trace = self.trace
        if trace is not None:
            trace.mode, trace.mode_reason = self.manager.mode.mode, self.manager.mode.reason
            self._look_at_transfers(trace)
            trace.record(event, instructions)
        waits = self._dispatch(instructions)
        if trace is not None:
            ended = isinstance(event, PromptEnded)
            if self.on_update is not None:
                self.on_update(trace, ended)
            if ended:
                self._under_way = {(one.component.key, one.tier): one for one in trace.under_way()}
                self.trace = None
        return waits

    def _look_at_transfers(self, trace: Trace) -> None:
        """A transfer that reads a whole model may outlast its prompt."""
        for one in trace.under_way():
            mover = self.movers.get(one.tier)
            moved = mover.so_far(one.component.key) if mover is not None else None
            if moved is not None:
                trace.record(moved, ())

    def _dispatch(self, instructions: Sequence[Instruction]) -> list[Hold]:
        waits: list[Hold] = []
        for instruction in instructions:
            key = (instruction.component.key, instruction.tier)
            mover = self.movers.get(instruction.tier)
            if isinstance(instruction, Wait):
                if mover is not None and key in self._futures and not self._futures[key].done():
                    waits.append(Hold(self._futures[key], instruction.size_bytes, partial(mover.progress, instruction.component.key)))
            elif mover is None:
                self._refuse(instruction, f"this host has no mover for the {instruction.tier.value} tier")
            else:
                try:
                    self._enact(mover, instruction, key)
                except Exception as error:  # a broken mover costs time, never the user's workflow
                    log.exception("residency: the %s mover failed on %s", instruction.tier.value, instruction.component.name)
                    self._refuse(instruction, f"{type(error).__name__}: {error}")
        return waits

    def _enact(self, mover: Mover, instruction: Prefetch | Cancel | Evict, key: tuple[str, Tier]) -> None:
        if isinstance(instruction, Prefetch):
            self._futures[key] = mover.prefetch(instruction)
        elif isinstance(instruction, Cancel):
            mover.cancel(instruction)
        else:
            mover.evict(instruction)

    def _refuse(self, instruction: Instruction, reason: str) -> None:
        key, tier = instruction.component.key, instruction.tier
        if isinstance(instruction, Prefetch):
            held_bytes = self.manager.host.held.get(key, 0) if tier is Tier.HOST else 0
            self.post(TransferStopped(self.clock(), key, tier, 0, held_bytes, 0.0, reason))
        elif isinstance(instruction, Evict):
            self.post(Evicted(self.clock(), key, tier, 0, f"refused: {reason}"))
