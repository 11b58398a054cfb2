"""The predicted, ordered uses of the running prompt and of the queued prompts behind it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from . import _frozen


class UseKind(Enum):
    LOAD = "load"  # the loader node that makes the component known to the host
    COMPUTE = "compute"  # a node that computes with it on the device


@_frozen.dataclass(frozen=True, slots=True)
class Visit:
    """One node in the predicted order of execution.

    `compute_s` is the time it is expected to take without waiting for weights, 0.0 where nothing is known. `working_set_bytes` are those
    that it is expected to need on the device beside the weights. A node that will ask for lazy inputs has a visit for that before its own:
    it is started, asks, is put back and waits for `asks` nodes. None: it runs. `passes_once`: it goes through its components' weights once,
    as a text encoder does.
    """

    prompt_id: str
    node_id: str
    class_type: str
    compute_s: float = 0.0
    working_set_bytes: int = 0
    asks: int | None = field(default=None, kw_only=True)
    passes_once: bool = field(default=False, kw_only=True)


@_frozen.dataclass(frozen=True, slots=True)
class Use:
    """One interval in which one node needs one component.

    `position` indexes `Timeline.visits`. `reads` is true where this use pulls the component's bytes from its files unless
    they are in host memory already: the loader node with ComfyUI's legacy patcher, the first computing node under dynamic VRAM.
    """

    position: int
    component: str
    kind: UseKind
    reads: bool


@dataclass(slots=True)
class _Uses:
    """The uses of one component: `positions` in order, those of its reads, and where each read lies in `Timeline.reads`."""

    uses: list[Use] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    read_positions: list[int] = field(default_factory=list)
    read_numbers: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Timeline:
    """Visits in the order in which they are expected, and the uses they make, ordered by position.

    Visits from `expected_from` on nobody has queued: they usually come next. They speak for keeping their components, and for reading
    them when nothing that was asked for is missing; None: every visit was asked for.

    The indexes are built once, in one pass: 100,000 uses take 0.1 s. Every question about one component is a bisection.
    """

    visits: tuple[Visit, ...]
    uses: tuple[Use, ...]
    expected_from: int | None = None
    reads: tuple[Use, ...] = field(init=False, repr=False, compare=False)  # the uses that read and were asked for, in order
    expected_reads: tuple[Use, ...] = field(init=False, repr=False, compare=False)  # of those nobody asked for, each component's first
    _by_component: dict[str, _Uses] = field(init=False, repr=False, compare=False)
    _by_position: dict[int, list[Use]] = field(init=False, repr=False, compare=False)
    _read_positions: list[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_component: dict[str, _Uses] = {}
        by_position: dict[int, list[Use]] = {}
        reads: list[Use] = []
        expected: dict[str, Use] = {}
        for use in self.uses:
            key, position = use.component, use.position
            mine = by_component.get(key)
            if mine is None:
                mine = by_component[key] = _Uses()
            mine.uses.append(use)
            mine.positions.append(position)
            if use.reads:
                mine.read_positions.append(position)
                if self.expected_from is None or position < self.expected_from:
                    mine.read_numbers.append(len(reads))
                    reads.append(use)
                else:
                    expected.setdefault(key, use)
            here = by_position.get(position)
            if here is None:
                by_position[position] = [use]
            else:
                here.append(use)
        object.__setattr__(self, "reads", tuple(reads))
        object.__setattr__(self, "expected_reads", tuple(expected.values()))
        object.__setattr__(self, "_by_component", by_component)
        object.__setattr__(self, "_by_position", by_position)
        object.__setattr__(self, "_read_positions", [use.position for use in reads])

    @staticmethod
    def of(visits: Iterable[Visit], uses: Iterable[Use], expected_from: int | None = None) -> Timeline:
        """A timeline from uses in any order."""
        return Timeline(tuple(visits), tuple(sorted(uses, key=lambda use: use.position)), expected_from)

    def components(self) -> tuple[str, ...]:
        """Component keys in order of first use."""
        return tuple(self._by_component)

    def at(self, position: int) -> Sequence[Use]:
        """The uses of the visit at `position`; not to be changed."""
        return self._by_position.get(position, ())

    def next_use(self, component: str, after: int) -> Use | None:
        """The first use of `component` that was asked for, at a position greater than `after`; None when nothing needs it any more."""
        mine = self._by_component.get(component)
        if mine is None:
            return None
        index = bisect_right(mine.positions, after)
        if index == len(mine.uses) or (self.expected_from is not None and mine.positions[index] >= self.expected_from):
            return None
        return mine.uses[index]

    def next_read(self, component: str, after: int) -> Use | None:
        """Like next_use, but only uses that read the component's files."""
        number = self.next_read_number(component, after)
        return None if number is None else self.reads[number]

    def next_read_number(self, component: str, after: int) -> int | None:
        """The index in `reads` of the component's next read after that position; None when there is none."""
        mine = self._by_component.get(component)
        if mine is None:
            return None
        index = bisect_right(mine.read_positions, after)
        return mine.read_numbers[index] if index < len(mine.read_numbers) else None

    def missed_at(self, component: str, after: int) -> int | None:
        """The position of the next read, on into visits that nobody has asked for: how soon the component is missed once it is gone."""
        mine = self._by_component.get(component)
        if mine is None:
            return None
        positions = mine.read_positions
        index = bisect_right(positions, after)
        return positions[index] if index < len(positions) else None

    def next_compute_at(self, component: str, after: int) -> int | None:
        """The position at which something computes with the component next, on into visits that nobody has asked for."""
        mine = self._by_component.get(component)
        index = 0 if mine is None else bisect_right(mine.positions, after)
        while mine is not None and index < len(mine.uses):
            if mine.uses[index].kind is UseKind.COMPUTE:
                return mine.positions[index]
            index += 1
        return None

    def first_read_number(self, position: int) -> int:
        """The index in `reads` of the first one at `position` or behind it; their count when there is none."""
        return bisect_left(self._read_positions, position)


EMPTY = Timeline((), ())
