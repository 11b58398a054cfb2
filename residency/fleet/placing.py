"""A prompt is given to the best worker that takes it.

A choice is made, and counts, in one step between two awaits; a question to a worker delays only the client whose prompt it is about. A
client's prompts are chosen for in the order in which they came.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from weakref import WeakValueDictionary

from .asking import PATIENT_S, Seats
from .choosing import Chooser
from .delivery import Delivery, Placed, State
from .register import Register
from .routing import Decision, NoWorkerError
from .seats import Answer, lacks


class Placing:
    """Of all prompts, on one event loop."""

    def __init__(self, seats: Seats, register: Register, chooser: Chooser, delivery: Delivery, clock: Callable[[], float]) -> None:
        self._seats, self._register, self._chooser, self._delivery, self._clock = seats, register, chooser, delivery, clock
        self._outlook = chooser.outlook
        self._in_order: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by client: one of its prompts is chosen for
        self._begun: set[asyncio.Task[None]] = set()

    async def place(self, placed: Placed) -> Answer | None:
        """Send it to the best worker that takes it. None: it was cancelled before it was sent. Raises NoWorkerError."""
        placed.state = State.PLACING
        without: set[int] = set()
        refused: Answer | None = None
        said: list[str] = []
        register = self._register
        while True:
            async with self._in_order.setdefault(placed.client_id, asyncio.Lock()):
                placed.known = await self._outlook.know(placed.body.get("prompt"), frozenset(without))
                await self._outlook.listen()
                if placed.cancelled:
                    return None
                try:
                    decision = self._chooser.decide(placed.known, register.queued(placed), register.others(placed), frozenset(without))
                except NoWorkerError:
                    if refused is None:
                        raise
                    return refused
                if not without:
                    self._outlook.router.demand.asked(placed.known.job.keys, self._clock())
                self.reserve(placed, decision)
            if not said and placed.known.why_not:
                said.append(placed.known.why_not)
            name = self._seats[decision.index].name
            answer = await self.send(placed, decision)
            if answer is not None and answer.status == 200:
                self._chooser.note(placed.prompt_id, decision, placed.runs + 1, said)
                return answer
            placed.state = State.PLACING
            without.add(decision.index)
            if answer is None:
                said.append(f"{name} did not answer")
                continue
            missing = lacks(answer)
            if not missing:
                return answer
            self._seats[decision.index].lacks.update(dict.fromkeys(missing, self._clock()))
            said.append(f"{name} lacks {', '.join(sorted(missing))}")
            refused = refused or answer

    def reserve(self, placed: Placed, decision: Decision) -> None:
        """It counts there from now on."""
        placed.expected_s, placed.stall_s = self._chooser.expected_s(placed.known, decision)
        if "number" not in placed.body:  # the client has no wish of its own
            placed.body["number"] = self._register.turns.of(placed.client_id, placed.expected_s)
        placed.state, placed.goes_to, placed.begun_s = State.SENDING, decision.index, None

    async def send(self, placed: Placed, decision: Decision) -> Answer | None:
        """See `Delivery.send`."""
        answer = await self._delivery.send(placed)
        if answer is not None and answer.status == 200:
            self._outlook.router.workers[decision.index].last_model = placed.known.job.model
        return answer

    def begin(self, moving: Coroutine[Any, Any, None]) -> None:
        """Move a prompt, beside others."""
        self._begun.add(asyncio.create_task(moving))

    async def wait(self) -> None:
        """Wait for the prompts that move, but not long: a worker that does not answer delays only those moved from or to it."""
        if self._begun:
            done, self._begun = await asyncio.wait(self._begun, timeout=PATIENT_S)
            for task in done:
                task.result()

    async def close(self) -> None:
        """Leave the prompts that are being moved where they are."""
        for task in (tasks := list(self._begun)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
