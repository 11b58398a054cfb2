"""A worker that takes its time, or has just fallen silent: who waits for it, and who does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from scripted_worker import Worker, prompt
from test_fleet_prompts import Fleet, fleet, heard, ids, one_waits, story

from residency.fleet import delivery, outlook, placing, register, watch
from residency.fleet.delivery import State, until

SENT = ("POST", "/prompt")


async def on_its_way(it: Fleet, worker: Worker, model: str = "a", client: str = "client", **more: object) -> asyncio.Task[str]:
    """A prompt that this worker has heard of, and does not answer."""
    worker.ignores = {SENT}
    before = worker.unanswered.count(SENT)
    posting = asyncio.create_task(it.post(model, client, **more))
    await asyncio.wait_for(until(lambda: worker.unanswered.count(SENT) > before), 5.0)
    return posting


async def remaining(it: Fleet) -> int:
    return int((await it.ask("GET", "/prompt")).json["exec_info"]["queue_remaining"])


def test_others_prompts_are_placed_while_a_worker_does_not_answer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(watch, "LOOK_TIMEOUT_S", 0.1)

    async def tell(first: Worker, second: Worker) -> None:
        second.holds.add("b")
        async with fleet(first, second) as it:
            stuck = await on_its_way(it, first)
            assert await it.post("b", "somebody") in ids(second)
            assert not stuck.done()
            behind = asyncio.create_task(it.post("a", "somebody else"))
            await it.post("b", "somebody")
            assert not behind.done() and first.unanswered == [SENT]  # it is not sent to whoever has not answered yet
            first.deaf = True
            await it.look()
            elsewhere = await behind
            assert elsewhere in ids(second) and "first did not answer" in it.reason(elsewhere)
            first.deaf, first.ignores = False, set()
            assert ids(first) | {await stuck} == ids(first)
            await it.look()
            assert sorted(item[1] for worker in (first, second) for item in worker.pending) == sorted(ids(first) | ids(second))

    story(tell)


def test_nobody_waits_long_for_an_estimate_or_for_what_a_worker_holds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(outlook, "PATIENT_S", 0.1)

    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it:
            await it.post("a")
            it.clock.now_s += 10
            first.deaf = True
            assert await asyncio.wait_for(it.post("b"), 5.0) in ids(second)
            assert {("POST", "/residency/estimate"), ("GET", "/residency/state")} <= {*first.unanswered}
            assert "a" in it.worker("first")["warm"]  # by its old word
            first.deaf = False
            first.holds = {"c"}
            await asyncio.wait_for(until(lambda: it.worker("first")["warm"] == ["c"]), 5.0)

    story(tell)


def test_a_prompt_on_its_way_counts_where_it_goes():
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it:
            await asyncio.gather(it.post("b", "somebody"), it.post("b", "somebody else"))
            assert (len(first.pending), len(second.pending)) == (1, 1)

    story(tell, Worker("first", compute_s=20.0), Worker("second", compute_s=20.0))


def test_prompts_of_one_client_keep_their_order_whichever_is_known_first():
    async def tell(first: Worker, second: Worker) -> None:
        await second.die()
        async with fleet(first, second) as it:
            asked, told = asyncio.Event(), asyncio.Event()

            async def others_are_quicker() -> None:
                asked.set()
                await told.wait()

            first.before_an_estimate = others_are_quicker
            posted = [asyncio.create_task(it.post("a", prompt_id=name)) for name in ("one", "two", "three")]
            await asked.wait()
            assert await it.post("a", "somebody")
            assert not posted[0].done()  # whoever is somebody else does not wait for it
            told.set()
            await asyncio.gather(*posted)
            order = [item[1] for item in sorted(first.pending, key=lambda item: item[0]) if item[3]["client_id"] == "client"]
            assert order == ["one", "two", "three"]
            assert [item[1] for item in first.pending if item[3]["client_id"] == "client"] == order

    story(tell)


def test_a_prompt_that_is_sent_twice_at_once_is_taken_once():
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it:
            stuck = await on_its_way(it, first, prompt_id="one")
            again = asyncio.create_task(it.post("a", prompt_id="one"))
            await it.post("b", "somebody")
            first.ignores = set()
            assert (await stuck, await again) == ("one", "one")
            assert len(first.pending) == 1 and "one" not in ids(second)
            first.lacks = second.lacks = {"c"}
            refused = {"prompt": prompt("c"), "prompt_id": "two"}
            answers = await asyncio.gather(*(it.ask("POST", "/prompt", refused) for _ in range(2)))
            assert [one.status for one in answers] == [400, 503]  # of the second nobody is asked for it again

    story(tell)


@pytest.mark.parametrize("deletion", [("/queue", {"delete": ["one"]}), ("/queue", {"clear": True}), ("/api/jobs/one/cancel", None)])
def test_a_prompt_that_is_deleted_on_its_way_does_not_run(deletion: tuple[str, object]):
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it:
            stuck = await on_its_way(it, first, prompt_id="one")
            behind = asyncio.create_task(it.post("a", prompt_id="two"))
            deleting = asyncio.create_task(it.ask("POST", *deletion))
            await it.post("b", "somebody")
            first.ignores = set()
            assert await stuck == "one"
            await deleting
            assert "one" not in ids(first)
            await behind
            await it.look()
            await it.look()
            assert not {item[1] for worker in (first, second) for item in worker.pending} & {"one"}
            assert await remaining(it) == len(first.pending) + len(second.pending)

    story(tell)


def test_a_prompt_that_is_deleted_before_it_is_sent_is_not_sent():
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it:
            stuck = await on_its_way(it, first)
            behind = asyncio.create_task(it.post("a", prompt_id="two"))
            await it.post("b", "somebody")
            assert (await it.ask("POST", "/queue", {"delete": ["two"]})).status == 200
            assert await behind == "two" and not stuck.done()
            first.ignores = set()
            assert ids(first) | {await stuck} == ids(first)
            assert "two" not in ids(first) | ids(second) and await remaining(it) == 2

    story(tell)


def test_a_prompt_that_is_deleted_while_nobody_knows_whether_it_has_arrived_is_not_run_elsewhere():
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it:
            stuck = await on_its_way(it, first, prompt_id="one")
            deleting = asyncio.create_task(it.ask("POST", "/queue", {"delete": ["one"]}))
            await it.post("b", "somebody")
            await first.die()
            assert await stuck == "one"
            await deleting
            await it.look()
            assert "one" not in ids(second) and await remaining(it) == 1

    story(tell)


def test_a_deletion_that_a_worker_has_not_heard_is_asked_once_more(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(watch, "LOOK_TIMEOUT_S", 0.1)

    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it:
            gone, stays = await it.post("a"), await it.post("a")
            first.deaf = True
            await it.look()
            await it.ask("POST", "/queue", {"delete": [gone]})
            first.deaf = False
            await it.look()
            assert ids(first) == {stays}

    story(tell)


def test_a_prompt_on_its_way_is_interrupted_at_its_worker():
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it:
            stuck = await on_its_way(it, first, prompt_id="one")
            assert (await it.ask("POST", "/interrupt", {"prompt_id": "one"})).status == 200
            assert (first.interrupted, second.interrupted) == ([{"prompt_id": "one"}], [])
            first.ignores = set()
            await stuck

    story(tell)


@pytest.mark.parametrize("arrives", [True, False])
def test_a_prompt_on_its_way_when_the_door_dies_runs_once(arrives: bool, tmp_path: Path):
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second, ledger=tmp_path / "door") as it:
            stuck = await on_its_way(it, first, prompt_id="one")
        await asyncio.gather(stuck, return_exceptions=True)
        if not arrives:
            await first.die()
            await first.start()
        first.ignores = set()
        if arrives:
            await asyncio.wait_for(until(lambda: ids(first) == {"one"}), 5.0)
        async with fleet(first, second, ledger=tmp_path / "door") as it:
            await it.look()
            assert [item[1] for worker in (first, second) for item in worker.pending] == ["one"]

    story(tell)


def test_a_deleted_prompt_is_not_run_by_a_door_that_is_started_anew(tmp_path: Path):
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second, ledger=tmp_path / "door") as it:
            gone = await it.post("a")
            await it.ask("POST", "/queue", {"delete": [gone]})
        async with fleet(first, second, ledger=tmp_path / "door") as it:
            await it.look()
            assert not first.pending and not second.pending and await remaining(it) == 0

    story(tell)


def test_a_prompt_whose_client_has_gone_meanwhile_is_taken_all_the_same():
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it:
            stuck = await on_its_way(it, first, prompt_id="one")
            stuck.cancel()
            await asyncio.gather(stuck, return_exceptions=True)
            first.ignores = set()
            await asyncio.wait_for(until(lambda: ids(first) == {"one"}), 5.0)
            await it.look()
            await first.begin()
            await it.look()
            await first.end()
            await it.look()
            assert await it.history("one") and await remaining(it) == 0

    story(tell)


def test_a_worker_that_does_not_let_a_prompt_go_keeps_nobody_else(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(placing, "PATIENT_S", 0.1)

    async def tell(first: Worker, second: Worker) -> None:
        async with one_waits(first, second) as (it, runs, moving):
            first.ignores = {("POST", "/queue")}
            await it.look()
            await it.look()
            assert first.unanswered == [("POST", "/queue")]
            assert await it.post("b", "somebody") in ids(first) | ids(second)
            await first.end()
            await it.look()
            assert await it.history(runs)  # the door looks on
            first.ignores = set()
            await asyncio.wait_for(until(lambda: moving in ids(second)), 5.0)
            await it.look()
            assert moving not in ids(first)

    story(tell)


def where(prompt_id: str, *workers: Worker) -> list[str]:
    """The workers that have it, once for each time."""
    return [worker.name for worker in workers for item in (*worker.running, *worker.pending) if item[1] == prompt_id]


def test_a_prompt_that_a_worker_takes_after_the_door_has_answered_is_sent_to_nobody_else(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(delivery, "ANSWER_S", 0.1)

    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it:
            first.ignores = {SENT}
            late = await it.post("a")
            for _ in range(3):
                await it.look(delivery.LATE_S)  # it tells its queue all the while
            assert await it.post("a", "somebody") in ids(second)  # nobody is sent to whoever owes an answer
            assert where(late, first, second) == [] and first.unanswered == [SENT]
            first.ignores = set()
            await asyncio.wait_for(until(lambda: where(late, first, second) == ["first"]), 5.0)
            await it.look()
            await it.look()
            assert where(late, first, second) == ["first"]
            assert await it.post("a") in ids(first)

    story(tell)


def test_a_prompt_whose_answer_comes_after_its_worker_has_told_its_queue_has_arrived(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(delivery, "ANSWER_S", 0.1)

    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it:
            first.ignores = {SENT}
            late = await it.post("a")
            placed = it.door.prompts.register.get(late)
            assert placed is not None and placed.sent is not None
            answered = placed.sent.done

            async def answers() -> None:
                first.ignores = set()
                await asyncio.wait_for(until(answered), 5.0)

            first.before_an_answer = answers
            await it.look()
            assert where(late, first, second) == ["first"]

    story(tell)


def test_a_prompt_that_a_worker_refuses_after_the_door_has_answered_goes_elsewhere(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(delivery, "ANSWER_S", 0.1)

    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it:
            first.ignores, first.lacks = {SENT}, {"a"}
            late = await it.post("a")
            first.ignores = set()
            for _ in range(100):
                await it.look()
                if where(late, first, second):
                    break
                await asyncio.sleep(0.02)
            assert where(late, first, second) == ["second"]

    story(tell)


@asynccontextmanager
async def taken_late(
    first: Worker, second: Worker, ledger: Path | None = None
) -> AsyncIterator[tuple[Fleet, str, Callable[[], Awaitable[None]]]]:
    """A prompt whose connection to the first worker has ended, and which waits at the second since; the first takes it when told to."""
    first.takes_late = asyncio.Event()
    async with fleet(first, second, ledger=ledger) as it:
        prompt_id, late, first.takes_late = await it.post("a"), first.takes_late, None

        async def takes() -> None:
            late.set()
            await asyncio.wait_for(until(lambda: prompt_id in ids(first)), 5.0)

        await it.ask("POST", "/residency/drain", {"worker": "first"})
        await it.look()
        await it.look(delivery.LATE_S / 2)
        assert where(prompt_id, first, second) == []  # it may be on its way yet
        await it.look(delivery.LATE_S)
        assert where(prompt_id, first, second) == ["second"]
        yield it, prompt_id, takes


def test_a_worker_that_takes_a_prompt_too_late_lets_it_go():
    async def tell(first: Worker, second: Worker) -> None:
        async with taken_late(first, second) as (it, prompt_id, takes):
            await takes()
            await it.look()
            assert where(prompt_id, first, second) == ["second"] and not first.begun
            await second.begin()
            await second.end()
            await it.look()
            assert await it.history(prompt_id) and await remaining(it) == 0

    story(tell)


def test_a_prompt_that_is_taken_too_late_and_begun_at_once_is_not_begun_elsewhere():
    async def tell(first: Worker, second: Worker) -> None:
        async with taken_late(first, second) as (it, prompt_id, takes):
            await takes()
            await first.begin()
            await it.look()
            await it.look()
            assert where(prompt_id, first, second) == ["first"] and it.worker("first")["running"] == [prompt_id]
            await first.end()
            await it.look()
            files = (await it.history(prompt_id))["outputs"]["9"]["images"]
            assert [one["subfolder"] for one in files] == ["first"] and not second.begun

    story(tell)


def test_a_prompt_that_has_begun_twice_has_one_result():
    async def tell(first: Worker, second: Worker) -> None:
        async with taken_late(first, second) as (it, prompt_id, takes), it.door.messages("client") as (listener, _):
            await second.begin()
            await it.look()
            await takes()
            await first.begin()
            await it.look()
            assert first.interrupted == [{"prompt_id": prompt_id}] and not second.interrupted
            await first.say("client", "execution_interrupted", {"prompt_id": prompt_id})
            await first.end()
            await it.look()
            assert await it.history(prompt_id) is None
            said: list[str] = []
            await second.end()
            await heard(listener, "execution_success", said)
            assert said.count("execution_start") == 1 and "execution_interrupted" not in said
            await it.look()
            files = (await it.history(prompt_id))["outputs"]["9"]["images"]
            assert [one["subfolder"] for one in files] == ["second"]

    story(tell)


@pytest.mark.parametrize("door_dies", [False, True])
def test_a_prompt_that_has_ended_is_not_run_by_a_worker_that_takes_it_afterwards(door_dies: bool, tmp_path: Path):
    async def tell(first: Worker, second: Worker) -> None:
        async with taken_late(first, second, tmp_path / "door") as (it, prompt_id, takes):
            await second.begin()
            await second.end()
            await it.look()
            await takes()
            if not door_dies:
                await it.look()
        async with fleet(first, second, ledger=tmp_path / "door") as it:
            assert where(prompt_id, first, second) == [] and not first.begun
            assert await remaining(it) == 0

    story(tell)


@pytest.mark.parametrize("is_lost", [False, True])
@pytest.mark.parametrize("begins", [False, True])
def test_a_cancelled_prompt_is_not_run_by_a_worker_that_takes_it_afterwards(is_lost: bool, begins: bool):
    async def tell(first: Worker, second: Worker) -> None:
        await second.die()
        first.takes_late = asyncio.Event()
        async with fleet(first, second) as it:
            prompt_id, late, first.takes_late = await it.post("a"), first.takes_late, None
            await it.ask("POST", "/residency/drain", {"worker": "first"})
            await it.look()
            if is_lost:  # no worker has it, and none can take it
                await it.look(2 * delivery.LATE_S)
                assert it.door.prompts.register.lost() == [prompt_id]
            assert (await it.ask("POST", "/queue", {"delete": [prompt_id]})).status == 200
            await it.look(2 * delivery.LATE_S)
            assert await remaining(it) == 0
            late.set()
            await asyncio.wait_for(until(lambda: prompt_id in ids(first)), 5.0)
            if begins:
                await first.begin()
            await it.look()
            assert (first.interrupted == [{"prompt_id": prompt_id}]) if begins else not first.pending
            assert await remaining(it) == 0

    story(tell)


def test_a_prompt_that_was_cancelled_long_ago_is_not_remembered():
    async def tell(first: Worker, second: Worker) -> None:
        async with fleet(first, second) as it:
            for name in ("one", "two"):
                await it.post("a", prompt_id=name)
                await it.ask("POST", "/queue", {"delete": [name]})
                await it.look(register.CANCELLED_S)
            assert [it.door.prompts.register.was_cancelled(name) for name in ("one", "two")] == [False, True]

    story(tell)


def test_a_prompt_that_is_taken_out_later_than_the_door_has_waited_for_is_not_lost(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(delivery, "TAKE_OUT_S", 0.1)

    async def tell(first: Worker, second: Worker) -> None:
        async with one_waits(first, second) as (it, _, moving):
            first.ignores = {("POST", "/queue")}
            await it.look()
            await asyncio.wait_for(until(lambda: it.door.prompts.register.get(moving).state is State.LEAVING), 5.0)
            await second.die()  # so that it is not asked out once more
            await it.look()
            assert where(moving, first, second) == ["first"]
            first.ignores = set()
            await asyncio.wait_for(until(lambda: where(moving, first, second) == []), 5.0)
            await second.start()
            await it.look()
            await it.look()
            assert len(where(moving, first, second)) == 1

    story(tell)


def test_a_prompt_that_a_worker_has_taken_twice_is_run_there_once():
    async def tell(first: Worker, second: Worker) -> None:
        first.takes_late = late = asyncio.Event()
        await second.die()
        async with fleet(first, second) as it:
            prompt_id, first.takes_late = await it.post("a"), None
            await it.look()
            await it.look(delivery.LATE_S)
            assert where(prompt_id, first) == ["first"]
            late.set()
            await asyncio.wait_for(until(lambda: where(prompt_id, first) == ["first", "first"]), 5.0)
            await it.look()
            assert where(prompt_id, first) == ["first"] and await remaining(it) == 1

    story(tell)
