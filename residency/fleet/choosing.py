"""The worker for one prompt now: by the router, or as somebody else would choose, for comparing."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .ahead import Queued
from .asking import Seats
from .outlook import Known, Outlook
from .policies import Choose
from .routing import Decision, Score

log = logging.getLogger("residency.fleet")

DECIDED = 1000  # decisions that are kept
# A prompt that waits is moved where that gains so much: less is noise of the forecast, and what its worker has read ahead is not wasted.
# The seconds double with each move that it has made: two workers that are late in turn, one drive behind both, would change all their
# prompts each time (104 moves of 40 prompts in 90 s, each with its reading begun anew).
MOVE_S, MOVE_SHARE = 1.0, 0.2


class Chooser:
    """`choose` (its name and itself) decides in the router's place; it moves nothing."""

    def __init__(self, seats: Seats, clock: Callable[[], float], choose: tuple[str, Choose] | None) -> None:
        self.outlook = Outlook(seats, clock)
        self.decisions: OrderedDict[str, Mapping[str, Any]] = OrderedDict()
        self._clock, self._choose = clock, choose

    @property
    def moves(self) -> bool:
        """Whether a prompt that waits is thought about again."""
        return self._choose is None

    def decide(self, known: Known, me: Queued, others: Sequence[Queued], without: frozenset[int] = frozenset()) -> Decision:
        """For one prompt among others. Raises NoWorkerError."""
        router, now_s, job = self.outlook.router, self._clock(), known.job
        self.outlook.update(known, me, others, without)
        takes = [index for index, one in enumerate(router.workers) if one.takes_prompts and not one.lacks & job.wants]
        if self._choose is None or not takes:
            return router.decide(job, now_s)
        name, choose = self._choose
        index = takes[choose(job, [router.workers[one] for one in takes], now_s)]
        score = router.score(index, job, now_s)
        assert score is not None
        return Decision(index, score, f"{name}; {score.told()}", ())

    def scores(self, indices: Sequence[int], known: Known, me: Queued, others: Sequence[Queued]) -> list[Score | None]:
        """Of these workers alone, among others; None of one that does not take the prompt."""
        self.outlook.update(known, me, others, only=indices)
        now_s = self._clock()
        return [self.outlook.router.score(index, known.job, now_s) for index in indices]

    def is_worth_moving(self, known: Known, worker: int, decision: Decision, moves: int) -> bool:
        """Whether the prompt, which waits at this worker after so many moves, is much better off as just decided."""
        if decision.index == worker:
            return False
        return is_much_less(decision.score, self.outlook.router.score(worker, known.job, self._clock()), moves)

    def expected_s(self, known: Known, decision: Decision) -> tuple[float, float]:
        """Seconds of the prompt there, and those of them for loading, both without margins."""
        stall_s = decision.score.stall_s / self.outlook.router.workers[decision.index].drives.margin
        return stall_s + (known.compute_s or self.outlook.seconds), stall_s

    def note(self, prompt_id: str, decision: Decision, runs: int, said: Iterable[str]) -> None:
        """Keep the decision with its reason; `said`: remarks on the way to it."""
        runners_up = [{"worker": one.worker, "seconds": round(one.total_s, 3), "of": one.told()} for one in decision.runners_up]
        worker, said = decision.score.worker, list(said)
        reason = f"{worker}: {decision.reason}" + (f" ({'; '.join(said)})" if said else "")
        told = {"prompt_id": prompt_id, "worker": worker, "seconds": round(decision.score.total_s, 3), "reason": reason}
        self.decisions[prompt_id] = {**told, "runners_up": runners_up, "runs": runs}
        while len(self.decisions) > DECIDED:
            self.decisions.popitem(last=False)
        log.info("prompt %s -> %s", prompt_id, reason)


def is_much_less(score: Score, than: Score | None, moves: int) -> bool:
    """Whether moving a prompt once more after so many moves is worth it; None: it cannot stay."""
    return than is None or than.total_s - score.total_s >= max(MOVE_S * 2.0**moves, MOVE_SHARE * than.total_s)
