"""`python -m residency demo`: the example workflow with the pack off and on, side by side."""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..installation.locate import HOW_TO_GET_ONE, ComfyUI, cache_folder, find_comfyui
from ..units import UsageError, size
from . import card, demo_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..demo.runs import Progress

_NEEDS = {"rich": "rich", "PIL": "pillow", "psutil": "psutil"}
_LOCAL_NEEDS = {"torch": "torch", "safetensors": "safetensors"}


def register(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    parser = commands.add_parser("demo", help="run the example workflow with the pack off and on and show both side by side")
    where = "for the trace and the pictures (%(default)s)"
    parser.add_argument("--output-directory", type=Path, metavar="DIR", default=Path("out/demo"), help=where)
    pairs = "pairs of runs, off and on, of each kind, rounded up to an even number (default: 6 to 10, by the time they take)"
    parser.add_argument("--repeats", type=_positive, metavar="N", help=pairs)
    parser.add_argument("--expert-mib", type=_positive, metavar="MIB", help="size of each expert (default: by the drive and the RAM)")
    parser.add_argument("--local", action="store_true", help="use the plain PyTorch host even where there is a ComfyUI")
    parser.set_defaults(run=command)


def command(options: argparse.Namespace) -> int:
    comfyui = None if options.local else find_comfyui()
    needs = _NEEDS if comfyui else {**_NEEDS, **_LOCAL_NEEDS}
    absent = [package for module, package in needs.items() if importlib.util.find_spec(module) is None]
    if absent:
        raise UsageError(f"the demo needs {', '.join(absent)}: run `make demo`, or pip install '.[demo]'")
    from ..demo import sides
    from ..demo.runs import identical
    from ..demo.sizing import files_bytes
    from ..installation.server_process import ServerError

    if not sides.WORKFLOW.is_file():
        raise UsageError(f"{sides.WORKFLOW} is missing: run the demo from a checkout of the repository")
    width = min(demo_text.WIDTH, shutil.get_terminal_size((demo_text.WIDTH, 24)).columns)
    pairs = None if options.repeats is None else options.repeats + options.repeats % 2
    try:
        models, expert_mib, drive_bytes_per_s = _choose(comfyui, options.expert_mib)
        making_bytes = 0 if _complete(models) else files_bytes(expert_mib)
        print(textwrap.fill(demo_text.beforehand(pairs, making_bytes, str(models)), width), flush=True)
        with _progress() as progress:
            if comfyui:
                sides.make_models(comfyui, models, progress, expert_mib)
                measured = sides.on_comfyui(comfyui, models, progress, pairs)
            else:
                sides.make_local_models(models, expert_mib, progress)
                measured = sides.on_local_host(models, progress, pairs)
    except (ServerError, OSError) as error:
        print(f"residency: {error}", file=sys.stderr)
        return 1
    paths = sides.write(measured, options.output_directory)
    host = f"ComfyUI {comfyui.version} ({comfyui.found_by})" if comfyui else "plain PyTorch (no ComfyUI)"
    file_bytes = sides.total_bytes(sides.model_files(models))
    setting = demo_text.Setting(host, "images" if comfyui else "results", file_bytes, drive_bytes_per_s)
    lines = demo_text.told(setting, measured, width)
    for line in (demo_text.RULE, "", *card.lines(), ""):
        lines += textwrap.wrap(line, width) or [""]
    print("\n".join(["", *lines, *(f"{name:<8} {path}" for name, path in paths.items())]))
    if comfyui is None and not options.local:
        why, _, commands = HOW_TO_GET_ONE.partition("\n\n")
        print("\n".join(["", textwrap.fill(why, width), "", commands]))
    return 0 if identical(measured) else 1


def _choose(comfyui: ComfyUI | None, asked_mib: int | None) -> tuple[Path, int, float]:
    """The folder of the models, the size of an expert in MiB, and the rate of the drive below that folder in bytes per second.

    Raises UsageError where not even the smallest models have room, OSError where nothing can be written.
    """
    from ..demo.sizing import SIZES_MIB, choose_mib, files_bytes, measure_drive
    from ..transfers import available_bytes

    cache = cache_folder()

    def folder(expert_mib: int) -> Path:
        return cache / f"{'models' if comfyui else 'local'}-{models_version()}-{expert_mib}"

    drive_bytes_per_s = measure_drive(cache)
    if asked_mib is not None:
        return folder(asked_mib), asked_mib, drive_bytes_per_s
    ram_bytes, disk_bytes = available_bytes(), shutil.disk_usage(cache).free
    there = [mib for mib in SIZES_MIB if _complete(folder(mib))]
    expert_mib = choose_mib(drive_bytes_per_s, ram_bytes, disk_bytes, there)
    if expert_mib is None:
        least = size(files_bytes(SIZES_MIB[0]))
        have = f"{size(disk_bytes)} of the disk are free and {size(ram_bytes)} of RAM"
        raise UsageError(f"the demo's models need {least} of disk in {cache} and twice that of RAM, but {have}; see RESIDENCY_CACHE")
    return folder(expert_mib), expert_mib, drive_bytes_per_s


def models_version() -> int:
    """Names the folders of the demo's models, so that another recipe makes other files."""
    from ..comfyui.sample_models.tiny import RECIPE

    return RECIPE


def _complete(models: Path) -> bool:
    return any(models.rglob("residency_tae.safetensors"))  # the last that is made


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number above 0")
    return int(text)


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
