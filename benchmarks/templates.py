"""Every workflow that ComfyUI ships, through `plan`, and on request through the editor: what is not understood, and how long it takes.

    python benchmarks/templates.py [--editor] [--json] [FOLDER ...]

Without a folder: the templates that are installed beside the ComfyUI found (pip packages comfyui-workflow-templates-*) and its blueprints.
No weights are needed: each file that a workflow names counts as 1 GB. `plan` runs in this process; seconds are of the processor, so that
what else the machine does changes little, and `order_s` is the part of predicting the order of nodes. With --editor each file is opened in
ComfyUI's front end (a Chromium and playwright are needed), and the prompt that it would queue is compared with the one read here, value by
value, but for API nodes, which are not loaded.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "comfyui")]

from residency.cli.main import main as residency  # noqa: E402
from residency.graph import likely, predict_order  # noqa: E402
from residency.installation.locate import HOW_TO_GET_ONE, ComfyUI, find_comfyui  # noqa: E402
from residency.installation.server_process import serve  # noqa: E402
from residency.workflow.file import WorkflowError, read_workflow  # noqa: E402

FILE_SIZE = "1GB"
MACHINE = ["--vram", "24GB", "--ram", "64GB", "--disk", "1.5GB/s", "--link", "25GB/s"]
SLOW_S = 0.5
QUEUED = "async data => { await window.app.loadGraphData(data, true, false); return (await window.app.graphToPrompt()).output }"


def installed(comfyui: ComfyUI) -> list[Path]:
    """The folders of workflow files of a ComfyUI and its templates."""
    packages = comfyui.python.parent.parent.glob("lib/python*/site-packages/comfyui_workflow_templates_*/templates")
    return [*sorted(packages), comfyui.path / "blueprints"]


def files_in(folders: list[Path]) -> list[Path]:
    """The other files of the template browser are no workflows."""
    return [path for folder in folders for path in sorted(folder.glob("*.json")) if not path.name.startswith(("index", "fuse_options"))]


def plan(path: Path, sizes: dict[str, str], scratch: Path) -> tuple[int | str, dict[str, Any], float]:
    """Exit status, or the name of the exception that came through; what was told as JSON; seconds."""
    (scratch / "sizes.json").write_text(json.dumps(sizes), encoding="utf-8")
    arguments = ["plan", str(path), "--json", "--models-directory", str(scratch / "models"), *MACHINE]
    out, err = io.StringIO(), io.StringIO()
    start_s = time.process_time()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status: int | str = residency([*arguments, *(["--sizes", str(scratch / "sizes.json")] if sizes else ())])
    except Exception as error:
        status = f"{type(error).__name__}: {error}"[:200]
    seconds = time.process_time() - start_s
    return status, json.loads(out.getvalue() or "{}") | {"said": err.getvalue().strip()}, seconds


def rows(files: list[Path]) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        (scratch / "models").mkdir()
        for path in files:
            status, told, seconds = plan(path, {}, scratch)
            sizes = {missing["file"]: FILE_SIZE for missing in told.get("missing", ())}
            if sizes:
                status, told, seconds = plan(path, sizes, scratch)
            row = {"file": path.name, "status": status, "seconds": round(seconds, 4), "order_s": _order_s(path)}
            row |= {"nodes": len(told.get("visits", ())), "components": len(told.get("components", ()))}
            row["not_understood"] = [f"{one['why']}: {one['class_type']} {one['value']}".strip() for one in told.get("not_understood", ())]
            yield row | ({"said": told["said"]} if status != 0 else {})


def _order_s(path: Path) -> float:
    try:
        workflow = read_workflow(path)
    except WorkflowError:
        return 0.0
    start_s = time.process_time()
    predict_order(workflow.prompt, workflow.outputs, workflow.traits, wanted=likely(workflow.prompt.get, workflow.traits))
    return round(time.process_time() - start_s, 4)


def against_the_editor(files: list[Path], comfyui: ComfyUI) -> dict[str, Any]:
    """Values of inputs that the editor queues otherwise. It gives a new id to a node whose id occurs twice: those are left out."""
    from front_end import chromium, load, opened

    found: Counter[str] = Counter()
    differ: dict[str, list[str]] = {}
    with ExitStack() as stack:
        models = stack.enter_context(tempfile.TemporaryDirectory())
        server = stack.enter_context(serve(comfyui, Path(models), ["--cpu"], front_end=True))
        page = stack.enter_context(opened(stack.enter_context(chromium()), server.url))
        for number, path in enumerate(files):
            if number % 50 == 49:
                load(page, server.url)  # what was opened stays open, and slows the rest
            ours, theirs = read_workflow(path).prompt, page.evaluate(QUEUED, json.loads(path.read_text(encoding="utf-8")))
            found["workflows"] += 1
            found["with other ids"] += ours.keys() != theirs.keys()
            for node_id in ours.keys() & theirs.keys():
                one, other = ours[node_id], theirs[node_id]
                if one["class_type"] != other["class_type"]:  # a class that this ComfyUI has not, or another node of this id
                    continue
                for name in one["inputs"].keys() & other["inputs"].keys():
                    found["values"] += 1
                    if one["inputs"][name] != other["inputs"][name] and not _renumbered(other["inputs"][name], ours):
                        differ.setdefault(path.name, []).append(f"{one['class_type']} {node_id} {name}")
    return {**found, "values that differ": sum(map(len, differ.values())), "where": differ}


def _renumbered(value: object, prompt: dict[str, Any]) -> bool:
    return isinstance(value, list) and len(value) == 2 and value[0] not in prompt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="folders of workflow files")
    parser.add_argument("--editor", action="store_true", help="compare with what the editor would queue, too")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    comfyui = find_comfyui()
    if comfyui is None and (options.editor or not options.folders):
        parser.error(HOW_TO_GET_ONE)
    files = files_in(options.folders or (installed(comfyui) if comfyui else []))
    found = list(rows(files))
    kinds = Counter(what.split(":")[0] for row in found for what in row["not_understood"])
    result: dict[str, Any] = {
        "workflows": len(found),
        "crashes": [row["file"] for row in found if isinstance(row["status"], str)],
        "status": dict(Counter(str(row["status"]) for row in found)),
        "with something not understood": sum(bool(row["not_understood"]) for row in found),
        "not understood": dict(kinds),
        f"over {SLOW_S} s": [row["file"] for row in found if row["seconds"] > SLOW_S],
        "slowest": sorted(found, key=lambda row: -row["seconds"])[:5],
    }
    if options.editor and comfyui is not None:
        result["editor"] = against_the_editor(files, comfyui)
    if options.json:
        print(json.dumps({**result, "files": [row for row in found if row["not_understood"] or row["status"] != 0]}, indent=1))
        return
    for name, value in result.items():
        if name == "slowest":
            print("slowest:")
            for row in value:
                print(f"  {row['seconds']:8.3f} s, of it order {row['order_s']:.3f} s, {row['nodes']:4} nodes  {row['file']}")
        else:
            print(f"{name}: {value}")
    for row in found:
        if row["not_understood"]:
            print(f"  {row['file']}: {len(row['not_understood'])}: {'; '.join(row['not_understood'])}")


if __name__ == "__main__":
    main()
