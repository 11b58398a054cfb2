"""Who may import what: the picture in docs/architecture.md, checked."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "residency"
COMFYUI = {"comfy", "comfy_api", "comfy_execution", "execution", "folder_paths", "nodes", "server", "latent_preview"}

# a module may import from the core only what stands before it
CORE = [
    "words", "component", "timeline", "budget", "events", "strategies", "ranking", "view", "plan", "host_tier", "device_tier", "manager",
    "forecast", "trace", "runtime",
]  # fmt: skip


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(relative level, dotted name) of every import, also those inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ((node.level, name) for name in names)


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_hosts_touch_comfyui_and_torch(path: Path):
    room = path.relative_to(PACKAGE).parts[0]
    roots = {name.split(".")[0] for level, name in imported(path) if level == 0}
    if room != "comfyui":
        assert not roots & COMFYUI
    if room not in ("comfyui", "local", "transfers"):
        assert "torch" not in roots


@pytest.mark.parametrize("name", CORE)
def test_the_core_imports_in_one_direction(name: str):
    own = {module.split(".")[0] for level, module in imported(PACKAGE / f"{name}.py") if level == 1}
    assert own <= set(CORE[: CORE.index(name)])


@pytest.mark.parametrize("name", CORE[: CORE.index("trace")])
def test_the_deciding_core_has_no_clock_no_files_and_no_threads(name: str):
    roots = {module.split(".")[0] for level, module in imported(PACKAGE / f"{name}.py") if level == 0}
    assert not roots & {"time", "datetime", "os", "io", "pathlib", "threading", "asyncio", "random", "socket", "subprocess"}


def test_the_entry_of_the_pack_imports_nothing_before_it_is_asked():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    assert not [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
