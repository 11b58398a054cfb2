"""Answers that may have to wait for a drive, on threads of their own: those of asyncio are few, and ComfyUI's as well.

A drive that hangs would take one of them with each request of a panel or a fleet, until no route that needs one answers any more.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

MOST = 4  # threads: a drive that hangs holds no more
PATIENCE_S = 10.0
THREAD = "answers of residency"

_Answer = TypeVar("_Answer")


class HangsError(Exception):
    """One sentence: the answer has not come."""


class Apart:
    """`ask` on one event loop."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._free = asyncio.Semaphore(MOST)

    async def ask(self, function: Callable[..., _Answer], *arguments: Any) -> _Answer:
        """Call the function on a thread; its result. Raises its errors, and HangsError when it takes too long: the thread goes on to
        its end then, and nobody hears of it."""
        loop = asyncio.get_running_loop()
        ended_s = loop.time() + self._patience_s
        hangs = HangsError(f"what this asks of the models' drives has not come within {self._patience_s:g} s; ask again later")
        try:
            await asyncio.wait_for(self._free.acquire(), self._patience_s)
        except asyncio.TimeoutError:
            raise hangs from None
        answer: asyncio.Future[_Answer] = loop.create_future()

        def end(tell: Callable[[Any], None], what: Any) -> None:
            self._free.release()
            if not answer.done():
                tell(what)

        def work() -> None:
            told: tuple[Callable[[Any], None], Any]
            try:
                told = answer.set_result, function(*arguments)
            except Exception as error:
                told = answer.set_exception, error
            try:
                loop.call_soon_threadsafe(end, *told)
            except RuntimeError:  # the server has ended
                pass

        try:
            threading.Thread(target=work, name=THREAD, daemon=True).start()
        except RuntimeError:
            self._free.release()
            raise HangsError("no thread can be started that asks the drives; ask again later") from None
        try:
            await asyncio.wait([answer], timeout=ended_s - loop.time())
            if answer.done():
                return answer.result()
        finally:
            answer.cancel()  # who asked may have gone: then nobody takes what it gives or raises
        raise hangs
