"""Where the time of the nodes went. Of each node: compute + stall + own + unsplit = its wall time, whatever was told and in which order.

Waiting adds up from several clocks (the host's, the device's, the thread's), so it can overlap by moments: a node has
never waited longer than it took.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class NodeRecord:
    """Seconds since the prompt's start, and of the node. `steps`: (seconds, of it stall, number of steps) of the steps that have ended; the
    first one begins with the node, and the time behind the last one is in none."""

    node_id: str
    class_type: str
    start_s: float
    end_s: float | None = None
    stall_s: float = 0.0
    own_s: float = 0.0  # the pack's, between start and end; no compute
    unsplit_s: float = 0.0  # a loader's, where the system does not tell waiting from unpacking
    predicted_s: float = 0.0  # of computing, by earlier runs; 0.0 where nothing is known
    loads: Sequence[str] = ()
    computes: Sequence[str] = ()
    reads: Sequence[str] = ()  # of both: whose files it reads, unless they are in host memory already
    working_set_bytes: int = 0  # expected on the device beside the weights
    steps: list[tuple[float, float, int]] = field(default_factory=list)

    def left_s(self, now_s: float) -> float:
        """Seconds of compute by `now_s`: those of the node that are neither stall nor the pack's own nor unsplit."""
        return max(0.0, (now_s if self.end_s is None else self.end_s) - self.start_s - self.stall_s - self.own_s - self.unsplit_s)

    def fit(self) -> None:
        """It has ended: nothing in it has taken longer than all of it. Waiting that overlaps the pack's own work goes first."""
        assert self.end_s is not None
        wall_s = self.end_s - self.start_s
        if self.own_s + self.stall_s + self.unsplit_s <= wall_s:
            return
        self.own_s = min(self.own_s, wall_s)
        self.stall_s = min(self.stall_s, wall_s - self.own_s)
        self.unsplit_s = min(self.unsplit_s, wall_s - self.own_s - self.stall_s)


@dataclass(frozen=True, slots=True)
class Running:
    """The node that runs. Seconds of computing: so far; of each reported step behind the first, which also sets up; since the last one.
    `left`: the steps that it has announced and not done; None where it does not tell."""

    ran_s: float
    paces_s: Sequence[float] = ()
    since_s: float = 0.0
    left: int | None = None


class NodeTimes:
    """All nodes of a prompt, one at a time running. Times are seconds since the prompt's start."""

    def __init__(self, most_records: int) -> None:
        self.nodes: list[NodeRecord] = []
        self.running: NodeRecord | None = None
        self.dropped = 0
        self.compute_s = self.ended_stall_s = self.ended_unsplit_s = 0.0  # of nodes that have ended
        self._most_records, self._steps = most_records, 0
        self._last: NodeRecord | None = None
        self._stepping: tuple[NodeRecord, float, float] | None = None  # node; seconds and stall that are in its steps

    def start(self, record: NodeRecord) -> None:
        self.running = self._last = record
        if len(self.nodes) < self._most_records:
            self.nodes.append(record)
        else:
            self.dropped += 1

    def close(self, now_s: float) -> None:
        """The running node has ended."""
        record, self.running = self.running, None
        if record is not None:
            record.end_s = now_s
            record.fit()
            self._count(record, 1)

    def stalled(self, seconds: float) -> None:
        """The running node; between nodes nothing waits for weights."""
        if self.running is not None:
            self.running.stall_s += max(0.0, seconds)

    def spent(self, since_s: float, end_s: float) -> None:
        """By the pack itself, less the time before the running node."""
        record = self.running
        if record is not None and end_s > record.start_s:
            record.own_s += end_s - max(since_s, record.start_s)

    def waited(self, since_s: float, end_s: float, seconds: float | None) -> None:
        """In the node that ran at `since_s`, which may have ended."""
        record = self._at(since_s)
        if record is None:
            return
        if record.end_s is not None:
            self._count(record, -1)
        if seconds is None:
            record.unsplit_s += max(0.0, end_s - since_s)
        else:
            record.stall_s += max(0.0, seconds)
        if record.end_s is not None:
            record.fit()
            self._count(record, 1)

    def stepped(self, at_s: float, steps: int = 1) -> None:
        """The node that ran then has ended so many steps since the last time."""
        record = self._at(at_s)
        if record is None:
            return
        if self._steps >= self._most_records:
            self.dropped += 1
            return
        if self._stepping is not None and self._stepping[0] is record:
            _, in_steps_s, in_stall_s = self._stepping
        else:  # its first one, or one that is told late: another node has stepped since
            in_steps_s, in_stall_s = sum(step[0] for step in record.steps), sum(step[1] for step in record.steps)
        took_s = max(0.0, (at_s if record.end_s is None else min(at_s, record.end_s)) - record.start_s - in_steps_s)
        stall_s = min(took_s, max(0.0, record.stall_s - in_stall_s))
        record.steps.append((took_s, stall_s, steps))
        self._steps += 1
        self._stepping = record, in_steps_s + took_s, in_stall_s + stall_s

    def stall_s(self, now_s: float) -> float:
        """In all; of the running node no more than it has taken so far."""
        running = self.running
        return self.ended_stall_s + (0.0 if running is None else min(running.stall_s, max(0.0, now_s - running.start_s)))

    def now(self, now_s: float, left: int | None) -> Running:
        """The running node by then; nothing has run where there is none. `left`: the steps that it has announced and not done."""
        node = self.running
        if node is None:
            return Running(0.0)
        ran_s = node.left_s(now_s)
        since_s = max(0.0, ran_s - sum(took_s - stall_s for took_s, stall_s, _ in node.steps))
        return Running(ran_s, [(took_s - stall_s) / steps for took_s, stall_s, steps in node.steps[1:]], since_s, left)

    def _count(self, record: NodeRecord, sign: int) -> None:
        assert record.end_s is not None
        self.compute_s += sign * record.left_s(record.end_s)
        self.ended_stall_s += sign * record.stall_s
        self.ended_unsplit_s += sign * record.unsplit_s

    def _at(self, time_s: float) -> NodeRecord | None:
        """The node that ran then, or the last one before; None before the first."""
        if self._last is not None and self._last.start_s <= time_s:
            return self._last
        return next((record for record in reversed(self.nodes) if record.start_s <= time_s), None)
