"""The messages to a client: those of its own prompts, whichever worker runs them, and one count of all that run or wait.

Each client has one line to every worker, under its own id, for as long as somebody listens or a prompt of it runs; so the door hears the
progress of prompts whose client has gone too. Of several listeners with one id the newest hears, as in ComfyUI.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from .asking import Seats
from .seats import LostError

AGAIN_S = 0.3  # between two tries to reach a worker
STAYS_S = 10.0  # a line whose client has gone: a page that is opened again finds it
# Messages that come only when a prompt moves on; others are sent by the clock.
PROGRESS = {
    "executing",
    "executed",
    "execution_start",
    "execution_cached",
    "execution_success",
    "execution_error",
    "execution_interrupted",
    "progress",
    "progress_state",
}
OWN_FILES = ("output", "temp")  # types of files that a worker makes


Heard = Callable[[int, str, str | None], bool]
"""(worker, kind of the message, id of the prompt where it is told): the prompt that runs there has moved on. Whether its client is to hear
that: of a prompt that runs elsewhere nobody is."""


class Listener:
    """One websocket of a client."""

    def __init__(self, first: str) -> None:
        self._heard: asyncio.Queue[str | bytes] = asyncio.Queue()
        self.put(first)

    def put(self, told: str | bytes) -> None:
        self._heard.put_nowait(told)

    async def next(self) -> str | bytes:
        """The next message to the client."""
        return await self._heard.get()


class Line:
    """A client's websockets to all workers."""

    def __init__(self, seats: Seats, client_id: str, heard: Heard, status: Callable[[str | None], str]) -> None:
        self._seats, self._client_id, self._heard, self._status = seats, client_id, heard, status
        self._upstream: dict[int, Any] = {}
        self._said: list[str] = []
        self.repeated: dict[str, Any] = {}  # path: body of what is asked of every server that is started anew
        self._flagged = False
        self.listeners: list[Listener] = []
        self.prompts: set[str] = set()  # that run or wait
        self.left_s: float | None = None
        self._tasks = [asyncio.create_task(self._listen(index)) for index in range(len(seats))]

    async def reaches(self, index: int, timeout_s: float = 2.0) -> None:
        """Wait until the worker would be heard, but not for long."""
        for _ in range(int(timeout_s / 0.02)):
            if index in self._upstream:
                return
            await asyncio.sleep(0.02)

    def tell(self, told: str | bytes) -> None:
        """To the newest listener."""
        if self.listeners:
            self.listeners[-1].put(told)

    async def say(self, text: str) -> None:
        """The client has said something, such as which features it has: every worker hears it, also one that comes later."""
        self._said.append(text)
        for socket in list(self._upstream.values()):
            try:
                await socket.send_str(text)
            except (aiohttp.ClientError, ConnectionError):
                continue

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _listen(self, index: int) -> None:
        while True:
            connecting = self._seats.listen(index, self._client_id)
            if connecting is not None:
                try:
                    async with connecting as socket:
                        for text in self._said:
                            await socket.send_str(text)
                        self._upstream[index] = socket
                        for path, body in self.repeated.items():
                            await self._seats.ask(index, "POST", path, body)
                        async for message in socket:
                            self._pass(index, message)
                except (aiohttp.ClientError, OSError, TimeoutError, asyncio.TimeoutError, LostError):
                    pass
                finally:
                    self._upstream.pop(index, None)
            await asyncio.sleep(AGAIN_S)

    def _pass(self, index: int, message: Any) -> None:
        if message.type is aiohttp.WSMsgType.BINARY:
            self._heard(index, "", None)
            self.tell(message.data)
            return
        if message.type is not aiohttp.WSMsgType.TEXT:
            return
        told = json.loads(message.data)
        if told.get("type") == "status":
            self.tell(self._status(None))
        elif told.get("type") == "feature_flags":
            if not self._flagged:  # one server's word is enough
                self._flagged = True
                self.tell(message.data)
        else:
            if told.get("type") in PROGRESS and not self._heard(index, told["type"], (told.get("data") or {}).get("prompt_id")):
                return
            self.tell(json.dumps(named(told, self._seats[index].name)))


class Lines:
    """The lines of all clients. `waiting()` counts the prompts that run or wait."""

    def __init__(self, seats: Seats, heard: Heard, waiting: Callable[[], int]) -> None:
        self._seats, self._heard, self._waiting = seats, heard, waiting
        self._lines: dict[str, Line] = {}

    @asynccontextmanager
    async def listener(self, client_id: str) -> AsyncIterator[tuple[Listener, Line]]:
        """Somebody listens under this id."""
        listener = Listener(self._status(client_id))
        line = self._line(client_id)
        line.listeners.append(listener)
        try:
            yield listener, line
        finally:
            line.listeners.remove(listener)

    async def reach(self, client_id: str, prompt_id: str, index: int) -> None:
        """The client's prompt is about to be sent to the worker: nothing that is said of it there is to be missed."""
        line = self._line(client_id)
        line.prompts.add(prompt_id)
        await line.reaches(index)

    def end(self, client_id: str, prompt_id: str) -> None:
        """It has ended, or was taken back."""
        line = self._lines.get(client_id)
        if line is not None:
            line.prompts.discard(prompt_id)

    def tell(self, client_id: str, kind: str, data: dict[str, Any]) -> None:
        """The door's own word to a client."""
        line = self._lines.get(client_id)
        if line is not None:
            line.tell(json.dumps({"type": kind, "data": data}))

    def repeats(self, client_id: str, path: str, body: Any) -> None:
        """Ask this of every server that comes up from now on, as long as the client is there."""
        line = self._lines.get(client_id)
        if line is not None:
            line.repeated[path] = body

    def tell_status(self) -> None:
        """Tell everybody how many prompts run or wait."""
        for line in self._lines.values():
            line.tell(self._status(None))

    async def close_idle(self, now_s: float) -> None:
        """Close the lines that nobody has needed for a while."""
        for client_id, line in list(self._lines.items()):
            if line.listeners or line.prompts:
                line.left_s = None
            elif line.left_s is None:
                line.left_s = now_s
            elif now_s - line.left_s > STAYS_S:
                del self._lines[client_id]
                await line.close()

    async def close(self) -> None:
        await asyncio.gather(*(line.close() for line in self._lines.values()))

    def _line(self, client_id: str) -> Line:
        if client_id not in self._lines:
            self._lines[client_id] = Line(self._seats, client_id, self._heard, self._status)
        return self._lines[client_id]

    def _status(self, client_id: str | None) -> str:
        data: dict[str, Any] = {"status": {"exec_info": {"queue_remaining": self._waiting()}}}
        return json.dumps({"type": "status", "data": data if client_id is None else {**data, "sid": client_id}})


def named(value: Any, worker: str) -> Any:
    """The same with the worker's name in front of the subfolder of every file that it has made."""
    if isinstance(value, dict):
        if value.get("type") in OWN_FILES and isinstance(value.get("filename"), str):
            return {**value, "subfolder": "/".join(filter(None, (worker, value.get("subfolder"))))}
        return {key: named(inner, worker) for key, inner in value.items()}
    if isinstance(value, list):
        return [named(inner, worker) for inner in value]
    return value
