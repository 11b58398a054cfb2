"""Takes the pictures of the example workflows that ComfyUI's template browser shows: opens each in a headless Chromium, as a user sees it.

    python tools/thumbnails.py [example_workflows/one.json …]      writes example_workflows/<same name>.jpg, at most 60 kB each

Needs a ComfyUI (found as the README says), playwright, Pillow and a Chromium (RESIDENCY_CHROMIUM, or on the PATH).
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from residency.installation.locate import find_comfyui  # noqa: E402
from residency.installation.server_process import serve  # noqa: E402
from residency.workflow.core_nodes import core_nodes  # noqa: E402

MAX_BYTES = 60_000
WIDTH, HEIGHT = 960, 640  # of the file; the page is twice as large
MARGIN = 24  # pixels of the page around the nodes

# everything but the nodes is out of the way; the bounds of the nodes and groups are what the picture shows
_ARRANGE = """([width, height, margin]) => {
  const { canvas, graph } = app;
  const boxes = [...graph.nodes, ...graph.groups].map((item) => [...item.boundingRect]);
  const left = Math.min(...boxes.map(([x]) => x)), top = Math.min(...boxes.map(([, y]) => y));
  const right = Math.max(...boxes.map(([x, , w]) => x + w)), bottom = Math.max(...boxes.map(([, y, , h]) => y + h));
  const scale = Math.min((width - 2 * margin) / (right - left), (height - 2 * margin) / (bottom - top), 1.4);
  canvas.ds.scale = scale;
  canvas.ds.offset = [width / 2 / scale - (left + right) / 2, height / 2 / scale - (top + bottom) / 2];
  canvas.show_info = false;
  canvas.deselectAll?.();
  canvas.setDirty(true, true);
  const place = (at, middle, size) => (at - middle) * scale + size / 2;
  const box = [place(left, (left + right) / 2, width) - margin, place(top, (top + bottom) / 2, height) - margin];
  return [...box, box[0] + (right - left) * scale + 2 * margin, box[1] + (bottom - top) * scale + 2 * margin];
}"""
_ONLY_NODES = "body * { visibility: hidden !important; } #graph-canvas, .dom-widget, .dom-widget * { visibility: visible !important; }"


def picture(page: Any, workflow: dict[str, Any]) -> bytes:
    """A JPEG of the workflow, as large as MAX_BYTES allows."""
    from PIL import Image

    page.evaluate("graph => app.loadGraphData(graph)", workflow)
    page.add_style_tag(content=_ONLY_NODES)
    page.wait_for_timeout(500)
    box = page.evaluate(_ARRANGE, [2 * WIDTH, 2 * HEIGHT, MARGIN])
    page.wait_for_timeout(1500)  # widgets of HTML follow the canvas a few frames later
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB").crop(tuple(round(edge) for edge in box))
    image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
    for quality in range(88, 20, -6):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, optimize=True, progressive=True)
        if file.tell() <= MAX_BYTES:
            break
    return file.getvalue()


def _models_of(workflow: dict[str, Any], folder: Path) -> None:
    """Empty files with the names that the workflow asks for: the editor would mark the nodes of missing ones."""
    graphs = [workflow, *workflow.get("definitions", {}).get("subgraphs", ())]
    for node in (node for graph in graphs for node in graph["nodes"]):
        facts = core_nodes().get(node["type"].removeprefix("Residency"))
        values = facts.named_values(node.get("widgets_values") or ()) if facts else {}
        for name, models in facts.folders.items() if facts else ():
            if isinstance(values.get(name), str):
                path = folder / models / values[name]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()


def take(paths: Iterable[Path]) -> None:
    """Write the picture of each workflow file beside it. Raises SystemExit when something needed is not there."""
    from playwright.sync_api import sync_playwright

    comfyui = find_comfyui()
    chromium = os.environ.get("RESIDENCY_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if comfyui is None or chromium is None:
        sys.exit("no ComfyUI found: set COMFYUI_PATH" if comfyui is None else "no Chromium found: set RESIDENCY_CHROMIUM")
    workflows = {path: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    with (
        tempfile.TemporaryDirectory() as models,
        serve(comfyui, Path(models), ["--cpu"], front_end=True) as server,
        sync_playwright() as driver,
    ):
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for workflow in workflows.values():
            _models_of(workflow, Path(models))
        page = browser.new_page(viewport={"width": 2 * WIDTH, "height": 2 * HEIGHT})
        page.request.post(f"{server.url}/settings", data={"Comfy.TutorialCompleted": True})
        page.goto(server.url)
        page.wait_for_function("window.app?.vueAppReady && app.graph.nodes.length > 0", timeout=90_000)
        for path, workflow in workflows.items():
            file = picture(page, workflow)
            path.with_suffix(".jpg").write_bytes(file)
            print(f"{path.with_suffix('.jpg').name}: {len(file)} bytes")
        browser.close()


if __name__ == "__main__":
    named = [Path(argument) for argument in sys.argv[1:]]
    take(named or sorted((ROOT / "example_workflows").glob("*.json")))
