"""`python -m residency bench`: stock and pack on the same real server, in one run."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..bench import families, family_table, flags, markdown, pictures, results, ways
from ..bench.run import Plan, run
from ..bench.scenarios import SCENARIOS, Scenario, Size, choose
from ..installation.locate import HOW_TO_GET_ONE, ComfyUI, cache_folder, find_comfyui
from ..installation.server_process import ServerError


class BenchError(Exception):
    """Arguments that cannot be used. One line."""


def register(commands: Any) -> None:
    """The subparser of the command line."""
    names = ", ".join(scenario.name for scenario in SCENARIOS)
    parser = commands.add_parser("bench", help="measure stock ComfyUI and the pack in turn on the same real server, scenario by scenario")
    parser.add_argument("--scenarios", metavar="S1,S2", help=f"which of {names} (default: all)")
    parser.add_argument(
        "--family",
        metavar="A,B",
        help=f"instead of scenarios: what people run, {', '.join(families.NAMES)}; --size full is that of the published files",
    )
    parser.add_argument(
        "--class",
        dest="hardware",
        metavar="12/32",
        help=f"with --family: GiB of VRAM and GB of RAM left free, {', '.join(families.CLASSES)} or {families.EVERYTHING} (the default); "
        "of tiny models nothing is held",
    )
    parts = ", ".join(part.value for part in families.Part)
    parser.add_argument("--parts", metavar="A,B", help=f"with --family: which of {parts} (default: all)")
    sizes = [size.value for size in Size]
    parser.add_argument("--size", choices=sizes, default="tiny", help="of the models: full is flux-dev with T5-XXL, 58 GB (%(default)s)")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="servers started for each side of a scenario (%(default)s)")
    parser.add_argument("--repeats", type=int, metavar="N", help="measured prompts on each warm server (default: the scenario's, 2 to 5)")
    parser.add_argument(
        "--warm-ups", type=int, metavar="N", help="prompts before them on each warm server (default: the scenario's, 1 or 2)"
    )
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="an earlier checkout of the pack, as a third side called before")
    parser.add_argument(
        "--way", action="append", default=[], metavar="NAME=WORDS", help=f"another side, the pack in another way: {ways.HOW}"
    )
    parser.add_argument(
        "--best-flags", action="store_true", help="more sides: stock with those of its own options that help, as far as it has them"
    )
    parser.add_argument("--sides", metavar="A,B", help="run only these sides (default: stock, before, each way, pack)")
    parser.add_argument(
        "--models-directory", type=Path, metavar="DIR", help="where the models are made and kept (default: the demo's cache)"
    )
    parser.add_argument("--output-directory", type=Path, metavar="DIR", default=Path("out/bench"), help="for the results (%(default)s)")
    parser.add_argument(
        "--time-limit",
        type=float,
        metavar="S",
        help="begin nothing that would end later than this many seconds from now; measure fewer prompts where that makes it fit",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep what the output directory holds of an earlier run on this machine and run what it lacks: for a bench in several parts",
    )
    parser.add_argument("--verbose", action="store_true", help="have the servers log everything; their logs lie beside the results")
    parser.add_argument("--prompt-timeout", type=float, metavar="S", default=600.0, help="seconds for one prompt (%(default)s)")
    parser.add_argument("--no-references", action="store_true", help="do not run what only tells the compute time of the chosen scenarios")
    parser.add_argument(
        "--from", dest="sources", nargs="+", type=Path, metavar="results.json", help="measure nothing: read, merge and show these"
    )
    parser.add_argument("--png", type=Path, metavar="DIR", help="draw each scenario's two timelines, as PNG and HTML, into this folder")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="put the table between this file's two marks")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.set_defaults(run=command)


def command(options: argparse.Namespace) -> int:
    """Exit status: 0 measured, 1 nothing was, or a scenario failed or the images differ, 2 for arguments that cannot be used."""
    try:
        found = results.read(options.sources) if options.sources else _measure(options)
        folders = [path.parent / "traces" for path in options.sources] if options.sources else [options.output_directory / "traces"]
        if options.markdown:
            _write(options.markdown, found)
        if options.png:
            for path in pictures.draw(found, folders, options.png):
                print(path, file=sys.stderr)
    except (BenchError, results.ResultsError, markdown.MarkdownError) as error:
        print(f"residency: {error}", file=sys.stderr)
        return 2
    except (ServerError, pictures.PictureError) as error:
        print(f"residency: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found, indent=1) if options.json else markdown.terminal(found))
    scenarios = found["scenarios"].values()
    return 1 if not scenarios or any(raw["error"] or raw["summary"]["identical"] is False for raw in scenarios) else 0


def _write(page: Path, found: dict[str, Any]) -> None:
    """Each table of which there are results into its place. Raises MarkdownError."""
    if table := family_table.section(found):
        markdown.insert(page, table, family_table.BEGIN, family_table.END)
    others = family_table.without_families(found)
    if others["scenarios"] or not table:
        markdown.insert(page, markdown.section(others))


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    """Raises BenchError for arguments, ServerError for failures on the way."""
    least = (("--rounds", options.rounds, 1), ("--repeats", options.repeats, 1), ("--warm-ups", options.warm_ups, 0))
    for name, value, lowest in least:
        if value is not None and value < lowest:
            raise BenchError(f"{name} is {value}; it must be {lowest} or more")
    for name, value in (("--time-limit", options.time_limit), ("--prompt-timeout", options.prompt_timeout)):
        if value is not None and value <= 0:
            raise BenchError(f"{name} is {value}; it must be more than 0")
    size = Size(options.size)
    try:
        scenarios = _scenarios(options, size)
        more = [*([ways.earlier(options.before)] if options.before else []), *map(ways.parse, options.way)]
        instead = flags.sides(_comfyui()) if options.best_flags else []
        sides = ways.choose([*instead, *more], options.sides.split(",") if options.sides else None)
    except ValueError as error:
        raise BenchError(str(error)) from error
    comfyui = _comfyui()
    models = (options.models_directory or cache_folder() / f"bench-{size.value}").resolve()
    models.mkdir(parents=True, exist_ok=True)
    limits = (options.rounds, options.repeats, options.time_limit, options.prompt_timeout)
    plan = Plan(
        scenarios, size, sides, *limits, not options.no_references, options.warm_ups, _command_line(), options.resume, options.verbose
    )
    # a server and the holders of memory end with their contexts: also when the bench is asked to end
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return run(plan, comfyui, models, options.output_directory, _say())
    finally:
        signal.signal(signal.SIGTERM, before)


def _comfyui() -> ComfyUI:
    found = find_comfyui()
    if found is None:
        raise BenchError(HOW_TO_GET_ONE.strip())
    return found


def _scenarios(options: argparse.Namespace, size: Size) -> tuple[Scenario, ...]:
    """Raises ValueError, BenchError for options that do not go together."""
    if not options.family:
        for name, value in (("--class", options.hardware), ("--parts", options.parts)):
            if value:
                raise BenchError(f"{name} {value} is for a --family: choose from {', '.join(families.NAMES)}")
        return choose(options.scenarios.split(",")) if options.scenarios else SCENARIOS
    if options.scenarios:
        raise BenchError("--family and --scenarios are two benches: give one of them")
    if size is Size.SMALL:
        raise BenchError("--family has models of --size full and tiny, not small")
    names = options.parts.split(",") if options.parts else [part.value for part in families.Part]
    for name in names:
        if name not in {part.value for part in families.Part}:
            raise BenchError(f"--parts: there is no {name!r}; choose from {', '.join(part.value for part in families.Part)}")
    classes = options.hardware.split(",") if options.hardware else [families.EVERYTHING]
    parts = [families.Part(name) for name in names]
    return families.scenarios(options.family.split(","), classes, parts, hold=size is Size.FULL)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _command_line() -> str:
    return " ".join(["python -m residency", *sys.argv[1:]])


def _say() -> Callable[[str], None]:
    """Lines with the seconds since the bench began: where a lent machine's time goes."""
    began_s = time.monotonic()
    return lambda line: print(f"{time.monotonic() - began_s:5.0f} s  {line}", file=sys.stderr, flush=True)
