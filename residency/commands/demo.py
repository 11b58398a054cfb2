"""`python -m residency demo`: the example workflow with the pack off and on, side by side."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..component import Mode
from ..locate import HOW_TO_GET_ONE, ComfyUI, find_comfyui
from ..words import size
from .units import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..demo import Measured, Progress

_NEEDS = {"rich": "rich", "PIL": "pillow", "psutil": "psutil", "matplotlib": "matplotlib", "websocket": "websocket-client"}
_LOCAL_NEEDS = {"torch": "torch", "safetensors": "safetensors"}


def register(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    parser = commands.add_parser("demo", help="run the example workflow with the pack off and on and show both side by side")
    where = "for the trace and the pictures (%(default)s)"
    parser.add_argument("--output-directory", type=Path, metavar="DIR", default=Path("out/demo"), help=where)
    parser.add_argument("--repeats", type=int, default=2, metavar="N", help="runs of each kind (%(default)s)")
    parser.add_argument("--local", action="store_true", help="use the plain PyTorch host even where there is a ComfyUI")
    parser.set_defaults(run=command)


def command(options: argparse.Namespace) -> int:
    comfyui = None if options.local else find_comfyui()
    needs = _NEEDS if comfyui else {**_NEEDS, **_LOCAL_NEEDS}
    absent = [package for module, package in needs.items() if importlib.util.find_spec(module) is None]
    if absent:
        raise UsageError(f"the demo needs {', '.join(absent)}: run `make demo`, or pip install '.[demo]'")
    from .. import demo
    from ..launch import ServerError

    if not demo.WORKFLOW.is_file():
        raise UsageError(f"{demo.WORKFLOW} is missing: run the demo from a checkout of the repository")
    try:
        with _progress() as progress:
            if comfyui:
                models = demo.cache_folder() / f"models-{demo_models_version()}"
                demo.make_models(comfyui, models, progress)
                measured = demo.on_comfyui(comfyui, models, progress, options.repeats)
            else:
                measured = demo.on_local_host(demo.cache_folder(), progress, options.repeats)
    except ServerError as error:
        print(f"residency: {error}", file=sys.stderr)
        return 1
    paths = demo.write(measured, options.output_directory)
    _show(comfyui, measured, options.local)
    print("\n".join(f"{name:<8} {path}" for name, path in paths.items()))
    return 0 if demo.identical(measured) else 1


def demo_models_version() -> str:
    """Names the folder of the demo's models, so that another recipe makes other files."""
    from ..comfyui.tiny import EXPERT_MIB

    return f"1-{EXPERT_MIB}"


def _show(comfyui: ComfyUI | None, measured: list[Measured], local: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..demo import best, identical

    console = Console()
    where = f"ComfyUI {comfyui.version} ({comfyui.found_by})" if comfyui else "plain PyTorch host: on demand against planned"
    table = Table(title=f"Two experts, {where}", title_justify="left")
    for column in ("run", "pack", "seconds", "stall s", "read from disk", "read ahead", "not cached before"):
        table.add_column(column, justify="left" if column in ("run", "pack") else "right")
    for run in sorted(measured, key=lambda run: run.scenario):
        told = run.mode is not Mode.OFF or comfyui is None
        table.add_row(
            run.scenario,
            "off" if run.mode is Mode.OFF else "on",
            f"{run.seconds:.2f}",
            f"{run.trace['summary']['stall_s']:.2f}" if told else "not seen",
            "not told" if run.read_bytes is None else size(run.read_bytes),
            size(run.trace["summary"]["prefetched_bytes"]),
            size(run.cold_bytes) if run.scenario == "cold" else "",
        )
    console.print(table)
    for scenario in ("cold", "warm"):
        off, on = best(measured, scenario, Mode.OFF), best(measured, scenario, Mode.AUTO)
        if off and on:
            ratio = f"{off.seconds / on.seconds:.2f}×, the quickest of each"
            console.print(f"{scenario}: {off.seconds:.2f} s off, {on.seconds:.2f} s on ({ratio})")
    what = "images" if comfyui else "results"
    console.print(f"{what} with the pack on and off: {'identical' if identical(measured) else 'DIFFERENT: please report this'}")
    if comfyui is None and not local:
        console.print("\n" + HOW_TO_GET_ONE, markup=False, soft_wrap=True)


@contextmanager
def _progress() -> Iterator[Progress]:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total or None)
            if not bar.console.is_terminal and show.last != what:  # type: ignore[attr-defined]
                print(what, flush=True)
            show.last = what  # type: ignore[attr-defined]

        show.last = ""  # type: ignore[attr-defined]
        yield show
