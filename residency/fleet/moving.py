"""A prompt that waits is thought about again: another worker may be better by now, and one of its own queue more urgent."""

from __future__ import annotations

import math
from collections.abc import Callable

from .ahead import Queued
from .asking import Seats
from .choosing import Chooser, is_much_less
from .delivery import Delivery, Placed, State
from .dispatch import dispatch, looked_at
from .placing import Placing
from .register import Register
from .routing import Decision, NoWorkerError, Score
from .seats import Answer

NUMBER_STEP = 1e-3
LATE_S = 1.0  # between two looks at what waits behind a prompt that is late, or seems better off elsewhere
RETHOUGHT = 32  # prompts that wait, at one look: the next ones first


class Moving:
    """Of all prompts, on one event loop."""

    def __init__(
        self, seats: Seats, register: Register, chooser: Chooser, placing: Placing, delivery: Delivery, clock: Callable[[], float]
    ) -> None:
        self._seats, self._register, self._chooser, self._placing, self._delivery = seats, register, chooser, placing, delivery
        self._clock, self._outlook = clock, chooser.outlook
        self._rethought_s = -1e9

    async def rethink(self) -> None:
        """Give a prompt that waits to another worker where all looks of a second have found it clearly better off there: when something has
        happened, while a prompt is late, and once more where one look has found so. Where RAM is short each look finds other weights."""
        now_s = self._clock()
        if not self._register.changed and (now_s < self._rethought_s + LATE_S or not (self._is_found_better() or self._waits_for_late())):
            return
        self._register.changed, self._rethought_s = False, now_s
        waiting = sorted((one for one in self._register if one.state is State.WAITING), key=lambda one: one.number)
        if not self._chooser.moves or not waiting:
            return
        await self._outlook.listen()
        for index in self._free():
            self._give_work(index)
        await self._placing.wait()
        for placed in waiting[:RETHOUGHT]:
            if placed.state is not State.WAITING or placed.cancelled or not self._register.has(placed):
                continue
            try:
                decision = self._chooser.decide(placed.known, self._register.queued(placed), self._register.others(placed))
            except NoWorkerError:
                continue
            better_at = decision.index if self._chooser.is_worth_moving(placed.known, placed.worker, decision, placed.moves) else -1
            if better_at != placed.better_at:
                placed.better_at, placed.better_s = better_at, now_s
            elif better_at >= 0 and now_s >= placed.better_s + LATE_S:
                self._move(placed, decision)
        await self._placing.wait()
        for index in range(len(self._seats)):
            self._bring_forward(index)
        await self._placing.wait()

    def _is_found_better(self) -> bool:
        return any(one.state is State.WAITING and one.better_at >= 0 for one in self._register)

    def _waits_for_late(self) -> bool:
        """Whether a prompt waits behind one that should have ended: that wait grows, and nothing else need happen."""
        running = {one.worker for one in self._register if self._is_late(one)}
        return any(one.state is State.WAITING and one.worker in running for one in self._register)

    def _is_late(self, placed: Placed) -> bool:
        takes_s = self._outlook.router.workers[placed.worker].takes_s(placed.expected_s, placed.stall_s)
        return placed.begun_s is not None and self._clock() - placed.begun_s > takes_s

    def _free(self) -> set[int]:
        """Workers that have nothing to do and could."""
        busy = {index for one in self._register if one.state is not State.LOST for index in (one.worker, one.counts_at)}
        return {index for index in range(len(self._seats)) if self._seats[index].takes_prompts and index not in busy}

    def _give_work(self, index: int) -> None:
        """Move to this worker, if it has nothing to do, the prompt that it should begin of all that wait behind a running one elsewhere."""
        running = [self._register.queued(one) for one in self._register if one.state is State.RUNNING]
        begins = {one.worker for one in running}
        waiting = [self._register.queued(one) for one in self._register if one.state is State.WAITING and not one.cancelled]
        waiting = [one for one in waiting if one.worker in begins]
        if index not in self._free() or not waiting:
            return
        found: dict[str, list[Score | None]] = {}

        def scores(one: Queued) -> list[Score | None]:
            """Here, and where it is."""
            if one.name not in found:
                others = [*running, *(other for other in waiting if other.worker == one.worker and other is not one)]
                found[one.name] = self._chooser.scores((index, one.worker), self._register[one.name].known, one, others)
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
        if here is not None and is_much_less(here, there, self._register[one.name].moves):
            decision = Decision(index, here, f"{here.told()}; it has nothing to do", () if there is None else (there,))
            self._move(self._register[one.name], decision)

    def _bring_forward(self, index: int) -> None:
        """Make the prompt that should run next on this worker the first of its queue."""
        mine = [one for one in self._register.of_worker(index) if one.state in (State.WAITING, State.RUNNING)]
        waiting = sorted((one for one in mine if one.state is State.WAITING), key=lambda one: one.number)
        if len(waiting) < 2:
            return
        others = [self._register.queued(one) for one in self._register if one.counts_at != index and one.state is State.RUNNING]
        order = [one.name for one in self._outlook.order(index, list(map(self._register.queued, mine)), others) if one.left_s is None]
        if order[0] == waiting[0].prompt_id or not self._seats[index].hears:
            return
        placed = self._register[order[0]]
        placed.state, placed.goes_to = State.SENDING, index
        self._placing.begin(self._put_first(placed, waiting[0].number - NUMBER_STEP))

    async def _put_first(self, placed: Placed, number: float) -> None:
        if await self._delivery.take_out(placed):
            placed.turn = placed.own_turn
            placed.body["number"] = number
            self._has_arrived(placed, await self._delivery.send(placed))

    def _move(self, placed: Placed, decision: Decision) -> None:
        """Into another worker's queue, where its own answers."""
        if self._seats[placed.worker].answers:
            self._placing.reserve(placed, decision)
            self._placing.begin(self._takes_over(placed, decision))

    async def _takes_over(self, placed: Placed, decision: Decision) -> None:
        before = self._seats[placed.worker].name
        if await self._delivery.take_out(placed) and self._has_arrived(placed, await self._placing.send(placed, decision)):
            placed.moves += 1
            self._chooser.note(placed.prompt_id, decision, 1, [f"moved from {before} while it waited"])

    def _has_arrived(self, placed: Placed, answer: Answer | None) -> bool:
        """Whether the worker has accepted a prompt taken out of a queue. One that it has not is placed anew, or forgotten if cancelled."""
        if answer is not None and answer.status == 200:
            return True
        if placed.cancelled:
            self._register.forget(placed)
        else:
            placed.state = State.LOST
        return False
