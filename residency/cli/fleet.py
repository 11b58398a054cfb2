"""`python -m residency fleet`: several ComfyUI servers behind one door, and a comparison of the ways to choose a worker.

`simulate` runs requests through simulated workers, each policy over the same ones; it needs neither ComfyUI nor Ray.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..fleet import cluster
from ..fleet.plan import LOOPBACK, POLICIES, PORT, Node, Plan, is_loopback, read_plan
from ..fleet.policies import OURS
from ..fleet.seats import HANG_S
from ..fleet.simulation import Result, simulate
from ..fleet.traffic import Request, Traffic, generate, read_trace
from ..installation.locate import HOW_TO_GET_ONE, ComfyUI, LocateError, cache_folder, find_comfyui
from ..units import UsageError, written
from . import machines
from .tables import seconds, table

GENERATED = "generated"
TOKEN_VARIABLE = "RESIDENCY_FLEET_TOKEN"  # noqa: S105 - its name
WORKER_RAM = "64GB"  # of a simulated worker, where --ram says nothing: figures are the same on every machine
MOST_WORKERS = 10_000
MOST_REQUESTS = 10_000_000


def register(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "fleet", help="several ComfyUI servers behind one door: prompts go where their weights are", description=__doc__
    )
    inner = parser.add_subparsers(dest="fleet_command", required=True, metavar="COMMAND")
    about = f"policies side by side over one trace of requests, on a virtual clock; a worker has {WORKER_RAM} of RAM unless --ram says more"
    simulated: argparse.ArgumentParser = inner.add_parser("simulate", help=about, description=about)
    simulated.add_argument("--workers", type=_count("--workers", MOST_WORKERS), default=8, metavar="N", help="default: %(default)s")
    help_trace = f"a file of JSON lines (docs/fleet.md), or {GENERATED} (the default): the shape of published production traces"
    simulated.add_argument("--trace", default=GENERATED, metavar=f"FILE|{GENERATED}", help=help_trace)
    group = simulated.add_argument_group("a generated trace")
    group.add_argument("--requests", type=_count("--requests", MOST_REQUESTS), metavar="N", help="default: 2000")
    group.add_argument("--seed", type=int, metavar="N", help="another trace of the same shape (default: 0)")
    group.add_argument("--models", type=_count("--models", MOST_WORKERS), metavar="N", help="base models (default: 40)")
    group.add_argument("--load", type=float, metavar="SHARE", help="of the workers' time, what computing alone takes (default: 0.6)")
    simulated.add_argument("--json", action="store_true", help="print JSON")
    machines.add_options(simulated)
    simulated.set_defaults(run=command_simulate)
    _register_up(inner)
    for name, about, run in (
        ("status", "the workers of the fleet that runs, what is warm there, and what was decided last", command_status),
        ("drain", "send a worker or node no more prompts: what waits there is moved, what runs there ends", command_drain),
        ("down", "end the fleet that runs", command_down),
    ):
        other: argparse.ArgumentParser = inner.add_parser(name, help=about, description=about)
        other.add_argument("--port", type=_count("--port", 65535), default=PORT, metavar="N", help="of the door (default: %(default)s)")
        other.add_argument("--json", action="store_true", help="print JSON")
        other.add_argument("--token", metavar="TEXT", help="the fleet's, where it has one (default: RESIDENCY_FLEET_TOKEN)")
        if run is command_drain:
            other.add_argument("node", metavar="NODE", help="a worker, or a node with all of its workers, as fleet status names them")
            other.add_argument("--undo", action="store_true", help="it gets prompts again")
        other.set_defaults(run=run)


def _register_up(inner: Any) -> None:
    about = "start ComfyUI servers behind one door, and run until interrupted; needs Ray"
    started: argparse.ArgumentParser = inner.add_parser("up", help=about, description=about)
    help_workers = "ComfyUI servers: one a GPU, or so many on the CPU (default: what GPUs there are, else 2)"
    started.add_argument("--workers", type=_count("--workers", 64), metavar="N", help=help_workers)
    started.add_argument("--cpu", action="store_true", help="compute on the CPU")
    started.add_argument("--models-directory", type=Path, metavar="DIR", help="default: that of the ComfyUI found")
    help_folder = "where inputs and outputs are kept (default: residency-fleet in this folder)"
    started.add_argument("--folder", type=Path, metavar="DIR", help=help_folder)
    started.add_argument("--host", help=f"any but the loopback's needs a token (default: {LOOPBACK})")
    started.add_argument("--port", type=_count("--port", 65535), metavar="N", help=f"default: {PORT}")
    started.add_argument("--token", metavar="TEXT", help="who has it may ask (default: RESIDENCY_FLEET_TOKEN)")
    help_hang = f"without progress for so many seconds, a worker is ended and started anew (default: {HANG_S:g})"
    started.add_argument("--hang-after", type=_seconds, metavar="SECONDS", help=help_hang)
    help_policy = f"how a worker is chosen; the others are there to be compared (default: {OURS})"
    started.add_argument("--policy", choices=POLICIES, help=help_policy)
    help_more = (
        "a file that describes the fleet (docs/fleet.md): on a Ray cluster, or of several kinds; without one, arguments of every ComfyUI"
    )
    started.add_argument("more", nargs="*", metavar="FLEET.YAML | -- ARGUMENT", help=help_more)
    started.set_defaults(run=command_up)


def _require_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
        except OSError as error:
            raise UsageError(f"--host {host} --port {port}: cannot be listened on ({error.strerror})") from error


def command_up(options: argparse.Namespace) -> int:
    token = options.token or os.environ.get(TOKEN_VARIABLE)
    is_file = bool(options.more) and options.more[0].endswith((".yaml", ".yml"))
    plan = _plan_of_file(options, token) if is_file else _plan_of_options(options, token)
    if not is_loopback(plan.host) and not token:
        raise UsageError(f"--host {plan.host}: others can reach that; give --token, or set {TOKEN_VARIABLE}")
    cluster.require_ray()
    state = _state_file(plan.port)
    running = cluster.read_running(state)
    if running is not None:
        raise UsageError(f"--port {plan.port}: a fleet runs there (process {running.pid}); end it with fleet down, or choose another port")
    if plan.cluster is None:  # a cluster's Serve may listen there already, for others too
        _require_free(plan.host, plan.port)

    def ready(url: str) -> None:
        print(f"{plan.workers} workers behind {url}; inputs and outputs in {plan.folder}; Ctrl+C or fleet down ends them", flush=True)

    scratch = Path(tempfile.mkdtemp(prefix=cluster.SCRATCH_PREFIX))
    cluster.write_running(state, plan.url, plan.folder, scratch)
    print(f"starting {plan.workers} ComfyUI servers…", flush=True)
    try:
        cluster.up(plan, scratch, ready)
    finally:
        state.unlink(missing_ok=True)
    print("the fleet has ended", flush=True)
    return 0


ONLY_WITHOUT_FILE = ("workers", "models_directory", "folder", "host", "port", "hang_after", "policy", "cpu")


def _plan_of_file(options: argparse.Namespace, token: str | None) -> Plan:
    file, *arguments = options.more
    given = [f"--{name.replace('_', '-')}" for name in ONLY_WITHOUT_FILE if getattr(options, name)] + arguments
    if given:
        raise UsageError(f"{given[0]} and {file}: the file says it all; leave one of them out")
    return read_plan(Path(file), find_comfyui(), token)


def _plan_of_options(options: argparse.Namespace, token: str | None) -> Plan:
    comfyui = find_comfyui()
    if comfyui is None:
        raise LocateError(HOW_TO_GET_ONE)
    gpus = 0 if options.cpu else device_count(comfyui)
    workers = options.workers or gpus or 2
    if gpus and workers > gpus:
        raise UsageError(f"--workers {workers}: this machine has {gpus} GPUs; give fewer, or --cpu")
    models = options.models_directory or comfyui.path / "models"
    if not models.is_dir():
        raise UsageError(f"--models-directory {models}: no such folder")
    arguments = (*(() if gpus else ("--cpu",)), *options.more)
    node = Node("worker", workers, comfyui.path, comfyui.python, models.resolve(), arguments, bool(gpus))
    return Plan(
        (node,),
        (options.folder or Path("residency-fleet")).resolve(),
        options.host or LOOPBACK,
        options.port or PORT,
        token,
        options.hang_after or HANG_S,
        options.policy or OURS,
    )


def command_status(options: argparse.Namespace) -> int:
    told = _ask(options, "/residency/fleet")
    if options.json:
        print(json.dumps(told, indent=1))
        return 0
    head = ("worker", "node", "address", "is", "prompts", "predicted", "took", "margin", "of loading", "warm")
    rows = [
        (
            one["name"],
            one["node"],
            one["url"] or "",
            _is(one),
            str(len(one["prompts"])),
            seconds(one["predicted_s"]) if one["predicted_s"] is not None else "",
            seconds(one["took_s"]) if one["took_s"] is not None else "",
            f"{one['margin']:.2f}",
            f"{one['loading_margin']:.2f}",
            ", ".join(one["warm"]),
        )
        for one in told["workers"]
    ]
    print("\n".join(table(head, rows)))
    for one in told["decisions"][-5:]:
        print(f"{one['prompt_id']}: {one['reason']}")
    if told["lost"]:
        print(f"no worker takes: {', '.join(told['lost'])}")
    for warning in told["warnings"]:
        print(f"warning: {warning}")
    return 0


def _is(worker: dict[str, Any]) -> str:
    if worker["ending"]:
        return "ending: " + str(worker["ending"])
    said = "up" if worker["answers"] else "silent" if worker["up"] else "down"
    if worker["drained"]:
        said += ", drained" if not worker["prompts"] else ", draining"
    return said + ("" if worker["pack"] or not worker["answers"] else ", no pack")


def command_drain(options: argparse.Namespace) -> int:
    told = _ask(options, "/residency/drain", {"worker": options.node, "on": not options.undo})
    if options.json:
        print(json.dumps(told, indent=1))
    else:
        print(f"no prompts go to: {', '.join(told['drained']) or 'nobody is drained'}")
    return 0


def _ask(options: argparse.Namespace, path: str, body: dict[str, Any] | None = None) -> Any:
    """The answer of the door of the fleet that runs. Raises UsageError."""
    running = _running(options)
    token = options.token or os.environ.get(TOKEN_VARIABLE)
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    request = urllib.request.Request(running.url + path, None if body is None else json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace")
        try:
            found = json.loads(said)["error"]
            said = found if isinstance(found, str) else found["message"]
        except (ValueError, KeyError, TypeError):
            pass
        raise UsageError(f"{running.url} refuses: {said}") from error
    except OSError as error:
        raise UsageError(f"{running.url} does not answer: {error}") from error


def command_down(options: argparse.Namespace) -> int:
    running = _running(options)
    if cluster.down(running):
        print(f"the fleet at {running.url} has ended; inputs and outputs are in {running.folder}")
        return 0
    print(f"residency: process {running.pid} has not ended; look at it before you kill it", file=sys.stderr)
    return 1


def _running(options: argparse.Namespace) -> cluster.Running:
    """Raises UsageError where none runs."""
    running = cluster.read_running(_state_file(options.port))
    if running is None:
        raise UsageError(f"--port {options.port}: no fleet runs there; start one with fleet up")
    return running


def _state_file(port: int) -> Path:
    return cache_folder() / "fleet" / f"{port}.json"


COUNT = "import torch; print(torch.accelerator.device_count() if torch.accelerator.is_available() else 0)"


def device_count(comfyui: ComfyUI) -> int:
    """Devices that this ComfyUI's torch computes on; 0 where it has none, or does not say."""
    told = subprocess.run([str(comfyui.python), "-c", COUNT], capture_output=True, text=True, check=False, timeout=120)
    return int(told.stdout) if told.returncode == 0 and told.stdout.strip().isdigit() else 0


def command_simulate(options: argparse.Namespace) -> int:
    options.ram = options.ram or WORKER_RAM
    described = machines.describe(options)
    requests, told = _requests(options)
    seed = options.seed or 0
    results = simulate(requests, described.machine, options.workers, seed)
    if options.json:
        print(json.dumps({"machine": described.line, "workers": options.workers, "trace": told, "policies": as_json(results)}, indent=1))
        return 0
    print(
        "\n".join([described.line, f"{options.workers} workers, {len(requests)} requests, trace: {options.trace}", "", *as_text(results)])
    )
    return 0


def _requests(options: argparse.Namespace) -> tuple[list[Request], dict[str, Any]]:
    """The requests, and a description of their source for the JSON output. Raises UsageError."""
    given = {name: value for name in ("requests", "seed", "models", "load") if (value := getattr(options, name)) is not None}
    if options.trace == GENERATED:
        traffic = Traffic(**{"requests": 2000, "workers": options.workers, **given})
        return generate(traffic), traffic.described
    of_generated = [name for name in given if name not in ("requests", "seed")]
    if of_generated:
        raise UsageError(f"--{of_generated[0]} is of a generated trace; leave it out, or leave out --trace {options.trace}")
    requests = read_trace(Path(options.trace))[: given.get("requests")]
    return requests, {"file": options.trace, "requests": len(requests)}


def as_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    return [asdict(one) for one in results]


def as_text(results: Sequence[Result]) -> list[str]:
    """One row a policy."""
    head = ("policy", "p50", "p95", "p99", "stall a prompt", "read", "prompts a GPU hour", "deciding")
    rows = [
        (
            one.policy,
            seconds(one.p50_s),
            seconds(one.p95_s),
            seconds(one.p99_s),
            seconds(one.stall_s_per_prompt),
            written(one.read_bytes),
            f"{one.prompts_per_gpu_hour:.0f}",
            "" if one.decision_p50_s is None else f"{1e3 * one.decision_p50_s:.2f} ms",
        )
        for one in results
    ]
    return table(head, rows)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 1 on")
    return value


def _count(option: str, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = 0
        if not 1 <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to {most}")
        return value

    parse.__name__ = option
    return parse
