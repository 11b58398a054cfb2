"""The work of one server: which scenarios share it, and how many queues of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .scenarios import Scenario, Temperature

REFERENCE_PROMPTS = 2


@dataclass(frozen=True, slots=True)
class Work:
    """One scenario on one server: queues that are not counted, then measured ones. `fresh`: the server has run nothing before."""

    scenario: Scenario
    warm_ups: int
    measured: int
    fresh: bool


def works(scenarios: Iterable[Scenario], measured: int | None, references: frozenset[str], warm_ups: int | None = None) -> tuple[Work, ...]:
    """The work of a server for these in turn; references are measured twice. `measured` and `warm_ups` replace each warm scenario's own."""
    found: list[Work] = []
    for one in scenarios:
        fresh = not found
        # a server that has run another scenario needs one prompt to settle under the new limits
        before = one.warm_ups if fresh else min(1, one.warm_ups)
        if one.temperature is Temperature.COLD:
            found.append(Work(one, 0, 1, fresh))
        else:
            asked = one.prompts if measured is None else measured
            count = REFERENCE_PROMPTS if one.name in references else asked
            found.append(Work(one, before if warm_ups is None else warm_ups, count, fresh))
    return tuple(found)


def fewer(works: Iterable[Work], most: int) -> tuple[Work, ...]:
    """The same with at most so many measured queues of each."""
    return tuple(replace(work, measured=min(work.measured, most)) for work in works)


def sessions(asked: Sequence[Scenario], extra: Sequence[Scenario]) -> list[tuple[Scenario, ...]]:
    """Scenarios that one server of each side can run in turn: the same files, the same arguments, the same RAM left free.

    The cold one first, for it needs a fresh server; then the less device memory, the sooner: more can be left free while a server runs,
    less cannot. Those that tell compute times come before others that have as much.
    """
    groups: dict[tuple[Any, ...], list[Scenario]] = {}
    for one in [*asked, *extra]:
        cold_alone = one.name if one.temperature is Temperature.COLD and _has_cold(groups, one) else ""
        groups.setdefault((*_session_key(one), cold_alone), []).append(one)
    return [in_turn for group in groups.values() for in_turn in _in_turn(group)]


def _in_turn(group: Iterable[Scenario]) -> list[tuple[Scenario, ...]]:
    """The group in the order in which one server can run it; a cold scenario that leaves more free than another has a server of its own."""
    cold = [one for one in group if one.temperature is Temperature.COLD]
    warm = sorted((one for one in group if one not in cold), key=lambda one: (_device_bytes(one), not one.resident))
    if cold and warm and _device_bytes(cold[0]) > _device_bytes(warm[0]):
        return [tuple(cold), tuple(warm)]
    return [(*cold, *warm)]


def _device_bytes(one: Scenario) -> float:
    return float("inf") if one.limits.device_free_bytes is None else one.limits.device_free_bytes


def _session_key(one: Scenario) -> tuple[Any, ...]:
    return (one.weights, one.server_arguments, one.limits.host_free_bytes)


def _has_cold(groups: dict[tuple[Any, ...], list[Scenario]], one: Scenario) -> bool:
    return any(other.temperature is Temperature.COLD for other in groups.get((*_session_key(one), ""), ()))
