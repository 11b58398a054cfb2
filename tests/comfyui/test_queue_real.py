"""The queue behind a long node: what is queued is read ahead at once, what is deleted stops being read at once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comfy_story import running_node, two_experts, wait

from residency.installation.server_process import Server, ServerError

HUGE_BYTES = 48 << 30  # a hole: no drive holds it, and reading it takes longer than any of these stories


@pytest.fixture
def huge(models: Path) -> Iterator[str]:
    """A checkpoint that is still being read ahead when the story has ended, and another beside it."""
    paths = [models / "checkpoints" / name for name in ("residency_huge.ckpt", "residency_other.ckpt")]
    paths[0].parent.mkdir(exist_ok=True)
    for path in paths:
        with open(path, "wb") as file:
            file.truncate(HUGE_BYTES)
    yield paths[0].name
    for path in paths:
        path.unlink()


@pytest.fixture
def long_sampler(server: Server) -> Iterator[Server]:
    """A server in the middle of node 6, which ends only when the story does; nothing that it needs afterwards is loaded yet."""
    empty = {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}}
    save = {"class_type": "SaveLatent", "inputs": {"samples": ["1", 0], "filename_prefix": f"nothing {time.time()}"}}
    server.run({"1": empty, "2": save})  # ComfyUI drops what a prompt does not use

    def run() -> None:
        with pytest.raises(ServerError, match="interrupted"):
            server.run(two_experts(seed=int(time.time()), size=512, steps=2000))

    thread = threading.Thread(target=run)
    thread.start()
    wait(lambda: running_node(server) == "6")
    yield server
    server.post("/queue", {"clear": True})
    server.post("/interrupt", {})
    thread.join()


def decided(server: Server, kind: str, name: str) -> bool:
    trace = server.get_json("/residency/trace")
    names = {component["key"]: component["name"] for component in trace["components"]}
    return any(decision["kind"] == kind and name in names[decision["component"]] for decision in trace["decisions"])


def queue(server: Server, prompt: dict[str, Any], **options: Any) -> str:
    return str(json.loads(server.post("/prompt", {"prompt": prompt, **options}))["prompt_id"])


def checkpoint(name: str, text: str) -> dict[str, Any]:
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": name}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": text}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "4": {
            "class_type": "KSampler",
            "inputs": {
                "seed": 1, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0,
                "model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0],
            },
        },
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "huge"}},
    }  # fmt: skip


def test_what_is_queued_and_deleted_during_a_long_node_is_read_ahead_and_stopped_before_it_ends(long_sampler: Server, huge: str):
    server = long_sampler
    deleted = queue(server, checkpoint(huge, "a"))
    wait(lambda: decided(server, "prefetch", "residency_huge"))
    queue(server, checkpoint("residency_other.ckpt", "a"))
    wait(lambda: "residency_other" in {component["name"] for component in server.get_json("/residency/trace")["components"]})
    # the new timeline has another prompt behind it: nothing changes for what is in flight
    assert not decided(server, "cancel", "residency_huge")
    server.post("/queue", {"delete": [deleted]})
    wait(lambda: decided(server, "cancel", "residency_huge"))
    assert running_node(server) == "6"


def test_a_long_read_is_followed_while_the_node_runs(long_sampler: Server, huge: str):
    """No node begins or ends meanwhile: what has come by now is in the trace all the same."""
    server = long_sampler
    queue(server, checkpoint(huge, "d"))

    def moved_bytes() -> int:
        trace = server.get_json("/residency/trace")
        keys = {component["key"] for component in trace["components"] if component["name"] == "residency_huge"}
        return sum(one["moved_bytes"] for one in trace["transfers"] if one["component"] in keys)

    wait(lambda: moved_bytes() > 0)
    before_bytes = moved_bytes()
    wait(lambda: moved_bytes() > before_bytes)
    assert running_node(server) == "6"


def test_a_queue_that_is_cleared_stops_everything_that_was_read_for_it(long_sampler: Server, huge: str):
    server = long_sampler
    queue(server, checkpoint(huge, "b"))
    wait(lambda: decided(server, "prefetch", "residency_huge"))
    server.post("/queue", {"clear": True})
    wait(lambda: decided(server, "cancel", "residency_huge"))
    assert running_node(server) == "6"


def test_the_front_of_the_queue_is_read_first(long_sampler: Server, huge: str):
    """A prompt that somebody puts in front takes the drive: what was being read for later stops, and begins again behind it."""
    server = long_sampler
    queue(server, checkpoint(huge, "c"))
    wait(lambda: decided(server, "prefetch", "residency_huge"))
    queue(server, checkpoint("residency_other.ckpt", "c"), front=True)
    pending = sorted(server.get_json("/queue")["queue_pending"], key=lambda item: item[0])
    assert pending[0][2]["1"]["inputs"]["ckpt_name"] == "residency_other.ckpt"
    wait(lambda: decided(server, "prefetch", "residency_other"))
    assert decided(server, "cancel", "residency_huge") and running_node(server) == "6"
