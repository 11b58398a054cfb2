"""A prompt whose worker's server has ended is begun again once, under its id, and its client is told before (`residency.moved`); a second
time it ends as failed, so that a prompt which ends servers does not end all of them."""

from __future__ import annotations

import logging
import time
from typing import Any

from .asking import Seats
from .delivery import Placed, State
from .ledger import Ledger
from .messages import Lines
from .placing import Placing
from .register import Register
from .routing import NoWorkerError
from .seats import lacks

log = logging.getLogger("residency.fleet")

MOST_RUNS = 2


class Lost:
    """The prompts that no worker has, on one event loop."""

    def __init__(self, seats: Seats, register: Register, ledger: Ledger, lines: Lines, placing: Placing) -> None:
        self._seats, self._register, self._ledger, self._lines, self._placing = seats, register, ledger, lines, placing

    async def place(self) -> None:
        """Give lost prompts to workers again."""
        for placed in [one for one in self._register if one.state is State.LOST]:
            self._placing.begin(self._place_again(placed))
        await self._placing.wait()

    async def _place_again(self, placed: Placed) -> None:
        if not self._register.has(placed) or placed.state is not State.LOST:
            return
        if placed.cancelled:
            self._register.forget(placed)
            return
        if placed.runs >= MOST_RUNS:
            self._give_up(placed, f"its worker was lost {placed.runs} times while it ran, with {placed.lost_with} last")
            return
        if placed.runs and not placed.told:
            placed.told = True
            about = {"prompt_id": placed.prompt_id, "from": placed.lost_with, "runs": placed.runs + 1}
            self._lines.tell(placed.client_id, "residency.moved", about)  # before any worker can begin it
        try:
            answer = await self._placing.place(placed)
        except NoWorkerError:
            placed.state = State.LOST  # tried again at the next look
            return
        except Exception:
            placed.state = State.LOST
            raise
        if answer is None:
            self._register.forget(placed)
        elif answer.status != 200 and lacks(answer) and any(not self._seats[index].answers for index in range(len(self._seats))):
            placed.state = State.LOST  # who is not there now may have what these lack
        elif answer.status != 200:
            self._give_up(placed, f"{placed.lost_with} was lost, and the others refuse it: {answer.body[:500].decode(errors='replace')}")

    def _give_up(self, placed: Placed, reason: str) -> None:
        log.warning("prompt %s has failed: %s", placed.prompt_id, reason)
        error = {"prompt_id": placed.prompt_id, "node_id": "", "node_type": "", "executed": [], "exception_message": reason,
                 "exception_type": "WorkerLost", "traceback": [], "current_inputs": {}, "current_outputs": [],
                 "timestamp": int(time.time() * 1000)}  # fmt: skip
        status = {"status_str": "error", "completed": False, "messages": [["execution_error", error]]}
        extra = {**(placed.body.get("extra_data") or {}), "client_id": placed.client_id}
        asked: list[Any] = [placed.number, placed.prompt_id, placed.body.get("prompt"), extra, []]
        self._ledger.ends(placed.prompt_id, {"prompt": asked, "outputs": {}, "status": status, "meta": {}}, None)
        self._lines.tell(placed.client_id, "execution_error", error)
        self._register.forget(placed)
