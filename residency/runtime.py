"""Takes facts from the host and its movers, has them decided, and hands the instructions to the movers. Every host runs on it.

Thread-safe: the host tells from its executor thread, movers from theirs. Facts are decided one at a time in the order in which they were
told; instructions are enacted in the order of the decisions, after the lock is released.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

from .core.component import Tier
from .core.events import Event, Evicted, Outcome, PromptEnded, PromptStarted, Spent, Stalled, TransferDone, TransferMoved, TransferStopped
from .core.instructions import Cancel, Evict, Exchange, Instruction, Prefetch, Wait
from .core.manager import Manager
from .record.ahead import foreseen
from .record.contents import TELLING, Contents
from .record.trace import Trace
from .record.transfers import UnderWay
from .session import Fact, Phase, Session, SessionError, StandsAside

log = logging.getLogger(__name__)

KEPT_TRACES = 20
GLANCE_S = 0.1  # deciding takes a millisecond

_ANSWERS = (TransferDone, TransferStopped)  # `A | B` is made anew each time it is asked


class Mover(Protocol):
    """Enacts instructions for one tier and answers each with an event through the `tell` it was made with.

    Every method but `so_far` is called without the runtime's lock, one call at a time, in the order of the decisions: by the thread that
    told the fact, or by one that was telling another just then. A tier of the runtime's `at_safe_points` is enacted only inside
    `safe_point()`, on the thread that calls it. No method may block on a transfer or raise for the state of the user's files; a refusal
    is a TransferStopped event. After `close` nothing is announced any more, but answers to earlier instructions may still arrive.
    """

    def prefetch(self, instruction: Prefetch) -> Future[None]:
        """Start or queue the transfer; the future is done when its TransferDone or TransferStopped has been told."""

    def cancel(self, instruction: Cancel) -> None: ...

    def evict(self, instruction: Evict) -> None: ...

    def progress(self, key: str) -> int:
        """Bytes of the component's last Prefetch that are there by now."""

    def so_far(self, key: str) -> TransferMoved | None:
        """The progress of the component's unanswered Prefetch; None before it has begun, and where it is not told. Called with the
        runtime's lock: it may not tell anything, nor wait."""

    def close(self, *, wait: bool = True) -> None:
        """Stop everything and join every thread. Without `wait` no drive, device or thread is waited for: unanswered instructions are
        answered at once, and the threads end by themselves."""


@runtime_checkable
class Exchanging(Protocol):
    """A mover of a host that tells the session that it `exchanges`."""

    def exchange(self, instruction: Exchange) -> None:
        """Remember it until the host loads the component."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A wait of one node: for enough bytes of a component, or for the end of their transfer. `future` ends with the transfer."""

    future: Future[None]
    size_bytes: int
    progress: Callable[[], int]

    def over(self) -> bool:
        return self.future.done() or self.progress() >= self.size_bytes


@dataclass(slots=True)
class _Due:
    """The instructions that follow from one fact, in order, and the holds that they gave."""

    instructions: list[Instruction]
    holds: list[Hold] = field(default_factory=list)
    done: bool = False


class Runtime:
    """One session and its manager, the movers, and the traces of the last prompts.

    `movers` are made by the host with `runtime.tell` as their callback and set once. `clock` gives monotonic seconds. Instructions for the
    tiers `at_safe_points` wait until the host calls `safe_point`. `on_update(trace, ended)`, when set, is called after each event of the
    running prompt, on the thread that told the fact. `recorder`, when set, gets every fact and the instructions that follow from it.

    The lock is held while a fact is turned into events, decided and written into the trace; never while a mover works.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        unix_clock: Callable[[], float] = time.time,
        at_safe_points: Collection[Tier] = (),
    ) -> None:
        self.clock = clock
        self.session = Session()
        self.manager = Manager()
        self.movers: Mapping[Tier, Mover] = {}
        self.traces: tuple[Trace, ...] = ()  # replaced, never changed: any thread may go through it
        self.trace: Trace | None = None  # of the running prompt
        self.on_update: Callable[[Trace, bool], None] | None = None
        self.recorder: Callable[[Fact, Sequence[Instruction]], None] | None = None
        self.stalled_s = 0.0  # of all prompts
        self.failures: Counter[str] = Counter()  # by the part that has failed; logged, of one that only follows the first time
        self._unix_clock = unix_clock
        self._lock = threading.RLock()
        self._due: deque[_Due] = deque()  # decided, not enacted
        self._enacting: int | None = None  # the thread that empties `_due` now
        self._enacted = threading.Condition(self._lock)
        self._at_safe_points = frozenset(at_safe_points)
        self._deferred: deque[Instruction] = deque()
        self._futures: dict[tuple[str, Tier], Future[None]] = {}
        self._under_way: dict[tuple[str, Tier], UnderWay] = {}  # between two prompts
        self.contents = Contents()  # as the host has told them last

    def tell(self, fact: Fact) -> list[Hold]:
        """Take one fact. Returns the holds of the node that has just begun (empty for every other fact).

        Raises SessionError for a fact that cannot be true now; nothing has changed then. Raises the core's own exception where it has
        failed: the prompt is abandoned, transfers under way are called off, and from here on there is a new session with a new core.
        """
        failed: Exception | None = None
        with self._lock:
            try:
                mine = self._decide(fact)
            except SessionError:
                raise
            except Exception as error:
                failed = error
                mine = self._start_anew(fact.reason if isinstance(fact, StandsAside) else f"the core failed: {error!r}")
        if mine is not None:
            self._enact_due(mine)
        if failed is not None:
            raise failed
        return [] if mine is None else mine.holds

    def safe_point(self) -> None:
        """Enact the instructions that wait for it. On the executor's thread, where the device stands still or a step has ended."""
        while self._deferred:
            with self._lock:
                if not self._deferred:
                    return
                instruction = self._deferred.popleft()
            self._enact(instruction)

    def abandon(self, reason: str, prompt_id: str | None = None) -> None:
        """The host follows the running prompt no longer: its trace ends, and nothing more is moved for it or for the queue behind it; also
        where the manager has failed. On any thread that may wait. `prompt_id`: only that prompt, if it has not ended meanwhile."""
        try:
            self.tell(StandsAside(self.clock(), reason, prompt_id))
        except Exception:
            log.exception("residency: the prompt could not be ended in good order")
            self.failures["end of a prompt"] += 1

    def look(self, *, wait: bool = True) -> None:
        """Write into the running trace how far its transfers have come, and tell whoever follows it. Else that is done at each event.

        Without `wait` not while a fact is decided: that looks itself.
        """
        if not self._lock.acquire(blocking=wait):
            return
        try:
            if self.trace is not None:
                if self.trace.awaits_answers:
                    self._aside("trace", self._look_at_transfers, self.trace)
                self._aside("on_update", self.on_update, self.trace, False)
        finally:
            self._lock.release()

    def foresee(self, trace: Trace, margins_s: Mapping[str, float], left: int | None) -> dict[str, Any] | None:
        """The rest of that prompt, on its trace's clock; None where it does not run, or while a fact is being decided. On any
        thread. `margins_s`: seconds by node, of those whose same work has run before; `left`: steps that the running node has announced."""
        with self._glance() as free:
            if not free or trace is not self.trace:
                return None
            session, host = self.session, self.manager.host
            runs = session.phase is Phase.RUNNING
            held = {key: record.held_bytes + record.loaded_bytes for key, record in host.records.items()}
            missing = {one.key: one.size_bytes - held.get(one.key, 0) for one in trace.components()}
            rates = self.contents.rates.read if self.contents.rates is not None else {}
            now_s, running = trace.now(self.clock(), left)
            position = session.position if runs else session.position + 1
            return foreseen(session.timeline, position, trace.prompt_id, now_s, running if runs else None, missing, rates, margins_s)

    def coming(self) -> dict[str, int]:
        """Bytes on their way to host memory by component, in the order in which they come; nothing while a fact is being decided. On any
        thread."""
        with self._glance() as free:
            return self.manager.host.in_flight if free else {}

    @contextmanager
    def _glance(self) -> Iterator[bool]:
        """Hold the lock if it is free soon: who only shows the state waits for nobody."""
        free = self._lock.acquire(timeout=GLANCE_S)
        try:
            yield free
        finally:
            if free:
                self._lock.release()

    def spent(self, start_s: float, stalled_s: float, trace: Trace | None) -> None:
        """Add the host's work since then on the thread that runs the nodes to the pack's own time, less the part of it that was stall.

        `stalled_s` and `trace` are as they were at the start: the prompt may have begun or ended since. Without the lock: it is told
        several times a node.
        """
        trace = self.trace or trace
        if trace is not None:
            trace.spent(Spent(start_s, self.clock(), self.stalled_s - stalled_s))

    def open(self, movers: Mapping[Tier, Mover]) -> None:
        """Go on with these movers after a close that did not wait."""
        self.movers = movers

    def close(self, *, wait: bool = True) -> None:
        """Cancel everything, join the movers' threads; without `wait` nothing is waited for."""
        with self._lock:
            self._deferred.clear()
        for mover in self.movers.values():
            mover.close(wait=wait)

    def _decide(self, fact: Fact) -> _Due | None:
        told: list[Instruction] = []
        for event in self.session.take(fact):
            told += self._handle(event)
        if self.recorder is not None:
            self._aside("recorder", self.recorder, fact, told)
        return self._due_of(told) if told else None

    def _due_of(self, told: Sequence[Instruction]) -> _Due | None:
        self._deferred.extend(one for one in told if one.tier in self._at_safe_points)
        now = [one for one in told if one.tier not in self._at_safe_points]
        if not now:
            return None
        due = _Due(now)
        self._due.append(due)
        return due

    def _handle(self, event: Event) -> list[Instruction]:
        instructions = self.manager.handle(event)
        if type(event) in TELLING:
            self.contents = self.contents.after(event)
        if isinstance(event, PromptStarted):
            self._futures = {key: future for key, future in self._futures.items() if not future.done()}
            self.trace = Trace(event, self._unix_clock(), self._under_way.values(), self.contents)
            self.traces = (*self.traces, self.trace)[-KEPT_TRACES:]
        elif isinstance(event, Stalled):
            self.stalled_s += event.seconds
        elif isinstance(event, _ANSWERS):
            self._under_way.pop((event.component, event.tier), None)
        if self.trace is not None:
            self._write(self.trace, event, instructions)
        return instructions

    def _write(self, trace: Trace, event: Event, instructions: Sequence[Instruction]) -> None:
        ended = isinstance(event, PromptEnded)
        self._aside("trace", self._write_down, trace, event, instructions)
        if ended:
            self._aside("trace", trace.tell_stories, self.manager.story)
        if self.on_update is not None:
            self._aside("on_update", self.on_update, trace, ended)
        if ended:
            self._under_way = {(one.component.key, one.tier): one for one in trace.under_way()}
            self.trace = None

    def _write_down(self, trace: Trace, event: Event, instructions: Sequence[Instruction]) -> None:
        mode, placement = self.manager.mode, self.manager.placement
        trace.mode, trace.mode_reason = mode.mode, mode.reason
        trace.copies, trace.copies_reason = placement.copies, placement.reason
        try:
            if trace.awaits_answers:
                self._look_at_transfers(trace)
        finally:
            trace.record(event, instructions)

    def _aside(self, what: str, function: Callable[..., object] | None, *args: object) -> None:
        """Tell one that only follows: it may fail, and all decisions are enacted all the same."""
        try:
            if function is not None:
                function(*args)
        except Exception:
            if not self.failures[what]:  # it may fail at every event
                log.exception("residency: %s failed: nothing depends on it, and more of the same is only counted", what)
            self.failures[what] += 1

    def _start_anew(self, reason: str) -> _Due | None:
        """The core has failed in the middle of a decision: transfers in its records may have been told to nobody, and would stay."""
        trace = self.trace
        under_way = self._under_way.values() if trace is None else trace.under_way()
        cancels = [Cancel(one.component, one.tier, reason) for one in under_way]
        if trace is not None:
            self._write(trace, PromptEnded(self.clock(), trace.prompt_id, Outcome.ABANDONED, reason), cancels)
        self.session, self.manager, self._under_way = Session(), Manager(), {}
        return self._due_of(cancels)

    def _enact_due(self, mine: _Due) -> None:
        """One thread at a time enacts, in the order of the decisions. A mover that answers from inside a call only adds to the due ones:
        the loop further up its thread takes it. Another thread waits until its own instructions are enacted: a node must know its holds."""
        me = threading.get_ident()
        while True:
            with self._lock:
                if mine.done or self._enacting == me:
                    return
                if self._enacting is not None:
                    self._enacted.wait()
                    continue
                self._enacting = me
            try:
                self._empty()
            finally:
                with self._lock:
                    self._enacting = None
                    self._enacted.notify_all()

    def _empty(self) -> None:
        while True:
            with self._lock:
                if not self._due:
                    return
                due = self._due.popleft()
            try:
                due.holds += filter(None, map(self._enact, due.instructions))
            finally:
                with self._lock:
                    due.done = True
                    self._enacted.notify_all()

    def _look_at_transfers(self, trace: Trace) -> None:
        """A transfer that reads a whole model may outlast its prompt."""
        for one in trace.under_way():
            mover = self.movers.get(one.tier)
            moved = mover.so_far(one.component.key) if mover is not None else None
            if moved is not None:
                trace.record(moved, ())

    def _enact(self, instruction: Instruction) -> Hold | None:
        key = (instruction.component.key, instruction.tier)
        mover = self.movers.get(instruction.tier)
        if isinstance(instruction, Wait):
            future = self._futures.get(key)
            if future is None or future.done() or mover is None:
                return None
            return Hold(future, instruction.size_bytes, partial(mover.progress, instruction.component.key))
        if mover is None:
            self._refuse(instruction, f"this host has no mover for the {instruction.tier.value} tier")
            return None
        try:
            if isinstance(instruction, Prefetch):
                future = mover.prefetch(instruction)
                with self._lock:
                    self._futures[key] = future
            elif isinstance(instruction, Exchange):
                if isinstance(mover, Exchanging):
                    mover.exchange(instruction)
                else:
                    self._refuse(instruction, f"the {instruction.tier.value} mover of this host exchanges nothing")
            elif isinstance(instruction, Cancel):
                mover.cancel(instruction)
            else:
                mover.evict(instruction)
        except Exception as error:  # a broken mover costs time, never the user's workflow
            log.exception("residency: the %s mover failed on %s", instruction.tier.value, instruction.component.name)
            self.failures[f"{instruction.tier.value} mover"] += 1
            self._refuse(instruction, f"{type(error).__name__}: {error}")
        return None

    def _refuse(self, instruction: Instruction, reason: str) -> None:
        key, tier = instruction.component.key, instruction.tier
        try:
            if isinstance(instruction, Prefetch | Exchange):
                held_bytes = self.manager.host.held.get(key, 0) if tier is Tier.HOST else 0
                self.tell(TransferStopped(self.clock(), key, tier, 0, held_bytes, 0.0, reason))
            elif isinstance(instruction, Evict):
                self.tell(Evicted(self.clock(), key, tier, 0, f"refused: {reason}"))
        except Exception:  # whose prompt it is learns of it with its next fact; the other instructions are enacted first
            log.exception("residency: the core failed on the refusal of %s", instruction.component.name)
            self.failures["core"] += 1
