"""The prompts that were taken and have not ended, in memory, in the order in which they came."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .ahead import Queued
from .delivery import Placed, State
from .ledger import Ledger
from .messages import Lines
from .outlook import Outlook
from .routing import Turns

CANCELLED_S = 600.0  # for so long a cancelled prompt that a worker takes late is known as such: the time that the door waits for an answer


class Register:
    """By id. `changed`: something has happened that choosing rests on. `turns` gives prompts their numbers; `front` is the number of the
    last one that was to be in front of all."""

    def __init__(self, ledger: Ledger, lines: Lines, outlook: Outlook, clock: Callable[[], float]) -> None:
        self._ledger, self._lines, self._outlook, self._clock = ledger, lines, outlook, clock
        self._placed: dict[str, Placed] = {}
        self._cancelled: dict[str, float] = {}  # by id: when it was forgotten, the oldest first
        self.turns = Turns()
        self.front = 0
        self.changed = False

    def __len__(self) -> int:
        return len(self._placed)

    def __iter__(self) -> Iterator[Placed]:
        return iter(self._placed.values())

    def __contains__(self, prompt_id: str) -> bool:
        return prompt_id in self._placed

    def __getitem__(self, prompt_id: str) -> Placed:
        return self._placed[prompt_id]

    def get(self, prompt_id: str) -> Placed | None:
        """None of one that has ended, or was never taken."""
        return self._placed.get(prompt_id)

    def has(self, placed: Placed) -> bool:
        """Whether it is still this one that its id means."""
        return self._placed.get(placed.prompt_id) is placed

    def add(self, placed: Placed) -> None:
        """It was taken."""
        self._placed[placed.prompt_id] = placed

    def forget(self, placed: Placed) -> None:
        """It has ended, or was not taken after all."""
        self._placed.pop(placed.prompt_id, None)
        self._ledger.gives_back(placed.prompt_id)
        self._lines.end(placed.client_id, placed.prompt_id)
        self.changed = True
        if placed.cancelled:
            now_s = self._cancelled[placed.prompt_id] = self._clock()
            while now_s - self._cancelled[oldest := next(iter(self._cancelled))] > CANCELLED_S:
                del self._cancelled[oldest]

    def was_cancelled(self, prompt_id: str) -> bool:
        """Within the last CANCELLED_S, or a little longer ago; it is not to run wherever it turns up."""
        return prompt_id in self._cancelled

    def of_worker(self, index: int) -> list[Placed]:
        """Those that it has."""
        return [one for one in self if one.worker == index and one.state is not State.LOST]

    def lost(self) -> list[str]:
        """Those that no worker has now, and none can take."""
        return [one.prompt_id for one in self if one.state is State.LOST]

    def is_on_its_way(self, prompt_id: str) -> bool:
        """Whether it is placed or sent at this moment."""
        placed = self._placed.get(prompt_id)
        return placed is not None and placed.on_its_way

    def queued(self, placed: Placed) -> Queued:
        """The same in the words of `ahead`, now."""
        now_s, known = self._clock(), placed.known
        number = placed.own_turn if "number" in placed.body else self.turns.next(placed.client_id)
        left_s = None
        if placed.begun_s is not None:
            left_s = self._outlook.router.workers[placed.worker].left_s(placed.expected_s, now_s - placed.begun_s, placed.stall_s)
        seconds = known.compute_s or self._outlook.seconds
        waited_s, worker = now_s - placed.taken_s, placed.counts_at
        return Queued(
            placed.prompt_id, worker, placed.client_id, known.job, number, seconds, waited_s, left_s, placed.fixed, placed.overtaken
        )

    def others(self, placed: Placed) -> list[Queued]:
        """All that have a worker."""
        away = (State.LOST, State.PLACING)
        return [self.queued(one) for one in self if one is not placed and one.state not in away]
