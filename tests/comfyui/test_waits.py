"""A node that waits for a slow drive says so where ComfyUI shows its progress, to whoever has queued the prompt; a short wait is untold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import websocket
from comfy_story import drop_pages, forget, two_experts

from residency.installation.server_process import Server

SLOW = "residency_expert_a"


@pytest.fixture
def slow(start: Callable[..., Server], models: Path) -> Any:
    """slow(seconds): the server, whose drive takes so long for each read of expert a."""
    server = start(packs=("slow_drive",))
    server.post("/residency/settings", {"read_threads": 1})

    def made(seconds: float) -> Server:
        forget(server)
        drop_pages(models)
        server.post("/slow", {"name": SLOW, "seconds": seconds})
        return server

    yield made
    server.post("/slow", {"name": None})
    server.post("/residency/settings", {"read_threads": 0})
    assert server.get_json("/residency/status")["failures"] == 0


def told(server: Server, prompt: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Every message that the client of this prompt got, up to its end."""
    found = []
    link = websocket.create_connection(f"ws://127.0.0.1:{server.port}/ws?clientId=waits", timeout=60)
    try:
        server.post("/prompt", {"prompt": prompt, "client_id": "waits"})
        while True:
            message = link.recv()
            if isinstance(message, str):
                one = json.loads(message)
                found.append((one["type"], one["data"]))
                if one["type"] == "executing" and one["data"]["node"] is None:
                    return found
    finally:
        link.close()


def test_the_bar_of_a_node_that_waits_shows_how_far_its_weights_are(slow: Any):
    messages = told(slow(1.0), two_experts(seed=301))
    waits = [data for kind, data in messages if kind == "residency.wait" and data["components"] == [SLOW]]
    assert waits and {wait["node_id"] for wait in waits} == {"1"}
    shares = [wait["present_bytes"] / wait["size_bytes"] for wait in waits if not wait["over"]]
    assert shares == sorted(shares) and any(0 < share < 1 for share in shares), shares
    assert [wait["over"] for wait in waits].index(True) == len(waits) - 1
    states = [data["nodes"]["1"] for kind, data in messages if kind == "progress_state" and "1" in data["nodes"]]
    bars = [(state["state"], state["value"], state["max"]) for state in states]
    assert {("running", round(100 * share), 100) for share in shares if share} <= set(bars)
    assert bars[-1][0] == "finished" and bars[-1][1] == bars[-1][2]


def test_a_short_wait_is_no_word_worth(slow: Any):
    messages = told(slow(0.05), two_experts(seed=302))
    assert [data for kind, data in messages if kind == "residency.wait" and data["components"] == [SLOW]] == []


def test_the_steps_of_a_sampler_are_its_own(slow: Any):
    """What is read for the next node is none of its business."""
    messages = told(slow(1.0), two_experts(seed=303, size=128, steps=3))
    states = [data["nodes"]["6"] for kind, data in messages if kind == "progress_state" and "6" in data["nodes"]]
    assert {state["max"] for state in states} <= {1, 3}
