"""Models that take turns from prompt to prompt: what the queue needs again stays loaded, where ComfyUI alone would drop it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comfy_story import drop_pages, forget, mode, pixels, two_experts, with_lora, with_ours

from residency.bench.reads import Reads
from residency.installation.server_process import Server

A, B = "1", "7"  # the loader nodes of the two experts


def one_expert(seed: int, loader: str) -> dict[str, Any]:
    """CLIP-L, one of the experts, the VAE."""
    prompt = two_experts(seed)
    del prompt["8"], prompt[B if loader == A else A]
    prompt["6"]["inputs"]["model"] = [loader, 0]
    prompt["9"]["inputs"]["samples"] = ["6", 0]
    return prompt


def run_queue(server: Server, prompts: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
    """All of them queued at once behind one that does not end before they are; what the server remembers of each, of that one first."""
    busy = two_experts(seed=prompts[0]["6"]["inputs"]["seed"] + 1000)
    busy["30"] = {"class_type": "QueueHolds", "inputs": {"prompts": len(prompts), "after": ["9", 0]}}
    asked = [json.loads(server.post("/prompt", {"prompt": prompt, **options}))["prompt_id"] for prompt in (busy, *prompts)]
    deadline_s = time.monotonic() + 120
    while not (history := server.get_json(f"/history/{asked[-1]}")):
        assert time.monotonic() < deadline_s, "the queue has not ended"
        time.sleep(0.05)
    assert history
    return [{"prompt_id": one, **server.get_json(f"/history/{one}")[one]} for one in asked]


def cached(told: dict[str, Any]) -> set[str]:
    return {node_id for event, data in told["status"]["messages"] if event == "execution_cached" for node_id in data["nodes"]}


def images(server: Server, told: dict[str, Any]) -> list[bytes]:
    return [pixels(image) for image in server.images(told["prompt_id"])]


def keeps(server: Server, told: dict[str, Any]) -> list[tuple[str, str]]:
    return kept_in(server, told["prompt_id"])


def kept_in(server: Server, prompt_id: str) -> list[tuple[str, str]]:
    return decided(server, prompt_id, "keep")


def read_ahead(server: Server, told: dict[str, Any]) -> set[str]:
    return {name for name, _ in decided(server, told["prompt_id"], "prefetch")}


def decided(server: Server, prompt_id: str, kind: str) -> list[tuple[str, str]]:
    """(component, reason) of each decision of the kind."""
    trace = server.get_json(f"/residency/trace?prompt_id={prompt_id}")
    names = {component["key"]: component["name"] for component in trace["components"]}
    return [(names[one["component"]], one["reason"]) for one in trace["decisions"] if one["kind"] == kind]


@pytest.fixture
def server(start: Callable[..., Server]) -> Server:
    """A server whose prompts can wait for a queue behind them, and which tells what weights are patched."""
    return start(packs=("gate", "rebuilds"))


@pytest.fixture
def turns(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """Expert a, b, a, b, with seeds of this story alone: no result is cached."""
    first = 100_000 + sum(map(ord, request.node.name)) * 10
    return [one_expert(first + index, loader) for index, loader in enumerate((A, B, A, B))]


def test_a_model_that_the_queue_needs_again_stays_loaded_and_draws_the_same(server: Server, turns: list[dict[str, Any]]):
    told = run_queue(server, turns)
    _, _, second, third, fourth = told
    assert A in cached(third) and B in cached(fourth)
    assert [name for name, _ in keeps(server, second)] == ["residency_expert_a"]
    assert "residency_expert_a" not in read_ahead(server, second)  # it is there
    assert "KSampler 6, which is queued, needs it again" in keeps(server, second)[0][1]
    drawn = [images(server, one) for one in told]
    forget(server)
    stock = run_queue(server, turns, extra_data=mode("off"))
    assert [images(server, one) for one in stock] == drawn and all(drawn)


def test_without_the_pack_the_same_queue_loads_each_time(server: Server, turns: list[dict[str, Any]]):
    """What the story above rests on: were it not so, it would prove nothing."""
    _, _, _, third, fourth = run_queue(server, turns, extra_data=mode("off"))
    assert A not in cached(third) and B not in cached(fourth)


def test_what_no_queued_prompt_needs_is_dropped_as_ever(server: Server, turns: list[dict[str, Any]]):
    _, _, second, third = run_queue(server, [turns[0], turns[1], turns[3]])
    assert keeps(server, second) == keeps(server, third) == [] and B in cached(third)


def test_what_a_prompt_loads_anew_by_another_node_does_not_stay_twice(server: Server, turns: list[dict[str, Any]]):
    server.run(with_ours(turns[0]))  # expert a, CLIP-L and the VAE by loader nodes of ours
    busy, other, last = run_queue(server, [turns[1], turns[2]])
    assert keeps(server, busy) == []  # it has loaded each anew
    assert [name for name, _ in keeps(server, other)] == ["residency_expert_a"] and A in cached(last)


def test_a_keep_node_holds_its_model_while_another_workflow_runs(server: Server, turns: list[dict[str, Any]]):
    first, other, again, last = turns
    first["20"] = {"class_type": "ResidencyKeep", "inputs": {"value": [A, 0]}}
    first["6"]["inputs"]["model"] = ["20", 0]
    server.run(first)
    meanwhile = server.run(other)
    assert kept_in(server, meanwhile.prompt_id) == [("residency_expert_a", "the last prompt that used it asked to keep it")]
    back = server.run(again)  # without the node: nothing asks to keep it from here on
    assert cached(server.get_json(f"/history/{back.prompt_id}")[back.prompt_id]) >= {A}
    assert kept_in(server, server.run(last).prompt_id) == []


def test_nothing_is_read_from_the_drive_twice_in_another_workflow_and_back(server: Server, turns: list[dict[str, Any]], models: Path):
    """Nobody has queued the way back: ComfyUI drops the first model when the other workflow begins, and RAM has it still."""
    first, other, again, _ = turns
    sizes = {path.stem: path.stat().st_size for path in models.rglob("*.safetensors")}
    shared = sizes["residency_clip_l"] + sizes["residency_tae"]
    forget(server)
    drop_pages(models)
    reads, read = Reads(server.process.pid), []
    for prompt in (first, other, again):
        server.run(prompt)
        read.append(reads.since())
    if None in read or not read[0]:
        pytest.skip("wants Linux and a file system whose pages can be dropped")
    assert read[0] == pytest.approx(sizes["residency_expert_a"] + shared, rel=0.1)
    assert read[1] == pytest.approx(sizes["residency_expert_b"], rel=0.1)
    assert read[2] == 0


def with_strength(prompt: dict[str, Any], name: str, strength: float) -> dict[str, Any]:
    with_lora(prompt)["11"]["inputs"].update(lora_name=name, strength_model=strength)
    return prompt


def test_another_strength_or_lora_reads_nothing_of_the_base_and_makes_only_what_it_touches_anew(server: Server, models: Path):
    """With nothing in the page cache. Two settings in turn cost as much: what was made of one is not kept for the next but one."""
    one, other = models / "loras/residency_lora.safetensors", models / "loras/residency_other_lora.safetensors"
    other.write_bytes(one.read_bytes())
    settings = [(one, 1.0), (one, 0.5), (other, 1.0), (one, 1.0), (one, 0.5)]
    prompts = [with_strength(one_expert(300_000 + seed, A), file.name, strength) for seed, (file, strength) in enumerate(settings)]

    def run(**options: Any) -> tuple[list[int | None], list[list[str]], list[bytes]]:
        forget(server)
        server.get_json("/rebuilds")
        reads, read, made, drawn = Reads(server.process.pid), [], [], []
        for prompt in prompts:
            drop_pages(models)
            drawn.append(pixels(server.run(prompt, **options).images[0]))
            read.append(reads.since())
            made.append(server.get_json("/rebuilds"))
        return read, made, drawn

    read, made, drawn = run()
    _, made_by_stock, drawn_by_stock = run(extra_data=mode("off"))
    assert drawn == drawn_by_stock and len(set(drawn)) == len(drawn)
    assert made == made_by_stock == [["diffusion_model.double_blocks.0.img_attn.proj.weight"]] * len(prompts)
    if None in read or not read[0]:
        pytest.skip("wants Linux and a file system whose pages can be dropped")
    most_bytes = one.stat().st_size + 8192  # in whole pages
    assert read[1] == read[4] == 0 and 0 < read[2] <= most_bytes and 0 < read[3] <= most_bytes


def test_while_memory_is_short_comfyui_decides_alone(start: Callable[..., Server], turns: list[dict[str, Any]]):
    server = start("--cache-ram", "100000", packs=("gate",))  # GB that it wants to have left: it never has
    _, _, second, third, _ = run_queue(server, turns)
    assert keeps(server, second) == [] and A not in cached(third)


def test_with_a_ram_budget_comfyui_decides_alone(server: Server, turns: list[dict[str, Any]]):
    server.post("/residency/settings", {"ram_budget_gib": 4})
    try:
        _, _, second, third, _ = run_queue(server, turns)
    finally:
        server.post("/residency/settings", {"ram_budget_gib": 0})
    assert keeps(server, second) == [] and A not in cached(third)
