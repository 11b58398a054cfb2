"""Our workflows in ComfyUI's editor: what a browser queues for them is what we read from the files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from residency.convert import to_core, to_residency
from residency.core_nodes import core_nodes
from residency.workflow import parse_workflow

playwright = pytest.importorskip("playwright.sync_api", reason="NOT TESTED: the editor needs playwright")

CHROMIUM = os.environ.get("RESIDENCY_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
)
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
EXAMPLES = sorted((Path(__file__).parents[2] / "example_workflows").glob("*.json"))
QUEUED = "async data => { await window.app.loadGraphData(data); return (await window.app.graphToPrompt()).output }"

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="NOT TESTED: no Chromium; set RESIDENCY_CHROMIUM or put one on the PATH"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, comfy_server: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.request.post(f"{comfy_server.url}/settings", data={"Comfy.TutorialCompleted": True})
    page.goto(comfy_server.url)
    page.wait_for_function("window.app?.vueAppReady && window.app.extensionManager", timeout=90_000)
    yield page
    page.close()


def plain(prompt: dict[str, Any]) -> dict[str, Any]:
    """Class names and inputs: the rest are titles."""
    return {node_id: {"class_type": node["class_type"], "inputs": node["inputs"]} for node_id, node in prompt.items()}


def test_the_editor_queues_what_we_read_from_the_examples_and_from_their_conversions(page: Any):
    for path in EXAMPLES:
        saved = json.loads(path.read_text(encoding="utf-8"))
        core = to_core(saved, core_nodes().keys()).data
        for data in (saved, core, to_residency(core, core_nodes().keys()).data):
            assert plain(page.evaluate(QUEUED, data)) == plain(parse_workflow(data).prompt), path.stem


def test_a_workflow_without_our_inputs_gets_their_defaults_in_the_editor(page: Any):
    """What an older version of the pack saved: fewer widget values than the node has now."""
    node = {"id": 1, "type": "ResidencyUNETLoader", "pos": [0, 0], "size": [300, 90], "flags": {}, "order": 0, "mode": 0, "inputs": []}
    node |= {"outputs": [{"name": "MODEL", "type": "MODEL", "links": []}], "properties": {}}
    values = ["residency_expert_a.safetensors", "default"]
    data = {"last_node_id": 1, "last_link_id": 0, "nodes": [{**node, "widgets_values": values}], "links": [], "version": 0.4}
    inputs = page.evaluate(QUEUED, data)["1"]["inputs"]
    assert inputs == {"unet_name": values[0], "weight_dtype": "default", "memory_mode": "workflow", "strategy": "auto", "priority": 0}
