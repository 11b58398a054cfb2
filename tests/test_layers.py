"""Who may import what: the picture in docs/architecture.md, checked."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "residency"
COMFYUI = {"comfy", "comfy_api", "comfy_execution", "execution", "folder_paths", "nodes", "server", "latent_preview"}

# Floors of the house, the lowest first: a room imports only from floors below its own. Within the core the modules are floors too.
FLOORS = [
    {"units", "graph"},
    {"core"},
    {"weights.identity", "record.node_times", "record.contents", "record.decisions"},
    {"record.transfers"},
    {"record.as_json"},
    {
        "record.trace",
        "record.text",
        "record.image",
        "record.trace_events",
        "record.outside",
        "record.ahead",
        "weights",
        "settings",
        "transfers",
    },
    {"findings"},
    {"profiles", "workflow", "session", "installation", "record.png"},
    {"runtime", "record.facts"},
    {"simulate"},
    {"demo", "comfyui"},
    {"bench", "fleet"},
    {"cli"},
]
CORE = [
    "component", "_frozen", "timeline", "budget", "events", "instructions", "strategies", "moves", "component_state", "story",
    "eviction_order", "view", "place", "host_room", "host_plan", "host_looks", "last_plan", "host_tier", "device_placement", "device_tier",
    "releases", "needed", "manager",
]  # fmt: skip
PURE = ("core", "session", "graph")


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or not path.name.startswith("__"))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> Iterator[tuple[bool, str]]:
    """(ours, dotted name) of every import, also those inside functions; ours are named from the package on."""
    inside = [*path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((False, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield False, node.module or ""
        elif isinstance(node, ast.ImportFrom):
            base = [*inside[: len(inside) + 1 - node.level], *(node.module or "").split(".")]
            yield from ((True, ".".join([*filter(None, base), alias.name])) for alias in node.names)


def floor(name: str) -> int:
    parts = name.split(".")
    for number, rooms in enumerate(FLOORS):
        if parts[0] in rooms or ".".join(parts[:2]) in rooms:
            return number
    raise AssertionError(f"{name} stands on no floor: give it one here and in docs/architecture.md")


def room(name: str) -> str:
    return ".".join(name.split(".")[:2]) if name.startswith("record.") else name.split(".")[0]


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_a_room_imports_only_from_the_floors_below_it(path: Path):
    name = dotted(path)
    for ours, other in imported(path):
        if ours and other != "__version__" and room(other) != room(name):
            assert floor(other) < floor(name), f"{name} imports {other}"


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_only_the_hosts_touch_comfyui_and_torch(path: Path):
    roots = {name.split(".")[0] for ours, name in imported(path) if not ours}
    place = dotted(path).split(".")[0]
    if place != "comfyui":
        assert not roots & COMFYUI
    if place not in ("comfyui", "demo", "transfers"):
        assert "torch" not in roots
    if place != "fleet":
        assert "ray" not in roots


@pytest.mark.parametrize("name", CORE)
def test_the_core_imports_in_one_direction(name: str):
    own = {other.split(".")[1] for ours, other in imported(PACKAGE / "core" / f"{name}.py") if ours and other.startswith("core.")}
    assert own <= set(CORE[: CORE.index(name)])


@pytest.mark.parametrize("path", [path for path in modules() if dotted(path).split(".")[0] in PURE], ids=dotted)
def test_what_decides_has_no_clock_no_files_and_no_threads(path: Path):
    roots = {name.split(".")[0] for ours, name in imported(path) if not ours}
    assert not roots & {"time", "datetime", "os", "io", "pathlib", "threading", "asyncio", "random", "socket", "subprocess"}


def test_the_entry_of_the_pack_imports_nothing_before_it_is_asked():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    assert not [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
