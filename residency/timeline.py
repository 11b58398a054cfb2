"""The predicted, ordered uses of the running prompt and of the queued prompts behind it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum


class UseKind(Enum):
    LOAD = "load"  # the loader node that makes the component known to the host
    COMPUTE = "compute"  # a node that computes with it on the device


@dataclass(frozen=True, slots=True)
class Visit:
    """One node in the predicted order of execution.

    `compute_s` is the time it is expected to take without waiting for weights, 0.0 where nothing is known. `working_set_bytes` is what it
    is expected to need on the device beside the weights.
    """

    prompt_id: str
    node_id: str
    class_type: str
    compute_s: float = 0.0
    working_set_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Use:
    """One interval in which one node needs one component.

    `position` indexes `Timeline.visits`. `reads` is true where this use pulls the component's bytes from its files unless
    they are in host memory already: the loader node with ComfyUI's legacy patcher, the first computing node under dynamic VRAM.
    """

    position: int
    component: str
    kind: UseKind
    reads: bool


@dataclass(frozen=True)
class Timeline:
    """Visits in the order in which they are expected, and the uses they make, ordered by position.

    Visits from `expected_from` on nobody has queued: what usually comes next. They speak for what is kept, never for what is read;
    None: every visit was asked for.
    """

    visits: tuple[Visit, ...]
    uses: tuple[Use, ...]
    expected_from: int | None = None
    _by_component: dict[str, tuple[list[int], list[Use]]] = field(init=False, repr=False, compare=False)
    _by_position: dict[int, tuple[Use, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_component: dict[str, tuple[list[int], list[Use]]] = {}
        by_position: dict[int, tuple[Use, ...]] = {}
        for use in self.uses:
            positions, uses = by_component.setdefault(use.component, ([], []))
            positions.append(use.position)
            uses.append(use)
            by_position[use.position] = (*by_position.get(use.position, ()), use)
        object.__setattr__(self, "_by_component", by_component)
        object.__setattr__(self, "_by_position", by_position)

    @staticmethod
    def of(visits: Iterable[Visit], uses: Iterable[Use], expected_from: int | None = None) -> Timeline:
        """A timeline from uses in any order."""
        return Timeline(tuple(visits), tuple(sorted(uses, key=lambda use: use.position)), expected_from)

    def components(self) -> tuple[str, ...]:
        """Component keys in order of first use."""
        return tuple(self._by_component)

    def at(self, position: int) -> tuple[Use, ...]:
        """The uses of the visit at `position`."""
        return self._by_position.get(position, ())

    def next_use(self, component: str, after: int) -> Use | None:
        """The first use of `component` that was asked for, at a position greater than `after`; None when nothing needs it any more."""
        positions, uses = self._by_component.get(component, ((), ()))
        index = bisect_left(positions, after + 1)
        return self._asked(uses[index]) if index < len(uses) else None

    def next_read(self, component: str, after: int) -> Use | None:
        """Like next_use, but only uses that read the component's files."""
        use = self.next_expected_read(component, after)
        return None if use is None else self._asked(use)

    def next_expected_read(self, component: str, after: int) -> Use | None:
        """Like next_read, and on into what nobody has asked for: how soon the component is missed once it is gone."""
        positions, uses = self._by_component.get(component, ((), ()))
        for index in range(bisect_left(positions, after + 1), len(uses)):
            if uses[index].reads:
                return uses[index]
        return None

    def _asked(self, use: Use) -> Use | None:
        return use if self.expected_from is None or use.position < self.expected_from else None


EMPTY = Timeline((), ())
