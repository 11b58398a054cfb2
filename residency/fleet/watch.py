"""The door looks at its workers: which are up, which hang, and which prompts run or have ended there.

A server that is silent or makes no progress keeps its prompts, for it may still be at them, until it has been ended; one that has ended
has lost them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

from .asking import Seats
from .delivery import Placed
from .prompts import Prompts
from .seats import EndedError, LostError

log = logging.getLogger("residency.fleet")

LOOK_TIMEOUT_S = 5.0
END_AGAIN_S = 15.0  # a server that was to be ended and still is there


class Watch:
    """Without progress for `hang_s`, a worker's server is ended."""

    def __init__(self, seats: Seats, prompts: Prompts, clock: Callable[[], float], hang_s: float) -> None:
        self._seats, self._prompts, self._clock, self._hang_s = seats, prompts, clock, hang_s
        self._register, self._sightings = prompts.register, prompts.sightings
        self._ended_s = [-1e9] * len(seats)

    async def begin(self) -> None:
        """Find every worker, and the prompts that an earlier door has left."""
        for index in range(len(self._seats)):
            await self._miss(index, self._clock())
        await self._prompts.recall.take_up()
        await self.look()

    async def look(self) -> None:
        """Find each worker, the prompts that have ended, and those that have to run elsewhere."""
        before = len(self._register)
        await asyncio.gather(*map(self._look_at, range(len(self._seats))))
        await self._prompts.lost.place()
        await self._prompts.moving.rethink()
        if len(self._register) != before:  # the workers' own word came before what they meant was known here
            self._prompts.lines.tell_status()
        await self._prompts.lines.close_idle(self._clock())

    async def _look_at(self, index: int) -> None:
        asked_s = self._clock()
        try:
            queue = await self._seats.ask_json(index, "/queue", LOOK_TIMEOUT_S)
        except LostError:
            queue = None
        if queue is None:
            await self._miss(index, asked_s)
            return
        self._seats[index].silent_since_s = None
        running = {item[1] for item in queue["queue_running"]}
        pending = {item[1] for item in queue["queue_pending"]}
        for placed in self._register.of_worker(index):
            if placed.on_its_way or placed.at_s >= asked_s:
                continue
            if placed.prompt_id in running:
                self._sightings.runs(placed)
                await self._end_if_it_hangs(placed)
            elif placed.prompt_id in pending:
                await self._sightings.waits(placed)
            else:
                await self._sightings.settle(placed, left_queue=True)
        has = Counter(item[1] for items in queue.values() for item in items)
        for prompt_id, times in has.items():
            await self._sightings.finds(index, prompt_id, asked_s, runs=prompt_id in running, times=times)

    async def _miss(self, index: int, now_s: float) -> None:
        """The worker does not answer. Its server's prompts are lost once that has ended; one only silent is ended after `hang_s`."""
        seat = self._seats[index]
        try:
            found = await seat.find()
            seat.failure = "" if found is not None and found.url is not None else seat.failure
        except EndedError as error:
            found, seat.failure = None, str(error) or seat.failure
        except LostError:
            found = seat.found
        if found != seat.found:
            seat.is_now(found)
            self._register.changed = True
        elif seat.url is not None:
            seat.silent_since_s = now_s if seat.silent_since_s is None else seat.silent_since_s
            if now_s - seat.silent_since_s > self._hang_s:
                await self._end_server(index, f"it has not answered for {now_s - seat.silent_since_s:.0f} s")
        for placed in self._register.of_worker(index):
            if not placed.on_its_way and (found is None or placed.life != found.life):
                self._sightings.loses(placed)

    async def _end_if_it_hangs(self, placed: Placed) -> None:
        since_s = self._clock() - max(placed.begun_s or 0.0, self._sightings.progressed_s[placed.worker])
        if since_s > self._hang_s:
            await self._end_server(placed.worker, f"prompt {placed.prompt_id} has made no progress for {since_s:.0f} s")

    async def _end_server(self, index: int, reason: str) -> None:
        now_s, seat = self._clock(), self._seats[index]
        if now_s - self._ended_s[index] > END_AGAIN_S:
            self._ended_s[index] = now_s
            seat.ending = reason
            log.warning("%s is ended: %s", seat.name, reason)
            await seat.end()
