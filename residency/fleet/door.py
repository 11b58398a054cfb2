"""One door in front of several ComfyUI servers, which speaks ComfyUI's API: who gets a prompt, whose answer it is, what a client hears.

A prompt is sent to its worker at once, under the id that the client knows, and its weights are read behind what runs there. Files that a
worker has made are named by their worker: `subfolder` begins with its name in everything that a client is told, and loses it again on the
way to the worker. Inputs lie in one folder for all. Nothing here knows Ray.
"""

from __future__ import annotations

import asyncio
import json
import logging
import mimetypes
import time
import urllib.parse
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from ..simulate import GB, Step, of_rates
from ..units import shown
from .forecast import Forecast, Job, Place
from .routing import Decision, NoWorkerError, Router, Turns, Worker

log = logging.getLogger("residency.fleet")

LOOK_S = 0.3  # between two looks at what the workers do
STATE_S = 1.0  # for so long a worker's own word of what is warm holds
ASK_S = 30.0
LOST_S = 10.0  # a worker that has not answered for so long is lost, and its prompts run elsewhere
KEPT = 1000  # prompts that have ended
WARM_SHARE = 0.9  # of a component's bytes in a place or nearer: it lies there
SEEN_SECONDS = 20.0  # of a prompt whose seconds nobody knows, until one has ended
DISK_BYTES_PER_S, LINK_BYTES_PER_S = 1.5 * GB, 25.0 * GB  # until a worker has measured its own
MODULE_FORECAST = Forecast(of_rates(DISK_BYTES_PER_S, LINK_BYTES_PER_S, 24 * GB, 64 * GB))
OWN_FILES = ("output", "temp")  # types of files that a worker makes
NOT_PASSED = {"host", "origin", "content-length", "connection", "transfer-encoding", "accept-encoding", "authorization", "cookie"}
NOT_PASSED_BACK = {"content-length", "transfer-encoding", "connection", "content-encoding"}


@dataclass(slots=True)
class Seat:
    """A worker as the door sees it. `find()` gives its address now, which changes when it is started anew; None while it is not up."""

    name: str
    find: Callable[[], Awaitable[str | None]]
    url: str | None = None
    missed_since_s: float | None = None
    state: Mapping[str, Any] | None = None
    state_at_s: float = -1e9


@dataclass(slots=True)
class Placed:
    """A prompt that was taken. `body` is what the client has sent; `runs` counts how often it was sent to a worker."""

    prompt_id: str
    body: Mapping[str, Any]
    seat: int
    job: Job
    expected_s: float
    decided: Mapping[str, Any]
    at_s: float
    runs: int = 1
    begun_s: float | None = None


@dataclass(slots=True)
class Answer:
    """What a client gets."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(value: Any, status: int = 200) -> Answer:
        return Answer(status, json.dumps(value).encode(), {"content-type": "application/json"})


class LostError(Exception):
    """A worker did not answer."""


class Door:
    """On one event loop, between `open` and `close`. `outputs` holds a folder of each worker's outputs, under its name."""

    def __init__(self, seats: Iterable[Seat], outputs: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.seats = list(seats)
        self._outputs = outputs.resolve()
        self._clock = clock
        self._router = Router([Worker(seat.name, MODULE_FORECAST, 64 * GB) for seat in self.seats])
        self._forecasts: dict[tuple[Any, ...], Forecast] = {}
        self._turns = Turns()
        self._placed: dict[str, Placed] = {}
        self._ended: OrderedDict[str, Any] = OrderedDict()
        self._decisions: OrderedDict[str, Mapping[str, Any]] = OrderedDict()
        self._seconds = SEEN_SECONDS
        self._deciding = asyncio.Lock()
        self._listening: set[Messages] = set()
        self._session: aiohttp.ClientSession | None = None
        self._watching: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_S))
        await self._look()
        await self._recall()
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        if self._session is not None:
            await self._session.close()

    # --- what clients ask ---

    async def prompt(self, body: Any) -> Answer:
        """POST /prompt: the answer of the worker that was chosen."""
        if not isinstance(body, dict):
            return _refusal(400, "the body must be a JSON object with a prompt")
        body = {**body, "prompt_id": body.get("prompt_id") or str(uuid.uuid4())}
        async with self._deciding:
            try:
                answer, _ = await self._place(body)
            except NoWorkerError as error:
                return _refusal(503, str(error))
        return answer

    async def queue(self) -> Answer:
        """GET /queue: that of all workers."""
        found: dict[str, list[Any]] = {"queue_running": [], "queue_pending": []}
        for told in await self._all_json("/queue"):
            for name, items in found.items():
                items += (told or {}).get(name, [])
        return Answer.of(found)

    async def change_queue(self, body: Any) -> Answer:
        """POST /queue: to everybody; a prompt that nobody has is nobody's."""
        await self._all("POST", "/queue", body)
        if isinstance(body, dict):
            gone = [*self._placed] if body.get("clear") else [one for one in body.get("delete") or () if isinstance(one, str)]
            for prompt_id in gone:
                placed = self._placed.get(prompt_id)
                if placed is not None and placed.begun_s is None:
                    del self._placed[prompt_id]
        return Answer()

    async def history(self, prompt_id: str | None, most: int | None = None) -> Answer:
        """GET /history, of all or of one."""
        if prompt_id is not None:
            if prompt_id not in self._ended:
                await self._settle(prompt_id)
            kept = self._ended.get(prompt_id)
            return Answer.of({} if kept is None else {prompt_id: kept})
        items = list(self._ended.items())
        return Answer.of(dict(items[-most:] if most else items))

    async def change_history(self, body: Any) -> Answer:
        """POST /history: forget."""
        await self._all("POST", "/history", body)
        if isinstance(body, dict):
            if body.get("clear"):
                self._ended.clear()
            for prompt_id in body.get("delete") or ():
                self._ended.pop(prompt_id, None)
        return Answer()

    async def interrupt(self, body: Any) -> Answer:
        """POST /interrupt: the worker that has the prompt; without one, as ComfyUI does, everybody."""
        prompt_id = body.get("prompt_id") if isinstance(body, dict) else None
        placed = self._placed.get(prompt_id) if isinstance(prompt_id, str) else None
        if placed is not None:
            return await self._ask(placed.seat, "POST", "/interrupt", body)
        if prompt_id is None:
            await self._all("POST", "/interrupt", body or {})
        return Answer()

    async def view(self, query: Mapping[str, str]) -> Answer:
        """GET /view: from the worker that made the file; from the kept outputs where it has gone."""
        name, _, rest = query.get("subfolder", "").partition("/")
        index = next((index for index, seat in enumerate(self.seats) if seat.name == name), None)
        if index is None or query.get("type", "output") not in OWN_FILES:
            return await self.pass_on("GET", "/view?" + urllib.parse.urlencode(query), {}, b"")
        try:
            return await self._ask(index, "GET", "/view?" + urllib.parse.urlencode({**query, "subfolder": rest}))
        except LostError:
            return self._kept_file(name, rest, query.get("filename", ""), query.get("type", "output"))

    async def system_stats(self) -> Answer:
        """GET /system_stats: one worker's, with the devices of all."""
        told = [one for one in await self._all_json("/system_stats") if one]
        if not told:
            return _refusal(503, "no worker answers")
        return Answer.of({**told[0], "devices": [device for one in told for device in one.get("devices", ())]})

    async def prompt_info(self) -> Answer:
        """GET /prompt."""
        return Answer.of({"exec_info": {"queue_remaining": len(self._placed)}})

    async def for_all(self, method: str, path: str, body: Any) -> Answer:
        """To every worker, such as POST /free."""
        await self._all(method, path, body)
        return Answer()

    async def pass_on(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """To the first worker that answers: what is the same on all of them."""
        for index in range(len(self.seats)):
            try:
                return await self._ask(index, method, path, None, headers, body)
            except LostError:
                continue
        return _refusal(503, "no worker answers; residency fleet status tells why")

    async def states(self) -> Answer:
        """GET /residency/state: what is warm on each worker."""
        told = await self._all_json("/residency/state")
        return Answer.of({"workers": {seat.name: one for seat, one in zip(self.seats, told, strict=True)}})

    def status(self) -> dict[str, Any]:
        """What `fleet status` shows; JSON-ready."""
        workers = []
        for index, (seat, worker) in enumerate(zip(self.seats, self._router.workers, strict=True)):
            waiting = [one.prompt_id for one in self._placed.values() if one.seat == index]
            warm = [one["name"] for one in (seat.state or {}).get("components", ()) if _place(one) < Place.DISK]
            one = {"name": seat.name, "url": seat.url, "up": seat.url is not None, "pack": worker.tells, "prompts": waiting, "warm": warm}
            workers.append({**one, "margin": round(worker.margin, 3)})
        return {"workers": workers, "decisions": list(self._decisions.values())[-20:], "ended": len(self._ended)}

    # --- what clients hear ---

    @asynccontextmanager
    async def messages(self, client_id: str) -> AsyncIterator[Messages]:
        """The messages of all workers to one client."""
        messages = Messages(self, client_id)
        self._listening.add(messages)
        try:
            yield messages
        finally:
            self._listening.discard(messages)
            await messages.close()

    @property
    def waiting(self) -> int:
        """Prompts that run or wait."""
        return len(self._placed)

    # --- placing ---

    async def _place(self, body: Mapping[str, Any], runs: int = 1, without: frozenset[int] = frozenset()) -> tuple[Answer, int]:
        job, compute_s, cached, why_not = await self._job(body.get("prompt"))
        await self._refresh(job, cached, without)
        now_s = self._clock()
        decision = self._router.decide(job, now_s)
        index = decision.index
        self._router.demand.asked(job.keys, now_s)
        expected_s = decision.score.stall_s + (compute_s or self._seconds)
        if "number" not in body and not body.get("front"):  # the client has no wish of its own
            body = {**body, "number": self._turns.of(str(body.get("client_id", "")), expected_s)}
        try:
            answer = await self._ask(index, "POST", "/prompt", body)
        except LostError:
            if len(without) + 1 >= len(self.seats):
                raise NoWorkerError("no worker answers; residency fleet status tells why") from None
            return await self._place(body, runs, without | {index})
        if answer.status == 200:
            prompt_id = json.loads(answer.body)["prompt_id"]
            told = _told(prompt_id, decision, why_not)
            self._decisions[prompt_id] = told
            while len(self._decisions) > KEPT:
                self._decisions.popitem(last=False)
            self._placed[prompt_id] = Placed(prompt_id, body, index, job, expected_s, told, now_s, runs)
            self._router.workers[index].last_model = job.model
            log.info("prompt %s -> %s", prompt_id, told["reason"])
        return answer, index

    async def _job(self, prompt: Any) -> tuple[Job, float, frozenset[str], str]:
        """The prompt for the scorer, its seconds of computing (0: nobody knows), what the page cache holds, and why that is all unknown."""
        why_not = "no worker has the pack: by last model and queue"
        for index in range(len(self.seats)):
            try:
                answer = await self._ask(index, "POST", "/residency/estimate", {"prompt": prompt})
            except LostError:
                continue
            if answer.status == 400:
                return _job_by_names(prompt), 0.0, frozenset(), "the pack cannot read this prompt"
            if answer.status != 200:
                continue
            told = json.loads(answer.body)
            sizes = {key: int(one["size_bytes"]) for key, one in told["components"].items()}
            steps = tuple(
                Step(one["node_id"], one["class_type"], one["compute_s"], tuple(one["components"]), one["passes"], one["working_set_bytes"])
                for one in told["steps"]
            )
            computing = max((step for step in steps if step.components), key=lambda step: step.compute_s, default=None)
            model = max(computing.components, key=sizes.__getitem__) if computing is not None else ""
            cached = frozenset(key for key, one in told["components"].items() if _place(one) <= Place.CACHED)
            return Job(steps, sizes, model), float(told["compute_s"]), cached, ""
        return _job_by_names(prompt), 0.0, frozenset(), why_not

    async def _refresh(self, job: Job, cached: frozenset[str], without: frozenset[int]) -> None:
        """Bring what is known of the workers up to this moment; `cached` holds for all of them, which share one page cache."""
        now_s = self._clock()
        stale = [index for index, seat in enumerate(self.seats) if seat.url and now_s - seat.state_at_s > STATE_S]
        for index, told in zip(stale, await asyncio.gather(*(self._state(index) for index in stale)), strict=True):
            self.seats[index].state, self.seats[index].state_at_s = told, now_s
        for index, (seat, worker) in enumerate(zip(self.seats, self._router.workers, strict=True)):
            mine = [one for one in self._placed.values() if one.seat == index]
            worker.takes_prompts = seat.url is not None and index not in without
            worker.queued = len(mine)
            worker.ready_s = now_s
            for one in mine:
                done_s = now_s - one.begun_s if one.begun_s is not None else 0.0
                worker.ready_s += max(0.0, one.expected_s - done_s)
            worker.tells = seat.state is not None
            if seat.state is None:
                continue
            worker.forecast = self._forecast(seat.state)
            ram = seat.state["ram"]
            worker.room_bytes = max(0, ram["total_bytes"] - ram["reserve_bytes"])
            lies = {one["key"]: _place(one) for one in seat.state["components"]}
            lies = {key: place for key, place in lies.items() if place < Place.DISK}
            lies.update((key, Place.CACHED) for key in cached if key not in lies)
            lies.update((key, Place.DEVICE) for one in mine for key in one.job.keys)  # by the time it is this prompt's turn
            sizes = {one["key"]: one["size_bytes"] for one in seat.state["components"]}
            sizes.update((key, size_bytes) for one in [job, *(placed.job for placed in mine)] for key, size_bytes in one.sizes.items())
            for key in [key for key in worker.held if key not in lies]:
                self._router.loses(index, key)
            worker.places = lies
            for key in lies:
                self._router.holds(index, key, sizes[key])

    def _forecast(self, state: Mapping[str, Any]) -> Forecast:
        """One for each kind of machine, so that what was simulated for one worker serves its twins."""
        rates, ram = state["rates"], state["ram"]
        disk = max(rates["read_bytes_per_s"].values(), default=0.0) or DISK_BYTES_PER_S
        device_bytes = state["device"]["limit_bytes"] if state["device"] is not None else None
        link = rates["onload_bytes_per_s"] or LINK_BYTES_PER_S
        about = [float(f"{value:.1g}") for value in (disk, link, ram["total_bytes"] - ram["reserve_bytes"])]
        kind = (*about, device_bytes)
        if kind not in self._forecasts:
            self._forecasts[kind] = Forecast(of_rates(about[0], about[1], device_bytes, int(about[2])))
        return self._forecasts[kind]

    async def _state(self, index: int) -> Mapping[str, Any] | None:
        try:
            answer = await self._ask(index, "GET", "/residency/state")
            told = json.loads(answer.body) if answer.status == 200 else None
        except (LostError, ValueError):
            return None
        return told if isinstance(told, dict) and told.get("installed") else None

    # --- watching ---

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._look()
            except Exception:
                log.exception("looking at the workers failed; it is tried again")

    async def _look(self) -> None:
        """Where each worker is, what has ended, and what has to run elsewhere."""
        before = self.waiting
        await self._look_at_all()
        if self.waiting != before:  # the workers' own word came before what they meant was known here
            for messages in self._listening:
                messages.tell_status()

    async def _look_at_all(self) -> None:
        now_s = self._clock()
        for index, seat in enumerate(self.seats):
            try:
                queue = await self._json(index, "/queue") if seat.url else None
            except LostError:
                queue = None
            if queue is None:
                await self._miss(index, now_s)
                continue
            seat.missed_since_s = None
            running = {item[1] for item in queue.get("queue_running", ())}
            pending = {item[1] for item in queue.get("queue_pending", ())}
            for placed in [one for one in self._placed.values() if one.seat == index]:
                if placed.prompt_id in running and placed.begun_s is None:
                    placed.begun_s = now_s
                    number = placed.body.get("number")
                    if isinstance(number, int | float):
                        self._turns.begins(number)
                elif placed.prompt_id not in running | pending and now_s - placed.at_s > LOOK_S:
                    await self._settle(placed.prompt_id, left_queue=True)

    async def _miss(self, index: int, now_s: float) -> None:
        """The worker does not answer: find it anew. Its prompts run elsewhere once it is another one, or has been gone for long."""
        seat = self.seats[index]
        before = seat.url
        seat.missed_since_s = now_s if seat.missed_since_s is None else seat.missed_since_s
        found = await seat.find()
        is_new = found is not None and found != before
        if is_new or now_s - seat.missed_since_s > LOST_S:
            seat.url, seat.state, seat.state_at_s = found if is_new else None, None, -1e9
            if is_new:
                seat.missed_since_s = None
            for placed in [one for one in self._placed.values() if one.seat == index]:
                await self._run_elsewhere(placed)

    async def _run_elsewhere(self, placed: Placed) -> None:
        """Once more, under the same id: the worker that had it is gone."""
        async with self._deciding:
            if self._placed.get(placed.prompt_id) is not placed:
                return
            name = self.seats[placed.seat].name
            log.warning("prompt %s was lost with %s; it runs elsewhere", placed.prompt_id, name)
            del self._placed[placed.prompt_id]
            try:
                answer, _ = await self._place(placed.body, placed.runs + 1)
            except NoWorkerError:
                self._placed[placed.prompt_id] = placed  # tried again at the next look
                return
            if answer.status != 200:
                log.warning("prompt %s was refused elsewhere: %s", placed.prompt_id, answer.body[:200])

    async def _settle(self, prompt_id: str, *, left_queue: bool = False) -> None:
        """Keep the history of a prompt that has ended, and learn from its seconds. One that has left its worker's queue and has none was
        taken out of it."""
        placed = self._placed.get(prompt_id)
        if placed is None:
            return
        try:
            told = await self._json(placed.seat, f"/history/{prompt_id}")
        except LostError:
            return
        if self._placed.get(prompt_id) is not placed:
            return
        kept = (told or {}).get(prompt_id)
        if kept is not None:
            self._keep(prompt_id, kept, self.seats[placed.seat].name)
            seconds = _seconds(kept)
            if seconds is not None:
                self._seconds += 0.2 * (seconds - self._seconds)
                self._router.workers[placed.seat].took(placed.expected_s, seconds)
        elif not left_queue:
            return
        del self._placed[prompt_id]

    def _keep(self, prompt_id: str, told: Mapping[str, Any], name: str) -> None:
        self._ended[prompt_id] = {**told, "outputs": named(told.get("outputs", {}), name)}
        while len(self._ended) > KEPT:
            self._ended.popitem(last=False)

    async def _recall(self) -> None:
        """After the door has been started anew: what the workers have run, run now and are to run."""
        for index, seat in enumerate(self.seats):
            if seat.url is None:
                continue
            try:
                queue, history = await self._json(index, "/queue"), await self._json(index, "/history")
            except LostError:
                continue
            for prompt_id, told in (history or {}).items():
                self._keep(prompt_id, told, seat.name)
            for item in [*(queue or {}).get("queue_running", ()), *(queue or {}).get("queue_pending", ())]:
                body = {"prompt": item[2], "prompt_id": item[1], "extra_data": item[3], "client_id": (item[3] or {}).get("client_id")}
                job = _job_by_names(item[2])
                self._placed[item[1]] = Placed(item[1], body, index, job, self._seconds, {"reason": "found there"}, self._clock())

    # --- asking workers ---

    async def _ask(
        self, index: int, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, data: bytes | None = None
    ) -> Answer:
        """Raises LostError."""
        seat = self.seats[index]
        if seat.url is None or self._session is None:
            raise LostError(seat.name)
        passed = {name: value for name, value in (headers or {}).items() if name.lower() not in NOT_PASSED | {"sec-fetch-site"}}
        if body is not None:
            data, passed = json.dumps(body).encode(), {**passed, "content-type": "application/json"}
        try:
            async with self._session.request(method, f"{seat.url}{path}", data=data, headers=passed, allow_redirects=False) as answer:
                back = {name: value for name, value in answer.headers.items() if name.lower() not in NOT_PASSED_BACK}
                return Answer(answer.status, await answer.read(), back)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise LostError(f"{seat.name}: {error}") from error

    async def _json(self, index: int, path: str) -> Any:
        answer = await self._ask(index, "GET", path)
        return json.loads(answer.body) if answer.status == 200 else None

    async def _all(self, method: str, path: str, body: Any) -> list[Answer | None]:
        async def one(index: int) -> Answer | None:
            try:
                return await self._ask(index, method, path, body)
            except LostError:
                return None

        return list(await asyncio.gather(*map(one, range(len(self.seats)))))

    async def _all_json(self, path: str) -> list[Any]:
        answers = await self._all("GET", path, None)
        return [json.loads(one.body) if one is not None and one.status == 200 else None for one in answers]

    @property
    def session(self) -> aiohttp.ClientSession:
        assert self._session is not None
        return self._session

    def _kept_file(self, worker: str, subfolder: str, filename: str, kind: str) -> Answer:
        folder = self._outputs / worker
        path = (folder / subfolder / filename).resolve()
        if kind != "output" or not path.is_relative_to(folder) or not path.is_file():
            return _refusal(404, f"{shown(filename)} of {worker} is not kept")
        return Answer(200, path.read_bytes(), {"content-type": mimetypes.guess_type(path.name)[0] or "application/octet-stream"})


class Messages:
    """What one client hears: its own messages of every worker, and one count of what waits."""

    def __init__(self, door: Door, client_id: str) -> None:
        self._door, self._client_id = door, client_id
        self._heard: asyncio.Queue[str | bytes] = asyncio.Queue()
        self._upstream: dict[int, Any] = {}
        self._said: list[str] = []
        self._heard.put_nowait(self._status(with_id=True))
        self._tasks = [asyncio.create_task(self._listen(index)) for index in range(len(door.seats))]

    async def next(self) -> str | bytes:
        """The next message to the client."""
        return await self._heard.get()

    async def say(self, text: str) -> None:
        """The client has said something, such as which features it has: every worker hears it, also one that comes later."""
        self._said.append(text)
        for socket in list(self._upstream.values()):
            try:
                await socket.send_str(text)
            except (aiohttp.ClientError, ConnectionError):
                continue

    def tell_status(self) -> None:
        """What waits has changed."""
        self._heard.put_nowait(self._status())

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _listen(self, index: int) -> None:
        seat = self._door.seats[index]
        while True:
            url = seat.url
            if url is not None:
                try:
                    path = f"{url}/ws?clientId={urllib.parse.quote(self._client_id)}"
                    async with self._door.session.ws_connect(path, max_msg_size=0, timeout=aiohttp.ClientWSTimeout(ws_close=1.0)) as socket:
                        for text in self._said:
                            await socket.send_str(text)
                        self._upstream[index] = socket
                        async for message in socket:
                            self._pass(index, message)
                except (aiohttp.ClientError, OSError, TimeoutError):
                    pass
                finally:
                    self._upstream.pop(index, None)
            await asyncio.sleep(LOOK_S)

    def _pass(self, index: int, message: Any) -> None:
        if message.type is aiohttp.WSMsgType.BINARY:
            self._heard.put_nowait(message.data)
        elif message.type is aiohttp.WSMsgType.TEXT:
            told = json.loads(message.data)
            if told.get("type") == "status":
                self.tell_status()
            elif told.get("type") == "feature_flags" and index != min(self._upstream, default=index):
                pass  # one server's word is enough
            else:
                self._heard.put_nowait(json.dumps(named(told, self._door.seats[index].name)))

    def _status(self, *, with_id: bool = False) -> str:
        data: dict[str, Any] = {"status": {"exec_info": {"queue_remaining": self._door.waiting}}}
        return json.dumps({"type": "status", "data": {**data, "sid": self._client_id} if with_id else data})


def named(value: Any, worker: str) -> Any:
    """The same with the worker's name in front of the subfolder of every file that it has made."""
    if isinstance(value, dict):
        if value.get("type") in OWN_FILES and isinstance(value.get("filename"), str):
            return {**value, "subfolder": "/".join(filter(None, (worker, value.get("subfolder"))))}
        return {key: named(inner, worker) for key, inner in value.items()}
    if isinstance(value, list):
        return [named(inner, worker) for inner in value]
    return value


def refused(headers: Mapping[str, str], token: str | None, query_token: str | None = None) -> str | None:
    """Why a request is not answered, None where it is: ComfyUI's own rule for pages of other sites, and the token where there is one."""
    if headers.get("sec-fetch-site") == "cross-site":
        return "the request comes from another site's page"
    origin, host = headers.get("origin"), headers.get("host")
    if origin and host and urllib.parse.urlsplit(origin).netloc.lower() != host.lower():
        return f"the request comes from a page of {shown(origin)}"
    if token is not None and headers.get("authorization") != f"Bearer {token}" and query_token != token:
        return "the token is missing or another one; send it as Authorization: Bearer TOKEN"
    return None


def _job_by_names(prompt: Any) -> Job:
    """Of a prompt that no worker can estimate: its largest model is whatever its first loader names."""
    names = [
        str(value)
        for node in (prompt.values() if isinstance(prompt, dict) else ())
        if isinstance(node, dict) and isinstance(node.get("inputs"), dict)
        for name, value in node["inputs"].items()
        if isinstance(value, str) and name.endswith("_name")
    ]
    return Job((Step("1", "Prompt", 0.0),), {}, names[0] if names else "")


def _place(lies: Mapping[str, Any]) -> Place:
    """The place of a component as a whole, by bytes in each."""
    enough_bytes = WARM_SHARE * max(1, lies["size_bytes"])
    there_bytes = 0
    for place, name in ((Place.DEVICE, "device_bytes"), (Place.PINNED, "pinned_bytes"), (Place.CACHED, "cached_bytes")):
        there_bytes += lies[name] or 0
        if there_bytes >= enough_bytes:
            return place
    return Place.DISK


def _told(prompt_id: str, decision: Decision, why_not: str) -> dict[str, Any]:
    runners_up = [{"worker": one.worker, "seconds": round(one.total_s, 3), "of": one.told()} for one in decision.runners_up]
    reason = f"{decision.score.worker}: {decision.reason}" + (f" ({why_not})" if why_not else "")
    return {"prompt_id": prompt_id, "worker": decision.score.worker, "seconds": round(decision.score.total_s, 3), "reason": reason,
            "runners_up": runners_up}  # fmt: skip


def _seconds(told: Mapping[str, Any]) -> float | None:
    """Of an ended prompt, by its own messages."""
    at = {name: data.get("timestamp") for name, data in told.get("status", {}).get("messages", ()) if isinstance(data, dict)}
    start, end = at.get("execution_start"), at.get("execution_success")
    return (end - start) / 1000 if start is not None and end is not None else None


def _refusal(status: int, message: str) -> Answer:
    return Answer.of({"error": {"type": "fleet", "message": message, "details": "", "extra_info": {}}, "node_errors": {}}, status)
