"""The transfers of a prompt: when each was announced and ended, how much it has moved by when, and how much of that no node has used."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from ..core.component import Component, Tier
from ..core.events import Copied, TransferDone, TransferMoved, TransferStopped
from ..core.instructions import Cancel
from ..core.timeline import Timeline, Use, UseKind
from .node_times import NodeRecord

OWN = "its node computes with it"  # of bytes that crossed the link while their node ran


@dataclass(slots=True)
class TransferRecord:
    """Times are seconds since the prompt's start."""

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
class UnderWay:
    """A transfer that a prompt leaves unanswered, with the bytes that its trace has told."""

    component: Component
    tier: Tier
    moved_bytes: int
    reason: str
    read_bytes: int = 0


class Transfers:
    """All of them, in the order in which they were announced. Times are seconds since the prompt's start."""

    def __init__(self, most_records: int) -> None:
        self.records: list[TransferRecord] = []
        self.open: dict[tuple[str, str], TransferRecord] = {}  # by component and tier: not answered yet
        self.dropped = 0
        self.read_bytes = self.prefetched_bytes = self.onloaded_bytes = self.wasted_bytes = 0
        self._most_records = most_records
        self._recent: list[TransferRecord] = []  # not open, and changed since somebody asked what is new
        self._moved: dict[tuple[str, Tier], int] = {}  # by those that are open, in all
        self._read: dict[tuple[str, Tier], int] = {}
        self._announced: dict[str, TransferRecord] = {}  # the last one to the device
        self._unread: dict[tuple[str, Tier], int] = {}  # bytes moved ahead and not used by a node yet
        self._followed: set[str] = set()  # in flight while a node read them: what lands later is not waste

    def take_over(self, one: UnderWay) -> None:
        """One of the prompt before: only bytes that it moves from now on are told."""
        place = one.component.key, one.tier
        self.announce(*place, one.reason, 0.0)
        self._moved[place], self._read[place] = one.moved_bytes, one.read_bytes

    def announce(self, component: str, tier: Tier, reason: str, now_s: float) -> TransferRecord:
        record = self.open[(component, tier.value)] = TransferRecord(component, tier.value, now_s, reason=reason)
        if tier is Tier.DEVICE:
            self._announced[component] = record
        self._append(record)
        return record

    def moved(self, event: TransferMoved | TransferDone | TransferStopped, now_s: float) -> TransferRecord:
        """The transfer's record, with the bytes counted that have moved since it was last heard of."""
        place = (event.component, event.tier)
        record = self.open.get((event.component, event.tier.value))
        if record is None:
            record = self.announce(event.component, event.tier, "", now_s)
        moved_bytes, read_bytes = event.moved_bytes - self._moved.get(place, 0), event.read_bytes - self._read.get(place, 0)
        self._moved[place], self._read[place] = event.moved_bytes, event.read_bytes
        # the mover's own duration: an announced transfer queues behind others before it starts
        record.start_s = max(0.0, now_s - event.duration_s)
        record.moved_bytes += moved_bytes
        record.read_bytes += read_bytes
        self.read_bytes += read_bytes
        record.present_bytes = event.present_bytes
        if event.tier is Tier.DEVICE:
            self.onloaded_bytes += moved_bytes
        else:
            self.prefetched_bytes += moved_bytes
        if moved_bytes and not (event.tier is Tier.HOST and event.component in self._followed):
            self._unread[place] = self._unread.get(place, 0) + moved_bytes
        return record

    def ended(self, event: TransferDone | TransferStopped, now_s: float) -> None:
        """The mover has answered it for good."""
        record = self.moved(event, now_s)
        del self.open[(event.component, event.tier.value)]
        self._moved.pop((event.component, event.tier), None)
        self._read.pop((event.component, event.tier), None)
        record.end_s = now_s
        self._changed(record)
        record.status = "done" if isinstance(event, TransferDone) else "stopped"
        if isinstance(event, TransferStopped):
            record.reason = event.reason
        if event.tier is Tier.HOST:
            self._followed.discard(event.component)

    def cancelled(self, instruction: Cancel, now_s: float) -> None:
        """Because this prompt has ended: the answer will come too late for it."""
        record = self.open.get((instruction.component.key, instruction.tier.value))
        if record is not None:
            record.end_s, record.status, record.reason = now_s, "stopped", instruction.reason

    def copied(self, event: Copied, start_s: float, end_s: float) -> None:
        """A copy of an announced transfer: its bytes are counted here, and no more when the transfer is answered."""
        size_bytes, announced = event.size_bytes, self._announced.get(event.component)
        if announced is None:
            return  # by an earlier prompt
        announced.moved_bytes = max(0, announced.moved_bytes - size_bytes)
        self._changed(announced)
        reason = announced.reason if event.ahead else OWN
        self._append(TransferRecord(event.component, Tier.DEVICE.value, start_s, end_s, size_bytes, event.present_bytes, "done", reason))

    def used(self, uses: Iterable[Use]) -> None:
        """A node has ended with these."""
        for use in uses:
            if use.kind is UseKind.COMPUTE:
                self._unread.pop((use.component, Tier.DEVICE), None)
            if use.reads:
                self._unread.pop((use.component, Tier.HOST), None)
                if (use.component, Tier.HOST.value) in self.open:
                    self._followed.add(use.component)

    def count_waste(self, timeline: Timeline, last: int) -> None:
        """The prompt has ended at that position: bytes that nothing behind it uses were moved in vain."""
        for (key, tier), moved_bytes in self._unread.items():
            following = timeline.next_read(key, last) if tier is Tier.HOST else timeline.next_compute_at(key, last)
            if following is None:
                self.wasted_bytes += moved_bytes

    def came_to_host(self, components: Container[str], since_s: float) -> bool:
        """Whether bytes of any of these components have come since then."""
        ahead = (one for one in self.records if one.tier == Tier.HOST.value and one.component in components)
        return any(one.moved_bytes > 0 and (one.end_s is None or one.end_s >= since_s) for one in ahead)

    def reading(self, node: NodeRecord, components: Mapping[str, Component]) -> Reading | None:
        """The node's components that are still being read; None where there are none."""
        coming = {key: record for key in node.reads if (record := self.open.get((key, Tier.HOST.value))) is not None}
        found = [components[key] for key in coming if key in components]
        size_bytes = sum(one.size_bytes for one in found)
        present_bytes = sum(min(one.size_bytes, coming[one.key].present_bytes) for one in found)
        if present_bytes >= size_bytes:
            return None
        return Reading(node.node_id, node.start_s, tuple(one.name for one in found), present_bytes, size_bytes)

    def under_way(self, components: Mapping[str, Component]) -> list[UnderWay]:
        """Those of these components that have not been answered yet."""
        moved, read = self._moved, self._read
        return [
            UnderWay(components[key], Tier(tier), moved.get((key, Tier(tier)), 0), record.reason, read.get((key, Tier(tier)), 0))
            for (key, tier), record in self.open.items()
            if key in components
        ]

    def changed(self, before: int) -> list[int]:
        """The numbers of the records below `before` that have changed since this was last asked, or still may."""
        recent = {id(record) for record in self._recent} | {id(record) for record in self.open.values()}
        self._recent = []
        return [index for index, record in enumerate(self.records[:before]) if id(record) in recent]

    def _changed(self, record: TransferRecord) -> None:
        if len(self._recent) < self._most_records:
            self._recent.append(record)

    def _append(self, record: TransferRecord) -> None:
        if len(self.records) < self._most_records:
            self.records.append(record)
        else:
            self.dropped += 1
