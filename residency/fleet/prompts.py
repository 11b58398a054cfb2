"""The life of a prompt at the door: it is written down, sent to a worker, moved while it waits, run once, and kept. Its states are those
of `delivery`.

A choice is made, and counts, in one step between two awaits; nobody waits for what is asked of a worker but whose prompt it is. A client's
prompts are chosen for in the order in which they came.

A prompt that had begun is begun again once, under its id, and its client is told before (`residency.moved`); a second time it ends as
failed, so that a prompt which ends servers does not end all of them.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any
from weakref import WeakValueDictionary

from ..units import shown
from .ahead import Queued
from .asking import PATIENT_S, Seats
from .choosing import Chooser, is_much_less
from .delivery import TAKE_OUT_S, Delivery, Placed, State, taken, until
from .dispatch import dispatch, looked_at
from .ledger import Ledger
from .messages import Lines, named
from .outlook import Known, by_names, seconds_of
from .routing import Decision, NoWorkerError, Score, Turns
from .seats import Answer, LostError, lacks, refusal

log = logging.getLogger("residency.fleet")

MOST_RUNS = 2
NUMBER_STEP = 1e-3
LATE_S = 1.0  # between two looks at what waits behind a prompt that is late
RETHOUGHT = 32  # prompts that wait, at one look: the next ones first
SHOWN_ERRORS = 20  # predictions against truth
NOBODY = "residency-door"  # the client of prompts that name none


class Prompts:
    """All that were taken, on one event loop. `watch` calls what is not a client's."""

    def __init__(self, seats: Seats, ledger: Ledger, chooser: Chooser, clock: Callable[[], float]) -> None:
        self._seats, self._ledger, self._chooser, self._clock = seats, ledger, chooser, clock
        self._outlook = chooser.outlook
        self.lines = Lines(seats, self._heard, lambda: len(self._placed))
        self.errors: list[deque[tuple[float, float]]] = [deque(maxlen=SHOWN_ERRORS) for _ in range(len(seats))]
        self._placed: dict[str, Placed] = {}
        self._turns = Turns()
        self._front = 0
        self._delivery = Delivery(seats, ledger, self.lines, clock)
        self._in_order: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by client: one of its prompts is chosen for
        self._taking: set[asyncio.Task[Answer]] = set()
        self._moving: set[asyncio.Task[None]] = set()
        self.progressed_s = [-1e9] * len(seats)  # when what runs there has moved on last
        self._changed = False
        self._rethought_s = -1e9

    def __len__(self) -> int:
        return len(self._placed)

    def of_worker(self, index: int) -> list[Placed]:
        return [one for one in self._placed.values() if one.worker == index and one.state is not State.LOST]

    def lost(self) -> list[str]:
        """Those that no worker has now, and none can take."""
        return [one.prompt_id for one in self._placed.values() if one.state is State.LOST]

    def rethink_soon(self) -> None:
        """Something has changed that choosing rests on."""
        self._changed = True

    def get(self, prompt_id: str) -> Placed | None:
        """One that has not ended."""
        return self._placed.get(prompt_id)

    # --- from clients ---

    async def take(self, body: Any) -> Answer:
        """The answer of the worker that was chosen. A prompt whose id is known was taken before, and is not run again."""
        if not isinstance(body, dict):
            return refusal(400, "the body must be a JSON object with a prompt")
        prompt_id = body.get("prompt_id") or str(uuid.uuid4())
        if not isinstance(prompt_id, str):
            return refusal(400, f"prompt_id is {shown(prompt_id)}; send a string, or leave it out")
        await until(lambda: not self._is_on_its_way(prompt_id))
        before = self._placed.get(prompt_id)
        if before is not None or self._ledger.history(prompt_id) is not None:
            return taken(prompt_id, before.number if before is not None else 0.0)
        client_id = body.get("client_id")
        client_id = client_id if isinstance(client_id, str) and client_id else NOBODY
        body = {**body, "prompt_id": prompt_id, "client_id": client_id}
        if body.get("front") and "number" not in body:
            self._front -= 1
            body["number"] = self._front
        placed = Placed(prompt_id, body, client_id, Known(by_names(body.get("prompt")), 0.0))
        placed.fixed, placed.taken_s = "number" in body, self._clock()
        self._placed[prompt_id] = placed
        taking = asyncio.create_task(self._take(placed))
        self._taking.add(taking)
        taking.add_done_callback(self._taking.discard)
        return await asyncio.shield(taking)  # who asked may go away meanwhile: what was begun is ended

    async def _take(self, placed: Placed) -> Answer:
        try:
            answer = await self._place(placed)
        except NoWorkerError as error:
            answer = refusal(503, str(error))
        except Exception:
            self._forget(placed)
            raise
        if answer is None:
            self._forget(placed)
            return taken(placed.prompt_id, placed.number)
        if answer.status != 200:
            self._forget(placed)
        self._changed = True
        return answer

    async def cancel(self, prompt_ids: list[str] | None, path: str, body: Any) -> list[Answer | None]:
        """Take these (None: all) out of the queues, by the request that the client has made. What is on its way is waited for: no worker
        can take out what it has not got."""
        asked = [one for one in self._placed.values() if prompt_ids is None or one.prompt_id in prompt_ids]
        for placed in asked:
            if placed.state is State.LOST:
                self._forget(placed)
            elif placed.state is not State.RUNNING:
                placed.cancelled = True
                self._ledger.gives_back(placed.prompt_id)
        await until(lambda: not any(self._is_on_its_way(one.prompt_id) for one in asked))
        return await self._seats.ask_all("POST", path, body)

    def _is_on_its_way(self, prompt_id: str) -> bool:
        placed = self._placed.get(prompt_id)
        return placed is not None and placed.on_its_way

    async def close(self) -> None:
        """Leave what is on its way to the next door."""
        for task in (tasks := [*self._taking, *self._moving]):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._delivery.close()
        await self.lines.close()

    async def look_for(self, prompt_id: str) -> None:
        """Somebody asks for it: see whether it has ended."""
        placed = self._placed.get(prompt_id)
        if placed is not None and placed.state in (State.WAITING, State.RUNNING):
            await self.settle(placed, left_queue=False)

    async def look_for_running(self) -> None:
        """Somebody asks for all that have ended: what has ended a moment ago is among them."""
        await asyncio.gather(*(self.look_for(one.prompt_id) for one in list(self._placed.values()) if one.state is State.RUNNING))

    # --- choosing ---

    async def _place(self, placed: Placed) -> Answer | None:
        """Send it to the best worker that takes it. None: it was cancelled before it was sent. Raises NoWorkerError."""
        placed.state = State.PLACING
        without: set[int] = set()
        refused: Answer | None = None
        said: list[str] = []
        while True:
            async with self._in_order.setdefault(placed.client_id, asyncio.Lock()):
                placed.known = await self._outlook.know(placed.body.get("prompt"), frozenset(without))
                await self._outlook.listen()
                if placed.cancelled:
                    return None
                try:
                    decision = self._chooser.decide(placed.known, self._queued(placed), self._others(placed), frozenset(without))
                except NoWorkerError:
                    if refused is None:
                        raise
                    return refused
                self._reserve(placed, decision)
            if not said and placed.known.why_not:
                said.append(placed.known.why_not)
            name = self._seats[decision.index].name
            answer = await self._send(placed, decision)
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

    def _queued(self, placed: Placed) -> Queued:
        now_s, known = self._clock(), placed.known
        number = placed.own_turn if "number" in placed.body else self._turns.next(placed.client_id)
        left_s = None
        if placed.begun_s is not None:
            left_s = self._outlook.router.workers[placed.worker].left_s(placed.expected_s, now_s - placed.begun_s)
        seconds = known.compute_s or self._outlook.seconds
        waited_s, worker = now_s - placed.taken_s, placed.counts_at
        return Queued(
            placed.prompt_id, worker, placed.client_id, known.job, number, seconds, waited_s, left_s, placed.fixed, placed.overtaken
        )

    def _others(self, placed: Placed) -> list[Queued]:
        """All that have a worker."""
        away = (State.LOST, State.PLACING)
        return [self._queued(one) for one in self._placed.values() if one is not placed and one.state not in away]

    def _reserve(self, placed: Placed, decision: Decision) -> None:
        """It counts there from now on."""
        known = placed.known
        self._outlook.router.demand.asked(known.job.keys, self._clock())
        placed.expected_s = self._chooser.expected_s(known, decision)
        if "number" not in placed.body:  # the client has no wish of its own
            placed.body["number"] = self._turns.of(placed.client_id, placed.expected_s)
        placed.state, placed.goes_to, placed.begun_s = State.SENDING, decision.index, None

    async def _send(self, placed: Placed, decision: Decision) -> Answer | None:
        """See `Delivery.send`."""
        answer = await self._delivery.send(placed)
        if answer is not None and answer.status == 200:
            self._outlook.router.workers[decision.index].last_model = placed.known.job.model
        return answer

    # --- while it waits ---

    async def rethink(self) -> None:
        """Give a prompt that waits to another worker where that has become clearly better: when something has happened, and while a prompt
        is late."""
        now_s = self._clock()
        if not self._changed and (now_s < self._rethought_s + LATE_S or not self._waits_for_late()):
            return
        self._changed, self._rethought_s = False, now_s
        waiting = sorted((one for one in self._placed.values() if one.state is State.WAITING), key=lambda one: one.number)
        if not self._chooser.moves or not waiting:
            return
        await self._outlook.listen()
        for index in self._free():
            self._give_work(index)
        await self._moved()
        for placed in waiting[:RETHOUGHT]:
            if placed.state is not State.WAITING or placed.cancelled or self._placed.get(placed.prompt_id) is not placed:
                continue
            try:
                decision = self._chooser.decide(placed.known, self._queued(placed), self._others(placed))
            except NoWorkerError:
                continue
            if self._chooser.is_worth_moving(placed.known, placed.worker, decision):
                self._move(placed, decision)
        await self._moved()
        for index in range(len(self._seats)):
            self._bring_forward(index)
        await self._moved()

    def _begin(self, moving: Coroutine[Any, Any, None]) -> None:
        self._moving.add(asyncio.create_task(moving))

    async def _moved(self) -> None:
        """Wait for whatever moves, but not long: a worker that does not answer keeps nobody but what is moved from or to it."""
        if self._moving:
            done, self._moving = await asyncio.wait(self._moving, timeout=PATIENT_S)
            for task in done:
                task.result()

    def _waits_for_late(self) -> bool:
        """Whether a prompt waits behind one that should have ended: that wait grows, and nothing else need happen."""
        running = {one.worker for one in self._placed.values() if self._is_late(one)}
        return any(one.state is State.WAITING and one.worker in running for one in self._placed.values())

    def _is_late(self, placed: Placed) -> bool:
        margin = self._outlook.router.workers[placed.worker].margin
        return placed.begun_s is not None and self._clock() - placed.begun_s > placed.expected_s * margin

    def _free(self) -> set[int]:
        """Workers that have nothing to do and could."""
        busy = {index for one in self._placed.values() if one.state is not State.LOST for index in (one.worker, one.counts_at)}
        return {index for index in range(len(self._seats)) if self._seats[index].takes_prompts and index not in busy}

    def _give_work(self, index: int) -> None:
        """Move here what this worker, which has nothing to do, should begin of all that waits behind something elsewhere."""
        running = [self._queued(one) for one in self._placed.values() if one.state is State.RUNNING]
        begins = {one.worker for one in running}
        waiting = [self._queued(one) for one in self._placed.values() if one.state is State.WAITING and not one.cancelled]
        waiting = [one for one in waiting if one.worker in begins]
        if index not in self._free() or not waiting:
            return
        found: dict[str, list[Score | None]] = {}

        def scores(one: Queued) -> list[Score | None]:
            """Here, and where it is."""
            if one.name not in found:
                others = [*running, *(other for other in waiting if other.worker == one.worker and other is not one)]
                found[one.name] = self._chooser.scores((index, one.worker), self._placed[one.name].known, one, others)
            return found[one.name]

        def cost_s(one: Queued) -> float:
            here = scores(one)[0]
            return math.inf if here is None else here.total_s - here.compute_s

        def stays_s(one: Queued) -> tuple[float, float]:
            there = scores(one)[1]
            return (math.inf, 0.0) if there is None else (there.wait_s, there.total_s - there.compute_s - there.wait_s)

        one = dispatch(index, looked_at(index, waiting), cost_s, stays_s)
        if one is None:
            return
        here, there = scores(one)
        if here is not None and is_much_less(here, there):
            decision = Decision(index, here, f"{here.told()}; it has nothing to do", () if there is None else (there,))
            self._move(self._placed[one.name], decision)

    def _bring_forward(self, index: int) -> None:
        """Make what should run next on this worker the first of its queue."""
        mine = [one for one in self.of_worker(index) if one.state in (State.WAITING, State.RUNNING)]
        waiting = sorted((one for one in mine if one.state is State.WAITING), key=lambda one: one.number)
        order = [one.name for one in self._outlook.order(index, [self._queued(one) for one in mine]) if one.left_s is None]
        if len(waiting) < 2 or order[0] == waiting[0].prompt_id or not self._seats[index].hears:
            return
        placed = self._placed[order[0]]
        placed.state, placed.goes_to = State.SENDING, index
        self._begin(self._put_first(placed, waiting[0].number - NUMBER_STEP))

    async def _put_first(self, placed: Placed, number: float) -> None:
        if await self._delivery.take_out(placed):
            placed.turn = placed.own_turn
            placed.body["number"] = number
            self._has_arrived(placed, await self._delivery.send(placed))

    def _move(self, placed: Placed, decision: Decision) -> None:
        """Into another worker's queue, where its own answers."""
        if self._seats[placed.worker].answers:
            self._reserve(placed, decision)
            self._begin(self._takes_over(placed, decision))

    async def _takes_over(self, placed: Placed, decision: Decision) -> None:
        before = self._seats[placed.worker].name
        if await self._delivery.take_out(placed) and self._has_arrived(placed, await self._send(placed, decision)):
            self._chooser.note(placed.prompt_id, decision, 1, [f"moved from {before} while it waited"])

    def _has_arrived(self, placed: Placed, answer: Answer | None) -> bool:
        """Whether the worker has taken what was taken out of a queue. Where it has not, the prompt is lost, and placed anew."""
        if answer is not None and answer.status == 200:
            return True
        if placed.cancelled:
            self._forget(placed)
        else:
            placed.state = State.LOST
        return False

    # --- what the watch has seen ---

    def runs(self, placed: Placed) -> None:
        """It is what its worker runs."""
        if placed.state is not State.RUNNING:
            placed.state, placed.begun_s, placed.cancelled = State.RUNNING, self._clock(), False
            placed.runs += 1
            self._turns.begins(placed.own_turn)
            waiting = [one for one in self._placed.values() if one.state not in (State.RUNNING, State.LOST)]
            for one in waiting:
                if one.own_turn < placed.own_turn:
                    one.overtaken += 1 / len(self._seats)
            if not waiting:
                self._turns.rest()
            self._ledger.takes(placed.prompt_id, placed.body, self._seats[placed.worker].name, placed.life, placed.runs)
            self._changed = True

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
        placed.state, placed.lost_with, placed.told = State.LOST, self._seats[placed.worker].name, False
        log.warning("prompt %s was lost with %s", placed.prompt_id, placed.lost_with)

    async def place_lost(self) -> None:
        """Give what was lost to other workers."""
        for placed in [one for one in self._placed.values() if one.state is State.LOST]:
            self._begin(self._place_again(placed))
        await self._moved()

    def _heard(self, index: int, kind: str, prompt_id: str | None) -> bool:
        self.progressed_s[index] = self._clock()
        placed = self._placed.get(prompt_id) if prompt_id is not None else None
        if placed is None or placed.state is State.LOST:
            return True
        if kind == "execution_start" and placed.worker == index and placed.state in (State.WAITING, State.DOUBTED, State.LEAVING):
            self.runs(placed)  # its client has heard it too: whatever comes now has to be told
        return placed.worker in (index, -1)

    async def _place_again(self, placed: Placed) -> None:
        if self._placed.get(placed.prompt_id) is not placed or placed.state is not State.LOST:
            return
        if placed.cancelled:
            self._forget(placed)
            return
        if placed.runs >= MOST_RUNS:
            self._give_up(placed, f"its worker was lost {placed.runs} times while it ran, with {placed.lost_with} last")
            return
        if placed.runs and not placed.told:
            placed.told = True
            about = {"prompt_id": placed.prompt_id, "from": placed.lost_with, "runs": placed.runs + 1}
            self.lines.tell(placed.client_id, "residency.moved", about)  # before any worker can begin it
        try:
            answer = await self._place(placed)
        except NoWorkerError:
            placed.state = State.LOST  # tried again at the next look
            return
        except Exception:
            placed.state = State.LOST
            raise
        if answer is None:
            self._forget(placed)
        elif answer.status != 200 and lacks(answer) and any(not self._seats[index].answers for index in range(len(self._seats))):
            placed.state = State.LOST  # who is not there now may have what these lack
        elif answer.status != 200:
            self._give_up(placed, f"{placed.lost_with} was lost, and the others refuse it: {answer.body[:500].decode(errors='replace')}")

    async def settle(self, placed: Placed, *, left_queue: bool) -> None:
        """Keep what a prompt that has ended has given, and learn from its seconds. One that has left its worker's queue and has no history
        has never arrived there, or was taken out."""
        index = placed.worker
        try:
            told = await self._seats.ask_json(index, f"/history/{placed.prompt_id}")
            history = (told or {}).get(placed.prompt_id)
            job = await self._seats.ask_json(index, f"/api/jobs/{placed.prompt_id}") if history is not None else None
        except LostError:
            return
        if self._placed.get(placed.prompt_id) is not placed or placed.worker != index:
            return
        if history is None:
            if left_queue:
                self._misses(placed)
            return
        self.keep(placed.prompt_id, history, job, self._seats[index].name)
        seconds = seconds_of(history)
        if seconds is not None and placed.known.compute_s:
            self.errors[index].append((placed.expected_s, seconds))
            self._outlook.ended(index, placed.expected_s, seconds)
        elif seconds is not None:
            self._outlook.seen(seconds)
        self._forget(placed)

    def _misses(self, placed: Placed) -> None:
        """Its worker has it neither in its queue nor in its history."""
        if placed.state is State.DOUBTED and self._delivery.has_arrived(placed) is not False:
            return
        not_run = placed.state in (State.DOUBTED, State.LEAVING) or (placed.state is State.WAITING and placed.asked_out)
        if not_run and not placed.cancelled:
            placed.state = State.LOST
        else:
            self._forget(placed)

    async def finds(self, index: int, prompt_id: str, asked_s: float, *, runs: bool, times: int) -> None:
        """A worker had this prompt, so many times, when it was asked for its queue at `asked_s`. One that is not placed there is a stray:
        the worker has taken it when nobody expected that any more. It is run there where it has begun there alone, and taken out
        otherwise."""
        placed = self._placed.get(prompt_id)
        if placed is None:
            if self._ledger.history(prompt_id) is not None:
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

    def _give_up(self, placed: Placed, reason: str) -> None:
        log.warning("prompt %s has failed: %s", placed.prompt_id, reason)
        error = {"prompt_id": placed.prompt_id, "node_id": "", "node_type": "", "executed": [], "exception_message": reason,
                 "exception_type": "WorkerLost", "traceback": [], "current_inputs": {}, "current_outputs": [],
                 "timestamp": int(time.time() * 1000)}  # fmt: skip
        status = {"status_str": "error", "completed": False, "messages": [["execution_error", error]]}
        extra = {**(placed.body.get("extra_data") or {}), "client_id": placed.client_id}
        asked: list[Any] = [placed.number, placed.prompt_id, placed.body.get("prompt"), extra, []]
        self._ledger.ends(placed.prompt_id, {"prompt": asked, "outputs": {}, "status": status, "meta": {}}, None)
        self.lines.tell(placed.client_id, "execution_error", error)
        self._forget(placed)

    def _forget(self, placed: Placed) -> None:
        self._placed.pop(placed.prompt_id, None)
        self._ledger.gives_back(placed.prompt_id)
        self.lines.end(placed.client_id, placed.prompt_id)
        self._changed = True

    # --- a door that is started anew ---

    async def recall(self) -> None:
        """Take up again what was taken before, and what the workers run and have run that nobody has written down."""
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
                if prompt_id not in self._placed and self._ledger.history(prompt_id) is None:
                    self.keep(prompt_id, told, await self._seats.ask_json(index, f"/api/jobs/{prompt_id}"), seat.name)
            for item in [*(queue or {}).get("queue_running", ()), *(queue or {}).get("queue_pending", ())]:
                extra = item[3] or {}
                body = {
                    "number": item[0],
                    "prompt": item[2],
                    "prompt_id": item[1],
                    "extra_data": extra,
                    "client_id": extra.get("client_id"),
                }
                if item[1] not in self._placed and seat.found is not None and self._ledger.history(item[1]) is None:
                    await self._adopt(item[1], body, index, seat.found.life, State.WAITING, 0, "")

    async def _adopt(self, prompt_id: str, body: dict[str, Any], index: int, life: str, state: State, runs: int, lost_with: str) -> None:
        client_id = body.get("client_id") or NOBODY
        known = Known(by_names(body.get("prompt")), 0.0, why_not="found there by a new door")
        placed = Placed(prompt_id, body, client_id, known, state, index, life, self._outlook.seconds, -1e9, None, runs, lost_with)
        self._placed[prompt_id] = placed
        self._front = min(self._front, int(placed.number))
        if runs:
            self._turns.begins(placed.number)
        if index >= 0:
            await self.lines.reach(client_id, prompt_id, index)
