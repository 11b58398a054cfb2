"""The ways of choosing a worker that are compared: what queues in front of ComfyUI do today, and ours.

Each sees what it would see in earnest: round-robin nothing, least queue the lengths, the others what each worker has loaded.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from .forecast import Job
from .routing import Router, Worker

Choose = Callable[[Job, Sequence[Worker], float], int]
"""(job, workers, now in seconds) -> index of the worker."""

CACHED_SHARE = 0.6


def _shortest(workers: Sequence[Worker], among: Sequence[int] | range) -> int:
    return min(among, key=lambda index: (workers[index].queued, index))


def uniform(seed: int) -> Choose:
    """Any worker, whatever it does."""
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


def one_model(patience: int = 2) -> Choose:
    """SwarmUI's rule: of the workers whose last model is this prompt's, the shortest queue, unless that has `patience` prompts already and
    another worker has none; else the shortest queue of all."""

    def choose(job: Job, workers: Sequence[Worker], now_s: float) -> int:
        shortest = _shortest(workers, range(len(workers)))
        warm = [index for index, worker in enumerate(workers) if worker.last_model == job.model]
        if not warm:
            return shortest
        best = _shortest(workers, warm)
        return shortest if workers[best].queued >= patience and not workers[shortest].queued else best

    return choose


def cached_share() -> Choose:
    """Of the workers that have at least CACHED_SHARE of the prompt's bytes in memory, the shortest queue; of all where there is none."""

    def choose(job: Job, workers: Sequence[Worker], now_s: float) -> int:
        sizes, least_bytes = job.sizes, CACHED_SHARE * job.required_bytes
        warm = [index for index, one in enumerate(workers) if sum(sizes[key] for key in job.keys if key in one.held) >= least_bytes]
        return _shortest(workers, warm or range(len(workers)))

    return choose


def multiplexing(seed: int, most: int = 3) -> Choose:
    """Ray Serve's multiplexing: each worker has the `most` models that it has served last. Of two workers with the model, drawn at random,
    the shorter queue is taken; where none has it, of two of those with the fewest models."""
    chance = random.Random(seed)
    loaded: dict[int, dict[str, None]] = {}

    def choose(job: Job, workers: Sequence[Worker], now_s: float) -> int:
        warm = [index for index, models in loaded.items() if job.model in models]
        if not warm:
            fewest = min(len(loaded.get(index, ())) for index in range(len(workers)))
            warm = [index for index in range(len(workers)) if len(loaded.get(index, ())) == fewest]
        best = _shortest(workers, sorted(chance.sample(warm, min(2, len(warm)))))
        models = loaded.setdefault(best, {})
        models.pop(job.model, None)
        models[job.model] = None
        if len(models) > most:
            del models[next(iter(models))]
        return best

    return choose


def residency(router: Router) -> Choose:
    """Ours."""

    def choose(job: Job, workers: Sequence[Worker], now_s: float) -> int:
        index = router.decide(job, now_s).index
        router.demand.asked(job.keys, now_s)
        return index

    return choose


def policies(seed: int, router: Router) -> Mapping[str, Choose]:
    """Fresh ones for one run, by name."""
    return {
        "random": uniform(seed),
        "round_robin": round_robin(),
        "least_queue": least_queue(),
        "one_model": one_model(),
        "cached_60": cached_share(),
        "multiplexing": multiplexing(seed),
        "residency": residency(router),
    }
