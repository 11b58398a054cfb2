"""What a worker that has become free begins, of all prompts that wait in the fleet. Pure: the door and the simulation run it alike.

A prompt is bound to a worker when one is free for it, not when it comes: until then its place in a worker's queue is where its weights are
read ahead. A free worker takes what costs it the least beside computing, less what the prompt has waited; a prompt stays behind where a
busy worker is to end it earlier even if its wait counts IDLE_COST times, for a worker that does nothing is lost to everybody.

A prompt that was overtaken as often as it may be (`ahead`) takes the worker that is free.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from dataclasses import replace

from .ahead import GROUPED, Queued, is_put_off_no_more, pick
from .routing import Decision, NoWorkerError

AT_HAND_S = 0.3  # what costs no more is not worth looking at other workers for
IDLE_COST = 1.5


def dispatch(
    index: int,
    waiting: Sequence[Queued],
    free: Container[int],
    cost_s: Callable[[Queued], float],
    decide: Callable[[Queued, Sequence[Queued]], Decision],
) -> list[tuple[Queued, int]]:
    """Prompts to begin now and the worker of each: at most one on this worker, `index`, and some on others that are `free`.

    `waiting` is in the order of turns; `cost_s` is what a prompt costs on this worker beside computing, infinite where it does not run
    there; `decide` tells its best worker, in a fleet where these others go before it (their `worker` says where), and may raise
    NoWorkerError.
    """
    left = list(waiting[:GROUPED])
    costs: dict[str, float] = {}
    behind: list[Queued] = []
    taken: set[int] = set()
    found: list[tuple[Queued, int]] = []

    def cost_here_s(one: Queued) -> float:
        if one.name not in costs:
            costs[one.name] = cost_s(one)
        return costs[one.name]

    while left:
        one = pick(left, cost_here_s)
        left.remove(one)
        here_s = cost_here_s(one)
        at = index
        if here_s > AT_HAND_S and (not is_put_off_no_more(one.overtaken) or here_s == math.inf):
            try:
                decision = decide(one, behind)
            except NoWorkerError:
                continue
            score = decision.score
            if decision.index in free and decision.index not in taken:
                at = decision.index
            elif here_s >= score.total_s - score.compute_s + (IDLE_COST - 1) * score.wait_s:
                behind.append(replace(one, worker=decision.index))
                continue
        found.append((one, at))
        taken.add(at)
        if at == index:
            break
        behind.append(replace(one, worker=at))
    return found
