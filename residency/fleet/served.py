"""The actors and the Serve ingress. Imported only where Ray is.

Annotations are evaluated here: Serve hands FastAPI a copy of each method that no longer knows where their names come from.
"""

import asyncio
import logging
import os
import threading
import time
from contextlib import ExitStack
from typing import Any

import ray
from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from ray import serve

from . import cluster
from .access import refused
from .door import Door
from .ledger import Ledger
from .seats import Answer, Seat

log = logging.getLogger("residency.fleet")

APPLICATION = "residency-fleet"
app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)


@ray.remote(num_cpus=1, max_restarts=-1, max_concurrency=4)
class ComfyWorker:
    """One ComfyUI server. When it dies, so does this actor, and Ray starts both anew."""

    def __init__(self, plan: cluster.Plan, name: str) -> None:
        self._stack = ExitStack()
        self._life = os.urandom(8).hex()
        self._ending = False
        self._server: Any = None
        self._error = ""
        threading.Thread(target=self._run, args=(plan, name), name="residency fleet", daemon=True).start()

    def where(self) -> tuple[str, str | None]:
        """Which server this is, and its address once it is up. Raises RuntimeError where it has not come up."""
        if self._error:
            raise RuntimeError(self._error)
        return self._life, str(self._server.url) if self._server is not None else None

    def pids(self) -> dict[str, int]:
        """Of the actor and of its server, for whoever looks after them."""
        return {"actor": os.getpid(), "server": self._server.process.pid}

    def kill(self) -> None:
        """End the server at once, whatever it does."""
        if self._server is not None:
            self._server.process.kill()

    def stop(self) -> None:
        """End the server and remove its folder."""
        self._ending = True
        self._stack.close()

    def _run(self, plan: cluster.Plan, name: str) -> None:
        try:
            self._server = cluster.server_of(plan, name, self._stack)
        except Exception as error:
            self._error = f"{name}: {error}"
            log.warning("%s", self._error)
            time.sleep(cluster.RETRY_S)  # whoever starts the fleet asks meanwhile
        while self._server is not None and self._server.process.poll() is None:
            time.sleep(cluster.LOOK_S)
        if not self._ending:
            self._stack.close()
            os._exit(1)  # an exit that Ray does not take for one that was meant


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, dict(answer.headers))


# The application is copied while this class is made: what its methods call stands above it.
@serve.deployment(name="door", num_replicas=1, max_ongoing_requests=1000, ray_actor_options={"num_cpus": 1}, graceful_shutdown_timeout_s=2)
@serve.ingress(app)
class Front:
    """ComfyUI's API, in front of every worker."""

    def __init__(self, plan: cluster.Plan, workers: list[Any]) -> None:
        self._token = plan.token
        seats = [
            Seat(name, cluster.finder(actor.where.remote), actor.kill.remote, cluster.THIS_MACHINE)
            for name, actor in zip(cluster.names(plan.workers), workers, strict=True)
        ]
        ledger = Ledger(plan.folder / "door.sqlite")
        self._door = Door(seats, plan.folder / "output", ledger, hang_s=plan.hang_s, choose=cluster.chooser(plan.policy))
        self._opened = asyncio.get_running_loop().create_task(self._door.open())

    @app.websocket("/ws")
    async def websocket(self, socket: WebSocket) -> None:
        """ComfyUI's websocket."""
        why_not = refused(socket.headers, self._token, socket.query_params.get("token"))
        await self._opened
        if why_not is not None:
            await socket.close(1008, why_not[:100])
            return
        await socket.accept()
        client_id = socket.query_params.get("clientId") or os.urandom(16).hex()
        async with self._door.messages(client_id) as (messages, line):

            async def speak() -> None:
                while True:
                    told = await messages.next()
                    await (socket.send_text(told) if isinstance(told, str) else socket.send_bytes(told))

            speaking = asyncio.create_task(speak())
            try:
                while True:
                    heard = await socket.receive()
                    if heard["type"] == "websocket.disconnect":
                        break
                    if heard.get("text") is not None:
                        await line.say(heard["text"])
            except WebSocketDisconnect:
                pass
            finally:
                speaking.cancel()

    @app.api_route("/{path:path}", methods=["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
    async def request(self, request: Request, path: str) -> Response:
        """Everything else."""
        why_not = refused(request.headers, self._token, request.query_params.get("token"))
        if why_not is not None:
            return _response(Answer.of({"error": why_not}, 403))
        await self._opened
        query = {name: value for name, value in request.query_params.items() if name != "token"}
        return _response(await self._door.answer(request.method, f"/{path}", query, request.headers, await request.body()))


def make(plan: cluster.Plan, stopped: threading.Event) -> None:
    """Start workers and door; returns once all of them answer, or it is `stopped`. Raises an error of Ray's where a worker does not come
    up."""
    options = {"num_gpus": 1} if plan.gpus else {}
    actor: Any = ComfyWorker
    front: Any = Front
    workers = [actor.options(name=name, **options).remote(plan, name) for name in cluster.names(plan.workers)]
    until_s = time.monotonic() + cluster.START_S
    while not stopped.is_set():
        if all(url is not None for _, url in ray.get([worker.where.remote() for worker in workers])):
            break
        if time.monotonic() > until_s:
            raise TimeoutError(f"not all of {plan.workers} workers have come up within {cluster.START_S:.0f} s")
        stopped.wait(cluster.LOOK_S)
    if stopped.is_set():
        return
    serve.start(http_options={"host": plan.host, "port": plan.port}, proxy_location="HeadOnly")
    serve.run(front.bind(plan, workers), name=APPLICATION, route_prefix="/")


def end(plan: cluster.Plan) -> None:
    """Stop the door, then every worker; what does not answer ends with Ray."""
    if not ray.is_initialized():
        return
    try:
        serve.shutdown()
    except Exception as error:  # half of it may not have begun
        log.info("the door did not end by itself: %s", error)
    stopping = []
    for name in cluster.names(plan.workers):
        try:
            stopping.append(ray.get_actor(name).stop.remote())
        except ValueError:  # it was not begun
            continue
    if stopping:
        ray.wait(stopping, num_returns=len(stopping), timeout=cluster.STOP_S)
