"""The actors and the Serve ingress. Imported only where Ray is.

Annotations are evaluated here: Serve hands FastAPI a copy of each method that no longer knows where their names come from.
"""

import asyncio
import logging
import os
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import ray
from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from ray import serve
from ray.serve.exceptions import RayServeException

from ..installation.server_process import ServerError
from ..units import UsageError
from . import cluster
from .access import refused
from .door import Door
from .ledger import Ledger
from .plan import Node, Plan, is_loopback
from .seats import Answer, Seat

log = logging.getLogger("residency.fleet")

APPLICATION = "residency-fleet"
PLACE = "place of the door"
app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)


@ray.remote(num_cpus=1, max_restarts=-1, max_concurrency=4)
class ComfyWorker:
    """One ComfyUI server. When it dies, so does this actor, and Ray starts both anew."""

    def __init__(self, plan: Plan, node: Node, name: str) -> None:
        self._stack = ExitStack()
        self._life = os.urandom(8).hex()
        self._ending = False
        self._server: Any = None
        self._url: str | None = None
        self._error = ""
        threading.Thread(target=self._run, args=(plan, node, name), name="residency fleet", daemon=True).start()

    def where(self) -> tuple[str, str | None]:
        """The server's life, and its address once it is up. Raises RuntimeError where it has not come up."""
        if self._error:
            raise RuntimeError(self._error)
        return self._life, self._url

    def pids(self) -> dict[str, int]:
        """Of the actor and of its server, for whoever looks after them."""
        return {"actor": os.getpid(), "server": self._server.process.pid}

    def kill(self) -> None:
        """End the server at once, busy or not."""
        if self._server is not None:
            self._server.process.kill()

    def stop(self) -> None:
        """End the server and remove its folder."""
        self._ending = True
        self._stack.close()

    def _run(self, plan: Plan, node: Node, name: str) -> None:
        try:
            self._server, self._url = cluster.server_of(plan, node, name, self._stack)
            while self._server.process.poll() is None:
                time.sleep(cluster.LOOK_S)
        except (ServerError, OSError) as error:
            self._error = f"{name}: {error}"
            log.warning("%s", self._error)
            time.sleep(cluster.RETRY_S)  # whoever starts the fleet, or looks at it, asks meanwhile
        finally:  # whatever it was: an actor without a server is of no use
            if not self._ending:
                self._stack.close()
                os._exit(1)  # an exit that Ray does not take for one that was meant


@ray.remote(num_cpus=0, max_restarts=-1)
class Place:
    """The one place for a door on a cluster. Ray gives its name once, and ends it with the process that has taken it, however that ends: a
    door is no sign of life, since Serve runs it on when its fleet was killed."""

    def __init__(self, holder: str) -> None:
        self._holder = holder

    def holder(self) -> str:
        """The fleet that has taken it, in words."""
        return self._holder


def _each(plan: Plan) -> Iterator[tuple[Node, str]]:
    return ((node, name) for node in plan.nodes for name in node.names())


def _why(error: Exception) -> str:
    """The actor's own words; nothing of one that is dead."""
    return str(error.cause) if isinstance(error, ray.exceptions.RayTaskError) else ""


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, dict(answer.headers))


# The application is copied while this class is made: what its methods call stands above it.
@serve.deployment(name="door", num_replicas=1, max_ongoing_requests=1000, ray_actor_options={"num_cpus": 1}, graceful_shutdown_timeout_s=2)
@serve.ingress(app)
class Front:
    """ComfyUI's API, in front of every worker."""

    def __init__(self, plan: Plan, workers: list[Any]) -> None:
        self._token = plan.token
        seats = [
            Seat(name, cluster.finder(actor.where.remote, ray.exceptions.RayError, _why), actor.kill.remote, node.machine, node.name)
            for (node, name), actor in zip(_each(plan), workers, strict=True)
        ]
        ledger = Ledger(plan.folder / "door.sqlite")
        self._door = Door(seats, plan.folder / "output", ledger, hang_s=plan.hang_s, choose=cluster.chooser(plan.policy))
        self._opened = asyncio.get_running_loop().create_task(self._door.open())

    @app.websocket("/ws")
    async def websocket(self, socket: WebSocket) -> None:
        """`/ws?clientId=…`; closed with 1008 where access is refused."""
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
        """Every other route, as the door answers it; 403 where access is refused."""
        why_not = refused(request.headers, self._token, request.query_params.get("token"))
        if why_not is not None:
            return _response(Answer.of({"error": why_not}, 403))
        await self._opened
        target = (request.scope.get("raw_path") or urllib.parse.quote(f"/{path}").encode()).decode("latin-1").partition("?")[0]
        pairs = [(name, value) for name, value in request.query_params.multi_items() if name != "token"]
        target += f"?{urllib.parse.urlencode(pairs)}" if pairs else ""
        return _response(await self._door.answer(request.method, target, request.headers, await request.body()))


@contextmanager
def place(plan: Plan) -> Iterator[Any]:
    """Hold the place for a door on the cluster. Raises UsageError where a fleet that lives has it."""
    if plan.cluster is None:
        yield None
        return
    here = ray.util.get_node_ip_address()
    holder = f"{plan.url}, process {os.getpid()} on {here}"
    options: Any = {"name": PLACE, "namespace": cluster.NAMESPACE, "resources": {f"node:{here}": 0.001}}
    actor: Any = Place
    held, began_s = None, time.monotonic()
    while (who := _holder()) != holder:
        if time.monotonic() - began_s > (cluster.FIND_S if who else cluster.PLACE_S):  # one that was just killed has it for a moment
            way_out = "end it there with fleet down, or leave the address out, for a Ray of this fleet's own"
            raise UsageError(f"the Ray cluster at {plan.cluster} runs a fleet already ({who or 'it does not tell where'}): {way_out}")
        if not who:
            with suppress(ValueError, ray.exceptions.RayError):  # somebody else is faster: the name will tell
                held = actor.options(**options).remote(holder)
        time.sleep(cluster.LOOK_S)
    yield held  # Ray ends an actor that nobody holds


def _holder() -> str:
    """Of the place, in words; nothing where it is free, or does not answer."""
    try:
        return str(ray.get(ray.get_actor(PLACE, cluster.NAMESPACE).holder.remote(), timeout=cluster.FIND_S))
    except (ValueError, ray.exceptions.RayError):
        return ""


def make(plan: Plan, stopped: threading.Event, served_before: bool) -> None:
    """Start workers and door, on a Serve that ran before or on one of its own; returns once all of them answer, or it is `stopped`. Raises
    UsageError."""
    known = {one["NodeManagerAddress"] for one in ray.nodes() if one["Alive"]}
    here = ray.util.get_node_ip_address()  # Ray has no loopback among its nodes
    addresses = {node.name: here if node.address is None or is_loopback(node.address) else node.address for node in plan.nodes}
    for node in plan.nodes:
        if plan.cluster is not None and addresses[node.name] not in known:
            raise UsageError(
                f"node {node.name}: {addresses[node.name]} is no node of the Ray cluster; there are {', '.join(sorted(known))}"
            )
    actor: Any = ComfyWorker
    front: Any = Front
    workers = []
    for node, name in _each(plan):
        resources = {} if plan.cluster is None else {"resources": {f"node:{addresses[node.name]}": 0.001}}
        workers.append(actor.options(name=name, num_gpus=int(node.gpus), **resources).remote(plan, node, name))
    until_s = time.monotonic() + cluster.START_S
    while not stopped.is_set():
        up = 0
        for (_, name), worker in zip(_each(plan), workers, strict=True):
            try:
                up += ray.get(worker.where.remote(), timeout=cluster.FIND_S)[1] is not None
            except ray.exceptions.RayTaskError as error:
                raise UsageError(f"{name} has not come up: {error.cause}") from error
            except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
                continue
        if up == plan.workers:
            break
        if time.monotonic() > until_s:
            raise UsageError(f"{plan.workers - up} of {plan.workers} workers have not come up within {cluster.START_S:.0f} s")
        stopped.wait(cluster.LOOK_S)
    if stopped.is_set():
        return
    serve.start(http_options={"host": plan.host, "port": plan.port}, proxy_location="HeadOnly")
    try:
        serve.run(front.bind(plan, workers), name=APPLICATION, route_prefix="/")
    except RayServeException as error:
        raise UsageError(f"the cluster's Serve does not take the door, which answers at /: {error}") from error
    if served_before and not cluster.is_at(plan.url):
        raise UsageError(f"port {plan.port}: the cluster's Serve, which ran before, does not listen there; give its port")


def serves() -> bool:
    """Whether Serve runs on the cluster. One that runs nothing but the door of a fleet that was killed is ended: it lives in that one's
    folder, at its port."""
    status = serve.status()
    if status.applications.keys() == {APPLICATION}:
        serve.shutdown()
        return False
    return bool(status.proxies or status.applications)


def end(plan: Plan, served_before: bool) -> None:
    """Stop the door, then every worker; one that does not answer ends with Ray. Others' applications on the cluster stay, and so does a
    Serve that was there before; one that began with this fleet would live on in its folder, which is removed."""
    try:
        if plan.cluster is None or not (served_before or serve.status().applications.keys() - {APPLICATION}):
            serve.shutdown()
        else:
            serve.delete(APPLICATION)
    except (ray.exceptions.RayError, RayServeException, RuntimeError, OSError) as error:  # half of it may not have begun
        log.info("the door did not end by itself: %s", error)
    stopping = []
    for _, name in _each(plan):
        try:
            stopping.append(ray.get_actor(name).stop.remote())
        except ValueError:  # it was not begun
            continue
    if stopping:
        ray.wait(stopping, num_returns=len(stopping), timeout=cluster.STOP_S)
