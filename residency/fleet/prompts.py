"""The life of a prompt at the door: it is written down, sent to a worker, moved while it waits, run once, and kept. Its states are those
of `delivery`.

    register     those that have not ended
    placing      the best worker that takes one gets it
    moving       one that waits is thought about again
    sightings    those that are seen on a worker
    lost         one whose server has ended is begun again
    recall       those that an earlier door has left

Clients' requests are done here.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

from ..units import shown
from .asking import Seats
from .choosing import Chooser
from .delivery import NOBODY, Delivery, Placed, State, taken, until
from .ledger import Ledger
from .lost import Lost
from .messages import Lines
from .moving import Moving
from .outlook import Known, by_names
from .placing import Placing
from .recall import Recall
from .register import Register
from .routing import NoWorkerError
from .seats import Answer, refusal
from .sightings import Sightings


class Prompts:
    """All that were taken, on one event loop. `Watch` calls the parts that serve no client's request."""

    def __init__(self, seats: Seats, ledger: Ledger, chooser: Chooser, clock: Callable[[], float]) -> None:
        self._seats, self._ledger, self._clock, outlook = seats, ledger, clock, chooser.outlook
        self.lines = Lines(seats, lambda *told: self.sightings.heard(*told), lambda: len(self.register))
        self.register = Register(ledger, self.lines, outlook, clock)
        self._delivery = Delivery(seats, ledger, self.lines, clock)
        self._placing = Placing(seats, self.register, chooser, self._delivery, clock)
        self.sightings = Sightings(seats, self.register, ledger, outlook, self._delivery, clock)
        self.moving = Moving(seats, self.register, chooser, self._placing, self._delivery, clock)
        self.lost = Lost(seats, self.register, ledger, self.lines, self._placing)
        self.recall = Recall(seats, self.register, ledger, self.lines, outlook, self.sightings)
        self._taking: set[asyncio.Task[Answer]] = set()

    async def take(self, body: Any) -> Answer:
        """The answer of the worker that was chosen. A prompt whose id is known was taken before, and is not run again."""
        if not isinstance(body, dict):
            return refusal(400, "the body must be a JSON object with a prompt")
        prompt_id = body.get("prompt_id") or str(uuid.uuid4())
        if not isinstance(prompt_id, str):
            return refusal(400, f"prompt_id is {shown(prompt_id)}; send a string, or leave it out")
        await until(lambda: not self.register.is_on_its_way(prompt_id))
        before = self.register.get(prompt_id)
        if before is not None or self._ledger.history(prompt_id) is not None:
            return taken(prompt_id, before.number if before is not None else 0.0)
        client_id = body.get("client_id")
        client_id = client_id if isinstance(client_id, str) and client_id else NOBODY
        body = {**body, "prompt_id": prompt_id, "client_id": client_id}
        if body.get("front") and "number" not in body:
            self.register.front -= 1
            body["number"] = self.register.front
        placed = Placed(prompt_id, body, client_id, Known(by_names(body.get("prompt")), 0.0))
        placed.fixed, placed.taken_s = "number" in body, self._clock()
        self.register.add(placed)
        taking = asyncio.create_task(self._take(placed))
        self._taking.add(taking)
        taking.add_done_callback(self._taking.discard)
        return await asyncio.shield(taking)  # who asked may go away meanwhile: what was begun is ended

    async def _take(self, placed: Placed) -> Answer:
        try:
            answer = await self._placing.place(placed)
        except NoWorkerError as error:
            answer = refusal(503, str(error))
        except Exception:
            self.register.forget(placed)
            raise
        if answer is None:
            self.register.forget(placed)
            return taken(placed.prompt_id, placed.number)
        if answer.status != 200:
            self.register.forget(placed)
        self.register.changed = True
        return answer

    async def cancel(self, prompt_ids: list[str] | None, path: str, body: Any) -> list[Answer | None]:
        """Take these (None: all) out of the queues, by the request that the client has made. Those on their way are waited for: no worker
        can take out a prompt that it has not got."""
        asked = [one for one in self.register if prompt_ids is None or one.prompt_id in prompt_ids]
        for placed in asked:
            if placed.state is State.RUNNING:
                continue
            placed.cancelled = True
            if placed.state is State.LOST:
                self.register.forget(placed)
            else:
                self._ledger.gives_back(placed.prompt_id)
        await until(lambda: not any(self.register.is_on_its_way(one.prompt_id) for one in asked))
        return await self._seats.ask_all("POST", path, body)

    async def close(self) -> None:
        """Stop; the next door takes up the prompts that are on their way."""
        for task in self._taking:
            task.cancel()
        await asyncio.gather(*self._taking, self._placing.close(), return_exceptions=True)
        await self._delivery.close()
        await self.lines.close()

    async def look_for(self, prompt_id: str) -> None:
        """Somebody asks for it: see whether it has ended."""
        placed = self.register.get(prompt_id)
        if placed is not None and placed.state in (State.WAITING, State.RUNNING):
            await self.sightings.settle(placed, left_queue=False)

    async def look_for_running(self) -> None:
        """Somebody asks for all that have ended: one that has ended a moment ago is among them."""
        await asyncio.gather(*(self.look_for(one.prompt_id) for one in list(self.register) if one.state is State.RUNNING))
