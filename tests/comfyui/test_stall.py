"""Stall as a real server tells it: waiting inside a forward pass, and of a loader only what it waited for bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from comfy_story import drop_pages, two_experts
from test_server import last_trace

from residency.installation.locate import ComfyUI
from residency.installation.server_process import Server, serve
from residency.transfers import thread_waits

SLOW_WEIGHTS = Path(__file__).with_name("packs") / "slow_weights"


@pytest.fixture(scope="module")
def slow(comfyui: ComfyUI, models: Path) -> Iterator[Server]:
    with serve(comfyui, models, ["--cpu", "--disable-pinned-memory"], others=[SLOW_WEIGHTS]) as server:
        yield server


def one_sampler(seed: int, **waiting: Any) -> dict[str, Any]:
    prompt = two_experts(seed=seed, steps=4)
    prompt["30"] = {"class_type": "SlowWeights", "inputs": {"model": ["1", 0], **waiting}}
    prompt["6"]["inputs"]["model"] = ["30", 0]
    return prompt


def node(trace: dict[str, Any], node_id: str) -> dict[str, Any]:
    (found,) = [one for one in trace["nodes"] if one["node_id"] == node_id]
    return dict(found)


@pytest.mark.parametrize("step", [1, 3])
def test_a_wait_inside_a_forward_pass_is_the_stall_of_its_node_and_its_step(slow: Server, step: int):
    """As long as it was, in no other step, and not in what computing took."""
    waited_s = 1.0
    assert slow.run(one_sampler(10 + step, step=step, seconds=waited_s)).images
    trace = last_trace(slow)
    sampler = node(trace, "6")
    reported = [index for index, (*_, together) in enumerate(sampler["steps"]) for _ in range(together)]  # short ones come together
    assert len(reported) == 4
    stalls = [stall_s for _, stall_s, _ in sampler["steps"]]
    assert stalls.pop(reported[step]) >= waited_s and all(stall_s < waited_s / 2 for stall_s in stalls)
    assert sampler["stall_s"] >= waited_s and trace["summary"]["stall_s"] >= sampler["stall_s"]
    assert trace["summary"]["compute_s"] <= trace["duration_s"] - trace["summary"]["stall_s"]
    shares = [trace["summary"][key] for key in ("compute_s", "stall_s", "other_s")]
    assert sum(shares) == pytest.approx(trace["duration_s"])


def alone(seed: int) -> dict[str, Any]:
    """Nothing is read ahead of the text encoder's loader: it is the first node, and its step says that it wants none."""
    prompt = two_experts(seed=seed)
    return {node_id: prompt[node_id] for node_id in ("2", "4")} | {
        "40": {"class_type": "ResidencyPolicy", "inputs": {"value": ["2", 0], "prefetch": "off"}},
        "41": {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["4", 0]}},
        "42": {"class_type": "PreviewAny", "inputs": {"source": ["41", 0]}},
    }


@pytest.mark.skipif(thread_waits.reading() is None, reason="this system does not tell waiting from unpacking")
def test_a_loader_has_stalled_when_its_file_came_from_the_drive_and_not_when_it_lay_in_ram(start: Callable[..., Server], models: Path):
    server = start("--cache-none")  # the loader runs in each prompt
    server.run(alone(1))
    stalls = {}
    for seed, where in ((2, "RAM"), (3, "drive"), (4, "RAM again")):
        if where == "drive":
            drop_pages(models, "residency_clip_l.safetensors")
        server.run(alone(seed))
        trace = last_trace(server)
        loader = node(trace, "2")
        stalls[where] = loader["stall_s"]
        assert loader["unsplit_s"] == 0.0 and loader["stall_s"] + loader["own_s"] <= loader["end_s"] - loader["start_s"]
    # what else that thread touches may have left RAM: 0.2 ms of it were waited for once, 193 ms for the file
    assert stalls["drive"] > 0 and max(stalls["RAM"], stalls["RAM again"]) < stalls["drive"] / 20
