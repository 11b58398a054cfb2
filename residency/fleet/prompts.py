"""The life of a prompt at the door: it is written down, sent to a worker, moved while it waits, run once, and kept.

    placing   the door is choosing a worker for it
    doubted   it was sent, and nobody knows whether it has arrived: the worker's queue will tell
    waiting   it is in its worker's queue, whose pack reads ahead for it; another worker may get it yet
    running
    lost      its worker's server has ended: it is placed anew as soon as a worker takes it

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
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ..units import shown
from .ahead import Queued
from .asking import Seats
from .choosing import Chooser, is_much_less
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
TAKE_OUT_S = 5.0  # for an answer of the worker whose prompt is to go elsewhere: no other prompt is placed meanwhile
RETHOUGHT = 32  # prompts that wait, at one look: the next ones first
SHOWN_ERRORS = 20  # predictions against truth
NOBODY = "residency-door"  # the client of prompts that name none


class State(Enum):
    """One of the five that the first lines of this module describe."""

    PLACING = "placing"
    DOUBTED = "doubted"
    WAITING = "waiting"
    RUNNING = "running"
    LOST = "lost"


@dataclass(slots=True)
class Placed:
    """A prompt that was taken. `body` is what the client has sent, `life` that of its worker's server, `at_s` when it got there."""

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

    @property
    def number(self) -> float:
        """By which its worker has it in the queue."""
        number = self.body.get("number")
        return float(number) if isinstance(number, int | float) else 0.0

    @property
    def own_turn(self) -> float:
        """By which it is fair that it runs."""
        return self.number if self.turn is None else self.turn


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
        self._deciding = asyncio.Lock()
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
        async with self._deciding:
            before = self._placed.get(prompt_id)
            if before is not None or self._ledger.history(prompt_id) is not None:
                return _taken(prompt_id, before.number if before is not None else 0.0)
            client_id = body.get("client_id")
            client_id = client_id if isinstance(client_id, str) and client_id else NOBODY
            body = {**body, "prompt_id": prompt_id, "client_id": client_id}
            if body.get("front") and "number" not in body:
                self._front -= 1
                body["number"] = self._front
            placed = Placed(prompt_id, body, client_id, await self._outlook.know(body.get("prompt")))
            placed.fixed, placed.taken_s = "number" in body, self._clock()
            self._placed[prompt_id] = placed
            try:
                answer = await self._place(placed)
            except NoWorkerError as error:
                answer = refusal(503, str(error))
            if answer.status != 200:
                self._forget(placed)
            self._changed = True
            return answer

    async def cancel(self, prompt_ids: list[str] | None, path: str, body: Any) -> list[Answer | None]:
        """Take these (None: all) out of the queues, by the request that the client has made."""
        async with self._deciding:
            for placed in list(self._placed.values()):
                if prompt_ids is not None and placed.prompt_id not in prompt_ids:
                    continue
                if placed.state is State.LOST:
                    self._forget(placed)
                elif placed.state is not State.RUNNING:
                    placed.cancelled = True
            return await self._seats.ask_all("POST", path, body)

    async def look_for(self, prompt_id: str) -> None:
        """Somebody asks for it: see whether it has ended."""
        placed = self._placed.get(prompt_id)
        if placed is not None and placed.state in (State.WAITING, State.RUNNING):
            await self.settle(placed, left_queue=False)

    async def look_for_running(self) -> None:
        """Somebody asks for all that have ended: what has ended a moment ago is among them."""
        await asyncio.gather(*(self.look_for(one.prompt_id) for one in list(self._placed.values()) if one.state is State.RUNNING))

    # --- choosing ---

    async def _place(self, placed: Placed) -> Answer:
        """Send it to the best worker that takes it. Raises NoWorkerError."""
        placed.state = State.PLACING
        without: set[int] = set()
        refused: Answer | None = None
        said = [placed.known.why_not] if placed.known.why_not else []
        while True:
            await self._outlook.listen()
            try:
                decision = self._chooser.decide(placed.known, self._queued(placed), self._others(placed), frozenset(without))
            except NoWorkerError:
                if refused is None:
                    raise
                return refused
            name = self._seats[decision.index].name
            answer = await self._send(placed, decision)
            if answer is not None and answer.status == 200:
                self._chooser.note(placed.prompt_id, decision, placed.runs + 1, said)
                return answer
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
            placed.known = await self._outlook.know(placed.body.get("prompt"), frozenset(without))

    def _queued(self, placed: Placed) -> Queued:
        now_s, known = self._clock(), placed.known
        number = placed.own_turn if "number" in placed.body else self._turns.next(placed.client_id)
        left_s = None
        if placed.begun_s is not None:
            left_s = self._outlook.router.workers[placed.worker].left_s(placed.expected_s, now_s - placed.begun_s)
        seconds = known.compute_s or self._outlook.seconds
        waited_s = now_s - placed.taken_s
        return Queued(
            placed.prompt_id, placed.worker, placed.client_id, known.job, number, seconds, waited_s, left_s, placed.fixed, placed.overtaken
        )

    def _others(self, placed: Placed) -> list[Queued]:
        """All that have a worker."""
        away = (State.LOST, State.PLACING)
        return [self._queued(one) for one in self._placed.values() if one is not placed and one.state not in away]

    async def _send(self, placed: Placed, decision: Decision) -> Answer | None:
        """None: the worker has not got it, for sure."""
        worker, known = self._outlook.router.workers[decision.index], placed.known
        self._outlook.router.demand.asked(known.job.keys, self._clock())
        placed.expected_s = self._chooser.expected_s(known, decision)
        if "number" not in placed.body:  # the client has no wish of its own
            placed.body["number"] = self._turns.of(placed.client_id, placed.expected_s)
        answer = await self._sends(placed, decision.index)
        if answer is not None and answer.status == 200:
            worker.last_model = known.job.model
        return answer

    async def _sends(self, placed: Placed, index: int) -> Answer | None:
        seat = self._seats[index]
        if seat.found is None:
            return None
        placed.worker, placed.life, placed.begun_s = index, seat.found.life, None
        self._ledger.takes(placed.prompt_id, placed.body, seat.name, placed.life, placed.runs)
        await self.lines.reach(placed.client_id, placed.prompt_id, index)
        try:
            answer = await self._seats.ask(index, "POST", "/prompt", placed.body)
        except LostError as error:
            if not error.delivered:
                return None
            placed.state, placed.at_s = State.DOUBTED, self._clock()
            return _taken(placed.prompt_id, placed.number)
        if answer.status == 200:
            placed.state, placed.at_s = State.WAITING, self._clock()
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
            async with self._deciding:
                await self._give_work(index)
        for placed in waiting[:RETHOUGHT]:
            async with self._deciding:
                if placed.state is not State.WAITING or placed.cancelled:
                    continue
                try:
                    decision = self._chooser.decide(placed.known, self._queued(placed), self._others(placed))
                except NoWorkerError:
                    continue
                if self._chooser.is_worth_moving(placed.known, placed.worker, decision):
                    await self._move(placed, decision)
        for index in range(len(self._seats)):
            async with self._deciding:
                await self._bring_forward(index)

    def _waits_for_late(self) -> bool:
        """Whether a prompt waits behind one that should have ended: that wait grows, and nothing else need happen."""
        running = {one.worker for one in self._placed.values() if self._is_late(one)}
        return any(one.state is State.WAITING and one.worker in running for one in self._placed.values())

    def _is_late(self, placed: Placed) -> bool:
        margin = self._outlook.router.workers[placed.worker].margin
        return placed.begun_s is not None and self._clock() - placed.begun_s > placed.expected_s * margin

    def _free(self) -> set[int]:
        """Workers that have nothing to do and could."""
        busy = {one.worker for one in self._placed.values() if one.state is not State.LOST}
        return {index for index in range(len(self._seats)) if self._seats[index].takes_prompts and index not in busy}

    async def _give_work(self, index: int) -> None:
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
            await self._move(self._placed[one.name], decision)

    async def _bring_forward(self, index: int) -> None:
        """Make what should run next on this worker the first of its queue."""
        mine = [one for one in self.of_worker(index) if one.state in (State.WAITING, State.RUNNING)]
        waiting = sorted((one for one in mine if one.state is State.WAITING), key=lambda one: one.number)
        order = [one.name for one in self._outlook.order(index, [self._queued(one) for one in mine]) if one.left_s is None]
        if len(waiting) < 2 or order[0] == waiting[0].prompt_id or not self._seats[index].answers:
            return
        placed = self._placed[order[0]]
        if await self._takes_out(placed):
            placed.turn = placed.own_turn
            placed.body["number"] = waiting[0].number - NUMBER_STEP
            answer = await self._sends(placed, index)
            if answer is None or answer.status != 200:
                placed.state = State.LOST

    async def _move(self, placed: Placed, decision: Decision) -> None:
        before = self._seats[placed.worker].name
        if not await self._takes_out(placed):
            return
        answer = await self._send(placed, decision)
        if answer is None or answer.status != 200:
            placed.state = State.LOST
        else:
            self._chooser.note(placed.prompt_id, decision, 1, [f"moved from {before} while it waited"])

    async def _takes_out(self, placed: Placed) -> bool:
        """Out of its worker's queue; whether it is certain that it has not begun there. Nobody can say of a worker that does not answer."""
        index = placed.worker
        if not self._seats[index].answers:
            return False
        placed.state = State.PLACING
        try:
            await self._seats.ask(index, "POST", "/queue", {"delete": [placed.prompt_id]}, timeout_s=TAKE_OUT_S)
            queue = await self._seats.ask_json(index, "/queue", TAKE_OUT_S)
            history = await self._seats.ask_json(index, f"/history/{placed.prompt_id}", TAKE_OUT_S)
        except LostError:
            queue = history = None
        if queue is None or history is None:
            placed.state = State.DOUBTED
            return False
        if placed.prompt_id in history or any(item[1] == placed.prompt_id for items in queue.values() for item in items):
            placed.state = State.WAITING  # it has begun: the next look tells
            return False
        return True

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

    def loses(self, placed: Placed) -> None:
        """Its worker's server has ended."""
        placed.state, placed.lost_with, placed.told = State.LOST, self._seats[placed.worker].name, False
        log.warning("prompt %s was lost with %s", placed.prompt_id, placed.lost_with)

    async def place_lost(self) -> None:
        """Give what was lost to other workers."""
        for placed in [one for one in self._placed.values() if one.state is State.LOST]:
            await self._place_again(placed)

    def _heard(self, index: int, kind: str, prompt_id: str | None) -> None:
        self.progressed_s[index] = self._clock()
        placed = self._placed.get(prompt_id) if prompt_id is not None else None
        if kind == "execution_start" and placed is not None and placed.worker == index and placed.state in (State.WAITING, State.DOUBTED):
            self.runs(placed)  # its client has heard it too: whatever comes now has to be told

    async def _place_again(self, placed: Placed) -> None:
        async with self._deciding:
            if self._placed.get(placed.prompt_id) is not placed or placed.state is not State.LOST:
                return
            if placed.cancelled:
                self._forget(placed)
                return
            if placed.runs >= MOST_RUNS:
                self._give_up(placed, f"its worker was lost {placed.runs} times while it ran, with {placed.lost_with} last")
                return
            placed.state = State.PLACING
            if placed.runs and not placed.told:
                placed.told = True
                about = {"prompt_id": placed.prompt_id, "from": placed.lost_with, "runs": placed.runs + 1}
                self.lines.tell(placed.client_id, "residency.moved", about)  # before any worker can begin it
            try:
                placed.known = await self._outlook.know(placed.body.get("prompt"))
                answer = await self._place(placed)
            except NoWorkerError:
                placed.state = State.LOST  # tried again at the next look
                return
            if answer.status != 200 and lacks(answer) and any(not self._seats[index].answers for index in range(len(self._seats))):
                placed.state = State.LOST  # who is not there now may have what these lack
            elif answer.status != 200:
                self._give_up(
                    placed, f"{placed.lost_with} was lost, and the others refuse it: {answer.body[:500].decode(errors='replace')}"
                )

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
            if left_queue and placed.state is State.DOUBTED and not placed.cancelled:
                placed.state = State.LOST
            elif left_queue:
                self._forget(placed)
            return
        self.keep(placed.prompt_id, history, job, self._seats[index].name)
        seconds = seconds_of(history)
        if seconds is not None and placed.known.compute_s:
            self.errors[index].append((placed.expected_s, seconds))
            self._outlook.ended(index, placed.expected_s, seconds)
        elif seconds is not None:
            self._outlook.seen(seconds)
        self._forget(placed)

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
                if item[1] not in self._placed and seat.found is not None:
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


def _taken(prompt_id: str, number: float) -> Answer:
    """As ComfyUI answers POST /prompt."""
    return Answer.of({"prompt_id": prompt_id, "number": number, "node_errors": {}})
