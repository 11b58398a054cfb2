"""The state of one component on one tier: one record that moves by the table of `moves`, one budget, and the story of how it came about.

Bytes of a record: `held_bytes` are there; `coming_bytes` are announced and reserved, and not there yet; `leaving_bytes` are there and told
to leave. The two tiers share the table and nothing else: no move of a record changes another one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from .budget import Budget
from .component import Tier
from .moves import (
    ABSENT,
    ANNOUNCE,
    ANNOUNCED,
    BY_MOVE,
    COMING,
    DROP_COPY,
    EXTEND,
    GIVE_UP,
    HELD,
    LANDED,
    LEAVE,
    LEAVING,
    LEFT,
    MAY_COME,
    RELEASED,
    RENEW,
    SEEN,
    STOP,
    STOPPED,
    IllegalMoveError,
    Move,
    State,
)

STORY_MOVES = 100  # of one component on one tier; older ones are forgotten


class Entry(NamedTuple):
    """One line of a story: a move, the bytes that it was about, and its reason, "" where there is none."""

    time_s: float
    tier: Tier
    move: Move
    size_bytes: int
    why: str


@dataclass(slots=True)
class ComponentState:
    """One component on one tier.

    `answers_due`: evictions that its mover has not answered. Of the host tier alone: `loaded_bytes` from its start, which the process
    holds for itself and reads no more; `behind_bytes`, how many those were when the last transfer was announced; `surplus_bytes` of those
    that lie in the page cache as well, a second copy which no budget counts; `asked`, the reason for which the user wants it next.
    """

    key: str
    state: State = State.ABSENT
    held_bytes: int = 0
    coming_bytes: int = 0
    leaving_bytes: int = 0
    answers_due: int = 0
    loaded_bytes: int = 0
    behind_bytes: int = 0
    surplus_bytes: int = 0
    asked: str | None = None
    since_s: float = 0.0
    log: deque[tuple[float, Move, int, str]] = field(default_factory=lambda: deque(maxlen=STORY_MOVES))

    @property
    def why(self) -> str:
        """The reason of the last move; empty before the first."""
        return self.log[-1][3] if self.log else ""

    @property
    def stays_bytes(self) -> int:
        """Bytes there that were not told to leave."""
        return self.held_bytes - self.leaving_bytes

    @property
    def may_come(self) -> bool:
        """Whether it may be asked for in this prompt, as far as the tier knows."""
        return self.state in MAY_COME and not self.answers_due


class TierState:
    """All records of one tier and their budget, in step. Every change of a record is a method here; nothing else writes one.

    `coming`, `leaving`, `asked` and `surplus` are the records of which that is true, each in the order in which it became true.
    A method raises IllegalMoveError before it changes anything. `now_s` is the time of the event that is being handled.
    """

    def __init__(self, tier: Tier, limit_bytes: int = 0) -> None:
        self.tier = tier
        self.budget = Budget(limit_bytes)
        self.records: dict[str, ComponentState] = {}
        self.coming: dict[str, ComponentState] = {}
        self.leaving: dict[str, ComponentState] = {}  # an eviction, of the weights or of their second copy, is not answered
        self.asked: dict[str, ComponentState] = {}
        self.surplus: dict[str, ComponentState] = {}
        self.leaving_bytes = 0
        self.stopping_bytes = 0  # coming, and told to stop
        self.now_s = 0.0

    # --- contents ---

    @property
    def limit_bytes(self) -> int:
        return self.budget.limit_bytes

    @property
    def used_bytes(self) -> int:
        return self.budget.used_bytes

    @property
    def held(self) -> dict[str, int]:
        """Bytes on the tier by component, transfers in flight excluded. A new mapping each time."""
        return {key: record.held_bytes for key, record in self.records.items() if record.held_bytes}

    @property
    def in_flight(self) -> dict[str, int]:
        """Bytes still to come by component, in the order in which they were announced. A new mapping each time."""
        return {key: record.coming_bytes for key, record in self.coming.items()}

    def of(self, key: str) -> ComponentState:
        """The record of the component, made when there is none."""
        record = self.records.get(key)
        if record is None:
            record = self.records[key] = ComponentState(key)
        return record

    # --- the manager's word ---

    def announce(self, key: str, coming_bytes: int, why: str) -> None:
        """So many bytes are to come, beside those that are there. Whether they fit is the caller's to ask of the budget."""
        record = self.of(key)
        self._move(record, ANNOUNCE, coming_bytes, why)
        record.behind_bytes = record.loaded_bytes
        self.coming[key] = record
        self._come(record, coming_bytes)

    def extend(self, key: str, more_bytes: int, why: str) -> None:
        """More bytes of an announced component are to come."""
        record = self.of(key)
        self._move(record, EXTEND, more_bytes, why)
        self._come(record, record.coming_bytes + more_bytes)

    def stop(self, key: str, why: str) -> None:
        """Its transfer is told to stop; the bytes stay reserved until the mover has answered."""
        record = self.of(key)
        self._move(record, STOP, record.coming_bytes, why)
        self.stopping_bytes += record.coming_bytes

    def give_up(self, key: str, why: str) -> None:
        """The user does not want it in this prompt, be it there or on its way."""
        record = self.of(key)
        was_announced = record.state is ANNOUNCED
        self._move(record, GIVE_UP, record.held_bytes, why)
        if was_announced:
            self.stopping_bytes += record.coming_bytes

    def leave(self, key: str, size_bytes: int, why: str) -> None:
        """So many more bytes, the last ones, are told to leave."""
        record = self.of(key)
        self._move(record, LEAVE, size_bytes, why)
        self._owe(record, size_bytes)

    def drop_copy(self, key: str, why: str) -> int:
        """The second copy is told to leave. Returns its bytes."""
        record = self.of(key)
        size_bytes = record.surplus_bytes
        self._move(record, DROP_COPY, size_bytes, why)
        record.surplus_bytes = 0
        del self.surplus[key]
        self._owe(record, 0)
        return size_bytes

    def ask(self, key: str, why: str) -> None:
        """The user wants it next, whatever has refused it."""
        record = self.of(key)
        record.asked = why
        self.asked.setdefault(key, record)
        self._move(record, RENEW, 0, why)

    def ask_no_more(self, key: str) -> None:
        record = self.asked.pop(key, None)
        if record is not None:
            record.asked = None

    def renew(self, known: Collection[str]) -> None:
        """A new prompt: refusals are forgotten, and so are the records of components that are neither there nor among the known ones."""
        for record in list(self.records.values()):
            if record.state not in MAY_COME and record.state is not LEAVING:
                self._move(record, RENEW, 0, "a new prompt")
            nothing = record.state is ABSENT and not (record.answers_due or record.loaded_bytes or record.surplus_bytes)
            if nothing and record.asked is None and record.key not in known:
                del self.records[record.key]

    # --- movers' answers and hosts' looks ---

    def landed(self, key: str, held_bytes: int, why: str = "") -> ComponentState:
        """The transfer has ended, or something was brought unasked: so many bytes are there. Those told to leave do not change."""
        return self._ended(self.of(key), LANDED, held_bytes, why)

    def stopped(self, key: str, held_bytes: int, why: str) -> ComponentState:
        """As `landed`, of a transfer that was refused, has failed or was stopped; one that nobody told to stop is not asked for again."""
        return self._ended(self.of(key), STOPPED, held_bytes, why)

    def left(self, key: str, held_bytes: int, why: str) -> None:
        """An eviction was answered, the oldest of several, or something has left unasked: so many bytes are still there."""
        record = self.of(key)
        freed_bytes = record.held_bytes - held_bytes
        record.answers_due = max(0, record.answers_due - 1)
        rest_bytes = min(held_bytes, max(0, record.leaving_bytes - freed_bytes)) if record.answers_due else 0
        self.leaving_bytes += rest_bytes - record.leaving_bytes
        record.leaving_bytes = rest_bytes
        self._hold(record, held_bytes)
        if record.answers_due:
            self._move(record, LEFT, freed_bytes, why, record.state)
        else:
            self.leaving.pop(key, None)
            self._move(record, LEFT, freed_bytes, why)

    def seen(self, key: str, held_bytes: int, why: str) -> ComponentState:
        """So many bytes are there, whoever has brought or taken the others."""
        record = self.of(key)
        if record.held_bytes == held_bytes:
            return record
        self._hold(record, held_bytes)
        if record.leaving_bytes > held_bytes:
            self.leaving_bytes += held_bytes - record.leaving_bytes
            record.leaving_bytes = held_bytes
        self._move(record, SEEN, held_bytes, why)
        return record

    def owned(self, loaded: Mapping[str, int], surplus: Mapping[str, int]) -> None:
        """Bytes by component that the process holds for itself, and those of them in the page cache as well. Replaces all earlier ones."""
        for record in self.records.values():
            record.loaded_bytes = record.surplus_bytes = 0
        for key, size_bytes in loaded.items():
            self.of(key).loaded_bytes = size_bytes
        self.surplus.clear()
        for key, size_bytes in surplus.items():
            if size_bytes > 0:
                record = self.surplus[key] = self.of(key)
                record.surplus_bytes = size_bytes

    def took(self, key: str, size_bytes: int) -> None:
        """The process holds so many bytes more for itself, of which the page cache has a second copy."""
        record = self.surplus[key] = self.of(key)
        record.loaded_bytes += size_bytes
        record.surplus_bytes += size_bytes

    def let_go(self, key: str, size_bytes: int) -> int:
        """The process does not keep so many bytes at the end of what it holds for itself. Returns how many of them the page cache has."""
        record = self.records[key]
        copied_bytes = min(size_bytes, record.surplus_bytes)
        record.loaded_bytes -= size_bytes
        record.surplus_bytes -= copied_bytes
        if not record.surplus_bytes:
            self.surplus.pop(key, None)
        return copied_bytes

    # --- how ---

    def _move(self, record: ComponentState, move: Move, size_bytes: int, why: str, after: State | None = None) -> None:
        """`after`: where that is not for the table to say."""
        before = record.state
        if after is None:
            after = BY_MOVE[move].get(before)
        if after is None:
            raise IllegalMoveError(
                f"{record.key} is {before.value} on the {self.tier.value} tier and cannot be {move.value}: {why or 'no reason'}"
            )
        if after is HELD and not record.held_bytes:
            after = ABSENT
        if after is not before:
            record.state, record.since_s = after, self.now_s
        record.log.append((self.now_s, move, size_bytes, why))

    def _ended(self, record: ComponentState, move: Move, held_bytes: int, why: str) -> ComponentState:
        state = record.state
        if state is LEAVING or state is RELEASED:
            held_bytes = record.held_bytes  # it comes late: the answer to the eviction decides
        budget, coming_bytes = self.budget, record.coming_bytes
        if coming_bytes:
            if state is not ANNOUNCED:
                self.stopping_bytes -= coming_bytes
            budget.coming_bytes -= coming_bytes
            record.coming_bytes = 0
            del self.coming[record.key]
        budget.used_bytes += held_bytes - record.held_bytes - coming_bytes
        record.held_bytes = held_bytes
        self._move(record, move, held_bytes, why)
        return record

    def _come(self, record: ComponentState, coming_bytes: int) -> None:
        more_bytes = coming_bytes - record.coming_bytes
        record.coming_bytes = coming_bytes
        self.budget.coming_bytes += more_bytes
        self.budget.used_bytes += more_bytes

    def _hold(self, record: ComponentState, held_bytes: int) -> None:
        self.budget.used_bytes += held_bytes - record.held_bytes
        record.held_bytes = held_bytes

    def _owe(self, record: ComponentState, leaving_bytes: int) -> None:
        record.answers_due += 1
        self.leaving[record.key] = record
        record.leaving_bytes += leaving_bytes
        self.leaving_bytes += leaving_bytes

    # --- for tests and for people ---

    def validate(self) -> None:
        """Hold every total and every index against the records. Raises AssertionError with the names of both sides."""
        records = self.records.values()
        for record in records:
            _check_record(record, self.tier)
        sums = {
            "used_bytes": (self.budget.used_bytes, sum(record.held_bytes + record.coming_bytes for record in records)),
            "coming_bytes": (self.budget.coming_bytes, sum(record.coming_bytes for record in records)),
            "leaving_bytes": (self.leaving_bytes, sum(record.leaving_bytes for record in records)),
            "stopping_bytes": (self.stopping_bytes, sum(one.coming_bytes for one in records if one.state is not ANNOUNCED)),
            "coming": (set(self.coming), {record.key for record in records if record.state in COMING}),
            "leaving": (set(self.leaving), {record.key for record in records if record.answers_due}),
            "asked": (set(self.asked), {record.key for record in records if record.asked is not None}),
            "surplus": (set(self.surplus), {record.key for record in records if record.surplus_bytes}),
        }
        for name, (kept, counted) in sums.items():
            assert kept == counted, f"{self.tier.value} tier: {name} is {kept}, its records say {counted}"
        for index in (self.coming, self.leaving, self.asked, self.surplus):
            for key, record in index.items():
                assert self.records.get(key) is record, f"{self.tier.value} tier: {key} has two records"

    def story(self, key: str) -> Iterator[Entry]:
        """The last moves of the component on this tier, oldest first."""
        record = self.records.get(key)
        for time_s, move, size_bytes, why in record.log if record is not None else ():
            yield Entry(time_s, self.tier, move, size_bytes, why)


def _check_record(record: ComponentState, tier: Tier) -> None:
    where = f"{record.key} is {record.state.value} on the {tier.value} tier"
    state, leaves = record.state, record.state in (LEAVING, RELEASED)
    assert record.held_bytes >= record.leaving_bytes >= 0, f"{where} with {record.leaving_bytes} of {record.held_bytes} bytes leaving"
    assert (state in COMING) == (record.coming_bytes > 0), f"{where} with {record.coming_bytes} bytes coming"
    assert leaves or not record.leaving_bytes, f"{where} with {record.leaving_bytes} bytes leaving"
    assert not leaves or record.answers_due, f"{where} and no answer is due"
    assert state is not ABSENT or not record.held_bytes, f"{where} with {record.held_bytes} bytes"
    assert state is not HELD or record.held_bytes, f"{where} without a byte"
