"""A prompt that is taken, and its way into a worker's queue or out of it.

    placing   the door is choosing a worker for it
    sending   its worker is chosen, where it counts from then on; it is on its way there, from another one's queue if it was in one
    doubted   it was sent, and nobody knows whether it has arrived: the worker's queue will tell, or its answer
    waiting   it is in its worker's queue, whose pack reads ahead for it; another worker may get it yet
    leaving   it was asked out of its worker's queue, which has not answered: that queue will tell
    running
    lost      its worker's server has ended: it is placed anew as soon as a worker takes it

A worker is sent one prompt at a time, in the order in which they were to be, and none while it owes an answer. So of all that are to go to
a worker which has just fallen silent one alone is doubted; the others have not been sent, and go elsewhere.

A server that was slow takes a prompt long after nobody waits for its answer. So the door waits on: the request stays open, and only its
answer, or the end of its server, says that a prompt which the queue does not show has not arrived. Where the connection itself has ended
the worker must have answered without the prompt for LATE_S; should it have the prompt even then (a stray), it is taken out there.

While a prompt is placed or sent, its state is changed by whoever does that, and by nobody else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .asking import Seats
from .ledger import Ledger
from .messages import Lines
from .outlook import Known
from .seats import HANG_S, Answer, LostError

ANSWER_S = 30.0  # a client waits so long for the worker's answer, and is then told that its prompt is taken
LATE_S = 30.0  # after its connection has ended, a request may be heard yet
TAKE_OUT_S = 5.0  # for an answer of the worker whose prompt is to go elsewhere
POLL_S = 0.02
NOBODY = "residency-door"  # the client of prompts that name none


class State(Enum):
    """One of the seven that the first lines of this module describe."""

    PLACING = "placing"
    SENDING = "sending"
    DOUBTED = "doubted"
    WAITING = "waiting"
    LEAVING = "leaving"
    RUNNING = "running"
    LOST = "lost"


@dataclass(slots=True, eq=False)
class Placed:
    """A prompt that was taken. `body` is the client's request, with ids and number filled in; `worker` has it, and its server's `life`;
    `at_s` is when it got there. `goes_to` is the worker that it is sent to."""

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
    moves: int = 0  # to another worker, while it waited
    better_at: int = -1  # the worker where the last look has found it much better off, as all looks since `better_s` have
    better_s: float = 0.0
    turn: float | None = None  # its number when it came, where it was brought forward since
    told: bool = False  # its client knows that it is begun once more
    goes_to: int = -1
    stall_s: float = 0.0  # of those expected, for loading
    sent: asyncio.Task[Answer | LostError] | None = None  # the request to its worker, where nobody has seen the answer
    missed_s: float | None = None  # when its worker was first seen without it, its connection having ended
    begins: bool = False  # its worker has said so before it has answered
    asked_out: bool = False  # of a queue that has not answered: it may be taken out there at any time

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

    async def close(self) -> None:
        """Wait for no answer any more."""
        owed = [request for index in range(len(self._seats)) for request in self._seats[index].owes]
        for request in owed:
            request.cancel()
        await asyncio.gather(*owed, return_exceptions=True)

    async def send(self, placed: Placed) -> Answer | None:
        """Send it where it goes to. None: the worker has not got it, for sure; so it is, too, where the worker no longer answers or the
        prompt is cancelled before it is sent. An answer of status 200 leaves it waiting, or doubted; any other as it was."""
        index = placed.goes_to
        before = self._to_send[index]
        before.append(placed)
        try:
            await self._lines.reach(placed.client_id, placed.prompt_id, index)
            seat = self._seats[index]
            await until(lambda: before[0] is placed or placed.cancelled or not seat.hears)
            if placed.cancelled or not seat.hears or seat.found is None:
                return None
            placed.worker, placed.life, placed.begins = index, seat.found.life, False
            self._ledger.takes(placed.prompt_id, placed.body, seat.name, placed.life, placed.runs)
            placed.sent, placed.missed_s = asyncio.create_task(self._ask(index, placed.body)), None
            try:
                await asyncio.wait({placed.sent}, timeout=ANSWER_S)
            finally:
                if not placed.sent.done():
                    seat.owes.add(placed.sent)
                    placed.sent.add_done_callback(seat.owes.discard)
        finally:
            before.remove(placed)
        answer = placed.sent.result() if placed.sent.done() else None
        if isinstance(answer, LostError) and not answer.delivered:
            return None
        if not isinstance(answer, Answer):
            placed.state, placed.at_s = State.DOUBTED, self._clock()
            return taken(placed.prompt_id, placed.number)
        if answer.status == 200:
            placed.state, placed.at_s = State.WAITING, self._clock()
        return answer

    async def _ask(self, index: int, body: dict[str, Any]) -> Answer | LostError:
        try:
            return await self._seats.ask(index, "POST", "/prompt", body, timeout_s=HANG_S)
        except LostError as error:
            return error

    def has_arrived(self, placed: Placed) -> bool | None:
        """Whether a doubted prompt has arrived, which its worker has just been seen without. True: it waits, or has ended since. None:
        nobody knows yet."""
        now_s = self._clock()
        if placed.sent is not None:
            if not placed.sent.done():
                return None
            answer, placed.sent = placed.sent.result(), None
            if isinstance(answer, Answer) and answer.status == 200:
                placed.state, placed.at_s = State.WAITING, now_s
                return True
            if isinstance(answer, Answer) or not answer.delivered:
                return False
        if placed.missed_s is None:
            placed.missed_s = now_s
        return None if now_s - placed.missed_s < LATE_S else False

    async def take_out(self, placed: Placed) -> bool:
        """Out of its worker's queue; whether it is certain that it has not begun there. Where it is not, the prompt waits, or is
        leaving: nobody can say of a worker that does not answer."""
        index = placed.worker
        try:
            await self._seats.ask(index, "POST", "/queue", {"delete": [placed.prompt_id]}, timeout_s=TAKE_OUT_S)
            queue = await self._seats.ask_json(index, "/queue", TAKE_OUT_S)
            history = await self._seats.ask_json(index, f"/history/{placed.prompt_id}", TAKE_OUT_S)
        except LostError:
            queue = history = None
        if queue is None or history is None:
            placed.state, placed.at_s, placed.asked_out = State.LEAVING, self._clock(), True
            return False
        if placed.prompt_id in history or any(item[1] == placed.prompt_id for items in queue.values() for item in items):
            placed.state = State.WAITING  # it has begun: the next look tells
            return False
        return True

    async def remove(self, index: int, prompt_id: str, *, runs: bool) -> None:
        """Take away from this worker a prompt that it should not have, whether it waits or runs there."""
        path, body = ("/interrupt", {"prompt_id": prompt_id}) if runs else ("/queue", {"delete": [prompt_id]})
        with suppress(LostError):  # it is seen again at the next look
            await self._seats.ask(index, "POST", path, body, timeout_s=TAKE_OUT_S)


def taken(prompt_id: str, number: float) -> Answer:
    """As ComfyUI answers POST /prompt."""
    return Answer.of({"prompt_id": prompt_id, "number": number, "node_errors": {}})


async def until(true: Callable[[], bool]) -> None:
    """Wait until it is."""
    while not true():
        await asyncio.sleep(POLL_S)
