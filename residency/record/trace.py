"""The record of one prompt: every event and instruction with time, bytes, tier and reason, and where the time went.

`Trace.record` is fed by the runtime with each event and the instructions it led to; `as_dict` is the JSON that the panel, the
report, the pictures and trace_events.py read.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial, wraps
from operator import attrgetter
from typing import Any, Concatenate, ParamSpec, TypeVar

from ..core.component import Component, Mode, Policy, Tier
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
from ..core.instructions import Cancel, Evict, Exchange, Instruction, Prefetch, Wait
from ..core.story import told as in_words
from ..core.timeline import Timeline, UseKind
from .contents import Contents
from .node_times import NodeRecord, NodeTimes, Running

P = ParamSpec("P")
T = TypeVar("T")

# Bounds: a trace stays small however long a loop in the graph runs. 10,000 node records are 1.2 MB of JSON.
MAX_RECORDS = 10_000

TOLD_AGAIN = 8  # nodes
OWN = "its node computes with it"  # of bytes that crossed the link while their node ran

_KINDS = {Prefetch: "prefetch", Exchange: "exchange", Cancel: "cancel", Wait: "wait", Evict: "evict"}
_ONLOAD = "onload"  # a Prefetch of what the running node computes with


@dataclass(slots=True)
class TransferRecord:
    component: str
    tier: str
    start_s: float
    end_s: float | None = None
    moved_bytes: int = 0
    present_bytes: int = 0
    status: str = "announced"
    reason: str = ""
    read_bytes: int = 0  # copied for what moved: more where what was missing lay between bytes that were there


@dataclass(frozen=True, slots=True)
class Reading:
    """The needs of a running node from files, and how much of it is in host memory while the rest is on its way."""

    node_id: str
    since_s: float  # its node's start
    components: tuple[str, ...]  # names of what has not arrived
    present_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Mark:
    """The part of a trace that somebody knows: records in each list. The last few nodes are told again, since waiting is told late."""

    components: int = 0
    nodes: int = 0
    transfers: int = 0
    evictions: int = 0
    decisions: int = 0


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A transfer that a prompt leaves unanswered, and what of it that prompt's trace has told."""

    component: Component
    tier: Tier
    moved_bytes: int
    reason: str
    read_bytes: int = 0


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
        """`under_way`: transfers of the prompt before; this one tells what they move from now on. `began`: what lay where."""
        self._lock = threading.RLock()
        self.prompt_id = started.prompt_id
        self.mode: Mode = started.mode
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
        self._transfers: list[TransferRecord] = []
        self._open: dict[tuple[str, str], TransferRecord] = {}
        self._recent: list[TransferRecord] = []  # not open, and changed since somebody asked what is new
        self._moved: dict[tuple[str, Tier], int] = {}  # by those, in all
        self._read: dict[tuple[str, Tier], int] = {}
        self._announced: dict[str, TransferRecord] = {}  # the last one to the device
        self._evictions: list[dict[str, Any]] = []
        self._decisions: list[dict[str, Any]] = []
        self._dropped_records = 0
        self._stories: dict[str, str] = {}  # told when it has ended
        self._unread: dict[tuple[str, Tier], int] = {}  # bytes moved ahead and not used by a node yet
        self._followed: set[str] = set()  # in flight while a node read them: what lands later is not waste
        self._read_bytes = self._prefetched_bytes = self._onloaded_bytes = self._wasted_bytes = self._evicted_bytes = 0
        self._wait_s = self._own_s = self._crossing_s = 0.0
        self._spent: deque[Spent] = deque()  # told, and not counted yet
        self._crossed_bytes = 0
        self._replans = 0
        self._foretold: Foretold | None = None
        self._began, self._seen_device = began or Contents(), False
        for one in under_way:
            self._components.setdefault(one.component.key, one.component)
            self._announce(one.component.key, one.tier, one.reason)
            self._moved[one.component.key, one.tier] = one.moved_bytes
            self._read[one.component.key, one.tier] = one.read_bytes

    def record(self, event: Event, instructions: Sequence[Instruction]) -> None:
        """Take one event and what the manager answered."""
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
        """As `record`, several times a node: what it says is counted before the next event, or as soon as somebody asks."""
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
        now_s, node = max(self._now_s, time_s - self._zero_s), self._times.running
        if node is None:
            return now_s, Running(0.0)
        ran_s = node.left_s(now_s)
        since_s = max(0.0, ran_s - sum(took_s - stall_s for took_s, stall_s, _ in node.steps))
        return now_s, Running(ran_s, [(took_s - stall_s) / steps for took_s, stall_s, steps in node.steps[1:]], since_s, left)

    @_locked
    def reads(self, components: Container[str]) -> bool:
        """Whether bytes of any of these have come to the host tier since the running node began."""
        since_s = self._times.running.start_s if self._times.running is not None else self._now_s
        ahead = (one for one in self._transfers if one.tier == Tier.HOST.value and one.component in components)
        return any(one.moved_bytes > 0 and (one.end_s is None or one.end_s >= since_s) for one in ahead)

    @_locked
    def reading(self) -> Reading | None:
        """The needs of the running node and what of them is still being read; None where nothing is."""
        node = self._times.running
        if node is None or node.steps:  # what has ended a step has its weights
            return None
        coming = {key: record for key in node.reads if (record := self._open.get((key, Tier.HOST.value))) is not None}
        found = [self._components[key] for key in coming if key in self._components]
        size_bytes = sum(one.size_bytes for one in found)
        present_bytes = sum(min(one.size_bytes, coming[one.key].present_bytes) for one in found)
        if present_bytes >= size_bytes:
            return None
        return Reading(node.node_id, node.start_s, tuple(one.name for one in found), present_bytes, size_bytes)

    @property
    def awaits_answers(self) -> bool:
        """Whether a transfer has not been answered yet."""
        return bool(self._open)

    @_locked
    def under_way(self) -> list[UnderWay]:
        """Transfers that have not been answered yet."""
        moved, read = self._moved, self._read
        return [
            UnderWay(self._components[key], Tier(tier), moved.get((key, Tier(tier)), 0), record.reason, read.get((key, Tier(tier)), 0))
            for (key, tier), record in self._open.items()
            if key in self._components
        ]

    def _evicted(self, event: Evicted) -> None:
        self._evicted_bytes += event.freed_bytes
        self._append(
            self._evictions,
            {
                "component": event.component,
                "tier": event.tier.value,
                "time_s": self._now_s,
                "freed_bytes": event.freed_bytes,
                "reason": event.reason,
            },
        )

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
        self._decide(kind, event.component, Tier.HOST, event.component.size_bytes, event.reason)

    def _copied(self, event: Copied) -> None:
        """A copy of an announced transfer: its bytes are counted here, and no more when the transfer is answered."""
        size_bytes, announced = event.size_bytes, self._announced.get(event.component)
        if announced is None:
            return  # by an earlier prompt
        announced.moved_bytes = max(0, announced.moved_bytes - size_bytes)
        self._changed(announced)
        reason = announced.reason if event.ahead else OWN
        times = max(0.0, event.start_s - self._zero_s), max(0.0, event.end_s - self._zero_s)
        record = TransferRecord(event.component, Tier.DEVICE.value, *times, size_bytes, event.present_bytes, "done", reason)
        self._append(self._transfers, record)

    def _replanned(self, event: Replanned) -> None:
        before, after = self._ids_of(self._timeline), self._ids_of(event.timeline)
        if after != before[len(before) - len(after) :]:  # else only the queue behind this prompt has changed, or what is known of it
            self._replans += 1
        self._timeline = event.timeline
        self._components.update(event.components)
        if event.running is not None and self._times.running is not None:
            self._times.running.predicted_s = event.timeline.visits[event.running].compute_s

    def _append(self, records: list[Any], record: Any) -> None:
        if len(records) < MAX_RECORDS:
            records.append(record)
        else:
            self._dropped_records += 1

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
        for use in self._timeline.at(event.position):
            if use.kind is UseKind.COMPUTE:
                self._unread.pop((use.component, Tier.DEVICE), None)
            if use.reads:
                self._unread.pop((use.component, Tier.HOST), None)
                if (use.component, Tier.HOST.value) in self._open:
                    self._followed.add(use.component)

    def _transfer_ended(self, event: TransferDone | TransferStopped) -> None:
        record = self._transfer_moved(event)
        del self._open[(event.component, event.tier.value)]
        self._moved.pop((event.component, event.tier), None)
        self._read.pop((event.component, event.tier), None)
        record.end_s = self._now_s
        self._changed(record)
        record.status = "done" if isinstance(event, TransferDone) else "stopped"
        if isinstance(event, TransferStopped):
            record.reason = event.reason
        if event.tier is Tier.HOST:
            self._followed.discard(event.component)

    def _changed(self, record: TransferRecord) -> None:
        if len(self._recent) < MAX_RECORDS:
            self._recent.append(record)

    def _transfer_moved(self, event: TransferMoved | TransferDone | TransferStopped) -> TransferRecord:
        """The transfer's record, with the bytes counted that have moved since it was last heard of."""
        place = (event.component, event.tier)
        record = self._open.get((event.component, event.tier.value))
        if record is None:
            record = self._announce(event.component, event.tier, "")
        moved_bytes, read_bytes = event.moved_bytes - self._moved.get(place, 0), event.read_bytes - self._read.get(place, 0)
        self._moved[place], self._read[place] = event.moved_bytes, event.read_bytes
        # the mover's own duration: an announced transfer queues behind others before it starts
        record.start_s = max(0.0, self._now_s - event.duration_s)
        record.moved_bytes += moved_bytes
        record.read_bytes += read_bytes
        self._read_bytes += read_bytes
        record.present_bytes = event.present_bytes
        if event.tier is Tier.DEVICE:
            self._onloaded_bytes += moved_bytes
        else:
            self._prefetched_bytes += moved_bytes
        if moved_bytes and not (event.tier is Tier.HOST and event.component in self._followed):
            self._unread[place] = self._unread.get(place, 0) + moved_bytes
        return record

    def _announce(self, component: str, tier: Tier, reason: str) -> TransferRecord:
        record = self._open[(component, tier.value)] = TransferRecord(component, tier.value, self._now_s, reason=reason)
        if tier is Tier.DEVICE:
            self._announced[component] = record
        self._append(self._transfers, record)
        return record

    def _decided(self, instruction: Instruction) -> None:
        if isinstance(instruction, Prefetch | Exchange) and (instruction.component.key, instruction.tier.value) not in self._open:
            self._announce(instruction.component.key, instruction.tier, instruction.reason)
        elif isinstance(instruction, Cancel) and self.outcome is not None:
            self._stop(instruction)
        size_bytes = 0 if isinstance(instruction, Cancel) else instruction.size_bytes
        own = isinstance(instruction, Prefetch) and not instruction.ahead
        kind = _ONLOAD if own else _KINDS[type(instruction)]
        self._decide(kind, instruction.component, instruction.tier, size_bytes, instruction.reason)

    def _stop(self, instruction: Cancel) -> None:
        """Cancelled because this prompt has ended: the answer will come too late for it."""
        record = self._open.get((instruction.component.key, instruction.tier.value))
        if record is not None:
            record.end_s, record.status, record.reason = self._now_s, "stopped", instruction.reason

    def _decide(self, kind: str, component: Component, tier: Tier, size_bytes: int, reason: str) -> None:
        told = {"time_s": self._now_s, "kind": kind, "component": component.key, "tier": tier.value}
        self._append(self._decisions, {**told, "size_bytes": size_bytes, "reason": reason})

    def _ended(self, event: PromptEnded) -> None:
        self.outcome, self.outcome_reason = event.outcome, event.reason
        self._times.close(self._now_s)
        last = len(self._ids_of(self._timeline)) - 1
        for (key, tier), moved_bytes in self._unread.items():
            host = tier is Tier.HOST
            following = self._timeline.next_read(key, last) if host else self._timeline.next_compute_at(key, last)
            if following is None:
                self._wasted_bytes += moved_bytes

    def _ids_of(self, timeline: Timeline) -> list[str]:
        """The nodes of this prompt."""
        return [visit.node_id for visit in timeline.visits if visit.prompt_id == self.prompt_id]

    @_locked
    def summary(self) -> dict[str, Any]:
        """Seconds and bytes of the whole prompt."""
        foretold, times = self._foretold, self._times
        compute_s, stall_s = times.compute_s, times.stall_s(self._now_s)
        return {
            "compute_s": compute_s,
            "stall_s": stall_s,
            "other_s": max(0.0, self._now_s - compute_s - stall_s),
            "wait_s": self._wait_s,
            "own_s": self._own_s,
            "unsplit_s": times.ended_unsplit_s,
            "prefetched_bytes": self._prefetched_bytes,
            "read_bytes": self._read_bytes,
            "onloaded_bytes": self._onloaded_bytes,
            "onload_bytes_per_s": self._crossed_bytes / self._crossing_s if self._crossing_s > 0 else None,
            "wasted_bytes": self._wasted_bytes,
            "evicted_bytes": self._evicted_bytes,
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
        lists = self._components, self._times.nodes, self._transfers, self._evictions, self._decisions
        return Mark(*map(len, lists))

    @_locked
    def since(self, mark: Mark, most_decisions: int = MAX_RECORDS) -> dict[str, Any]:
        """All that is new or has changed since the mark: the trace's head, and of each list [index, records from there on]; `open` holds
        the transfers before that index that have changed or may, by index."""
        nodes_from = max(0, mark.nodes - TOLD_AGAIN)
        decisions_from = max(mark.decisions, len(self._decisions) - most_decisions)
        transfers = self._transfers
        recent = {id(record) for record in self._recent} | {id(record) for record in self._open.values()}
        changed = [index for index, record in enumerate(transfers[: mark.transfers]) if id(record) in recent]
        self._recent = []
        return {
            **self.head(),
            "components": [mark.components, [self._told(one) for one in list(self._components.values())[mark.components :]]],
            "nodes": [nodes_from, self._nodes(nodes_from)],
            "transfers": [mark.transfers, _plain(TransferRecord, transfers[mark.transfers :])],
            "open": dict(zip(changed, _plain(TransferRecord, [transfers[index] for index in changed]), strict=True)),
            "evictions": [mark.evictions, self._evictions[mark.evictions :]],
            "decisions": [decisions_from, self._decisions[decisions_from:]],
        }

    def _nodes(self, first: int) -> list[dict[str, Any]]:
        return [{**node, "steps": list(node["steps"])} for node in _plain(NodeRecord, self._times.nodes[first:])]

    def _told(self, one: Component) -> dict[str, Any]:
        told = {"key": one.key, "name": one.name, "kind": one.kind, "size_bytes": one.size_bytes}
        return {**told, "policy": _policy(self._policies.get(one.key)), "story": self._stories.get(one.key, "")}

    @_locked
    def as_dict(self) -> dict[str, Any]:
        """The trace as JSON-ready data, version 1; docs/trace.md describes the keys."""
        return {
            **self.head(),
            "components": [self._told(one) for one in self._components.values()],
            "began": self._began.as_dict(),
            "nodes": self._nodes(0),
            "transfers": _plain(TransferRecord, self._transfers),
            "evictions": list(self._evictions),
            "decisions": list(self._decisions),
            "dropped_records": self._dropped_records + self._times.dropped,
        }


def _plain(kind: type[NodeRecord | TransferRecord], records: Iterable[Any]) -> list[dict[str, Any]]:
    """The records as mappings: 9.5 ms for 10,000, for which a running prompt waits, where dataclasses.asdict takes 104."""
    names = tuple(field.name for field in fields(kind))
    values = attrgetter(*names)
    return [dict(zip(names, values(record), strict=True)) for record in records]


def _policy(policy: Policy | None) -> dict[str, Any]:
    policy = policy or Policy()
    return {
        "mode": policy.mode.value if policy.mode else None,
        "strategy": policy.strategy.value if policy.strategy else None,
        "priority": policy.priority,
        "prefetch": policy.prefetch,
        "keep": policy.keep,
        "source": policy.source,
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
