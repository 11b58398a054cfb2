"""A language model of the transformers library on a real device, beside diffusion models that need its room. `python -m pytest -m gpu`.

Takes 5 GB of device memory, 6 GB of RAM and 1.3 GB of disk; another process takes memory meanwhile.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comfy_story import drop_pages, forget, mode, pixels, two_experts, until

from residency.bench.limits import held
from residency.bench.scenarios import GIB, Limits
from residency.installation.locate import PACK, ComfyUI
from residency.installation.server_process import Server
from residency.settings.user import UserSettings

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

WRITER, EXPERT = "large", "residency_expert_b"
LEAST_BYTES = 1.2e9  # of the writer
MIB = 2**20


@pytest.fixture(scope="module")
def language(gpu_comfyui: ComfyUI, gpu_models: Path) -> Path:
    """The models folder with a language model in it."""
    script = PACK / "tests" / "comfyui" / "tiny_language.py"
    command = [str(gpu_comfyui.python), str(script), str(gpu_models / "LLM"), WRITER]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-3000:]
    return gpu_models


@pytest.fixture
def server(gpu_server: Server, language: Path) -> Iterator[Server]:
    """Nothing loaded, every setting at its default."""
    gpu_server.post("/residency/settings", UserSettings().as_dict())
    forget(gpu_server)
    yield gpu_server
    forget(gpu_server)


def writes(seed: int) -> dict[str, Any]:
    """The writer alone; its words are shown."""
    asked = {"text": "a cat", "system_prompt": "", "max_new_tokens": 24, "temperature": 1.0, "seed": seed}
    return {
        "30": {"class_type": "ResidencyTransformersLoader", "inputs": {"lm_name": WRITER, "device": "default"}},
        "31": {"class_type": "ResidencyWriteText", "inputs": {"lm": ["30", 0], **asked}},
        "32": {"class_type": "PreviewAny", "inputs": {"source": ["31", 0]}},
    }


def draws(seed: int) -> dict[str, Any]:
    """What it writes is drawn by two experts."""
    prompt = two_experts(seed) | writes(seed)
    prompt["4"]["inputs"]["text"] = ["32", 0]
    return prompt


def told(server: Server, prompt: dict[str, Any], name: str = "auto") -> tuple[list[str], list[bytes], str]:
    """Words, pixels, and the prompt's id."""
    run = server.run(prompt, mode(name))
    return server.texts(run.prompt_id), [pixels(image) for image in run.images], run.prompt_id


def on_device(server: Server) -> dict[str, int]:
    """Bytes by component, without what is less than a few small weights."""
    memory = server.get_json("/residency/memory")
    return {one["name"]: one["device_bytes"] for one in memory["components"] if one["device_bytes"] > 16 * MIB}


def test_it_writes_the_same_words_in_every_mode_and_the_same_image_is_drawn(server: Server):
    stock = told(server, draws(1), "off")[:2]
    assert len(stock[0]) == 1 and len(stock[0][0].split()) >= 8
    for name in ("auto", "high-vram", "low-vram"):
        forget(server)
        assert told(server, draws(1), name)[:2] == stock, name
    assert told(server, draws(2), "off")[0] != stock[0]


def test_it_is_planned_and_read_ahead_like_any_other_and_brought_whole(server: Server, language: Path):
    drop_pages(language)
    _, _, prompt_id = told(server, draws(3))
    trace = server.get_json(f"/residency/trace?prompt_id={prompt_id}")
    (model,) = [one for one in trace["components"] if one["kind"] == "LM"]
    assert model["name"] == WRITER and model["size_bytes"] > LEAST_BYTES
    nodes = {node["class_type"]: node for node in trace["nodes"]}
    assert nodes["ResidencyTransformersLoader"]["loads"] == nodes["ResidencyWriteText"]["computes"] == [model["key"]]
    read = [one for one in trace["transfers"] if one["component"] == model["key"] and one["tier"] == "host"]
    assert sum(one["moved_bytes"] for one in read) > 0.9 * model["size_bytes"], read
    forget(server)
    told(server, writes(4))
    assert until(lambda: on_device(server).get(WRITER, 0) > 0.95 * model["size_bytes"], 10), on_device(server)


def test_it_leaves_to_a_model_that_needs_its_room_and_comes_back_with_the_same_words(gpu_comfyui: ComfyUI, server: Server):
    with held(Limits(3 * GIB, None), gpu_comfyui):  # the writer and both experts are 3.6 GiB, beside what they compute with
        stock = {seed: told(server, draws(seed), "off")[:2] for seed in (5, 6)}
        forget(server)
        for seed in (5, 6):  # the second time the experts lie where the writer was
            assert told(server, draws(seed))[:2] == stock[seed]
            there = on_device(server)
            assert EXPERT in there and there.get(WRITER, 0) < LEAST_BYTES, there
    assert server.get_json("/residency/status")["failures"] == 0


def test_where_others_leave_too_little_it_runs_on_the_cpu_and_the_log_says_so(gpu_comfyui: ComfyUI, server: Server):
    with held(Limits(1 * GIB, None), gpu_comfyui):
        stock = told(server, writes(7), "off")[0]
        forget(server)
        assert told(server, writes(7))[0] == stock and stock[0]
        assert WRITER not in on_device(server)
    assert "it runs on the CPU, slowly; choose a smaller model" in server.tail(400)
