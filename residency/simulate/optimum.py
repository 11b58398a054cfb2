"""The true optimum of small two-tier instances, by breadth-first search over the same moves: read a unit, drop a unit, wait.

The clock ticks once a unit read. Between two ticks the drive reads one unit of one component or rests, making room first by dropping one
unit of a component that is not in use; the running use computes on. A use starts as soon as its component is there as a whole:
starting later never helps, as a use that has started can only end sooner. Sizes and compute times are whole numbers of units.
"""

from __future__ import annotations

from collections.abc import Sequence

# A larger instance takes minutes; the search says so instead.
MAX_STATES = 3_000_000

State = tuple[tuple[int, ...], int, int]  # units present by component; number of the use; ticks of it left (0: not started)


def optimum(sizes: Sequence[int], uses: Sequence[tuple[int, int]], room: int) -> int:
    """Least makespan in ticks. `sizes`: units by component; `uses`: (component, compute ticks >= 1) in order; `room`: units.

    Raises ValueError where a component does not fit, RuntimeError when the search grows past MAX_STATES.
    """
    if any(sizes[component] > room for component, _ in uses):
        raise ValueError(f"a component is larger than the room of {room} units: no schedule exists")
    needed = [frozenset(component for component, _ in uses[number:]) for number in range(len(uses) + 1)]
    first: State = _start((0,) * len(sizes), 0, 0, sizes, uses)
    frontier, seen, ticks = {first}, {first}, 0
    while frontier:
        if any(number == len(uses) for _, number, _ in frontier):
            return ticks
        following: set[State] = set()
        for present, number, left in frontier:
            for after in _reads(present, number, left, sizes, uses, room, needed[number]):
                following.add(_start(after, *_tick(number, left), sizes, uses))
        following -= seen
        seen |= following
        if len(seen) > MAX_STATES:
            raise RuntimeError(f"more than {MAX_STATES} states: the instance is too large to search")
        frontier, ticks = following, ticks + 1
    raise AssertionError("every schedule ends")


def _tick(number: int, left: int) -> tuple[int, int]:
    return (number, left) if left == 0 else (number + 1, 0) if left == 1 else (number, left - 1)


def _start(present: tuple[int, ...], number: int, left: int, sizes: Sequence[int], uses: Sequence[tuple[int, int]]) -> State:
    if left == 0 and number < len(uses) and present[uses[number][0]] == sizes[uses[number][0]]:
        left = uses[number][1]
    return present, number, left


def _reads(
    present: tuple[int, ...],
    number: int,
    left: int,
    sizes: Sequence[int],
    uses: Sequence[tuple[int, int]],
    room: int,
    needed: frozenset[int],
) -> list[tuple[int, ...]]:
    """The states that one tick may lead to."""
    in_use = uses[number][0] if left else -1
    wanted = [component for component in needed if present[component] < sizes[component]]
    after = []
    if sum(present) < room:
        # reading what is needed some day into free room never hurts: resting is left out
        after += [_moved(present, component, -1) for component in wanted]
        return after or [present]
    after.append(present)
    victims = [component for component, units in enumerate(present) if units and component != in_use]
    after += [_moved(present, component, victim) for component in wanted for victim in victims if victim != component]
    return after


def _moved(present: tuple[int, ...], component: int, victim: int) -> tuple[int, ...]:
    units = list(present)
    units[component] += 1
    if victim >= 0:
        units[victim] -= 1
    return tuple(units)
