"""What may wait for a drive takes no thread from others, and is answered in time or refused."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from residency.comfyui.server import apart
from residency.comfyui.server.apart import MOST, THREAD, Apart, HangsError


def told(story: Callable[[Apart], Coroutine[Any, Any, Any]], patience_s: float = 30.0) -> Any:
    async def begin() -> Any:
        return await story(Apart(patience_s))

    return asyncio.run(begin())


def alive() -> int:
    return sum(thread.name == THREAD for thread in threading.enumerate())


def test_an_answer_or_an_error_comes_through():
    assert told(lambda asked: asked.ask(divmod, 7, 2)) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        told(lambda asked: asked.ask(divmod, 7, 0))


def test_what_hangs_is_refused_holds_no_more_than_its_threads_and_is_asked_again_when_it_has_ended():
    over = threading.Event()

    async def story(asked: Apart) -> tuple[list[Any], int, int]:
        refused = await asyncio.gather(*(asked.ask(over.wait) for _ in range(5 * MOST)), return_exceptions=True)
        held = alive()
        over.set()
        again = [await asked.ask(int, "7") for _ in range(3 * MOST)]
        return refused, held, sum(again)

    refused, held, again = told(story, 0.2)
    assert {type(one) for one in refused} == {HangsError} and "within 0.2 s" in str(refused[0])
    assert held == MOST and again == 7 * 3 * MOST


def test_whoever_waits_for_a_thread_gets_the_next_one():
    over = threading.Event()

    async def story(asked: Apart) -> list[Any]:
        first = [asyncio.create_task(asked.ask(over.wait)) for _ in range(MOST)]
        behind = [asyncio.create_task(asked.ask(int, str(number))) for number in range(3)]
        await asyncio.sleep(0)
        over.set()
        await asyncio.gather(*first)
        return list(await asyncio.gather(*behind))

    assert told(story) == [0, 1, 2]


def test_without_a_thread_it_is_refused_and_its_place_is_free_again(monkeypatch: pytest.MonkeyPatch):
    async def story(asked: Apart) -> int:
        with monkeypatch.context() as patch:
            patch.setattr(apart.threading, "Thread", lambda **options: (_ for _ in ()).throw(RuntimeError("can't start new thread")))
            for _ in range(2 * MOST):
                with pytest.raises(HangsError, match="no thread"):
                    await asked.ask(int)
        return await asked.ask(int, "7")

    assert told(story, 5.0) == 7


def test_of_who_has_gone_nobody_complains_that_the_answer_was_not_taken():
    complaints: list[object] = []
    asked, goes_on = threading.Event(), threading.Event()

    def fails() -> None:
        asked.set()
        goes_on.wait(10)
        raise OSError("the drive has gone")

    async def story(ours: Apart) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context["message"]))
        task = asyncio.create_task(ours.ask(fails))
        while not asked.is_set():
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        goes_on.set()
        assert await ours.ask(int) == 0
        while ours._free._value < MOST:
            await asyncio.sleep(0.01)
        del task
        gc.collect()

    told(story)
    assert complaints == []
