"""ComfyUI's front end in a headless Chromium: what every browser story here starts from."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest

from residency.settings.user import UserSettings

CHROMIUM = os.environ.get("RESIDENCY_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
)
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
ARGUMENTS += ["--disable-component-update", "--disable-sync"]
PLAYWRIGHT = importlib.util.find_spec("playwright") is not None

NEEDS_A_BROWSER = [
    pytest.mark.comfyui,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="NOT TESTED: no Chromium; set RESIDENCY_CHROMIUM or put one on the PATH"),
    pytest.mark.skipif(not PLAYWRIGHT, reason="NOT TESTED: the front end needs playwright"),
]


PACKAGE = "comfyui-frontend-package"
RENDERERS = ("canvas", "vue")


def front_ends() -> dict[str, Path]:
    """Version → pages of each front end in RESIDENCY_FRONT_ENDS: folders that pip has installed the package into (`--target`).

    Raises ValueError for a folder without it.
    """
    found = {}
    for folder in filter(None, os.environ.get("RESIDENCY_FRONT_ENDS", "").split(os.pathsep)):
        pages = Path(folder) / PACKAGE.replace("-", "_") / "static"
        versions = [one.version for one in distributions(name=PACKAGE, path=[folder])]
        if len(versions) != 1 or not pages.is_dir():
            raise ValueError(f"RESIDENCY_FRONT_ENDS: no {PACKAGE} in {folder}: pip install --no-deps --target {folder} {PACKAGE}==VERSION")
        found[versions[0]] = pages.resolve()
    return found


@contextmanager
def chromium() -> Iterator[Any]:
    """A running Chromium, as playwright's browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, url: str, renderer: str = "canvas") -> Iterator[Any]:
    """A page with the front end in one of its RENDERERS, ready. At the end the settings are back and no script of ours has failed."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(f"{error}\n{error.stack}"))
    # a first visit's dialog holds the focus
    page.request.post(f"{url}/settings", data={"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": renderer == "vue"})
    load(page, url)
    yield page
    page.close()
    with browser.new_context() as context:  # the closed page can ask nothing any more, and no page may push its own settings afterwards
        defaults = {name: value for name, value in UserSettings().as_dict().items() if name != "version"}
        context.request.post(f"{url}/residency/settings", data=defaults)
        context.request.post(f"{url}/settings", data={f"residency.{name}": value for name, value in defaults.items()})
    assert [failure for failure in failures if "residency" in failure.lower()] == []


def load(page: Any, url: str) -> None:
    """Open or reload the front end and wait until it can be used."""
    page.goto(url)
    page.wait_for_function("window.app?.vueAppReady && window.app.extensionManager", timeout=90_000)
    # the first workflow is opened a moment later, and would take the place of the one that a story opens
    page.wait_for_function(
        "() => app.extensionManager.workflow.activeWorkflow?.changeTracker && app.graph.nodes.length > 0", timeout=90_000
    )


def command(page: Any, command_id: str) -> None:
    """Run one of the front end's commands."""
    page.evaluate("id => window.app.extensionManager.command.execute(id)", command_id)


def setting(page: Any, setting_id: str, value: Any) -> None:
    """Set one of ComfyUI's settings."""
    page.evaluate("([id, value]) => window.app.extensionManager.setting.set(id, value)", [setting_id, value])


def open_graph(page: Any, workflow: dict[str, Any]) -> None:
    """Open a workflow in API format, or one that was saved, in the editor."""
    if "nodes" in workflow:
        page.evaluate("graph => window.app.loadGraphData(graph)", workflow)
    else:
        page.evaluate("graph => window.app.loadApiJson(graph, 'a story')", workflow)


def graph_of(page: Any) -> dict[str, Any]:
    """The open workflow as it would be saved."""
    found: dict[str, Any] = page.evaluate("() => JSON.parse(JSON.stringify((window.app.rootGraph ?? window.app.graph).serialize()))")
    return found


_SHOW = """id => {
  const node = app.graph.getNodeById(id);
  const { ds, canvas } = app.canvas;
  ds.scale = 0.8;
  ds.offset = [300 - node.pos[0], 300 - node.pos[1]];
  app.canvas.setDirty(true, true);
  const [x, y] = ds.convertOffsetToCanvas([node.pos[0] + 60, node.pos[1] - 12]);
  const { left, top } = canvas.getBoundingClientRect();
  return [x + left, y + top];
}"""

# types of the pack's nodes, told by where the Residency Mode node comes from
OUR_NODES = """() => {
  const types = LiteGraph.registered_node_types;
  const home = types.ResidencyMode.nodeData.python_module;
  return Object.keys(types).filter((type) => types[type].nodeData?.python_module === home);
}"""


def click_on(page: Any, node_id: int, button: str = "left") -> None:
    """Click on a node's title, in either renderer, after moving the view to it."""
    place = page.evaluate(_SHOW, node_id)
    page.wait_for_timeout(300)  # the view follows in the next frames
    page.mouse.click(*place, button=button)
