"""One door in front of several ComfyUI servers, which speaks ComfyUI's API.

Files that a worker has made are named by their worker: `subfolder` begins with its name in everything that a client is told, and loses it
again on the way to the worker. All workers share one input folder and one folder of users' files. Nothing here knows Ray.
"""

from __future__ import annotations

import asyncio
import json
import logging
import mimetypes
import time
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ..units import shown
from .asking import Seats
from .choosing import Chooser
from .delivery import State
from .ledger import Ledger
from .messages import OWN_FILES, Line, Listener, named
from .outlook import warm_in
from .policies import Choose
from .prompts import Prompts
from .seats import HANG_S, Answer, LostError, Seat, refusal
from .watch import Watch

log = logging.getLogger("residency.fleet")

LOOK_S = 0.3  # between two looks at what the workers do
SHOWN_DECISIONS = 20
ENDED_JOBS = {"completed", "failed", "cancelled"}
FOR_ALL = {"free", "residency/mode", "residency/settings", "residency/watch"}  # what is asked of one server is meant for the fleet


class Door:
    """On one event loop, between `open` and `close`. `outputs` holds a folder of each worker's outputs, under its name."""

    def __init__(
        self,
        seats: Iterable[Seat],
        outputs: Path,
        ledger: Ledger | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        hang_s: float = HANG_S,
        choose: tuple[str, Choose] | None = None,
    ) -> None:
        self.seats = Seats(seats)
        self._outputs = outputs.resolve()
        self._ledger = ledger or Ledger()
        self.chooser = Chooser(self.seats, clock, choose)
        self.prompts = Prompts(self.seats, self._ledger, self.chooser, clock)
        self.watch = Watch(self.seats, self.prompts, clock, hang_s)
        self._watching: asyncio.Task[None] | None = None
        self.failures = 0  # of looking at the workers: contained, and looked again
        drained = self._ledger.drained()
        for index in range(len(self.seats)):
            self.seats[index].drained = self.seats[index].name in drained

    async def open(self) -> None:
        await self.seats.open()
        await self.watch.begin()
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self.prompts.close()
        await self.chooser.outlook.close()
        await self.seats.close()
        self._ledger.close()

    @asynccontextmanager
    async def messages(self, client_id: str) -> AsyncIterator[tuple[Listener, Line]]:
        """A client's listener, which hears all workers, and its line, which speaks to them."""
        async with self.prompts.lines.listener(client_id) as both:
            yield both

    async def answer(self, method: str, target: str, headers: Mapping[str, str], raw: bytes) -> Answer:
        """To one request. `target` is path and query as they came, quoted; the path may begin with /api as ComfyUI's may."""
        path, _, asked = target.partition("?")
        query = dict(urllib.parse.parse_qsl(asked, keep_blank_values=True))
        route = urllib.parse.unquote(path).removeprefix("/").removeprefix("api/")
        if method == "GET":
            return await self._get(route, query, target, headers, raw)
        if method == "POST":
            return await self._post(route, path, target, headers, raw)
        return await self.seats.ask_any(method, target, headers, raw)

    async def _get(self, route: str, query: Mapping[str, str], whole: str, headers: Mapping[str, str], raw: bytes) -> Answer:
        own: dict[str, Callable[[], Awaitable[Answer]]] = {
            "prompt": self._prompt_info,
            "queue": self._queue,
            "history": lambda: self._history(None, query),
            "jobs": lambda: self._jobs(query, whole, headers),
            "view": lambda: self._view(query, whole, headers),
            "system_stats": self._system_stats,
            "residency/state": self._states,
            "residency/fleet": self._status,
        }
        if route in own:
            return await own[route]()
        if route.startswith("history/"):
            return await self._history(route.partition("/")[2], query)
        if route.startswith("jobs/"):
            return await self._job(route.partition("/")[2], whole, headers)
        first = self._ran(query["prompt_id"]) if route.startswith("residency/") and "prompt_id" in query else None
        return await self.seats.ask_any("GET", whole, headers, raw, first)

    async def _post(self, route: str, path: str, whole: str, headers: Mapping[str, str], raw: bytes) -> Answer:
        is_cancel = route == "jobs/cancel" or (route.startswith("jobs/") and route.endswith("/cancel"))
        if not is_cancel and route not in FOR_ALL | {"prompt", "queue", "history", "interrupt", "residency/drain"}:
            return await self.seats.ask_any("POST", whole, headers, raw)
        try:
            body = json.loads(raw) if raw else {}
        except (ValueError, RecursionError):
            return refusal(400, "the body is not JSON")
        if route == "prompt":
            return await self.prompts.take(body)
        if not isinstance(body, dict):
            return refusal(400, f"the body is {shown(body)}; send a JSON object")
        if route == "queue":
            gone = None if body.get("clear") else [one for one in body.get("delete") or () if isinstance(one, str)]
            return _first(await self.prompts.cancel(gone, "/queue", body))
        if is_cancel:
            return await self._cancel_jobs(route, path, body)
        if route == "history":
            return await self._change_history(body)
        if route == "interrupt":
            return await self._interrupt(body)
        if route == "residency/drain":
            return self._drain(body)
        if route == "residency/watch" and isinstance(body.get("client_id"), str):
            self.prompts.lines.repeats(body["client_id"], "/residency/watch", body)
        return _first(await self.seats.ask_all("POST", whole, body))

    def _ran(self, prompt_id: str) -> int | None:
        """The worker that a prompt was sent to last."""
        decided = self.chooser.decisions.get(prompt_id)
        return self.seats.named(decided["worker"]) if decided is not None else None

    # --- queue and history ---

    async def _prompt_info(self) -> Answer:
        return Answer.of({"exec_info": {"queue_remaining": len(self.prompts.register)}})

    async def _queue(self) -> Answer:
        found: dict[str, list[Any]] = {"queue_running": [], "queue_pending": []}
        for answer in await self.seats.ask_all("GET", "/queue"):
            for name, items in found.items():
                items += ((answer.json if answer is not None else None) or {}).get(name, [])
        return Answer.of(found)

    async def _history(self, prompt_id: str | None, query: Mapping[str, str]) -> Answer:
        if prompt_id is not None:
            await self.prompts.look_for(prompt_id)
            kept = self._ledger.history(prompt_id)
            return Answer.of({} if kept is None else {prompt_id: kept})
        await self.prompts.look_for_running()
        most = query.get("max_items", "")
        return Answer.of(self._ledger.histories(int(most) if most.isdigit() else None))

    async def _change_history(self, body: Mapping[str, Any]) -> Answer:
        if body.get("clear"):
            self._ledger.forgets(None)
        for prompt_id in body.get("delete") or ():
            if isinstance(prompt_id, str):
                self._ledger.forgets(prompt_id)
        return _first(await self.seats.ask_all("POST", "/history", body))

    async def _interrupt(self, body: Mapping[str, Any]) -> Answer:
        """The worker that has the prompt; without one, as ComfyUI does, everybody."""
        prompt_id = body.get("prompt_id")
        if not prompt_id:
            return _first(await self.seats.ask_all("POST", "/interrupt", body))
        placed = self.prompts.register.get(prompt_id) if isinstance(prompt_id, str) else None
        if placed is None or placed.worker < 0:
            return Answer()
        try:
            return await self.seats.ask(placed.worker, "POST", "/interrupt", body)
        except LostError as error:
            return refusal(503, str(error))

    async def _cancel_jobs(self, route: str, path: str, body: Mapping[str, Any]) -> Answer:
        asked = body.get("job_ids") if route == "jobs/cancel" else [route.split("/")[1]]
        ids = [one for one in asked if isinstance(one, str)] if isinstance(asked, list) else []
        answers = [one for one in await self.prompts.cancel(ids, path, body) if one is not None]
        told = [one.json for one in answers if one.json is not None]
        return Answer.of({"cancelled": any(one.get("cancelled") for one in told)}) if told else _first(list(answers))

    async def _job(self, prompt_id: str, whole: str, headers: Mapping[str, str]) -> Answer:
        await self.prompts.look_for(prompt_id)
        placed = self.prompts.register.get(prompt_id)
        kept = self._ledger.jobs().get(prompt_id) if placed is None else None
        if kept is not None:
            return Answer.of(kept)
        return await self.seats.ask_any("GET", whole, headers, first=placed.worker if placed is not None else None)

    async def _jobs(self, query: Mapping[str, str], whole: str, headers: Mapping[str, str]) -> Answer:
        """Those of all workers, and the kept ones, sorted and cut as the query says."""
        refused = await self.seats.ask_any("GET", whole, headers)
        if refused.json is None:
            return refused  # of a query that is wrong, or a ComfyUI without jobs
        await self.prompts.look_for_running()
        wanted = {name: value for name, value in query.items() if name not in ("limit", "offset")}
        states = {one.strip().lower() for one in query.get("status", "").split(",") if one.strip()}
        jobs = {prompt_id: job for prompt_id, job in self._ledger.jobs().items() if _asked_for(job, states, query.get("workflow_id"))}
        answers = await self.seats.ask_all("GET", "/api/jobs" + ("?" + urllib.parse.urlencode(wanted) if wanted else ""))
        for index, answer in enumerate(answers):
            for job in ((answer.json if answer is not None else None) or {}).get("jobs", ()):
                if job["id"] not in jobs and (job["status"] not in ENDED_JOBS or self._ledger.history(job["id"]) is not None):
                    jobs[job["id"]] = named(job, self.seats[index].name)
        by = _duration if query.get("sort_by", "").lower() == "execution_duration" else _created
        ordered = sorted(jobs.values(), key=by, reverse=query.get("sort_order", "desc").lower() != "asc")
        offset = int(query["offset"]) if query.get("offset", "").isdigit() else 0
        limit = int(query["limit"]) if query.get("limit", "").isdigit() else None
        shown_jobs = ordered[offset:][:limit]
        more = {"offset": offset, "limit": limit, "total": len(ordered), "has_more": offset + len(shown_jobs) < len(ordered)}
        return Answer.of({"jobs": shown_jobs, "pagination": more})

    # --- files and machines ---

    async def _view(self, query: Mapping[str, str], whole: str, headers: Mapping[str, str]) -> Answer:
        """From the worker that made the file; from the kept outputs where it has gone."""
        name, _, rest = query.get("subfolder", "").partition("/")
        index, kind = self.seats.named(name), query.get("type", "output")
        if index is None or kind not in OWN_FILES:
            return await self.seats.ask_any("GET", whole, headers)
        try:
            return await self.seats.ask(index, "GET", "/view?" + urllib.parse.urlencode({**query, "subfolder": rest}), None, headers)
        except LostError:
            return self._kept_file(name, rest, query.get("filename", ""), kind)

    def _kept_file(self, worker: str, subfolder: str, filename: str, kind: str) -> Answer:
        folder = self._outputs / worker
        path = (folder / subfolder / filename).resolve()
        if kind != "output" or not path.is_relative_to(folder) or not path.is_file():
            return refusal(404, f"{shown(filename)} of {worker} is not kept")
        return Answer(200, path.read_bytes(), {"content-type": mimetypes.guess_type(path.name)[0] or "application/octet-stream"})

    async def _system_stats(self) -> Answer:
        """One worker's, with the devices of all."""
        told = [one.json for one in await self.seats.ask_all("GET", "/system_stats") if one is not None and one.json is not None]
        if not told:
            return refusal(503, "no worker answers; residency fleet status tells why")
        return Answer.of({**told[0], "devices": [device for one in told for device in one.get("devices", ())]})

    # --- the fleet ---

    async def _states(self) -> Answer:
        told = await self.seats.ask_all("GET", "/residency/state")
        return Answer.of({"workers": {self.seats[index].name: one.json if one is not None else None for index, one in enumerate(told)}})

    def _drain(self, body: Mapping[str, Any]) -> Answer:
        """Drain a worker or a node, or take that back: it gets no prompts, those that wait there are moved, those that run end there."""
        name, on = body.get("worker"), body.get("on", True)
        if not isinstance(on, bool):
            return refusal(400, f"on is {shown(on)}; say true or false")
        drained = [index for index in range(len(self.seats)) if name in _names(self.seats[index])]
        if not isinstance(name, str) or not drained:
            names = ", ".join(self.seats[index].name for index in range(len(self.seats)))
            return refusal(404, f"no worker and no node is {shown(name)}; there are {names}")
        for index in drained:
            self.seats[index].drained = on
            self._ledger.drains(self.seats[index].name, on)
        self.prompts.register.changed = True
        return Answer.of({"drained": [self.seats[index].name for index in range(len(self.seats)) if self.seats[index].drained]})

    async def _status(self) -> Answer:
        await self.chooser.outlook.listen()
        return Answer.of(self.status())

    def status(self) -> dict[str, Any]:
        """The answer that `fleet status` shows; JSON-ready."""
        workers = []
        for index, worker in enumerate(self.chooser.outlook.router.workers):
            seat, mine, state = self.seats[index], self.prompts.register.of_worker(index), self.seats[index].state or {}
            errors = self.prompts.sightings.errors[index]
            workers.append(
                {
                    "name": seat.name,
                    "node": seat.node or seat.machine,
                    "url": seat.url,
                    "up": seat.url is not None,
                    "answers": seat.answers,
                    "ending": seat.ending,
                    "drained": seat.drained,
                    "pack": state.get("version"),
                    "comfyui": state.get("comfyui"),
                    "running": [one.prompt_id for one in mine if one.state is State.RUNNING],
                    "prompts": [one.prompt_id for one in mine],
                    "warm": warm_in(seat),
                    "lacks": sorted(seat.lacks),
                    "margin": round(worker.margin, 3),
                    "loading_margin": round(worker.drives.margin, 3),
                    "predicted_s": round(errors[-1][0], 3) if errors else None,
                    "took_s": round(errors[-1][1], 3) if errors else None,
                }
            )
        warnings = [f"what waits would not survive a new start of the door: {self._ledger.failure}"] if self._ledger.failure else []
        for what in ("pack", "comfyui"):
            found = sorted({str(one[what]) for one in workers if one[what] is not None})
            if len(found) > 1:
                warnings.append(f"workers differ in their {what}: {', '.join(found)}")
        if self.failures:
            warnings.append(f"looking at the workers has failed {self.failures} times; the door's log says why")
        failures = [self.seats[index].failure for index in range(len(self.seats))]
        warnings += [f"a worker has not come up: {failure}" for failure in failures if failure]
        warnings += [f"{one['name']} runs without the pack" for one in workers if one["answers"] and not one["pack"]]
        decisions = list(self.chooser.decisions.values())[-SHOWN_DECISIONS:]
        lost, contained = self.prompts.register.lost(), {"watch": self.failures} if self.failures else {}
        return {
            "workers": workers,
            "decisions": decisions,
            "ended": self._ledger.count(),
            "lost": lost,
            "warnings": warnings,
            "contained_failures": contained,
        }

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.watch.look()
            except Exception:
                self.failures += 1
                log.exception("looking at the workers failed; it is tried again")


def _names(seat: Seat) -> tuple[str, ...]:
    return tuple(filter(None, (seat.name, seat.node, seat.machine)))


def _first(answers: list[Answer | None]) -> Answer:
    """The answer to a client for something that everybody was asked: an error before a success."""
    told = [one for one in answers if one is not None]
    return max(told, key=lambda one: one.status, default=refusal(503, "no worker answers; residency fleet status tells why"))


def _asked_for(job: Mapping[str, Any], states: set[str], workflow_id: str | None) -> bool:
    return (not states or job["status"] in states) and (not workflow_id or job.get("workflow_id") == workflow_id)


def _created(job: Mapping[str, Any]) -> float:
    return float(job.get("create_time") or 0.0)


def _duration(job: Mapping[str, Any]) -> float:
    return float((job.get("execution_end_time") or 0.0) - (job.get("execution_start_time") or 0.0))
