"""Prompts as they are seen on a worker: one runs or waits there, has ended there, or has never come.

One that is there and was not placed there is a stray: the worker has taken it when nobody expected that any more.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from .asking import Seats
from .delivery import TAKE_OUT_S, Delivery, Placed, State
from .ledger import Ledger
from .messages import named
from .outlook import Outlook, seconds_of
from .register import Register
from .seats import LostError

log = logging.getLogger("residency.fleet")

SHOWN_ERRORS = 20  # predictions against truth


class Sightings:
    """Of all workers, on one event loop. `errors`: seconds that were predicted, and those it took, by worker; `progressed_s`: when a prompt
    that runs there has moved on last."""

    def __init__(
        self, seats: Seats, register: Register, ledger: Ledger, outlook: Outlook, delivery: Delivery, clock: Callable[[], float]
    ) -> None:
        self._seats, self._register, self._ledger, self._outlook = seats, register, ledger, outlook
        self._delivery, self._clock = delivery, clock
        self.errors: list[deque[tuple[float, float]]] = [deque(maxlen=SHOWN_ERRORS) for _ in range(len(seats))]
        self.progressed_s = [-1e9] * len(seats)

    def runs(self, placed: Placed) -> None:
        """Its worker runs it."""
        if placed.state is not State.RUNNING:
            placed.state, placed.begun_s, placed.cancelled, placed.begins = State.RUNNING, self._clock(), False, False
            placed.runs += 1
            self._register.turns.begins(placed.own_turn)
            waiting = [one for one in self._register if one.state not in (State.RUNNING, State.LOST)]
            for one in waiting:
                if one.own_turn < placed.own_turn:
                    one.overtaken += 1 / len(self._seats)
            if not waiting:
                self._register.turns.rest()
            self._ledger.takes(placed.prompt_id, placed.body, self._seats[placed.worker].name, placed.life, placed.runs)
            self._register.changed = True

    async def waits(self, placed: Placed) -> None:
        """It is in its worker's queue, or to be taken out of it: a worker that did not answer has not heard that."""
        placed.state = State.WAITING
        if placed.cancelled:
            try:
                await self._seats.ask(placed.worker, "POST", "/queue", {"delete": [placed.prompt_id]}, timeout_s=TAKE_OUT_S)
            except LostError:
                return

    def loses(self, placed: Placed) -> None:
        """Its worker's server has ended."""
        if placed.begins:
            self.runs(placed)
        placed.state, placed.lost_with, placed.told = State.LOST, self._seats[placed.worker].name, False
        log.warning("prompt %s was lost with %s", placed.prompt_id, placed.lost_with)

    def heard(self, index: int, kind: str, prompt_id: str | None) -> bool:
        """The worker says to its client that it moves on with the prompt; whether the client is to hear that."""
        self.progressed_s[index] = self._clock()
        placed = self._register.get(prompt_id) if prompt_id is not None else None
        if placed is None or placed.state is State.LOST:
            return True
        if kind == "execution_start" and placed.worker == index and placed.state in (State.WAITING, State.DOUBTED, State.LEAVING):
            self.runs(placed)  # its client has heard it too: whatever comes now has to be told
        elif kind == "execution_start" and placed.worker == index and placed.state is State.SENDING:
            placed.begins = True  # whoever sends it changes its state
        return placed.worker in (index, -1)

    async def settle(self, placed: Placed, *, left_queue: bool) -> None:
        """Keep the results of a prompt that has ended, and learn from its seconds. One that has left its worker's queue and has no history
        has never arrived there, or was taken out."""
        index = placed.worker
        try:
            told = await self._seats.ask_json(index, f"/history/{placed.prompt_id}")
            history = (told or {}).get(placed.prompt_id)
            job = await self._seats.ask_json(index, f"/api/jobs/{placed.prompt_id}") if history is not None else None
        except LostError:
            return
        if not self._register.has(placed) or placed.worker != index:
            return
        if history is None:
            if left_queue:
                self._misses(placed)
            return
        self.keep(placed.prompt_id, history, job, self._seats[index].name)
        seconds = seconds_of(history)
        if seconds is not None and placed.known.compute_s:
            self.errors[index].append((placed.expected_s, seconds))
            self._outlook.ended(index, placed.expected_s, seconds, placed.stall_s)
        elif seconds is not None:
            self._outlook.seen(seconds)
        self._register.forget(placed)

    def _misses(self, placed: Placed) -> None:
        """Its worker has it neither in its queue nor in its history."""
        if placed.state is State.DOUBTED and self._delivery.has_arrived(placed) is not False:
            return
        not_run = placed.state in (State.DOUBTED, State.LEAVING) or (placed.state is State.WAITING and placed.asked_out)
        if not_run and not placed.cancelled:
            placed.state = State.LOST
        else:
            self._register.forget(placed)

    async def finds(self, index: int, prompt_id: str, asked_s: float, *, runs: bool, times: int) -> None:
        """A worker had this prompt, so many times, when it was asked for its queue at `asked_s`. A stray is run there where it has begun
        there alone, and taken out otherwise."""
        placed = self._register.get(prompt_id)
        if placed is None:
            if self._ledger.history(prompt_id) is not None or self._register.was_cancelled(prompt_id):
                await self._delivery.remove(index, prompt_id, runs=runs)
            return
        found = self._seats[index].found
        if placed.on_its_way or placed.at_s >= asked_s or found is None:
            return
        if placed.worker == index and placed.state is not State.LOST:
            if times > 1:
                await self._delivery.remove(index, prompt_id, runs=False)
            return
        if placed.state is State.WAITING and runs:
            placed.state, placed.goes_to = State.SENDING, index
            if not await self._delivery.take_out(placed):
                return
            placed.state = State.LOST
        if placed.state is State.LOST:
            placed.state, placed.worker, placed.life, placed.at_s = State.WAITING, index, found.life, self._clock()
        elif placed.state is not State.LEAVING:
            await self._delivery.remove(index, prompt_id, runs=runs)

    def keep(self, prompt_id: str, history: Any, job: Any, worker: str) -> None:
        """Its results, their files named by their worker."""
        self._ledger.ends(prompt_id, {**history, "outputs": named(history.get("outputs", {}), worker)}, named(job, worker))
