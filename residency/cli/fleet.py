"""`python -m residency fleet`: several ComfyUI servers behind one door, and what choosing a worker well is worth.

`simulate` runs requests through simulated workers, each policy over the same ones; it needs neither ComfyUI nor Ray.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..fleet import cluster
from ..fleet.simulation import Result, simulate
from ..fleet.traffic import Request, Traffic, generate, read_trace
from ..installation.locate import HOW_TO_GET_ONE, LocateError, cache_folder, find_comfyui
from ..units import UsageError, written
from . import machines
from .tables import seconds, table

GENERATED = "generated"
PORT = 8200
LOOPBACK = ("127.0.0.1", "localhost", "::1")
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
        ("down", "end the fleet that runs", command_down),
    ):
        other: argparse.ArgumentParser = inner.add_parser(name, help=about, description=about)
        other.add_argument("--port", type=_count("--port", 65535), default=PORT, metavar="N", help="of the door (default: %(default)s)")
        other.add_argument("--json", action="store_true", help="print JSON")
        other.add_argument("--token", metavar="TEXT", help="the fleet's, where it has one (default: RESIDENCY_FLEET_TOKEN)")
        other.set_defaults(run=run)


def _register_up(inner: Any) -> None:
    about = "start ComfyUI servers on this machine behind one door, and run until interrupted; needs Ray"
    started: argparse.ArgumentParser = inner.add_parser("up", help=about, description=about)
    help_workers = "ComfyUI servers: one a GPU, or so many on the CPU (default: what GPUs there are, else 2)"
    started.add_argument("--workers", type=_count("--workers", 64), metavar="N", help=help_workers)
    started.add_argument("--cpu", action="store_true", help="compute on the CPU")
    started.add_argument("--models-directory", type=Path, metavar="DIR", help="default: that of the ComfyUI found")
    help_folder = "where inputs and outputs are kept (default: residency-fleet in this folder)"
    started.add_argument("--folder", type=Path, default=Path("residency-fleet"), metavar="DIR", help=help_folder)
    started.add_argument("--host", default="127.0.0.1", help="any but the loopback's needs a token (default: %(default)s)")
    started.add_argument("--port", type=_count("--port", 65535), default=PORT, metavar="N", help="default: %(default)s")
    started.add_argument("--token", metavar="TEXT", help="who has it may ask (default: RESIDENCY_FLEET_TOKEN)")
    started.add_argument("arguments", nargs="*", metavar="-- ARGUMENT", help="of every ComfyUI")
    started.set_defaults(run=command_up)


def command_up(options: argparse.Namespace) -> int:
    cluster.require_ray()
    comfyui = find_comfyui()
    if comfyui is None:
        raise LocateError(HOW_TO_GET_ONE)
    token = options.token or os.environ.get(TOKEN_VARIABLE)
    if options.host not in LOOPBACK and not token:
        raise UsageError(f"--host {options.host}: others can reach that; give --token, or set {TOKEN_VARIABLE}")
    state = _state_file(options.port)
    running = cluster.read_running(state)
    if running is not None:
        raise UsageError(
            f"--port {options.port}: a fleet runs there (process {running.pid}); end it with fleet down, or choose another port"
        )
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((options.host, options.port))
        except OSError as error:
            raise UsageError(f"--host {options.host} --port {options.port}: cannot be listened on ({error.strerror})") from error
    gpus = 0 if options.cpu else gpu_count()
    workers = options.workers or gpus or 2
    if gpus and workers > gpus:
        raise UsageError(f"--workers {workers}: this machine has {gpus} GPUs; give fewer, or --cpu")
    models = options.models_directory or comfyui.path / "models"
    if not models.is_dir():
        raise UsageError(f"--models-directory {models}: no such folder")
    plan = cluster.Plan(
        comfyui.path,
        comfyui.python,
        models.resolve(),
        options.folder.resolve(),
        workers,
        options.host,
        options.port,
        token,
        (*(() if gpus else ("--cpu",)), *options.arguments),
        gpus,
    )

    def ready(url: str) -> None:
        print(f"{workers} workers behind {url}; inputs and outputs in {plan.folder}; Ctrl+C or fleet down ends them", flush=True)

    scratch = Path(tempfile.mkdtemp(prefix=cluster.SCRATCH_PREFIX))
    cluster.write_running(state, f"http://{plan.host}:{plan.port}", plan.folder, scratch)
    print(f"starting {workers} ComfyUI {comfyui.version} servers…", flush=True)
    try:
        cluster.up(plan, scratch, ready)
    finally:
        state.unlink(missing_ok=True)
    print("the fleet has ended", flush=True)
    return 0


def command_status(options: argparse.Namespace) -> int:
    running = _running(options)
    token = options.token or os.environ.get(TOKEN_VARIABLE)
    request = urllib.request.Request(f"{running.url}/residency/fleet", headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            told = json.load(answer)
    except OSError as error:
        print(f"residency: {running.url} does not answer: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(told, indent=1))
        return 0
    rows = [
        (
            one["name"],
            one["url"] or "down",
            "yes" if one["pack"] else "no",
            str(len(one["prompts"])),
            f"{one['margin']:.2f}",
            ", ".join(one["warm"]),
        )
        for one in told["workers"]
    ]
    print("\n".join(table(("worker", "address", "pack", "prompts", "margin", "warm"), rows)))
    for one in told["decisions"][-5:]:
        print(f"{one['prompt_id']}: {one['reason']}")
    return 0


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


def gpu_count() -> int:
    """NVIDIA's, by what the driver tells; 0 where there is none."""
    try:
        return len(list(Path("/proc/driver/nvidia/gpus").iterdir()))
    except OSError:
        return 0


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
    """The requests, and what is told of where they come from. Raises UsageError."""
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
