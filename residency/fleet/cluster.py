"""Ray holds the workers and the door, starts them anew when they die, and ends them together.

Each worker is an unmodified ComfyUI server in a process of its own, watched by an actor; the door is a Serve ingress. `up` runs until it is
interrupted, on a Ray of its own or on a cluster that runs. The fleet's files lie in one folder, which is removed with it; those to be kept
lie in `Plan.folder`.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from ..installation.locate import PACK, ComfyUI
from ..transfers.memory import SERVERS_VARIABLE
from ..transfers.turns import TURNS_VARIABLE
from ..units import UsageError
from .plan import LOOPBACK, Node, Plan, is_loopback
from .policies import OURS, Choose, policies
from .seats import EndedError, Found, LostError

HOW_TO_GET_RAY = "Ray is not installed: pip install 'residency[fleet]' (or pip install 'ray[serve]>=2.60' aiohttp)"
NAMESPACE = "residency"
SCRATCH_PREFIX = "residency-fleet-"
LOOK_S = 0.5
GRACE_S = 5.0
START_S = 240.0
STOP_S = 25.0
RETRY_S = 10.0  # before a server that has not come up is started anew
FIND_S = 5.0
PLACE_S = 30.0  # for the answer of whoever has the place for a door, or to take it
# Without them a worker that is killed would leave its server behind.
RAY_OPTIONS = {
    "RAY_kill_child_processes_on_worker_exit_with_raylet_subreaper": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_SERVE_ENABLE_HA_PROXY": "0",
}


@dataclass(frozen=True, slots=True)
class Running:
    """The record of a fleet that runs, for `status` and `down`."""

    pid: int
    started_s: float
    url: str
    folder: str
    scratch: str


def require_ray() -> Any:
    """Ray itself. Raises UsageError where it is not installed."""
    try:
        import ray
        from ray import serve  # noqa: F401
    except ImportError as error:
        raise UsageError(f"{HOW_TO_GET_RAY} ({error})") from error
    return ray


def up(plan: Plan, scratch: Path, ready: Callable[[str], object]) -> None:
    """Start it, call `ready(url)` once it answers, and run until SIGINT or SIGTERM; then everything ends, and `scratch` is removed, an
    empty folder whose path names this fleet alone. Raises UsageError."""
    ray = require_ray()
    os.environ.update(RAY_OPTIONS)
    from .served import end, make, place, serves

    stopped, begun = threading.Event(), ExitStack()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}
    for folder in ("input", "output", "user"):
        (plan.folder / folder).mkdir(parents=True, exist_ok=True)
    variables = {**plan.environment, "PYTHONPATH": os.pathsep.join([str(PACK), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
    common = {
        "namespace": f"{NAMESPACE}-{plan.port}",
        "runtime_env": {"env_vars": {**variables, "TMPDIR": str(scratch)}},
        "logging_level": "warning",
        "log_to_driver": False,
    }
    own = {
        "address": "local",
        "num_cpus": plan.workers + 4,
        "num_gpus": plan.gpus,
        "include_dashboard": False,
        "object_store_memory": 100 * 1024**2,
        "_temp_dir": str(scratch / "ray"),
    }
    try:
        try:
            ray.init(**common, **(own if plan.cluster is None else {"address": plan.cluster}))
        except (ConnectionError, RuntimeError, ValueError) as error:
            way_out = "; a cluster with token authentication wants RAY_AUTH_MODE=token and its token here, too"
            where = "on this machine" if plan.cluster is None else f"at {plan.cluster}"
            raise UsageError(
                f"Ray cannot be reached {where}: {' '.join(str(error).split())[:500]}{way_out if plan.cluster else ''}"
            ) from error
        for number in signals:  # Ray has its own by now, which end this process at once
            signal.signal(number, lambda *_: stopped.set())
        begun.enter_context(place(plan))
        served_before = serves()
        begun.callback(end, plan, served_before)
        make(plan, stopped, served_before)
        if not stopped.is_set():
            ready(plan.url)
        stopped.wait()
    finally:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)  # a second one must not leave half of it behind
        begun.close()
        ray.shutdown()
        sweep(scratch)
        for number, handler in before.items():
            signal.signal(number, handler)


def sweep(scratch: Path) -> None:
    """End the processes of a fleet that are left, which all have its folder among their variables or arguments, and remove the folder."""
    import psutil

    left = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and (
                process.environ().get("TMPDIR") == str(scratch) or any(str(scratch) in argument for argument in process.cmdline())
            ):
                left.append(process)
        except psutil.Error:
            continue
    for process in psutil.wait_procs(left, timeout=GRACE_S)[1]:
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(left, timeout=GRACE_S)
    shutil.rmtree(scratch, ignore_errors=True)


def server_of(plan: Plan, node: Node, name: str, stack: ExitStack) -> tuple[Any, str]:
    """One worker's ComfyUI, started, and its address; it ends with the stack. Raises ServerError."""
    from ..installation.server_process import serve

    output = plan.folder / "output" / name
    turns = Path(tempfile.gettempdir(), "residency-turns")  # of a fleet on one machine, in the folder that is removed with it
    for folder in (output, turns):
        folder.mkdir(parents=True, exist_ok=True)
    folders = {"output": output, "input": plan.folder / "input", "user": plan.folder / "user"}
    arguments = [*node.arguments, *(part for key, path in folders.items() for part in (f"--{key}-directory", str(path)))]
    open_to = node.address if node.address is not None and not is_loopback(node.address) else None
    if open_to is not None:
        arguments += ["--listen", f"{LOOPBACK},{open_to}"]
    shared = {SERVERS_VARIABLE: str(plan.sharing(node)), TURNS_VARIABLE: str(turns)}
    comfyui = ComfyUI(node.comfyui, node.python, "the fleet")
    pack = PACK if node.pack else None
    server = stack.enter_context(serve(comfyui, node.models, arguments, pack, front_end=True, environment=shared))
    return server, f"http://{open_to or LOOPBACK}:{server.port}"


def is_at(url: str, wait_s: float = 5.0) -> bool:
    """Whether a door answers there within `wait_s`, if only to ask for its token."""
    until_s = time.monotonic() + wait_s
    while True:
        try:
            urllib.request.urlopen(f"{url}/residency/fleet", timeout=wait_s).close()
            return True
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.FORBIDDEN:  # it wants the token
                return True
        except OSError:
            pass
        if time.monotonic() > until_s:
            return False
        time.sleep(LOOK_S)


def write_running(path: Path, url: str, folder: Path, scratch: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(asdict(Running(os.getpid(), _started_s(os.getpid()) or 0.0, url, str(folder), str(scratch)))), encoding="utf-8"
    )


def read_running(path: Path) -> Running | None:
    """The fleet of this port; None where there is none that runs. The remains of one that was killed are removed here."""
    try:
        found = Running(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    if _started_s(found.pid) == found.started_s:
        return found
    if SCRATCH_PREFIX in found.scratch and Path(found.scratch).is_dir():
        sweep(Path(found.scratch))
    path.unlink(missing_ok=True)
    return None


def down(running: Running, timeout_s: float = 60.0) -> bool:
    """Ask it to end, and wait until it has; whether it did."""
    os.kill(running.pid, signal.SIGTERM)
    until_s = time.monotonic() + timeout_s
    while _started_s(running.pid) == running.started_s and time.monotonic() < until_s:
        time.sleep(0.1)
    return _started_s(running.pid) != running.started_s


def _started_s(pid: int) -> float | None:
    """The start of the process of that number; None where there is none. Tells a process from a later one with its number."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None


def finder(ask: Callable[[], Any], gone: type[Exception], why: Callable[[Exception], str]) -> Callable[[], Awaitable[Found]]:
    """A function that asks a worker's actor for the place of its server. `gone`: the error where the actor is dead, or is being started
    anew; `why` puts its reason into words."""

    async def find() -> Found:
        try:
            life, url = await asyncio.wait_for(ask(), FIND_S)
        except asyncio.TimeoutError as error:  # it may be busy: nobody can tell
            raise LostError("its actor does not answer") from error
        except gone as error:
            raise EndedError(why(error)) from error
        return Found(life, url)

    return find


def chooser(policy: str) -> tuple[str, Choose] | None:
    """The other ways of choosing, for whoever compares; None: ours."""
    return None if policy == OURS else (policy, policies(0)[policy])
