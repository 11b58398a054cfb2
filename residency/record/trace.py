"""The record of one prompt: every event and instruction with time, bytes, tier and reason, and where the time went.

`Trace.record` is fed by the runtime with each event and the instructions it led to; `as_dict` is the JSON that the panel, the
report, the pictures and trace_events.py read.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from ..core.component import Component, Mode, Tier
from ..core.component_state import Entry
from ..core.device_placement import Copies
from ..core.events import (
    Copied,
    Crossed,
    DeviceObserved,
    Event,
    Evicted,
    Foretold,
    GivenUp,
    Kept,
    NodeFinished,
    NodeStarted,
    NotMeasured,
    Outcome,
    PromptEnded,
    PromptStarted,
    RatesMeasured,
    Replanned,
    Spent,
    Stalled,
    Stepped,
    TransferDone,
    TransferMoved,
    TransferStopped,
    Waited,
)
from ..core.instructions import Cancel, Exchange, Instruction, Prefetch
from ..core.story import told as in_words
from ..core.timeline import Timeline, UseKind
from . import as_json
from .contents import Contents
from .decisions import Decisions
from .node_times import NodeRecord, NodeTimes, Running
from .transfers import Reading, Transfers, UnderWay

P = ParamSpec("P")
T = TypeVar("T")

# Bounds: a trace stays small however long a loop in the graph runs. 10,000 node records are 1.2 MB of JSON.
MAX_RECORDS = 10_000

TOLD_AGAIN = 8  # nodes


@dataclass(frozen=True, slots=True)
class Mark:
    """The part of a trace that somebody knows: records in each list. The last few nodes are told again, since waiting is told late."""

    components: int = 0
    nodes: int = 0
    transfers: int = 0
    evictions: int = 0
    decisions: int = 0


def _locked(method: Callable[Concatenate[Trace, P], T]) -> Callable[Concatenate[Trace, P], T]:
    @wraps(method)
    def call(self: Trace, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self._lock:
            self._catch_up()
            return method(self, *args, **kwargs)

    return call


class Trace:
    """The story of one prompt. Times are seconds since `PromptStarted`.

    Thread-safe, by a lock of its own that is held for microseconds, and while a copy is made: whoever reads a running trace waits for no
    mover. Lock order: the runtime's, then this one.
    """

    def __init__(
        self, started: PromptStarted, started_unix_s: float, under_way: Iterable[UnderWay] = (), began: Contents | None = None
    ) -> None:
        """`under_way`: transfers of the prompt before; this one tells their bytes from now on. `began`: the tiers' contents."""
        self._lock = threading.RLock()
        self.prompt_id = started.prompt_id
        self.mode: Mode = started.mode
        self.mode_asked: Mode = started.mode
        self.mode_reason = ""
        self.copies = Copies.BOTH
        self.copies_reason = ""
        self.outcome: Outcome | None = None
        self.outcome_reason = ""  # of an abandoned prompt
        self.stall_reason = ""  # why stall is only a part of it
        self.started_unix_s = started_unix_s
        self._zero_s = started.time_s
        self._now_s = 0.0
        self._components: dict[str, Component] = dict(started.components)
        self._policies = started.policies
        self._timeline: Timeline = started.timeline
        self._times = NodeTimes(MAX_RECORDS)
        self._transfers = Transfers(MAX_RECORDS)
        self._decisions = Decisions(MAX_RECORDS)
        self._stories: dict[str, str] = {}  # told when it has ended
        self._wait_s = self._own_s = self._crossing_s = 0.0
        self._spent: deque[Spent] = deque()  # told, and not counted yet
        self._crossed_bytes = 0
        self._replans = 0
        self._foretold: Foretold | None = None
        self._began, self._seen_device = began or Contents(), False
        for one in under_way:
            self._components.setdefault(one.component.key, one.component)
            self._transfers.take_over(one)

    def record(self, event: Event, instructions: Sequence[Instruction]) -> None:
        """Take one event and the manager's answer."""
        with self._lock:
            if self._spent:
                self._catch_up()
            now_s = event.time_s - self._zero_s
            if now_s > self._now_s:
                self._now_s = now_s
            write = _WRITES.get(type(event))
            if write is not None:
                write(self, event)
            for instruction in instructions:
                self._decided(instruction)

    def spent(self, event: Spent) -> None:
        """As `record`, several times a node: its seconds are counted before the next event, or as soon as somebody asks."""
        self._spent.append(event)

    def _catch_up(self) -> None:
        spent = self._spent
        while spent:
            self._was_spent(spent.popleft())

    @_locked
    def tell_stories(self, story: Callable[[str], Iterable[Entry]]) -> None:
        """Add the moves of each component on either tier since the prompt began; `story(key)` is the manager's."""
        zero_s = self._zero_s
        for key in self._components:
            mine = (entry._replace(time_s=entry.time_s - zero_s) for entry in story(key) if entry.time_s >= zero_s)
            self._stories[key] = in_words(mine)

    @_locked
    def components(self) -> list[Component]:
        """All that the prompt knew, in the order in which they were found."""
        return list(self._components.values())

    @property
    def duration_s(self) -> float:
        """Seconds from the start of the prompt to the last event."""
        return self._now_s

    @_locked
    def now(self, time_s: float, left: int | None = None) -> tuple[float, Running]:
        """That time of the host's clock as seconds of this trace, and the running node by then; `left`: the steps that it has announced and
        not done."""
        now_s = max(self._now_s, time_s - self._zero_s)
        return now_s, self._times.now(now_s, left)

    @_locked
    def reads(self, components: Container[str]) -> bool:
        """Whether bytes of any of these have come to the host tier since the running node began."""
        since_s = self._times.running.start_s if self._times.running is not None else self._now_s
        return self._transfers.came_to_host(components, since_s)

    @_locked
    def reading(self) -> Reading | None:
        """The running node's components that are still being read; None where there are none."""
        node = self._times.running
        if node is None or node.steps:  # what has ended a step has its weights
            return None
        return self._transfers.reading(node, self._components)

    @property
    def awaits_answers(self) -> bool:
        """Whether a transfer has not been answered yet."""
        return bool(self._transfers.open)

    @_locked
    def under_way(self) -> list[UnderWay]:
        """Transfers that have not been answered yet."""
        return self._transfers.under_way(self._components)

    def _evicted(self, event: Evicted) -> None:
        self._decisions.evicted(event, self._now_s)

    def _stalled(self, event: Stalled) -> None:
        self._times.stalled(event.seconds)
        self._wait_s += max(0.0, event.seconds) if event.waited else 0.0

    def _waited(self, event: Waited) -> None:
        self._times.waited(event.since_s - self._zero_s, event.time_s - self._zero_s, event.seconds)

    def _stepped(self, event: Stepped) -> None:
        self._times.stepped(event.time_s - self._zero_s, event.steps)

    def _not_measured(self, event: NotMeasured) -> None:
        self.stall_reason = event.reason

    def _crossed(self, event: Crossed) -> None:
        self._crossed_bytes += event.size_bytes
        self._crossing_s += event.seconds

    def _was_foretold(self, event: Foretold) -> None:
        self._foretold = event

    def _device_observed(self, event: DeviceObserved) -> None:
        if not self._seen_device:  # before the first node: what the prompt has found there
            self._began, self._seen_device = self._began.after(event), True

    def _rates_measured(self, event: RatesMeasured) -> None:
        self._began = self._began.after(event)

    def _was_spent(self, event: Spent) -> None:
        since_s, end_s = event.time_s, event.end_s - event.stalled_s
        if end_s > since_s:
            self._own_s += end_s - since_s
            if self._times.running is not None:
                self._times.spent(since_s - self._zero_s, end_s - self._zero_s)

    def _told_of(self, event: Kept | GivenUp, kind: str) -> None:
        self._components.setdefault(event.component.key, event.component)
        self._decisions.add(kind, event.component, Tier.HOST, event.component.size_bytes, event.reason, self._now_s)

    def _copied(self, event: Copied) -> None:
        zero_s = self._zero_s
        self._transfers.copied(event, max(0.0, event.start_s - zero_s), max(0.0, event.end_s - zero_s))

    def _replanned(self, event: Replanned) -> None:
        before, after = self._ids_of(self._timeline), self._ids_of(event.timeline)
        if after != before[len(before) - len(after) :]:  # else only the queue behind this prompt has changed, or what is known of it
            self._replans += 1
        self._timeline = event.timeline
        self._components.update(event.components)
        if event.running is not None and self._times.running is not None:
            self._times.running.predicted_s = event.timeline.visits[event.running].compute_s

    def _node_started(self, event: NodeStarted) -> None:
        visit, uses = self._timeline.visits[event.position], self._timeline.at(event.position)
        told = NodeRecord(visit.node_id, visit.class_type, self._now_s)
        told.predicted_s, told.working_set_bytes = visit.compute_s, visit.working_set_bytes
        if uses:
            told.loads = [use.component for use in uses if use.kind is UseKind.LOAD]
            told.computes = [use.component for use in uses if use.kind is not UseKind.LOAD]
            told.reads = [use.component for use in uses if use.reads]
        self._times.start(told)

    def _node_finished(self, event: NodeFinished) -> None:
        if self._times.running is None:
            return
        self._times.close(self._now_s)
        self._transfers.used(self._timeline.at(event.position))

    def _transfer_moved(self, event: TransferMoved) -> None:
        self._transfers.moved(event, self._now_s)

    def _transfer_ended(self, event: TransferDone | TransferStopped) -> None:
        self._transfers.ended(event, self._now_s)

    def _decided(self, instruction: Instruction) -> None:
        if isinstance(instruction, Prefetch | Exchange) and (instruction.component.key, instruction.tier.value) not in self._transfers.open:
            self._transfers.announce(instruction.component.key, instruction.tier, instruction.reason, self._now_s)
        elif isinstance(instruction, Cancel) and self.outcome is not None:
            self._transfers.cancelled(instruction, self._now_s)
        self._decisions.instructed(instruction, self._now_s)

    def _ended(self, event: PromptEnded) -> None:
        self.outcome, self.outcome_reason = event.outcome, event.reason
        self._times.close(self._now_s)
        self._transfers.count_waste(self._timeline, len(self._ids_of(self._timeline)) - 1)

    def _ids_of(self, timeline: Timeline) -> list[str]:
        """The nodes of this prompt."""
        return [visit.node_id for visit in timeline.visits if visit.prompt_id == self.prompt_id]

    @_locked
    def summary(self) -> dict[str, Any]:
        """Seconds and bytes of the whole prompt."""
        foretold, times, transfers = self._foretold, self._times, self._transfers
        compute_s, stall_s = times.compute_s, times.stall_s(self._now_s)
        return {
            "compute_s": compute_s,
            "stall_s": stall_s,
            "other_s": max(0.0, self._now_s - compute_s - stall_s),
            "wait_s": self._wait_s,
            "own_s": self._own_s,
            "unsplit_s": times.ended_unsplit_s,
            "prefetched_bytes": transfers.prefetched_bytes,
            "read_bytes": transfers.read_bytes,
            "onloaded_bytes": transfers.onloaded_bytes,
            "onload_bytes_per_s": self._crossed_bytes / self._crossing_s if self._crossing_s > 0 else None,
            "wasted_bytes": transfers.wasted_bytes,
            "evicted_bytes": self._decisions.evicted_bytes,
            "nodes": len(times.nodes),
            "replans": self._replans,
            "predicted_compute_s": None if foretold is None else foretold.compute_s,
            "predicted_margin_s": None if foretold is None else foretold.margin_s,
            "predicted_nodes": 0 if foretold is None else foretold.nodes,
        }

    @_locked
    def head(self) -> dict[str, Any]:
        """The trace without its lists: cheap at any length."""
        return {
            "version": 1,
            "prompt_id": self.prompt_id,
            "mode": self.mode.value,
            "mode_asked": self.mode_asked.value,
            "mode_reason": self.mode_reason,
            "copies": self.copies.value,
            "copies_reason": self.copies_reason,
            "outcome": self.outcome.value if self.outcome else "running",
            "outcome_reason": self.outcome_reason,
            "stall_reason": self.stall_reason,
            "started_unix_s": self.started_unix_s,
            "duration_s": self._now_s,
            "summary": self.summary(),
        }

    @_locked
    def mark(self) -> Mark:
        """Of all that is in it now."""
        lists = self._components, self._times.nodes, self._transfers.records, self._decisions.evictions, self._decisions.decided
        return Mark(*map(len, lists))

    @_locked
    def since(self, mark: Mark, most_decisions: int = MAX_RECORDS) -> dict[str, Any]:
        """All that is new or has changed since the mark: the trace's head, and of each list [index, records from there on]; `open` holds
        the transfers before that index that have changed or may, by index."""
        nodes_from = max(0, mark.nodes - TOLD_AGAIN)
        decisions_from = max(mark.decisions, len(self._decisions.decided) - most_decisions)
        transfers, changed = self._transfers.records, self._transfers.changed(mark.transfers)
        return {
            **self.head(),
            "components": [mark.components, [self._told(one) for one in list(self._components.values())[mark.components :]]],
            "nodes": [nodes_from, as_json.nodes(self._times.nodes[nodes_from:])],
            "transfers": [mark.transfers, as_json.transfers(transfers[mark.transfers :])],
            "open": dict(zip(changed, as_json.transfers([transfers[index] for index in changed]), strict=True)),
            "evictions": [mark.evictions, self._decisions.evictions[mark.evictions :]],
            "decisions": [decisions_from, self._decisions.decided[decisions_from:]],
        }

    def _told(self, one: Component) -> dict[str, Any]:
        return as_json.component(one, self._policies.get(one.key), self._stories.get(one.key, ""))

    @_locked
    def as_dict(self) -> dict[str, Any]:
        """The trace as JSON-ready data, version 1; docs/trace.md describes the keys."""
        return {
            **self.head(),
            "components": [self._told(one) for one in self._components.values()],
            "began": self._began.as_dict(),
            "nodes": as_json.nodes(self._times.nodes),
            "transfers": as_json.transfers(self._transfers.records),
            "evictions": list(self._decisions.evictions),
            "decisions": list(self._decisions.decided),
            "dropped_records": self._times.dropped + self._transfers.dropped + self._decisions.dropped,
        }


_WRITES: Mapping[type, Callable[[Trace, Any], object]] = {
    Replanned: Trace._replanned,
    NodeStarted: Trace._node_started,
    NodeFinished: Trace._node_finished,
    TransferMoved: Trace._transfer_moved,
    TransferDone: Trace._transfer_ended,
    TransferStopped: Trace._transfer_ended,
    Evicted: Trace._evicted,
    PromptEnded: Trace._ended,
    Stalled: Trace._stalled,
    Waited: Trace._waited,
    Stepped: Trace._stepped,
    NotMeasured: Trace._not_measured,
    Copied: Trace._copied,
    Crossed: Trace._crossed,
    Kept: partial(Trace._told_of, kind="keep"),
    GivenUp: partial(Trace._told_of, kind="give up"),
    Spent: Trace._was_spent,
    Foretold: Trace._was_foretold,
    DeviceObserved: Trace._device_observed,
    RatesMeasured: Trace._rates_measured,
}
