"""No thread waits for a lock of the pack while it holds one that comes behind it in the list of docs/architecture.md."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from comfy_story import drop_pages, forget, running_node, two_experts, wait, with_ours

from residency.installation.locate import ComfyUI
from residency.installation.server_process import Server, ServerError, serve

SEEN_IN = Path(__file__).with_name("lock_order")
ARCHITECTURE = Path(__file__).parents[2] / "docs" / "architecture.md"
RESIDENCY = Path(__file__).parents[2] / "residency"


def listed() -> list[str]:
    """The pack's locks in the order in which they are taken."""
    section = ARCHITECTURE.read_text(encoding="utf-8").partition("## Locks")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([\w/.]+)` \|", section, re.MULTILINE)


def made() -> set[str]:
    """Every lock that a module of the server's makes."""
    found = set()
    for path in RESIDENCY.rglob("*.py"):
        module = path.relative_to(RESIDENCY).with_suffix("").as_posix()
        if not module.startswith("bench/"):
            lines = re.findall(r"(\w+) = threading\.(?:R?Lock|Condition)\(\)", path.read_text(encoding="utf-8"))
            found |= {f"{module}.{name}" for name in lines}
    return found


def test_every_lock_is_in_the_list():
    assert set(listed()) == made()


@pytest.fixture(scope="module")
def order(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("locks") / "order"


@pytest.fixture(scope="module")
def server(comfyui: ComfyUI, models: Path, order: Path) -> Iterator[Server]:
    environment = {"PYTHONPATH": str(SEEN_IN), "LOCK_ORDER": str(order)}
    with serve(comfyui, models, ["--cpu"], environment=environment) as server:
        yield server


def interrupted(server: Server) -> None:
    with pytest.raises(ServerError, match="interrupted"):
        server.run(two_experts(seed=5, size=512, steps=2000))


def test_locks_are_waited_for_in_the_order_of_the_list(server: Server, models: Path, order: Path):
    server.run(with_ours(two_experts(seed=1), "low-vram"))
    server.run(two_experts(seed=2), {"residency": {"mode": "high-vram"}})
    for mode in ("off", "low-vram", "auto"):
        server.post("/residency/mode", {"mode": mode})
        forget(server)
        drop_pages(models)
        server.run_queue([two_experts(seed=3), two_experts(seed=4, size=128)], 120)
    thread = threading.Thread(target=interrupted, args=(server,))
    thread.start()
    wait(lambda: running_node(server) == "6")
    behind = json.loads(server.post("/prompt", {"prompt": two_experts(seed=6)}))["prompt_id"]
    server.post("/residency/settings", {"read_threads": 2, "ram_budget_gib": 1})
    server.get("/residency/traces")
    server.get("/residency/trace")
    server.post("/queue", {"delete": [behind]})
    server.post("/residency/mode", {"mode": "off"})
    server.post("/interrupt", {})
    thread.join()
    server.post("/residency/mode", {"mode": "auto"})
    server.run(two_experts(seed=7))
    places = {name: place for place, name in enumerate(listed())}
    seen = [tuple(line.split()) for line in order.read_text(encoding="utf-8").splitlines()]
    assert ("comfyui/execution._lock", "runtime._lock") in seen  # it is looked at
    assert [(held, wanted) for held, wanted in seen if places[held] >= places[wanted]] == []
