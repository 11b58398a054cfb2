"""A door that is started anew takes up the prompts that were taken before, and those on the workers that nobody has written down."""

from __future__ import annotations

from typing import Any

from .asking import Seats
from .delivery import NOBODY, Placed, State
from .ledger import Ledger
from .messages import Lines
from .outlook import Known, Outlook, by_names
from .register import Register
from .seats import LostError
from .sightings import Sightings


class Recall:
    """Once, before anything is asked of the door."""

    def __init__(self, seats: Seats, register: Register, ledger: Ledger, lines: Lines, outlook: Outlook, sightings: Sightings) -> None:
        self._seats, self._register, self._ledger, self._lines = seats, register, ledger, lines
        self._outlook, self._sightings = outlook, sightings

    async def take_up(self) -> None:
        """All of it."""
        for prompt_id, body, name, life, runs in list(self._ledger.taken()):
            at = self._seats.named(name)
            found = self._seats[at].found if at is not None else None
            is_there = found is not None and found.life == life
            state = State.DOUBTED if is_there else State.LOST
            await self._adopt(prompt_id, body, -1 if at is None else at, life, state, runs, "" if is_there else name)
        for index in range(len(self._seats)):
            seat = self._seats[index]
            try:
                queue, history = await self._seats.ask_json(index, "/queue"), await self._seats.ask_json(index, "/history")
            except LostError:
                continue
            for prompt_id, told in (history or {}).items():
                if prompt_id not in self._register and self._ledger.history(prompt_id) is None:
                    self._sightings.keep(prompt_id, told, await self._seats.ask_json(index, f"/api/jobs/{prompt_id}"), seat.name)
            for item in [*(queue or {}).get("queue_running", ()), *(queue or {}).get("queue_pending", ())]:
                extra = item[3] or {}
                body = {
                    "number": item[0],
                    "prompt": item[2],
                    "prompt_id": item[1],
                    "extra_data": extra,
                    "client_id": extra.get("client_id"),
                }
                if item[1] not in self._register and seat.found is not None and self._ledger.history(item[1]) is None:
                    await self._adopt(item[1], body, index, seat.found.life, State.WAITING, 0, "")

    async def _adopt(self, prompt_id: str, body: dict[str, Any], index: int, life: str, state: State, runs: int, lost_with: str) -> None:
        client_id = body.get("client_id") or NOBODY
        known = Known(by_names(body.get("prompt")), 0.0, why_not="found there by a new door")
        placed = Placed(prompt_id, body, client_id, known, state, index, life, self._outlook.seconds, -1e9, None, runs, lost_with)
        self._register.add(placed)
        self._register.front = min(self._register.front, int(placed.number))
        if runs:
            self._register.turns.begins(placed.number)
        if index >= 0:
            await self._lines.reach(client_id, prompt_id, index)
