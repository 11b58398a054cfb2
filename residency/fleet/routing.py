"""Which worker gets a prompt: the one with the least predicted seconds to its end. Pure: no clock, no network.

    score = wait behind the queue + stall for weights not warm there x its drives' margin + computing x its own + upload + displacement

Displacement is the seconds that others will wait for weights which loading pushes out. It is the hysteresis of a second copy: a worker
whose memory holds weights that others will ask for is taken only where waiting costs more than loading here and loading those again there.
Loading again on a worker with a queue delays whoever comes behind it, too: it counts once more for each prompt before this one there. So a
free worker takes a prompt for which a busy one would push its models out. Equal scores go to the worker with the shortest queue.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .forecast import Forecast, Job, Place

RUNNERS_UP = 3
SHOWN_WORKERS = 8  # in an error
# Of all workers, those whose displacement is looked at; the others lead by less than it costs to look.
LOOKED_AT = 24
HALF_LIFE_S = 600.0  # of demand: what was asked for twenty minutes ago counts a quarter
UPLOAD_BYTES_PER_S = 100e6  # between two machines of a fleet, a gigabit each
MARGIN_SHARE = 0.2  # of a prompt's error in its worker's margin
MOST_MARGIN = 4.0
SPREAD = 0.2  # of a worker that has run nothing yet
DRAW_S = 1e-3  # two scores that are nearer than this are equal


@dataclass(slots=True)
class Drives:
    """Of one machine. `margin`: how many times longer than predicted loading from them takes: its workers share them, and one knows nothing
    of what another reads."""

    margin: float = 1.0


@dataclass(slots=True)
class Worker:
    """A worker as the fleet knows it. `ready_s` is when its queue is expected to be done; `places` and `held` are as they will be then.

    `held` are bytes in host memory by component, the first to leave before the rest; `room_bytes` is the most that host memory takes of
    weights. Without the pack (`tells` false) nothing is known but `last_model`. `margin`: how many times longer than predicted it
    computes; `spread`: by how much of the prediction its prompts miss what both margins make of it.
    """

    name: str
    forecast: Forecast
    room_bytes: int
    places: dict[str, Place] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    held_bytes: int = 0
    ready_s: float = 0.0
    queued: int = 0
    last_model: str | None = None
    tells: bool = True
    takes_prompts: bool = True
    margin: float = 1.0
    spread: float = SPREAD
    lacks: frozenset[str] = frozenset()  # what it does not have of what prompts want
    machine: str = ""  # workers of one share its memory: they hold one copy of a component
    drives: Drives = field(default_factory=Drives)  # of the machine, the same for all of its workers

    def takes_s(self, predicted_s: float, stall_s: float) -> float:
        """Seconds that a prompt is expected to take of which so many were predicted, `stall_s` of them for loading."""
        return stall_s * self.drives.margin + (predicted_s - stall_s) * self.margin

    def took(self, predicted_s: float, true_s: float, stall_s: float = 0.0) -> None:
        """A prompt has ended there. Its error moves the spread, and the margin of what was to take longer, as if the other one held: one
        number cannot tell the two apart where a worker's prompts are all alike."""
        if predicted_s <= 0:
            return
        times, compute_s = min(MOST_MARGIN, true_s / predicted_s), predicted_s - stall_s
        self.spread += MARGIN_SHARE * (abs(times - self.takes_s(predicted_s, stall_s) / predicted_s) - self.spread)
        if stall_s > compute_s:
            self.drives.margin = _moved(self.drives.margin, (true_s - compute_s * self.margin) / stall_s)
        else:
            self.margin = _moved(self.margin, (true_s - stall_s * self.drives.margin) / compute_s)

    def left_s(self, predicted_s: float, ran_s: float, stall_s: float = 0.0) -> float:
        """Seconds that a prompt is expected to run on, which has run for so long. One that is late is expected to be as late once more:
        how late prompts are follows no scale of its own once one is later than usual, and one that hangs must look ever longer, so that
        nobody waits for it who can go elsewhere."""
        late_s = ran_s - self.takes_s(predicted_s, stall_s)
        return max(-late_s, predicted_s * self.spread + max(0.0, late_s))


def _moved(margin: float, times: float) -> float:
    return margin + MARGIN_SHARE * (min(MOST_MARGIN, max(1.0, times)) - margin)


@dataclass(frozen=True, slots=True)
class Score:
    """The seconds of one worker for one prompt, by their cause; workers are compared by `total_s`."""

    worker: str
    wait_s: float
    stall_s: float
    compute_s: float
    upload_s: float
    displaced_s: float

    @property
    def total_s(self) -> float:
        return self.wait_s + self.stall_s + self.compute_s + self.upload_s + self.displaced_s

    def told(self) -> str:
        parts = (("waiting", self.wait_s), ("loading", self.stall_s), ("computing", self.compute_s), ("upload", self.upload_s))
        said = ", ".join(f"{seconds:.1f} s {name}" for name, seconds in parts if seconds >= 0.05)
        return f"{said or '0 s'}" + (f", {self.displaced_s:.1f} s for what it displaces" if self.displaced_s >= 0.05 else "")


@dataclass(frozen=True, slots=True)
class Decision:
    """The worker's index among those asked about, why, and the next best."""

    index: int
    score: Score
    reason: str
    runners_up: tuple[Score, ...]


class NoWorkerError(Exception):
    """No worker can take the prompt. The message says why of each."""


class Demand:
    """The demand for each component of late: a count that halves every HALF_LIFE_S."""

    def __init__(self) -> None:
        self._asked: dict[str, tuple[float, float]] = {}  # count, and when it was that

    def asked(self, keys: Sequence[str], now_s: float) -> None:
        for key in keys:
            self._asked[key] = (self.of(key, now_s) + 1.0, now_s)

    def of(self, key: str, now_s: float) -> float:
        count, at_s = self._asked.get(key, (0.0, now_s))
        return count * float(2.0 ** ((at_s - now_s) / HALF_LIFE_S))


class Router:
    """Decides for one fleet; remembers which components were asked for and which workers hold them. `workers` may grow; one that is gone
    stays in its place and takes no prompts."""

    def __init__(self, workers: Sequence[Worker] = ()) -> None:
        self.workers = list(workers)
        self.demand = Demand()
        self._shares = any(worker.machine for worker in self.workers)
        self._holders: dict[str, set[int]] = {}  # indices of the workers that hold a component in host memory
        for index, worker in enumerate(self.workers):
            for key in worker.held:
                self._holders.setdefault(key, set()).add(index)

    def copies(self, key: str) -> int:
        """The number of machines that hold it."""
        holders = self._holders.get(key, ())
        return len({self.workers[index].machine or index for index in holders}) if self._shares else len(holders)

    def holds(self, index: int, key: str, size_bytes: int) -> None:
        """The component is the last that would leave this worker's host memory."""
        worker = self.workers[index]
        worker.held_bytes += size_bytes - worker.held.pop(key, 0)
        worker.held[key] = size_bytes
        self._holders.setdefault(key, set()).add(index)

    def loses(self, index: int, key: str) -> None:
        """The component has left this worker's memory."""
        worker = self.workers[index]
        worker.held_bytes -= worker.held.pop(key, 0)
        worker.places.pop(key, None)
        self._holders.get(key, set()).discard(index)

    def lies(self, index: int, places: dict[str, Place], held: dict[str, int], held_bytes: int) -> None:
        """All that the worker holds, at once."""
        worker = self.workers[index]
        for key in worker.held.keys() - held.keys():
            self._holders[key].discard(index)
        for key in held.keys() - worker.held.keys():
            self._holders.setdefault(key, set()).add(index)
        worker.places, worker.held, worker.held_bytes = places, held, held_bytes

    def score(self, index: int, job: Job, now_s: float, likely: dict[str, float] | None = None) -> Score | None:
        """Of one worker; None where it does not take the prompt. `likely`, empty at first, serves several scores of one moment: how likely
        one copy of a component is asked for does not depend on the prompt."""
        look = _Look(self, job, now_s, likely)
        look.at([index], all_of_them=True)
        return look.score

    def decide(self, job: Job, now_s: float) -> Decision:
        """The worker for the prompt. Raises NoWorkerError where none takes prompts or has its files.

        Those that hold the prompt's main model are looked at first; where there are none, whoever is done first. Of the others only who
        can do better: no memory of theirs makes the stall less than that of a worker which lacks this model alone.
        """
        first = self._holders.get(job.model) or self._next_free()
        look = _Look(self, job, now_s)
        look.at(sorted(first))
        others = (index for index in range(len(self.workers)) if index not in first)
        limit_s = look.best_s
        if limit_s < math.inf:
            limits: dict[int, float] = {}
            chosen = []
            for index in others:
                worker = self.workers[index]
                kind = id(worker.forecast)
                if kind not in limits:
                    nearest = {key: Place.DEVICE for key in job.keys if key != job.model}
                    limits[kind] = now_s + limit_s - job.compute_s - worker.forecast.of(job, nearest).stall_s
                if worker.ready_s <= limits[kind] and now_s <= limits[kind]:
                    chosen.append(index)
            look.at(chosen)
        else:
            look.at(others)
        if look.found <= RUNNERS_UP:  # those that are out of the question are told of all the same
            rest = [index for index in range(len(self.workers)) if index not in look.seen]
            look.at(heapq.nsmallest(RUNNERS_UP, rest, key=lambda index: self.workers[index].ready_s), all_of_them=True)
        return look.decision()

    def _next_free(self) -> set[int]:
        return {min(range(len(self.workers)), key=lambda index: self.workers[index].ready_s)} if self.workers else set()


class _Look:
    """One decision: workers scored so far, each first without its displacement, which costs to find out."""

    def __init__(self, router: Router, job: Job, now_s: float, likely: dict[str, float] | None = None) -> None:
        self._router, self._job, self._now_s = router, job, now_s
        self._upload_s = job.upload_bytes / UPLOAD_BYTES_PER_S
        self._likely = {} if likely is None else likely  # by component: how likely one copy of it is asked for
        self._stalls: dict[int, dict[tuple[Place | None, ...], float]] = {}  # by kind of machine and places
        self._scored: list[tuple[float, int, int, Score]] = []
        self._left: list[tuple[float, int, int, float, float]] = []
        self.best_s = math.inf
        self.seen: set[int] = set()

    @property
    def found(self) -> int:
        """The number of workers that could take it, of those looked at."""
        return len(self.seen)

    @property
    def score(self) -> Score | None:
        """Of the one worker that was looked at; None where it does not take the prompt. A decision's reason in words takes 3 us more."""
        return self._scored[0][3] if self._scored else None

    def at(self, indices: Iterable[int], *, all_of_them: bool = False) -> None:
        """Look at these too; unless `all_of_them`, at those alone that can be the best."""
        job, now_s, workers, left = self._job, self._now_s, self._router.workers, self._left
        keys, wants, compute_s, upload_s = job.keys, job.wants, job.compute_s, self._upload_s
        kind, stalls, best_s = 0, {}, self.best_s
        for index in indices:
            worker = workers[index]
            wait_s = worker.ready_s - now_s
            if wait_s < 0:
                wait_s = 0.0
            if (
                (wait_s + compute_s > best_s and not all_of_them)
                or not worker.takes_prompts
                or (worker.lacks and not worker.lacks.isdisjoint(wants))
            ):
                continue
            if kind != id(worker.forecast):
                kind = id(worker.forecast)
                stalls = self._stalls.setdefault(kind, {})
            if worker.tells:
                lies = (*map(worker.places.get, keys),)
                stall_s = stalls.get(lies)
                if stall_s is None:
                    stall_s = stalls[lies] = worker.forecast.of(job, worker.places).stall_s
            else:
                stall_s = _unknown_s(job, worker)
            self.seen.add(index)
            left.append(
                (wait_s + stall_s * worker.drives.margin + compute_s * worker.margin + upload_s, worker.queued, index, wait_s, stall_s)
            )
        heapq.heapify(left)
        while left and len(self._scored) < LOOKED_AT and left[0][0] <= self.best_s + DRAW_S:
            self._score(heapq.heappop(left))

    def _score(self, found: tuple[float, int, int, float, float]) -> None:
        _, queued, index, wait_s, stall_s = found
        worker = self._router.workers[index]
        compute_s, displaced_s = self._job.compute_s * worker.margin, self._displaced_s(worker)
        score = Score(worker.name, wait_s, stall_s * worker.drives.margin, compute_s, self._upload_s, displaced_s)
        self._scored.append((round(score.total_s / DRAW_S) * DRAW_S, queued, index, score))
        self.best_s = min(self.best_s, score.total_s)

    def decision(self) -> Decision:
        """Raises NoWorkerError where none was found."""
        if not self._scored:
            raise NoWorkerError(_why_none(self._job, self._router.workers))
        self._scored.sort(key=lambda one: one[:3])
        others = [one[3] for one in self._scored[1 : 1 + RUNNERS_UP]]
        for _, _, index, wait_s, stall_s in heapq.nsmallest(RUNNERS_UP - len(others), self._left):
            others.append(Score(self._router.workers[index].name, wait_s, stall_s, self._job.compute_s, self._upload_s, 0.0))
        _, _, index, score = self._scored[0]
        return Decision(index, score, _reason(score, others), tuple(others))

    def _displaced_s(self, worker: Worker) -> float:
        """Seconds that others will wait for the components that leave host memory: of each its reading, as often as it is likely to be
        asked for of this copy, at most once; and that for each prompt that is queued there, for as many will be."""
        sizes, held = self._job.sizes, worker.held
        over_bytes = worker.held_bytes - worker.room_bytes
        over_bytes += sum(sizes[key] for key in self._job.keys if key not in held and worker.places.get(key) is not Place.DEVICE)
        if over_bytes <= 0:
            return 0.0
        worth_bytes = 0.0
        for key, size_bytes in held.items():
            if key in sizes:
                continue
            likely = self._likely.get(key)
            if likely is None:
                copies = max(1, self._router.copies(key))
                likely = self._likely[key] = min(1.0, self._router.demand.of(key, self._now_s) / copies)
            worth_bytes += size_bytes * likely
            over_bytes -= size_bytes
            if over_bytes <= 0:
                break
        return (1 + worker.queued) * worker.drives.margin * worth_bytes / worker.forecast.machine.drives[0].read_bytes_per_s


def _unknown_s(job: Job, worker: Worker) -> float:
    """Of a worker without the pack: its last model is taken to be on the device, everything else to be on the drive."""
    warm = job.keys if worker.last_model == job.model else ()
    return worker.forecast.of(job, dict.fromkeys(warm, Place.DEVICE)).stall_s


class Turns:
    """Who is next, fair to clients: start-time fair queueing (Goyal, Vin, Cheng 1996). A prompt's number is when it would begin if all
    clients had equal shares; smaller numbers run first, as ComfyUI's own `number` has it."""

    def __init__(self) -> None:
        self._now = 0.0
        self._next: dict[str, float] = {}

    def next(self, client: str) -> float:
        """The number that this client's next prompt would get."""
        return max(self._now, self._next.get(client, 0.0))

    def of(self, client: str, expected_s: float) -> float:
        """The number of this client's next prompt. Who floods the queue goes behind who comes now, and nobody behind his own."""
        number = self.next(client)
        self._next[client] = number + max(0.0, expected_s)
        return number

    def rest(self) -> None:
        """Nobody waits: earlier prompts count against no client any more."""
        self._now = max(self._now, *self._next.values()) if self._next else self._now
        self._next.clear()

    def begins(self, number: float) -> None:
        """A prompt has begun: who comes now is not before it."""
        if number > self._now:
            self._now = number
            self._next = {client: after for client, after in self._next.items() if after > number}


def _reason(score: Score, others: Sequence[Score]) -> str:
    if not others:
        return f"{score.told()}; no other worker takes it"
    return f"{score.told()}; {others[0].worker}: {others[0].told()}"


def _why_none(job: Job, workers: Sequence[Worker]) -> str:
    if not workers:
        return "the fleet has no worker; start one"
    told = [
        f"{one.name} lacks {', '.join(sorted(one.lacks.intersection(job.wants)))}" if one.takes_prompts else f"{one.name} takes no prompts"
        for one in workers[:SHOWN_WORKERS]
    ]
    return "no worker can take the prompt: " + "; ".join(told)
