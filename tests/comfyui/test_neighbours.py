"""Another pack patches the functions that ours has patched, in a real server: both go on, and the status says how it stands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comfy_story import forget, mode, pixels, two_experts

from residency.installation.locate import ComfyUI
from residency.installation.server_process import Server, serve

NEIGHBOUR = Path(__file__).with_name("packs") / "neighbour"


@pytest.fixture(scope="module")
def shared(comfyui: ComfyUI, models: Path) -> Iterator[Server]:
    with serve(comfyui, models, ["--cpu"], others=[NEIGHBOUR]) as server:
        yield server


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    """Each story begins and ends with all of ours in place, whatever the one before has left there."""
    switch(shared, "off", "auto")
    yield shared
    switch(shared, "off", "auto")
    assert {feature["name"] for feature in features(shared).values() if not feature["on"]} == set()
    assert shared.get_json("/residency/status")["failures"] == 0


def drawn(server: Server, extra: dict[str, Any] | None = None) -> list[bytes]:
    """Pixels of the prompt of seed 8, nothing of it loaded or cached before."""
    forget(server)
    return [pixels(image) for image in server.run(two_experts(seed=8), extra).images]


@pytest.fixture(scope="module")
def stock(shared: Server) -> list[bytes]:
    """What ComfyUI draws without ours."""
    return drawn(shared, mode("off"))


def switch(server: Server, *modes: str) -> None:
    for name in modes:
        server.post("/residency/mode", {"mode": name})


def features(server: Server) -> dict[str, dict[str, Any]]:
    return {feature["name"]: feature for feature in server.get_json("/residency/status")["features"]}


def calls(server: Server, what: str) -> int:
    return int(server.get_json("/neighbour")[what])


def loading_was_seen(server: Server, prompt_id: str) -> bool:
    """Whether what the samplers spent in load_models_gpu is in the trace."""
    nodes = server.get_json(f"/residency/trace?prompt_id={prompt_id}")["nodes"]
    stalls = {node["stall_s"] > 0 for node in nodes if node["class_type"] == "KSampler"}
    assert len(stalls) == 1
    return stalls.pop()


def test_a_queue_wrapped_in_the_ordinary_way_takes_prompts_however_often_the_pack_is_switched(server: Server):
    server.post("/neighbour", {"patch": "wrap put"})
    for seed in (1, 2, 3):
        before = calls(server, "wrap put")
        assert server.run(two_experts(seed=seed)).images
        assert calls(server, "wrap put") == before + 1
        switch(server, "off", "auto", "off", "auto")


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_a_node_that_replaces_a_function_is_named_and_the_next_prompt_is_seen_again(server: Server, first: str):
    if first == "theirs":
        switch(server, "off")
    server.post("/neighbour", {"patch": "wrap load"})
    if first == "theirs":
        switch(server, "auto")
    assert loading_was_seen(server, server.run(two_experts(seed=4)).prompt_id)

    replacing = two_experts(seed=5)
    replacing["20"] = {"class_type": "ReplaceLoad", "inputs": {"model": ["1", 0], "seed": len(first)}}
    replacing["6"]["inputs"]["model"] = ["20", 0]
    assert not loading_was_seen(server, server.run(replacing).prompt_id)
    told = features(server)["model load"]
    assert (told["on"], told["reason"]) == (False, "replaced by neighbour; chained again when the next prompt begins")

    before = calls(server, "replace load")
    assert loading_was_seen(server, server.run(two_experts(seed=6)).prompt_id)
    assert calls(server, "replace load") > before
    told = features(server)["model load"]
    assert (told["on"], told["reason"]) == (True, "replaced by neighbour; chained again")
    assert "model load is on: replaced by neighbour; chained again" in server.tail(200)


def test_who_replaces_the_start_of_prompts_does_not_hide_them(server: Server):
    server.post("/neighbour", {"patch": "replace prompt"})
    before = calls(server, "replace prompt")
    run = server.run(two_experts(seed=7))
    assert calls(server, "replace prompt") == before + 1
    assert server.get_json(f"/residency/trace?prompt_id={run.prompt_id}")["nodes"]


@pytest.mark.parametrize("first", ["ours", "theirs"])
@pytest.mark.parametrize("kind", ["devices", "unloading", "weights", "loading", "watch"])
def test_with_each_kind_of_pack_images_are_right_and_theirs_outlives_ours(server: Server, stock: list[bytes], kind: str, first: str):
    """`devices`: asks of its own where to compute; `unloading`: streams models itself; `weights`: hides functions from a compiler;
    `loading`: frees before it loads; `watch`: draws what is loaded."""
    if first == "theirs":
        switch(server, "off")
    server.post("/neighbour", {"patch": kind})
    if first == "theirs":
        switch(server, "auto")
    for on in (True, False, True):
        switch(server, "auto" if on else "off")
        before = calls(server, kind)
        assert drawn(server) == stock and calls(server, kind) > before
        assert not on or {one["name"] for one in features(server).values() if not one["on"]} == set()
    # it puts back what it found: with ours first that is a function of ours
    switch(server, "off")
    server.post("/neighbour", {"undo": kind})
    switch(server, "auto")
    assert drawn(server) == stock and server.get_json("/residency/trace")["outcome"] == "success"


def test_a_models_own_patcher_is_followed_like_comfyuis(server: Server):
    prompt = two_experts(seed=9)
    stock = [pixels(image) for image in server.run(prompt, mode("off")).images]
    prompt["20"] = {"class_type": "TakeOwnPatcher", "inputs": {"model": ["1", 0], "seed": 1}}
    prompt["6"]["inputs"]["model"] = ["20", 0]
    forget(server)
    run = server.run(prompt)
    assert [pixels(image) for image in run.images] == stock
    trace = server.get_json(f"/residency/trace?prompt_id={run.prompt_id}")
    assert {one["name"] for one in trace["components"]} >= {"residency_expert_a", "residency_expert_b"}
    forget(server)
    assert calls(server, "own patcher") > 0
