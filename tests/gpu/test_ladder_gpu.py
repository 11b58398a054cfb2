"""Out of memory on a real device: a working set grows step by step, and the pack fails at no size at which ComfyUI alone does not.

`python -m pytest -m gpu`. Another process takes memory meanwhile. Takes most of the device's memory for moments.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from comfy_story import forget, mode, two_experts

from residency.bench.limits import held
from residency.bench.scenarios import Limits
from residency.installation.locate import ComfyUI
from residency.installation.server_process import Server, ServerError
from residency.settings.user import UserSettings

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

GIB = 2**30
STEP_MIB = 256


@pytest.fixture
def server(gpu_server: Server) -> Iterator[Server]:
    gpu_server.post("/residency/settings", UserSettings().as_dict())
    yield gpu_server
    forget(gpu_server)


def fails(server: Server, mib: int, seed: int, name: str) -> bool:
    """Whether the second expert's passes fail that take so much. The first expert lies there before."""
    prompt: dict[str, Any] = two_experts(seed)
    prompt["20"] = {"class_type": "GrowWorkingSet", "inputs": {"model": ["7", 0], "mib": mib}}
    prompt["8"]["inputs"]["model"] = ["20", 0]
    try:
        server.run(prompt, mode(name))
    except ServerError as error:
        # torch's words, and comfy-aimdo's where the buffer of streamed weights cannot grow
        assert any(words in str(error).lower() for words in ("memory", "vram grow failed")), error
        return True
    return False


def ladder(server: Server, low_mib: int, high_mib: int, name: str) -> int:
    """The largest working set, in MiB, that does not fail: all up to `low_mib` hold, `high_mib` does not."""
    seed = 100
    while high_mib - low_mib > STEP_MIB:
        middle_mib, seed = (low_mib + high_mib) // 2, seed + 1
        forget(server)
        if fails(server, middle_mib, seed, name):
            high_mib = middle_mib
        else:
            low_mib = middle_mib
    return low_mib


@pytest.mark.parametrize("free_gib", [None, 6])
def test_the_pack_fails_at_no_smaller_working_set_than_comfyui_alone(gpu_comfyui: ComfyUI, server: Server, free_gib: int | None):
    forget(server)
    # taken by another process while the server runs; with None its memory is the whole device
    with nullcontext() if free_gib is None else held(Limits(free_gib * GIB, None), gpu_comfyui):
        gauges, memory = server.get_json("/gauges"), server.get_json("/residency/memory")
        high_mib = (memory["device"]["total_bytes"] - gauges["device_bytes"]) // 2**20 + 2 * STEP_MIB
        told = {name: ladder(server, 0, high_mib, name) for name in ("off", "auto", "high-vram", "low-vram")}
    assert all(mib >= told["off"] - STEP_MIB for mib in told.values()), told
    assert 0 < told["off"] < high_mib - STEP_MIB, told


def test_memory_that_another_process_takes_between_two_prompts_breaks_none(gpu_comfyui: ComfyUI, server: Server):
    forget(server)
    server.run(two_experts(200))
    free_gib = 1  # less than an expert
    with held(Limits(free_gib * GIB, None), gpu_comfyui):
        outcomes = {name: fails(server, 64, 201, name) for name in ("off", "auto")}
        assert outcomes["auto"] <= outcomes["off"], outcomes
    server.run(two_experts(202))
    assert server.get_json("/residency/status")["failures"] == 0
