"""The ways of choosing a worker that ours is compared with: the rules of other queues.

Each sees as much as it would in earnest: random and round-robin nothing, least queue the lengths, the others also the models or weights
that each worker has loaded.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from .forecast import Job
from .routing import Worker

OURS = "residency"  # by name; it is no function of a prompt alone (`choosing`, `dispatch`)
Choose = Callable[[Job, Sequence[Worker], float], int]
"""(job, workers, now in seconds) -> index of the worker."""

CACHED_SHARE = 0.6
PATIENCE = 2  # prompts in a warm worker's queue before a free worker is taken instead
MULTIPLEXED, ONGOING = 3, 5  # Ray Serve's defaults for models of a replica and its requests


def _shortest(workers: Sequence[Worker], among: Sequence[int] | range) -> int:
    return min(among, key=lambda index: (workers[index].queued, index))


def uniform(seed: int) -> Choose:
    """Any worker, drawn at random."""
    chance = random.Random(seed)
    return lambda job, workers, now_s: chance.randrange(len(workers))


def round_robin() -> Choose:
    """One after the other."""
    count = 0

    def choose(job: Job, workers: Sequence[Worker], now_s: float) -> int:
        nonlocal count
        count += 1
        return (count - 1) % len(workers)

    return choose


def least_queue() -> Choose:
    """The shortest queue, the first of equals."""
    return lambda job, workers, now_s: _shortest(workers, range(len(workers)))


def _unless_another_is_free(workers: Sequence[Worker], warm: Sequence[int]) -> int:
    """The shortest queue of the warm ones; of all where none is warm, or where each warm one has PATIENCE prompts and another has none."""
    shortest = _shortest(workers, range(len(workers)))
    if not warm:
        return shortest
    best = _shortest(workers, warm)
    return shortest if workers[best].queued >= PATIENCE and not workers[shortest].queued else best


def one_model() -> Choose:
    """SwarmUI's rule: workers whose last model is this prompt's are warm."""

    def choose(job: Job, workers: Sequence[Worker], now_s: float) -> int:
        return _unless_another_is_free(workers, [index for index, worker in enumerate(workers) if worker.last_model == job.model])

    return choose


def cached_share() -> Choose:
    """Workers that have at least CACHED_SHARE of the prompt's bytes in memory are warm."""

    def choose(job: Job, workers: Sequence[Worker], now_s: float) -> int:
        sizes, least_bytes = job.sizes, CACHED_SHARE * job.required_bytes
        warm = [index for index, one in enumerate(workers) if sum(sizes[key] for key in job.keys if key in one.held) >= least_bytes]
        return _unless_another_is_free(workers, warm)

    return choose


def multiplexing(seed: int) -> Choose:
    """Ray Serve's multiplexing: each worker has the MULTIPLEXED models that it has served last. Of two workers with the model and less than
    ONGOING prompts, drawn at random, the shorter queue is taken; where there is none, of two of those with the fewest models; where all
    have so many prompts, of any two."""
    chance = random.Random(seed)
    loaded: dict[int, dict[str, None]] = {}

    def choose(job: Job, workers: Sequence[Worker], now_s: float) -> int:
        open_ones = [index for index, worker in enumerate(workers) if worker.queued < ONGOING] or list(range(len(workers)))
        among = [index for index in open_ones if job.model in loaded.get(index, ())]
        if not among:
            fewest = min(len(loaded.get(index, ())) for index in open_ones)
            among = [index for index in open_ones if len(loaded.get(index, ())) == fewest]
        best = _shortest(workers, sorted(chance.sample(among, min(2, len(among)))))
        models = loaded.setdefault(best, {})
        models.pop(job.model, None)
        models[job.model] = None
        if len(models) > MULTIPLEXED:
            del models[next(iter(models))]
        return best

    return choose


def policies(seed: int) -> Mapping[str, Choose]:
    """Of others, fresh for one run, by name."""
    return {
        "random": uniform(seed),
        "round_robin": round_robin(),
        "least_queue": least_queue(),
        "one_model": one_model(),
        "cached_60": cached_share(),
        "multiplexing": multiplexing(seed),
    }
