"""The prompt that a worker begins next, of all that wait in the fleet. Pure: the door and the simulation run it alike.

A prompt waits in the queue of the worker that was chosen for it, which reads ahead for it, and counts there; it is bound when it begins. A
worker whose turn has come takes the prompt that costs it the least beside computing, less a share of the seconds that it has waited. One of
its own queue it takes at any cost, one of another's only where leaving it there would cost more. Waiting counts IDLE_COST times in this,
for a worker that does nothing is lost to everybody. So a worker never lacks its own prompts, however many wait in the fleet, and one that
hangs keeps nobody.

A prompt that was overtaken as often as it may be (`ahead`) takes the worker whose turn has come.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from .ahead import GROUPED, Queued, is_put_off_no_more, pick

AT_HAND_S = 0.3  # what costs no more is not worth looking at other workers for
IDLE_COST = 1.25  # with 1.5 prompts wait for weights by 3 to 16 % longer, for 1 % of the 95th percentile (seeds 21 to 26)


class Waits(Protocol):
    """In the queue of `worker`; the least number is next."""

    @property
    def worker(self) -> int: ...
    @property
    def number(self) -> float: ...


T = TypeVar("T", bound=Waits)


def looked_at(index: int, waiting: Iterable[T]) -> list[T]:
    """Of all that wait those that this worker may begin, in their turns: the first of its own, and the first of all others'."""
    own: list[T] = []
    others: list[T] = []
    for one in waiting:
        (own if one.worker == index else others).append(one)
    found = [one for some in (own, others) for one in heapq.nsmallest(GROUPED, some, key=lambda one: one.number)]
    return sorted(found, key=lambda one: one.number)


def dispatch(
    index: int, waiting: Sequence[Queued], cost_s: Callable[[Queued], float], stays_s: Callable[[Queued], tuple[float, float]]
) -> Queued | None:
    """The prompt that this worker, `index`, is to begin next; None where each is better off elsewhere.

    `waiting` are those `looked_at`. `cost_s`: seconds that a prompt costs here beside computing, infinite where it does not run. `stays_s`:
    seconds that it would still wait where it is, and those that it costs there beside waiting and computing; not asked of its own.
    """
    left = list(waiting)
    costs: dict[str, float] = {}

    def cost_here_s(one: Queued) -> float:
        if one.name not in costs:
            costs[one.name] = cost_s(one)
        return costs[one.name]

    while left:
        one = pick(left, cost_here_s)
        left.remove(one)
        here_s = cost_here_s(one)
        if here_s == math.inf:
            continue
        if one.worker == index or here_s <= AT_HAND_S or is_put_off_no_more(one.overtaken):
            return one
        wait_s, there_s = stays_s(one)
        if here_s < IDLE_COST * wait_s + there_s:
            return one
    return None
