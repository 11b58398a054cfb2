"""Takes the pictures of the panel in docs/: a real server, the example's tiny models, a headless Chromium, both themes.

    python tools/screenshots.py [--into docs]      writes panel, panel-empty and panel-running in both themes

Needs a ComfyUI (found as the README says), playwright and a Chromium (RESIDENCY_CHROMIUM, or on the PATH).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "comfyui")]

from comfy_story import drop_pages, forget, two_experts  # noqa: E402
from front_end import chromium, load, open_graph  # noqa: E402

from residency.installation.locate import find_comfyui  # noqa: E402
from residency.installation.server_process import Server, serve  # noqa: E402

WIDTH, HEIGHT = 1280, 800
PANEL_PX = 400
EXPERT_MIB = 400
THEMES = {"dark": "", "light": "-light"}

_SHOW = "window.app.extensionManager.command.execute('Residency.ShowTimeline')"
_ENDED = "document.querySelector('.residency').dataset.outcome === 'success'"
_SAID = "/ComfyUI alone/.test(document.querySelector('.residency-sentence').textContent)"


@contextmanager
def running() -> Iterator[tuple[Server, Path]]:
    """A server with the front end, and its models folder."""
    comfyui = find_comfyui()
    if comfyui is None:
        sys.exit("no ComfyUI: set COMFYUI_PATH")
    with tempfile.TemporaryDirectory(prefix="residency-models-") as folder:
        script = ROOT / "residency" / "comfyui" / "sample_models" / "tiny.py"
        subprocess.run(
            [str(comfyui.python), str(script), str(comfyui.path), folder, str(EXPERT_MIB)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        with serve(comfyui, Path(folder), ["--cpu"], front_end=True) as server:
            yield server, Path(folder)


@contextmanager
def page_in(browser: Any, server: Server, theme: str) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    page.request.post(
        f"{server.url}/settings", data={"Comfy.TutorialCompleted": True, "Comfy.ColorPalette": theme, "Comfy.VueNodes.Enabled": False}
    )
    load(page, server.url)
    yield page
    page.close()


def show_workflow(page: Any, workflow: dict[str, Any]) -> None:
    """Open it beside the panel."""
    open_graph(page, workflow)
    page.evaluate("app.canvas.ds.scale = 0.6; app.canvas.setDirty(true, true)")
    show_panel(page)


def show_panel(page: Any) -> None:
    page.evaluate(_SHOW)
    page.locator(".residency").wait_for()


def taken(page: Any, path: Path) -> None:
    page.wait_for_timeout(800)  # what the front end fades in and out
    page.screenshot(path=path)
    print(path)


def take(into: Path) -> None:
    workflow = two_experts(seed=10, size=256, steps=4)
    with running() as (server, models), chromium() as browser:
        for theme, suffix in THEMES.items():  # before anything has run: the first look
            with page_in(browser, server, theme) as page:
                show_workflow(page, workflow)
                taken(page, into / f"panel-empty{suffix}.png")
        server.run(two_experts(seed=1, size=256, steps=4))
        for theme, suffix in THEMES.items():
            with page_in(browser, server, theme) as page:
                show_workflow(page, workflow)
                forget(server)
                drop_pages(models)
                run = threading.Thread(target=server.run, args=[workflow])
                run.start()
                page.locator(".residency-drawing[data-ahead]:not([data-ahead='0'])").wait_for(timeout=20_000)
                page.wait_for_timeout(1500)
                taken(page, into / f"panel-running{suffix}.png")
                run.join()
                page.wait_for_function(_ENDED)
                page.wait_for_function(_SAID, timeout=20_000)
                taken(page, into / f"panel{suffix}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=ROOT / "docs")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    take(parser.parse_args().into)
