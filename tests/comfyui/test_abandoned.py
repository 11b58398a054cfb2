"""The pack leaves in the middle of a prompt, switched off or by a failure of its own: nothing of it goes on, and the trace says so."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comfy_story import pixels, two_experts

from residency.installation.locate import ComfyUI
from residency.installation.server_process import Server, ServerError, serve

SABOTEUR = Path(__file__).with_name("packs") / "saboteur"
HUGE_BYTES = 48 << 30  # a hole: reading it takes longer than any of these stories


@pytest.fixture(scope="module")
def shared(comfyui: ComfyUI, models: Path) -> Iterator[Server]:
    with serve(comfyui, models, ["--cpu"], others=[SABOTEUR]) as server:
        yield server


@pytest.fixture
def server(shared: Server, models: Path) -> Iterator[Server]:
    """In the middle of a long node, with a huge file on its way for a queued prompt."""
    path = models / "checkpoints" / "residency_behind.ckpt"
    path.parent.mkdir(exist_ok=True)
    with open(path, "wb") as file:
        file.truncate(HUGE_BYTES)

    def run() -> None:
        with pytest.raises(ServerError, match="interrupted"):
            shared.run(two_experts(seed=int(time.time()), size=512, steps=2000))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait(lambda: running(shared)[-1:] == ["6"])
        behind = {
            "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": path.name}},
            "2": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
            "3": {"class_type": "VAEDecode", "inputs": {"samples": ["2", 0], "vae": ["1", 2]}},
            "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "behind"}},
        }
        shared.post("/prompt", {"prompt": behind})
        wait(lambda: "residency_behind" in moving(shared))
        yield shared
    finally:
        shared.post("/queue", {"clear": True})
        shared.post("/interrupt", {})
        thread.join()
        path.unlink()
        shared.post("/saboteur", {"break": []})
        shared.post("/residency/mode", {"mode": "off"})
        shared.post("/residency/mode", {"mode": "auto"})


def wait(condition: Any, timeout_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it never came"
        time.sleep(0.05)


def running(server: Server) -> list[str]:
    """The nodes that have begun in the running prompt."""
    last = server.get_json("/residency/traces")["traces"][:1]
    told = server.get_json("/residency/trace") if last else {"outcome": None}
    return [node["node_id"] for node in told["nodes"]] if told["outcome"] == "running" else []


def moving(server: Server) -> set[str]:
    """Names of what is being read."""
    told = server.get_json("/residency/trace")
    names = {component["key"]: component["name"] for component in told["components"]}
    return {names[one["component"]] for one in told["transfers"] if one["end_s"] is None}


def story(server: Server, reason: str) -> dict[str, Any]:
    """The prompt is still running in ComfyUI, and we have left it."""
    wait(lambda: server.get_json("/residency/trace")["outcome"] != "running")
    told: dict[str, Any] = server.get_json("/residency/trace")
    assert (told["outcome"], told["outcome_reason"]) == ("abandoned", reason)
    assert all(node["end_s"] is not None for node in told["nodes"]) and not moving(server)
    wait(lambda: not server.get_json("/residency/status")["threads"])  # nothing is read any more
    assert json.loads(server.get("/queue"))["queue_running"]
    return told


def test_a_failure_of_ours_in_mid_prompt_ends_its_trace_and_stops_what_was_read_ahead(server: Server):
    server.post("/saboteur", {"break": ["_step"]})
    told = story(server, "left to ComfyUI: _broken failed: RuntimeError: sabotage")
    status = server.get_json("/residency/status")
    assert status["installed"] and status["failures"] == 1
    (stopped,) = {one["reason"] for one in told["transfers"] if one["status"] == "stopped"}
    assert stopped == told["outcome_reason"]


def test_switching_off_in_mid_prompt_ends_its_trace(server: Server):
    server.post("/residency/mode", {"mode": "off"})
    story(server, "left to ComfyUI: the pack was switched off while it ran")


def test_after_a_failure_the_next_prompt_is_followed_again(server: Server):
    server.post("/saboteur", {"break": ["_step"]})
    story(server, "left to ComfyUI: _broken failed: RuntimeError: sabotage")
    server.post("/saboteur", {"break": []})
    server.post("/queue", {"clear": True})
    server.post("/interrupt", {})
    run = server.run(two_experts(seed=2))
    told = server.get_json(f"/residency/trace?prompt_id={run.prompt_id}")
    assert told["outcome"] == "success" and {node["node_id"] for node in told["nodes"]} >= {"6", "8", "9", "10"}
    assert "residency_behind" not in {component["name"] for component in told["components"]}
    server.post("/residency/mode", {"mode": "off"})
    server.post("/free", {"unload_models": True, "free_memory": True})
    assert pixels(server.run(two_experts(seed=2)).images[0]) == pixels(run.images[0])
