"""The life of a prompt at the door, over servers that do what the story says: it is run once, or its client is told."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scripted_worker import Worker, prompt

from residency.fleet import watch
from residency.fleet.delivery import LATE_S, until
from residency.fleet.door import Door
from residency.fleet.ledger import Ledger
from residency.fleet.messages import Listener
from residency.fleet.policies import round_robin
from residency.fleet.seats import LACK_S, Answer
from residency.simulate import OURS_DEVICE, OURS_EXCHANGING

HANG_S = 60.0


@dataclass
class Clock:
    """Stands still but for a tick a question."""

    now_s: float = 0.0

    def __call__(self) -> float:
        self.now_s += 1e-4
        return self.now_s


@dataclass
class Fleet:
    """A door that looks at its workers when the story says so."""

    door: Door
    clock: Clock

    async def ask(self, method: str, target: str, body: object = None) -> Answer:
        return await self.door.answer(method, target, {}, b"" if body is None else json.dumps(body).encode())

    async def post(self, model: str, client: str = "client", **more: object) -> str:
        answer = await self.ask("POST", "/prompt", {"prompt": prompt(model), "client_id": client, **more})
        assert answer.status == 200, answer.body
        return str(answer.json["prompt_id"])

    async def look(self, after_s: float = 0.0) -> None:
        self.clock.now_s += after_s
        await self.door.watch.look()

    def reason(self, prompt_id: str) -> str:
        return str(self.door.chooser.decisions[prompt_id]["reason"])

    async def history(self, prompt_id: str) -> Any:
        return (await self.ask("GET", f"/history/{prompt_id}")).json.get(prompt_id)

    def worker(self, name: str) -> dict[str, Any]:
        return next(one for one in self.door.status()["workers"] if one["name"] == name)


@asynccontextmanager
async def fleet(*workers: Worker, ledger: Path | None = None, **options: Any) -> AsyncIterator[Fleet]:
    clock = Clock()
    door = Door([worker.seat for worker in workers], Path("nowhere"), Ledger(ledger), clock, **{"hang_s": HANG_S, **options})
    await door.seats.open()
    await door.watch.begin()
    try:
        yield Fleet(door, clock)
    finally:
        await door.close()


def story(tell: Callable[[Worker, Worker], Awaitable[None]], first: Worker | None = None, second: Worker | None = None) -> None:
    """With two workers that run; the first holds model a."""

    async def run() -> None:
        workers = [first or Worker("first", "a"), second or Worker("second")]
        for worker in workers:
            await worker.start()
        try:
            await tell(*workers)
        finally:
            for worker in workers:
                await worker.die()

    asyncio.run(run())


async def heard(listener: Listener, kind: str, said: list[str] | None = None) -> dict[str, Any]:
    """The next message of this kind; `said` gets the kinds of all until then."""
    while True:
        told = json.loads(await asyncio.wait_for(listener.next(), 5.0))
        if said is not None:
            said.append(told["type"])
        if told["type"] == kind:
            return dict(told["data"])


@asynccontextmanager
async def one_waits(first: Worker, second: Worker, compute_s: float = 20.0) -> AsyncIterator[tuple[Fleet, str, str]]:
    """The fleet, and the ids of two prompts of one client: one runs on the first worker, the other waits there, and the second worker has
    just come up."""
    first.compute_s = compute_s
    await second.die()
    async with fleet(first, second) as it:
        runs, waits = await it.post("a"), await it.post("a")
        await first.begin()
        await it.look()
        await second.start()
        yield it, runs, waits


def ids(worker: Worker) -> set[str]:
    return {item[1] for item in worker.pending}


def test_a_prompt_that_waits_is_given_to_a_worker_that_has_become_better():
    async def tell(first: Worker, second: Worker) -> None:
        first.compute_s = 20.0
        await second.die()
        async with fleet(first, second) as it:
            one, two, three = [await it.post("a") for _ in range(3)]
            await first.begin()
            await it.look()
            assert ids(first) == {two, three}
            await second.start()
            await it.look()
            await it.look()
            assert (ids(first), ids(second)) == ({three}, {two})  # loading costs 10 s, waiting 20 s
            assert "moved from first while it waited" in it.reason(two)
            assert it.door.chooser.outlook.router.demand.of("a", it.clock.now_s) == pytest.approx(3.0, abs=0.01)  # of each prompt once
            await first.end()
            await first.begin()
            await second.begin()
            assert first.begun == [one, three] and second.begun == [two]

    story(tell)


def test_a_worker_with_nothing_to_do_gets_what_is_at_hand_for_it():
    async def tell(first: Worker, second: Worker) -> None:
        first.compute_s = 30.0
        second.holds.add("b")
        await second.die()
        async with fleet(first, second) as it:
            await it.post("a")
            await first.begin()
            await it.look()
            cold, warm = await it.post("c", "somebody"), await it.post("b", "somebody else")
            assert ids(first) == {cold, warm}
            await second.start()
            await it.look()
            await it.look()
            assert (ids(first), ids(second)) == ({cold}, {warm})  # the turn is the other's, who would have to load

    story(tell)


def test_a_prompt_is_moved_where_each_look_of_a_second_finds_it_better_off():
    """Where RAM is short each look finds other weights in it, and a prompt seemed better off elsewhere after every end: 45 moves of 40
    prompts in 45 s on two CPU workers, with this 27 to 29, and 10 and 14 prompts ended instead of 8 (three runs of one machine)."""

    async def tell(first: Worker, second: Worker) -> None:
        second.holds.add("a")
        await first.die()
        async with fleet(first, second) as it:
            moved, stays = await it.post("a"), await it.post("a")
            assert ids(second) == {moved, stays}
            await first.start()

            async def look(after_s: float) -> None:
                it.door.prompts.register.changed = True  # something has happened
                await it.look(after_s)

            await look(0.0)  # better off since now
            await look(0.5)
            await it.ask("POST", "/residency/drain", {"worker": "first"})
            await look(0.5)
            await it.ask("POST", "/residency/drain", {"worker": "first", "on": False})
            await look(0.5)  # and again
            await look(0.5)
            assert ids(second) == {moved, stays}
            await look(0.5)
            assert len(ids(first)) == len(ids(second)) == 1

    story(tell)


def test_a_prompt_is_not_moved_for_a_small_gain():
    async def tell(first: Worker, second: Worker) -> None:
        async with one_waits(first, second, compute_s=12.0) as (it, _, waits):
            for _ in range(3):
                await it.look()
            assert ids(first) == {waits} and not second.pending  # 12 s of waiting against 10 s of loading

    story(tell)


def test_nobody_waits_long_for_a_worker_that_hangs_while_another_is_free():
    async def tell(first: Worker, second: Worker) -> None:
        first.compute_s = 4.0
        async with fleet(first, second) as it:
            hangs, waits = await it.post("a"), await it.post("a")
            await first.begin()
            await it.look()
            await it.look(4.0)
            assert first.begun == [hangs] and ids(first) == {waits}  # 4 s of waiting, 10 s of loading elsewhere
            for _ in range(15):  # nothing happens
                await it.look(1.0)
            assert (ids(first), ids(second), first.endings) == (set(), {waits}, 0)
            assert "moved from first while it waited" in it.reason(waits)

    story(tell)


def test_a_prompt_that_was_moved_often_is_moved_for_a_large_gain_alone():
    async def tell(first: Worker, second: Worker) -> None:
        first.compute_s = 4.0
        async with fleet(first, second) as it:
            await it.post("a")
            waits = await it.post("a")
            placed = it.door.prompts.register[waits]
            placed.moves = 5
            await first.begin()
            await it.look()
            for _ in range(30):  # 20 s of waiting and more against 10 s of loading
                await it.look(1.0)
            assert ids(first) == {waits}
            for _ in range(30):
                await it.look(1.0)
            assert (ids(first), ids(second), placed.moves) == (set(), {waits}, 6)

    story(tell)


def test_who_comes_while_a_worker_hangs_is_sent_to_a_free_one():
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it:
            await it.post("a")
            await first.begin()
            await it.look()
            await it.look(30.0)
            assert await it.post("a") in ids(second)

    story(tell)


def test_prompts_of_one_model_are_brought_together_in_a_queue():
    async def tell(first: Worker, second: Worker) -> None:
        await second.die()
        async with fleet(first, second) as it:
            await it.post("a")
            await first.begin()
            b, a = await it.post("b", "somebody"), await it.post("a", "somebody else")
            assert [item[1] for item in sorted(first.pending, key=lambda item: item[0])] == [b, a]
            await it.look()
            assert [item[1] for item in sorted(first.pending, key=lambda item: item[0])] == [a, b]
            assert len(first.pending) == 2

    story(tell)


def test_what_waits_in_a_queue_is_read_before_it_runs():
    async def tell(first: Worker, second: Worker) -> None:
        await second.die()
        async with fleet(first, second) as it:
            await it.post("b")
            behind = it.door.chooser.decisions[await it.post("b")]
            assert behind["seconds"] == pytest.approx(20.0, abs=1.0)  # 10 s of reading once, 5 s of computing twice

    story(tell)


def test_ram_has_room_for_as_much_as_is_available_and_forgets_the_rest():
    async def tell(first: Worker, second: Worker) -> None:
        first.machine = second.machine = "host"
        first.cached = {"b", "c"}
        first.ram["available_bytes"] = second.ram["available_bytes"] = 25 * 10**9
        async with fleet(first, second) as it:
            await it.post("d", "somebody")
            await (second if second.pending else first).begin()
            await it.look()
            await it.post("d")
            for worker in it.door.chooser.outlook.router.workers:
                assert worker.room_bytes == 21 * 10**9
                assert len(worker.held) == 2 and "d" in worker.held

    story(tell)


def test_what_a_machine_has_forgotten_meanwhile_is_not_taken_for_warm():
    async def tell(first: Worker, second: Worker) -> None:
        first.cached = {"b"}
        await second.die()
        async with fleet(first, second) as it:
            prompt_id = await it.post("b")
            assert it.door.chooser.decisions[prompt_id]["seconds"] < 10
            first.cached = {"c"}
            first.forgot = {"b"}
            it.clock.now_s += 2.0
            await it.door.chooser.outlook.listen()
            placed = it.door.prompts.register[prompt_id]
            (score,) = it.door.chooser.scores((0,), placed.known, it.door.prompts.register.queued(placed), [])
            assert score is not None and score.stall_s >= 10

    story(tell)


def test_a_prompt_that_begins_while_it_is_to_be_moved_stays():
    async def tell(first: Worker, second: Worker) -> None:
        async with one_waits(first, second) as (it, _, moving):

            async def begins() -> None:
                await first.end()
                await first.begin()

            first.before_a_deletion = begins
            await it.look()
            await it.look()
            assert first.begun[-1] == moving and not second.pending
            assert it.worker("first")["running"] == [moving]

    story(tell)


def test_what_was_lost_in_mid_prompt_is_begun_once_more_under_its_id_and_told():
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it, it.door.messages("client") as (listener, _):
            prompt_id = await it.post("a")
            await first.begin()
            await it.look()
            await first.die()
            await it.look()
            assert (await heard(listener, "execution_start"))["prompt_id"] == prompt_id
            assert await heard(listener, "residency.moved") == {"prompt_id": prompt_id, "from": "first", "runs": 2}
            await second.begin()
            assert (await heard(listener, "execution_start"))["prompt_id"] == prompt_id
            await second.end()
            await it.look()
            (image,) = (await it.history(prompt_id))["outputs"]["9"]["images"]
            assert image["subfolder"] == "second"
            assert (first.begun, second.begun) == ([prompt_id], [prompt_id])

    story(tell)


def test_a_client_is_told_once_however_many_workers_refuse_it_meanwhile():
    async def tell(first: Worker, second: Worker) -> None:
        second.lacks = {"a"}
        third = await Worker("third", compute_s=20.0).start()
        try:
            async with fleet(first, second, third) as it, it.door.messages("client") as (listener, _):
                prompt_id = await it.post("a")
                assert prompt_id in ids(first)
                await first.begin()
                await it.look()
                await first.die()
                await it.look()
                assert prompt_id in ids(third)
                await third.begin()
                said: list[str] = []
                for _ in range(2):
                    await heard(listener, "execution_start", said)
                assert said.count("residency.moved") == 1
        finally:
            await third.die()

    story(tell)


def test_what_only_workers_that_are_not_there_can_run_waits_for_them():
    async def tell(first: Worker, second: Worker) -> None:
        second.lacks = {"a"}
        async with fleet(first, second) as it:
            prompt_id = await it.post("a")
            await first.begin()
            await it.look()
            await first.die()
            for _ in range(3):
                await it.look()
            assert not second.pending and it.door.status()["lost"] == [prompt_id]
            await first.start()
            await it.look()
            assert ids(first) == {prompt_id}

    story(tell)


def test_a_start_that_the_client_has_heard_is_known_before_the_next_look():
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it, it.door.messages("client") as (listener, _):
            prompt_id = await it.post("a")
            await first.begin()
            await heard(listener, "execution_start")
            await first.die()
            await it.look()
            assert (await heard(listener, "residency.moved"))["prompt_id"] == prompt_id

    story(tell)


def test_a_prompt_that_has_begun_before_its_worker_answers_and_is_lost_at_once_is_told():
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it, it.door.messages("client") as (listener, _):

            async def begins() -> None:
                await heard_of(it, await first.begin())

            first.before_it_takes = begins
            prompt_id = await it.post("a")
            await first.die()
            await it.look()
            assert (await heard(listener, "residency.moved"))["prompt_id"] == prompt_id
            assert ids(second) == {prompt_id}

    async def heard_of(it: Fleet, prompt_id: str) -> None:
        await asyncio.wait_for(until(lambda: it.door.prompts.register[prompt_id].begins), 5.0)

    story(tell)


def test_what_has_ended_a_moment_ago_is_in_the_history():
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it:
            prompt_id = await it.post("a")
            await first.begin()
            await it.look()
            await first.end()
            assert (await it.ask("GET", "/history")).json.keys() == {prompt_id}

    story(tell)


def test_what_had_not_begun_is_moved_without_a_word():
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it, it.door.messages("client") as (listener, _):
            prompt_id = await it.post("a")
            await first.die()
            await it.look()
            await second.begin()
            said: list[str] = []
            assert (await heard(listener, "execution_start", said))["prompt_id"] == prompt_id
            assert set(said) == {"status", "execution_start"}
            assert first.begun == [] and it.door.chooser.decisions[prompt_id]["runs"] == 1

    story(tell)


def test_a_prompt_that_ends_servers_does_not_end_all_of_them():
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it, it.door.messages("client") as (listener, _):
            prompt_id = await it.post("a")
            for worker in (first, second):
                await worker.begin()
                await it.look()
                await worker.die()
                await it.look()
            await first.start()
            await it.look()
            assert first.pending == []
            assert "lost 2 times" in (await heard(listener, "execution_error"))["exception_message"]
            assert (await it.history(prompt_id))["status"]["status_str"] == "error"

    story(tell)


def test_without_another_worker_a_prompt_waits_for_the_next():
    async def tell(first: Worker, second: Worker) -> None:
        await second.die()
        async with fleet(first, second) as it:
            prompt_id = await it.post("a")
            await first.die()
            await it.look()
            assert it.door.status()["lost"] == [prompt_id]
            assert (await it.ask("GET", "/prompt")).json == {"exec_info": {"queue_remaining": 1}}
            await first.start()
            await it.look()
            assert ids(first) == {prompt_id}

    story(tell)


def test_a_worker_that_makes_no_progress_is_ended_and_its_prompt_runs_elsewhere():
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it:
            prompt_id = await it.post("a")
            await first.begin()
            await it.look()
            await it.look(HANG_S - 5)
            await first.say("client", "progress", {"value": 1, "max": 2})
            await asyncio.sleep(0.1)
            await it.look(HANG_S - 5)
            assert first.endings == 0  # it has moved on meanwhile
            await first.say("client", "residency.update", {})
            await asyncio.sleep(0.1)
            await it.look(10)
            assert first.endings == 1
            await it.look()
            assert ids(second) == {prompt_id}

    story(tell)


def test_a_silent_worker_keeps_its_prompt_until_it_has_ended(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(watch, "LOOK_TIMEOUT_S", 0.1)

    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it:
            prompt_id = await it.post("a")
            await first.begin()
            await it.look()
            first.deaf = True
            await it.look()
            await it.look(HANG_S - 5)
            assert not second.pending and first.endings == 0  # it may still be at it
            assert it.worker("first")["answers"] is False
            assert await it.post("b") in ids(second)
            await it.look(10)
            assert first.endings == 1
            await it.look()
            assert prompt_id in ids(second)

    story(tell)


@pytest.mark.parametrize("arrives", [True, False])
def test_a_prompt_whose_arrival_is_doubted_is_run_once(arrives: bool):
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it:
            first.swallows = True
            prompt_id = await it.post("a")
            first.swallows = False
            assert not second.pending
            if not arrives:
                first.pending.clear()
            await it.look()
            await it.look(LATE_S)
            assert [item[1] for worker in (first, second) for item in worker.pending] == [prompt_id]

    story(tell)


def test_a_prompt_that_is_sent_twice_is_taken_once():
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it:
            prompt_id = await it.post("a")
            assert await it.post("a", prompt_id=prompt_id) == prompt_id
            await first.begin()
            await it.look()
            await first.end()
            await it.look()
            assert await it.post("a", prompt_id=prompt_id) == prompt_id
            assert first.begun == [prompt_id] and not first.pending and not second.pending

    story(tell)


def test_a_door_that_is_killed_forgets_nothing(tmp_path: Path):
    async def tell(first: Worker, second: Worker) -> None:
        first.compute_s = 4.0
        async with fleet(first, second, ledger=tmp_path / "door") as it:
            ended, runs, waits = [await it.post("a") for _ in range(3)]
            elsewhere = await it.post("b")
            await first.begin()
            await first.end()
            await it.look()
            await first.begin()
            await it.look()
            assert ids(second) == {elsewhere}
        await second.die()
        async with fleet(first, second, ledger=tmp_path / "door") as it:
            await it.look()
            assert (await it.history(ended))["outputs"]["9"]["images"][0]["subfolder"] == "first"
            assert it.worker("first")["running"] == [runs]
            assert ids(first) == {waits, elsewhere}
            await first.end()
            await it.look()
            assert await it.history(runs)
            assert await it.post("a", prompt_id=waits) == waits
            assert first.begun == [ended, runs]

    story(tell)


def test_a_prompt_that_was_killed_with_door_and_worker_is_begun_once_more(tmp_path: Path):
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second, ledger=tmp_path / "door") as it:
            prompt_id = await it.post("a")
            await first.begin()
            await it.look()
        await first.die()
        await first.start()
        async with fleet(first, second, ledger=tmp_path / "door") as it:
            assert {*ids(first), *ids(second)} == {prompt_id}
            assert it.door.chooser.decisions[prompt_id]["runs"] == 2

    story(tell)


def test_a_drained_worker_ends_what_it_runs_and_gets_nothing(tmp_path: Path):
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second, ledger=tmp_path / "door") as it:
            runs, waits = await it.post("a"), await it.post("a")
            await first.begin()
            await it.look()
            assert (await it.ask("POST", "/residency/drain", {"worker": "first"})).json == {"drained": ["first"]}
            await it.look()
            await it.look()
            assert (ids(second), first.pending) == ({waits}, [])
            assert await it.post("a") in ids(second)
            assert it.worker("first")["running"] == [runs]
        async with fleet(first, second, ledger=tmp_path / "door") as it:
            assert it.worker("first")["drained"] is True
            await it.ask("POST", "/residency/drain", {"worker": "first", "on": False})
            await first.end()
            await it.look()
            await it.look(1.0)
            assert ids(first)

    story(tell)


def test_whom_nobody_knows_nobody_drains():
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it:
            answer = await it.ask("POST", "/residency/drain", {"worker": "third"})
            assert answer.status == 404 and b"there are first, second" in answer.body
            answer = await it.ask("POST", "/residency/drain", {"worker": "first", "on": "no"})
            assert answer.status == 400 and b"say true or false" in answer.body

    story(tell)


def test_a_worker_without_the_file_is_routed_around_and_that_is_said():
    async def tell(first: Worker, second: Worker) -> None:
        first.lacks = {"b"}
        async with fleet(first, second) as it:
            prompt_id = await it.post("b")
            assert prompt_id in ids(second)
            assert "first lacks unet_name b" in it.reason(prompt_id)
            assert it.worker("first")["lacks"] == ["unet_name b"]
            second.lacks = {"b"}
            it.clock.now_s += LACK_S + 1
            answer = await it.ask("POST", "/prompt", {"prompt": prompt("b")})
            assert answer.status == 400 and "value_not_in_list" in answer.body.decode()

    story(tell)


def test_versions_that_differ_are_told_and_a_worker_without_the_pack_is_used():
    async def tell(first: Worker, second: Worker) -> None:
        first.versions = ("0.9", "0.30.0")
        async with fleet(first, second) as it:
            await it.post("a")
            warnings = it.door.status()["warnings"]
            assert "workers differ in their pack: 0.9, 1.0" in warnings
            assert "workers differ in their comfyui: 0.30.0, 0.33.0" in warnings
            first.pack = second.pack = False
            it.clock.now_s += 10
            prompt_id = await it.post("b")
            assert prompt_id in ids(second)
            assert "no worker has the pack" in it.reason(prompt_id)
            for worker in (first, second):
                await worker.begin()
                await worker.end()
            await it.look()
            assert await it.post("b") in ids(second)  # it has had this model last; of equals the first would get it

    story(tell)


def test_a_worker_is_expected_to_exchange_where_it_says_so():
    async def tell(first: Worker, second: Worker) -> None:
        first.exchanges, second.exchanges = True, None  # the second is of an earlier version, and does not tell
        async with fleet(first, second) as it:
            await it.post("a")
            assert [one.forecast.policy for one in it.door.chooser.outlook.router.workers] == [OURS_EXCHANGING, OURS_DEVICE]

    story(tell)


def test_why_a_worker_does_not_come_up_is_told_until_it_has():
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it:
            await second.die()
            second.failure = "second: ComfyUI ended with status 1"
            await it.look()
            second.failure = ""  # its actor has ended, too, and says nothing until it is begun anew
            await it.look()
            told = "a worker has not come up: second: ComfyUI ended with status 1"
            assert told in it.door.status()["warnings"]
            await second.start()
            await it.look()
            assert told not in it.door.status()["warnings"]

    story(tell)


def test_what_one_worker_has_read_is_warm_for_all_of_its_machine_and_counts_once():
    async def tell(first: Worker, second: Worker) -> None:
        first.cached = {"b"}
        first.machine = second.machine = "host"
        first.compute_s = second.compute_s = 10.0
        third = await Worker("third", compute_s=10.0).start()
        try:
            async with fleet(third, first, second) as it:
                await it.post("a")
                router = it.door.chooser.outlook.router
                prompt_id = await it.post("b")
                runners = {one["worker"]: one["of"] for one in it.door.chooser.decisions[prompt_id]["runners_up"]}
                assert prompt_id in ids(second) and "loading" in runners["third"]
                assert it.door.chooser.decisions[prompt_id]["seconds"] < 15  # 10 s of computing; whom it is cold for loads 10 s
                assert (router.copies("a"), router.copies("b")) == (1, 1)
        finally:
            await third.die()

    story(tell)


def test_prediction_and_truth_are_kept_and_widen_the_margin():
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it:
            await it.post("a")
            await first.begin()
            await it.look()
            await first.end(seconds=10.0)
            await it.look()
            told = it.worker("first")
            assert (told["predicted_s"], told["took_s"], told["margin"], told["loading_margin"]) == (5.0, 10.0, 1.2, 1.0)

    story(tell)


def test_what_loads_longer_than_predicted_is_held_against_the_drives_of_the_machine():
    async def tell(first: Worker, second: Worker) -> None:
        first.machine = second.machine = "host"
        async with fleet(first, second) as it:
            await it.post("c")  # nobody has it: 10 s of loading, 5 of computing
            taker = first if it.worker("first")["prompts"] else second
            await taker.begin()
            await it.look()
            await taker.end(seconds=25.0)
            await it.look()
            told = it.worker(taker.name)
            times = 20.0 / (told["predicted_s"] - 5.0)
            assert 1.8 < times < 2.0 and told["margin"] == 1.0
            assert [it.worker(one)["loading_margin"] for one in ("first", "second")] == [
                pytest.approx(1.0 + 0.2 * (times - 1.0), abs=0.001)
            ] * 2

    story(tell)


def test_a_cancelled_prompt_is_not_run_again_when_its_worker_dies():
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it:
            gone, stays = await it.post("a"), await it.post("a")
            await it.ask("POST", "/queue", {"delete": [gone]})
            await first.die()
            await it.look()
            assert ids(second) == {stays}
            assert (await it.ask("GET", "/prompt")).json["exec_info"]["queue_remaining"] == 1

    story(tell)


def test_a_full_disk_costs_what_a_new_door_would_know_and_nothing_else(tmp_path: Path):
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second, ledger=tmp_path / "door") as it:
            with sqlite3.connect(tmp_path / "door") as other:
                pages = other.execute("PRAGMA page_count").fetchone()[0]
            it.door._ledger._file.execute(f"PRAGMA max_page_count={pages}")
            prompt_id = await it.post("a", extra_data={"big": "x" * 100_000})
            assert prompt_id in ids(first)
            assert "disk is full" in it.door.status()["warnings"][0]
            await first.begin()
            await it.look()
            await first.end()
            await it.look()
            assert (await it.ask("GET", "/prompt")).json["exec_info"]["queue_remaining"] == 0

    story(tell)


def test_other_ways_of_choosing_are_followed_and_moved_by_nobody():
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second, choose=("round_robin", round_robin())) as it:
            posted = [await it.post("a") for _ in range(4)]
            await it.look()
            assert (ids(first), ids(second)) == ({posted[0], posted[2]}, {posted[1], posted[3]})
            assert it.reason(posted[1]).startswith("second: round_robin; ")
            await it.ask("POST", "/residency/drain", {"worker": "first"})
            await it.look()
            assert ids(first) == {posted[0], posted[2]}

    story(tell)


def test_a_prompt_that_comes_while_a_worker_tells_its_queue_is_not_taken_for_gone():
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it:
            posted: list[str] = []

            async def comes() -> None:
                posted.append(await it.post("a"))

            first.before_an_answer = comes
            await it.look()
            assert (await it.ask("GET", "/prompt")).json["exec_info"]["queue_remaining"] == 1
            await first.begin()
            await it.look()
            assert it.worker("first")["running"] == posted

    story(tell)


def test_a_worker_of_which_nobody_can_tell_whether_it_lives_keeps_its_prompt(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(watch, "LOOK_TIMEOUT_S", 0.1)

    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it:
            prompt_id = await it.post("a")
            first.deaf = first.untraced = True
            await it.look()
            await it.look()
            assert second.pending == []
            assert first.unanswered == [("GET", "/queue")] * 2  # who asked it for more would keep the door from all others
            first.deaf = first.untraced = False
            await it.look()
            assert ids(first) == {prompt_id} and it.worker("first")["answers"]

    story(tell)


def test_two_clients_with_one_id_are_a_page_that_was_opened_again():
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it:
            async with it.door.messages("client") as (before, _):
                async with it.door.messages("client") as (now, _):
                    prompt_id = await it.post("a")
                    await first.begin()
                    assert (await heard(now, "execution_start"))["prompt_id"] == prompt_id
                await first.say("client", "executing", {"node": "1"})
                assert (await heard(before, "executing")) == {"node": "1"}
            assert len(first.sockets) == 1

    story(tell)


def test_a_path_and_its_query_come_to_the_worker_as_they_were_asked():
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it:
            told = (await it.ask("GET", "/api/userdata/workflows%2Fa%20b.json?tag=x&tag=y")).json
            assert told == "/api/userdata/workflows%2Fa%20b.json?tag=x&tag=y"

    story(tell)


def test_who_watches_watches_a_worker_too_that_is_started_anew():
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it, it.door.messages("client"):
            asked = {"client_id": "client", "on": True}
            await it.ask("POST", "/residency/watch", asked)
            assert first.watched == second.watched == [asked]
            await first.die()
            await first.start()
            await it.look()
            for _ in range(100):
                if len(first.watched) > 1:
                    break
                await asyncio.sleep(0.05)
            assert first.watched == [asked, asked]

    story(tell)


def test_a_trace_comes_from_the_worker_that_has_run_the_prompt():
    async def tell(first: Worker, second: Worker) -> None:
        second.holds = {"b"}
        async with fleet(first, second) as it:
            prompt_id = await it.post("b")
            assert (await it.ask("GET", f"/residency/trace?prompt_id={prompt_id}")).json == "second"

    story(tell)
