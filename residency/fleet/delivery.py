"""A prompt that is taken, and its way into a worker's queue or out of it.

    placing   the door is choosing a worker for it
    sending   its worker is chosen, where it counts from then on; it is on its way there, from another one's queue if it was in one
    doubted   it was sent, and nobody knows whether it has arrived: the worker's queue will tell
    waiting   it is in its worker's queue, whose pack reads ahead for it; another worker may get it yet
    running
    lost      its worker's server has ended: it is placed anew as soon as a worker takes it

A worker is sent one prompt at a time, in the order in which they were to be. So of all that are to go to a worker which has just fallen
silent one alone is doubted; the others have not been sent, and go elsewhere. While a prompt is placed or sent, its state is changed by
whoever does that, and by nobody else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .asking import Seats
from .ledger import Ledger
from .messages import Lines
from .outlook import Known
from .seats import Answer, LostError

TAKE_OUT_S = 5.0  # for an answer of the worker whose prompt is to go elsewhere
POLL_S = 0.02


class State(Enum):
    """One of the six that the first lines of this module describe."""

    PLACING = "placing"
    SENDING = "sending"
    DOUBTED = "doubted"
    WAITING = "waiting"
    RUNNING = "running"
    LOST = "lost"


@dataclass(slots=True, eq=False)
class Placed:
    """A prompt that was taken. `body` is what the client has sent; `worker` has it, and its server's `life`; `at_s` is when it got there.
    `goes_to` is the worker that it is sent to."""

    prompt_id: str
    body: dict[str, Any]
    client_id: str
    known: Known
    state: State = State.PLACING
    worker: int = -1
    life: str = ""
    expected_s: float = 0.0
    at_s: float = 0.0
    begun_s: float | None = None
    runs: int = 0  # how often it was begun
    lost_with: str = ""
    cancelled: bool = False
    fixed: bool = False  # its client has said when it is to run
    taken_s: float = 0.0
    overtaken: float = 0.0  # see `ahead.Queued`
    turn: float | None = None  # its number when it came, where it was brought forward since
    told: bool = False  # its client knows that it is begun once more
    goes_to: int = -1

    @property
    def on_its_way(self) -> bool:
        """Whether it is placed or sent at this moment."""
        return self.state in (State.PLACING, State.SENDING)

    @property
    def counts_at(self) -> int:
        """The worker whose time it takes."""
        return self.goes_to if self.state is State.SENDING else self.worker

    @property
    def number(self) -> float:
        """By which its worker has it in the queue."""
        number = self.body.get("number")
        return float(number) if isinstance(number, int | float) else 0.0

    @property
    def own_turn(self) -> float:
        """By which it is fair that it runs."""
        return self.number if self.turn is None else self.turn


class Delivery:
    """Of all workers, on one event loop."""

    def __init__(self, seats: Seats, ledger: Ledger, lines: Lines, clock: Callable[[], float]) -> None:
        self._seats, self._ledger, self._lines, self._clock = seats, ledger, lines, clock
        self._to_send: list[deque[Placed]] = [deque() for _ in range(len(seats))]

    async def send(self, placed: Placed) -> Answer | None:
        """Send it where it goes to. None: the worker has not got it, for sure; so it is, too, where the worker no longer answers or the
        prompt is cancelled before it is sent. An answer of status 200 leaves it waiting, or doubted; any other as it was."""
        index = placed.goes_to
        before = self._to_send[index]
        before.append(placed)
        try:
            await self._lines.reach(placed.client_id, placed.prompt_id, index)
            seat = self._seats[index]
            await until(lambda: before[0] is placed or placed.cancelled or not seat.answers)
            if placed.cancelled or not seat.answers or seat.found is None:
                return None
            placed.worker, placed.life = index, seat.found.life
            self._ledger.takes(placed.prompt_id, placed.body, seat.name, placed.life, placed.runs)
            answer = await self._seats.ask(index, "POST", "/prompt", placed.body)
        except LostError as error:
            if not error.delivered:
                return None
            placed.state, placed.at_s = State.DOUBTED, self._clock()
            return taken(placed.prompt_id, placed.number)
        finally:
            before.remove(placed)
        if answer.status == 200:
            placed.state, placed.at_s = State.WAITING, self._clock()
        return answer

    async def take_out(self, placed: Placed) -> bool:
        """Out of its worker's queue; whether it is certain that it has not begun there. Where it is not, the prompt waits, or is doubted:
        nobody can say of a worker that does not answer."""
        index = placed.worker
        try:
            await self._seats.ask(index, "POST", "/queue", {"delete": [placed.prompt_id]}, timeout_s=TAKE_OUT_S)
            queue = await self._seats.ask_json(index, "/queue", TAKE_OUT_S)
            history = await self._seats.ask_json(index, f"/history/{placed.prompt_id}", TAKE_OUT_S)
        except LostError:
            queue = history = None
        if queue is None or history is None:
            placed.state, placed.at_s = State.DOUBTED, self._clock()
            return False
        if placed.prompt_id in history or any(item[1] == placed.prompt_id for items in queue.values() for item in items):
            placed.state = State.WAITING  # it has begun: the next look tells
            return False
        return True


def taken(prompt_id: str, number: float) -> Answer:
    """As ComfyUI answers POST /prompt."""
    return Answer.of({"prompt_id": prompt_id, "number": number, "node_errors": {}})


async def until(true: Callable[[], bool]) -> None:
    """Wait until it is."""
    while not true():
        await asyncio.sleep(POLL_S)
