"""The command line: demo, plan, doctor. Exit status 0 when done, 1 when something failed on the way, 2 for input that cannot be used."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__, doctor
from .bench.command import add_to as add_bench
from .component import Mode
from .convert_command import add_to as add_convert
from .locate import HOW_TO_GET_ONE, ComfyUI, LocateError, find_comfyui
from .picture import size
from .predict import Prediction, predict
from .simulate.command import add_to as add_simulate
from .timeline import UseKind
from .workflow import WorkflowError, read_workflow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .demo import Measured, Progress

_DEMO_NEEDS = {"rich": "rich", "PIL": "pillow", "psutil": "psutil", "matplotlib": "matplotlib", "websocket": "websocket-client"}
_LOCAL_NEEDS = {"torch": "torch", "safetensors": "safetensors"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    about = "Residency: weights where they are needed, before they are needed."
    parser = argparse.ArgumentParser(prog="python -m residency", description=about)
    parser.add_argument("--version", action="version", version=f"residency {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="run the example workflow with the pack off and on and show both side by side")
    place: dict[str, Any] = {"type": Path, "metavar": "DIR"}
    demo.add_argument("--output-directory", **place, default=Path("out/demo"), help="for the trace and the pictures (%(default)s)")
    demo.add_argument("--repeats", type=int, default=2, metavar="N", help="runs of each kind (%(default)s)")
    demo.add_argument("--local", action="store_true", help="use the plain PyTorch host even where there is a ComfyUI")
    demo.set_defaults(run=_demo)

    plan = commands.add_parser("plan", help="print the timeline that the pack would act on for a workflow file; needs no ComfyUI")
    plan.add_argument("workflow", type=Path, metavar="WORKFLOW.json", help="as ComfyUI saves it, or its API format")
    plan.add_argument("--models-directory", **place, help="ComfyUI's models folder (default: that of the ComfyUI found, or ./models)")
    patchers = ("dynamic", "legacy")
    plan.add_argument("--patcher", choices=patchers, default="dynamic", help="who loads weights in ComfyUI (%(default)s); see doctor")
    plan.add_argument("--json", action="store_true", help="print JSON")
    plan.set_defaults(run=_plan)

    look = commands.add_parser("doctor", help="show what the pack finds on this machine, and which features fit this ComfyUI")
    look.add_argument("--json", action="store_true", help="print JSON")
    look.set_defaults(run=_doctor)

    add_simulate(commands)
    add_bench(commands)
    add_convert(commands)

    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
    except (LocateError, WorkflowError) as error:
        print(f"residency: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("residency: interrupted", file=sys.stderr)
        return 130
    return status


# --- plan ---


def _plan(options: argparse.Namespace) -> int:
    workflow = read_workflow(options.workflow)
    models = options.models_directory
    if models is None:
        found = find_comfyui()
        models = found.path / "models" if found else Path("models")
    if not models.is_dir():
        raise WorkflowError(f"{models}: no such folder; give ComfyUI's models folder with --models-directory")
    reads_at = UseKind.COMPUTE if options.patcher == "dynamic" else UseKind.LOAD
    prediction = predict(workflow, models, reads_at)
    print(json.dumps(_as_json(prediction), indent=1) if options.json else _as_text(prediction, models))
    return 0


def _as_json(prediction: Prediction) -> dict[str, Any]:
    timeline = prediction.timeline
    return {
        "visits": [
            {
                "node_id": visit.node_id,
                "class_type": visit.class_type,
                "uses": [{"component": use.component, "kind": use.kind.value, "reads": use.reads} for use in timeline.at(position)],
            }
            for position, visit in enumerate(timeline.visits)
        ],
        "components": [
            {"key": one.key, "name": one.name, "kind": one.kind, "size_bytes": one.size_bytes} for one in prediction.components.values()
        ],
        "missing": [{"node_id": node_id, "class_type": class_type, "file": name} for node_id, class_type, name in prediction.missing],
        "warnings": list(prediction.warnings),
    }


def _as_text(prediction: Prediction, models: Path) -> str:
    lines = []
    read: set[str] = set()
    for position, visit in enumerate(prediction.timeline.visits):
        told = []
        for use in prediction.timeline.at(position):
            component = prediction.components[use.component]
            verb = "loads" if use.kind is UseKind.LOAD else "computes with"
            reads = use.reads and use.component not in read
            told.append(f"{verb} {component.name}" + (f", reads {size(component.size_bytes)}" if reads else ""))
            if use.reads:
                read.add(use.component)
        lines.append(f"{position + 1:>4}  {visit.class_type} {visit.node_id}".ljust(40) + ("; ".join(told) or "-"))
    total_bytes = sum(prediction.components[key].size_bytes for key in read)
    lines += ["", f"{len(read)} components, {size(total_bytes)} to read"]
    lines += [f"missing: {name} ({class_type} {node_id}) is in no folder of {models}" for node_id, class_type, name in prediction.missing]
    lines += [f"warning: {warning}" for warning in prediction.warnings]
    return "\n".join(lines)


# --- doctor ---


def _doctor(options: argparse.Namespace) -> int:
    found = doctor.look(find_comfyui())
    if options.json:
        print(json.dumps([{"topic": fact.topic, "name": fact.name, "value": fact.value} for fact in found], indent=1))
    else:
        print(doctor.text(found))
    return 0


# --- demo ---


def _demo(options: argparse.Namespace) -> int:
    comfyui = None if options.local else find_comfyui()
    needs = _DEMO_NEEDS if comfyui else {**_DEMO_NEEDS, **_LOCAL_NEEDS}
    absent = [package for module, package in needs.items() if importlib.util.find_spec(module) is None]
    if absent:
        print(f"residency: the demo needs {', '.join(absent)}: run `make demo`, or pip install '.[demo]'", file=sys.stderr)
        return 2
    from . import demo
    from .launch import ServerError

    if not demo.WORKFLOW.is_file():
        print(f"residency: {demo.WORKFLOW} is missing: run the demo from a checkout of the repository", file=sys.stderr)
        return 2
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
    from .comfyui.tiny import EXPERT_MIB

    return f"1-{EXPERT_MIB}"


def _show(comfyui: ComfyUI | None, measured: list[Measured], local: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from .demo import best, identical

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
