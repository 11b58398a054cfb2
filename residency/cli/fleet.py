"""`python -m residency fleet`: several ComfyUI servers behind one door, and what choosing a worker well is worth.

`simulate` runs requests through simulated workers, each policy over the same ones; it needs neither ComfyUI nor Ray.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..fleet.simulation import Result, simulate
from ..fleet.traffic import Request, Traffic, generate, read_trace
from ..units import UsageError, written
from . import machines
from .tables import seconds, table

GENERATED = "generated"
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
