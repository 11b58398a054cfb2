"""How long the server's routes take to answer while models come and leave: ComfyUI alone and with the pack, one after the other.

    python benchmarks/routes.py --models-directory DIR [--scenario S3b] [--prompts 3] [--size full] [--json]

Each side gets a server of its own under the scenario's limits (residency/bench/scenarios.py) and runs the scenario's workflow, with another
text each time. Meanwhile another process asks one route after the other, at most --rate times a second in all, over one connection; the
first prompt, which reads the files, counts for itself. What ComfyUI alone makes its own routes wait for (the interpreter's lock, held by a
long call of another thread) is in both sides' figures.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import multiprocessing
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from residency.bench import limits, models, workflows
from residency.bench.scenarios import SCENARIOS, Scenario, Size
from residency.installation.locate import PACK, ComfyUI, find_comfyui
from residency.installation.server_process import serve

COMFYUI_ROUTES = ("/queue", "/prompt", "/system_stats")
PACK_ROUTES = ("/residency/status", "/residency/memory", "/residency/trace", "/residency/traces", "/residency/settings", "/residency/state")


@dataclass(frozen=True, slots=True)
class Waited:
    """Seconds from the request to the whole answer."""

    route: str
    count: int
    median_s: float
    p99_s: float
    most_s: float


def ask(port: int, routes: Sequence[str], rate: float, path: str, over: Event) -> None:
    """In a process of its own: a line for each answer, when it was asked (time.time()), the route, the seconds, the status."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    with open(path, "w", encoding="utf-8") as told:
        number = 0
        while not over.is_set():
            route = routes[number % len(routes)]
            at_s, started_s = time.time(), time.perf_counter()
            link.request("GET", route)
            answer = link.getresponse()
            answer.read()
            took_s = time.perf_counter() - started_s
            told.write(f"{at_s} {route} {took_s} {answer.status}\n")
            number += 1
            time.sleep(max(0.0, 1 / rate - took_s))


def waited(lines: Sequence[str], from_s: float, until_s: float) -> list[Waited]:
    by_route: dict[str, list[float]] = {}
    for line in lines:
        at_s, route, took_s, status = line.split()
        if from_s <= float(at_s) < until_s and status in ("200", "404"):  # there is no trace before the first prompt
            by_route.setdefault(route, []).append(float(took_s))
    found = []
    for route, took in by_route.items():
        took.sort()
        p99_s = took[max(0, math.ceil(0.99 * len(took)) - 1)]
        found.append(Waited(route, len(took), took[len(took) // 2], p99_s, took[-1]))
    return found


def side(comfyui: ComfyUI, scenario: Scenario, options: argparse.Namespace, pack: bool, folder: Path) -> dict[str, Any]:
    size = Size(options.size)
    arguments = [*(["--cpu"] if options.cpu else []), *scenario.server_arguments]
    routes = (*COMFYUI_ROUTES, *PACK_ROUTES) if pack else COMFYUI_ROUTES
    path = folder / f"{'pack' if pack else 'stock'}.txt"
    took_s: list[float] = []
    begun_s: list[float] = []
    with ExitStack() as stack:
        if not options.cpu:
            print("; ".join(stack.enter_context(limits.held(scenario.limits, comfyui))), file=sys.stderr, flush=True)
        server = stack.enter_context(serve(comfyui, options.models_directory, arguments, pack=PACK if pack else None))
        over = multiprocessing.Event()
        asking = multiprocessing.Process(target=ask, args=(server.port, routes, options.rate, str(path), over))
        asking.start()
        try:
            for number in range(options.prompts + 1):
                for workflow in scenario.queue:
                    one = workflows.of(scenario, workflow, size, number, options.models_directory)
                    begun_s.append(time.time())
                    server.run(one.graph)
                    took_s.append(time.time() - begun_s[-1])
                    print(f"{'pack' if pack else 'stock'}: prompt {len(took_s)}, {took_s[-1]:.2f} s", file=sys.stderr, flush=True)
        finally:
            over.set()
            asking.join(10)
    lines = path.read_text(encoding="utf-8").splitlines()
    ends_s = begun_s[-1] + took_s[-1]
    warm_s = begun_s[len(scenario.queue)]
    return {
        "seconds": took_s,
        "first": [asdict(one) for one in waited(lines, begun_s[0], warm_s)],
        "warm": [asdict(one) for one in waited(lines, warm_s, ends_s)],
        "refused": sorted({" ".join(line.split()[1::2]) for line in lines if line.split()[3] not in ("200", "404")}),
    }


def table(sides: Mapping[str, Any]) -> str:
    """Markdown; milliseconds."""
    lines = [
        "| | route | asked | median ms | p99 ms | longest ms | longest in the first prompt ms |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, told in sides.items():
        first = {one["route"]: one for one in told["first"]}
        for one in told["warm"]:
            before = first.get(one["route"])
            longest = "" if before is None else f"{1e3 * before['most_s']:.1f}"
            numbers = " | ".join(f"{1e3 * one[key]:.1f}" for key in ("median_s", "p99_s", "most_s"))
            lines.append(f"| {name} | `{one['route']}` | {one['count']} | {numbers} | {longest} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models-directory", type=Path, required=True, metavar="DIR", help="where the models are, or are written to")
    parser.add_argument("--scenario", default="S3b", choices=[one.name for one in SCENARIOS])
    parser.add_argument("--size", default="full", choices=[one.value for one in Size])
    parser.add_argument("--prompts", type=int, default=3, metavar="N", help="after the first (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=200.0, metavar="N", help="requests a second (default: %(default)s)")
    parser.add_argument("--sides", nargs="+", choices=["stock", "pack"], default=["stock", "pack"])
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    comfyui = find_comfyui()
    if comfyui is None:
        parser.error("no ComfyUI is found; set COMFYUI_PATH and COMFYUI_PYTHON")
    scenario = next(one for one in SCENARIOS if one.name == options.scenario)
    options.models_directory = options.models_directory.resolve()
    options.models_directory.mkdir(parents=True, exist_ok=True)
    size = Size(options.size)
    models.make(
        comfyui, options.models_directory, size, models.files_of(scenario, size), (), lambda text: print(text, file=sys.stderr, flush=True)
    )
    folder = options.models_directory / "routes"
    folder.mkdir(exist_ok=True)
    told = {name: side(comfyui, scenario, options, name == "pack", folder) for name in options.sides}
    print(
        json.dumps({"scenario": scenario.name, "size": options.size, "rate": options.rate, "sides": told}, indent=1)
        if options.json
        else table(told)
    )


if __name__ == "__main__":
    main()
