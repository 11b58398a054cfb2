"""The door asks its workers: one of them, any, or all at once."""

from __future__ import annotations

import asyncio
import json
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any

import aiohttp

from .seats import Answer, LostError, Seat, refusal

ASK_S = 30.0
PATIENT_S = 1.0  # for one worker, before what does not need it goes on
NOT_PASSED = {
    "accept-encoding", "authorization", "connection", "content-length", "cookie", "host", "origin", "sec-fetch-site", "transfer-encoding",
}  # fmt: skip
NOT_PASSED_BACK = {"connection", "content-encoding", "content-length", "transfer-encoding"}


class Seats:
    """All of them, between `open` and `close`, on one event loop."""

    def __init__(self, seats: Iterable[Seat]) -> None:
        self._seats = list(seats)
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_S))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def __len__(self) -> int:
        return len(self._seats)

    def __getitem__(self, index: int) -> Seat:
        return self._seats[index]

    def named(self, name: str) -> int | None:
        """Its index; None where nobody has the name."""
        return next((index for index, seat in enumerate(self._seats) if seat.name == name), None)

    async def ask(
        self,
        index: int,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        timeout_s: float = ASK_S,
    ) -> Answer:
        """Raises LostError."""
        seat = self._seats[index]
        if seat.url is None or self._session is None:
            raise LostError(f"{seat.name} is not up")
        passed = {name: value for name, value in (headers or {}).items() if name.lower() not in NOT_PASSED}
        if body is not None:
            data, passed = json.dumps(body).encode(), {**passed, "content-type": "application/json"}
        limit = aiohttp.ClientTimeout(total=timeout_s)
        url = f"{seat.url}{path}"
        try:
            async with self._session.request(method, url, data=data, headers=passed, allow_redirects=False, timeout=limit) as answer:
                back = {name: value for name, value in answer.headers.items() if name.lower() not in NOT_PASSED_BACK}
                return Answer(answer.status, await answer.read(), back)
        except aiohttp.ClientConnectorError as error:
            raise LostError(f"{seat.name}: {error}") from error
        except (aiohttp.ClientError, TimeoutError, asyncio.TimeoutError, OSError) as error:
            raise LostError(f"{seat.name}: {error or type(error).__name__}", delivered=True) from error

    async def ask_json(self, index: int, path: str, timeout_s: float = ASK_S) -> Any:
        """None for an error of the server's. Raises LostError."""
        return (await self.ask(index, "GET", path, timeout_s=timeout_s)).json

    async def ask_all(self, method: str, path: str, body: Any = None) -> list[Answer | None]:
        """Every worker at once; None of one that does not answer."""

        async def one(index: int) -> Answer | None:
            try:
                return await self.ask(index, method, path, body) if self._seats[index].answers else None
            except LostError:
                return None

        return list(await asyncio.gather(*map(one, range(len(self._seats)))))

    async def ask_any(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, data: bytes | None = None, first: int | None = None
    ) -> Answer:
        """The answer of the first worker that gives one; a request that is no GET goes to no second worker where one may have heard it."""
        for index in sorted(range(len(self._seats)), key=lambda one: one != first):
            if not self._seats[index].answers:
                continue
            try:
                return await self.ask(index, method, path, None, headers, data)
            except LostError as error:
                if error.delivered and method != "GET":
                    return refusal(503, f"{error}; nobody knows whether it was done")
        return refusal(503, "no worker answers; residency fleet status tells why")

    def listen(self, index: int, client_id: str) -> Any:
        """A websocket to the worker, as a context manager of aiohttp's; None while it is not up."""
        seat = self._seats[index]
        if seat.url is None or self._session is None:
            return None
        path = f"{seat.url}/ws?clientId={urllib.parse.quote(client_id)}"
        return self._session.ws_connect(path, max_msg_size=0, timeout=aiohttp.ClientWSTimeout(ws_close=1.0))
