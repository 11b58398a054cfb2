"""The pack's nodes in a real server: which there are, what they take, and that a memory setting moves weights and never an image."""

from __future__ import annotations

import io
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import node_snapshot
import pytest
from comfy_story import LOADERS, drop_pages, mode, pixels, two_experts, with_ours
from PIL import Image

from residency.installation.locate import ComfyUI
from residency.installation.server_process import Server, ServerError, serve
from residency.settings.node_inputs import BY_NAME
from residency.workflow.core_nodes import LANGUAGE_NODES

PACKS = Path(__file__).with_name("packs")


@pytest.fixture(scope="module")
def crowded(comfyui: ComfyUI, models: Path) -> Iterator[Server]:
    """A server with two packs beside ours, one of which reads files that only it knows."""
    stranger = models / "diffusion_models" / "stranger.gguf"
    stranger.write_bytes((models / "diffusion_models" / "residency_expert_b.safetensors").read_bytes())
    with serve(comfyui, models, ["--cpu"], others=[PACKS / "gguf_like", PACKS / "probe"]) as server:
        yield server
    stranger.unlink()


@pytest.fixture(scope="module")
def object_info(crowded: Server) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = crowded.get_json("/object_info")
    return found


def trace_of(server: Server, prompt_id: str) -> dict[str, Any]:
    trace: dict[str, Any] = server.get_json(f"/residency/trace?prompt_id={prompt_id}")
    return trace


def asked(trace: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Policy by the component's name."""
    return {component["name"]: component["policy"] for component in trace["components"]}


# --- which nodes there are ---


def test_the_pack_loads(crowded: Server, object_info: dict[str, Any]):
    log = crowded.log.read_text(encoding="utf-8", errors="replace")
    assert "Error while calling comfy_entrypoint" not in log  # ComfyUI's one line for an extension that raises
    assert "has no wrapped twin" not in log
    assert len(node_snapshot.of_ours(object_info)) > 80


def test_the_nodes_are_those_of_the_snapshot(comfyui: ComfyUI, object_info: dict[str, Any]):
    """When this fails on purpose: COMFYUI_PATH=<ComfyUI> python tests/comfyui/node_snapshot.py, and look at the difference."""
    recorded = node_snapshot.read().get(comfyui.version)
    if recorded is None:
        pytest.skip(f"no snapshot of ComfyUI {comfyui.version}; there are {', '.join(node_snapshot.read())}")
    assert json.loads(json.dumps(node_snapshot.of_ours(object_info))) == recorded


def test_the_table_of_nodes_in_the_docs_is_written_from_the_snapshots():
    assert node_snapshot.TABLE.read_text(encoding="utf-8") == node_snapshot.table(node_snapshot.read())


def test_each_core_node_that_the_shipped_table_foresees_has_a_twin(comfyui: ComfyUI, object_info: dict[str, Any]):
    foreseen = {name for name in node_snapshot.predicted() if name.removeprefix("Residency") in object_info}
    assert foreseen <= object_info.keys()
    if comfyui.version == "0.33.0":  # the one that the table was written with
        twins = {name for name, node in node_snapshot.of_ours(object_info).items() if node["category"].startswith("residency/")}
        assert twins - set(LANGUAGE_NODES) == foreseen - set(LANGUAGE_NODES)


def test_a_twin_takes_what_its_core_node_takes_and_makes_what_it_makes(object_info: dict[str, Any]):
    compared = 0
    for name, twin in object_info.items():
        core = object_info.get(name.removeprefix("Residency"))
        if twin["python_module"] != "custom_nodes.residency" or core is None:
            continue
        for part in ("required", "optional"):
            theirs, ours = core["input"].get(part, {}), twin["input"].get(part, {})
            assert [own for own in ours if own not in BY_NAME] == list(theirs)
            for key, spec in theirs.items():
                kind, options = spec[0], spec[1] if len(spec) > 1 else {}
                if isinstance(kind, list):
                    kind, options = "COMBO", {**options, "options": kind}
                assert ours[key][0] == kind, (name, key)
                assert {option: ours[key][1].get(option) for option in options} == options, (name, key)
        core["output_tooltips"] = core.get("output_tooltips", [None] * len(core["output"]))[: len(core["output"])]  # one has more
        same = ("output", "output_name", "output_is_list", "output_tooltips", "deprecated", "experimental", "description")
        assert {key: twin[key] for key in same if key in core} == {key: core[key] for key in same if key in core}, name
        compared += 1
    assert compared > 70


def test_every_input_that_the_pack_adds_is_optional_and_says_what_it_does(object_info: dict[str, Any]):
    for name, node in object_info.items():
        if node["python_module"] == "custom_nodes.residency":
            assert not set(node["input"].get("required", {})) & BY_NAME.keys(), name
            for own in set(node["input"].get("optional", {})) & BY_NAME.keys():
                assert len(node["input"]["optional"][own][1]["tooltip"]) > 20


# --- settings and ComfyUI's cache ---


def test_another_setting_runs_nothing_again_and_holds_all_the_same(crowded: Server):
    first = crowded.run(with_ours(two_experts(seed=101), "low-vram"))
    prompt = with_ours(two_experts(seed=101), "high-vram")
    for node in prompt.values():
        if node["class_type"] in {f"Residency{name}" for name in LOADERS}:
            node["inputs"] |= {"strategy": "resident", "priority": 4}
    again = crowded.run(prompt)
    assert first.nodes and again.nodes == ()
    assert [pixels(image) for image in again.images] == [pixels(image) for image in first.images]
    third = crowded.run(with_ours(two_experts(seed=102), "high-vram"))  # another seed: something runs, and the new setting holds
    assert {policy["mode"] for policy in asked(trace_of(crowded, first.prompt_id)).values()} == {"low-vram"}
    assert {policy["mode"] for policy in asked(trace_of(crowded, third.prompt_id)).values()} == {"high-vram"}


def test_a_workflow_from_a_newer_version_runs_and_what_it_asks_is_named(crowded: Server):
    prompt = with_ours(two_experts(seed=103), "nvme-first")
    prompt["1"]["inputs"]["strategy"] = "striped"
    prompt["20"] = {"class_type": "ResidencyMode", "inputs": {"mode": "turbo"}}
    assert len(crowded.run(prompt).images) == 1
    log = crowded.tail(200)
    assert "node 1 (ResidencyUNETLoader) asks for memory_mode 'nvme-first'" in log and "choose one of workflow, auto" in log
    assert "strategy 'striped'" in log and "asks for mode 'turbo'" in log


@pytest.mark.parametrize(("strategy", "seed"), [("snapshot", 121), ("layerwise", 122)])
def test_a_workflow_with_a_strategy_that_is_not_offered_any_more_runs_with_auto_and_is_told_why(crowded: Server, strategy: str, seed: int):
    failures = crowded.get_json("/residency/status")["failures"]
    prompt = with_ours(two_experts(seed=seed))
    prompt["1"]["inputs"]["strategy"] = strategy
    run = crowded.run(prompt)
    assert len(run.images) == 1 and {policy["strategy"] for policy in asked(trace_of(crowded, run.prompt_id)).values()} == {None}
    assert f"node 1 (ResidencyUNETLoader) asks for strategy '{strategy}', which is not offered any more" in crowded.tail(200)
    assert crowded.get_json("/residency/status")["failures"] == failures


def test_the_image_carries_the_workflow_with_its_settings_and_the_prompt_that_ran_without(crowded: Server):
    workflow = {"nodes": [{"id": 1, "type": "ResidencyUNETLoader", "widgets_values": ["a", "default", "low-vram", "auto", 0]}], "extra": {}}
    run = crowded.run(with_ours(two_experts(seed=104), "low-vram"), {"extra_pnginfo": {"workflow": workflow}})
    texts = Image.open(io.BytesIO(run.images[0])).text  # type: ignore[attr-defined]
    assert json.loads(texts["workflow"]) == workflow
    assert "memory_mode" not in texts["prompt"] and "ResidencyUNETLoader" in texts["prompt"]


def test_modes_change_in_the_middle_of_a_queue(crowded: Server):
    ids = []
    for seed, name in ((105, "low-vram"), (106, "balanced"), (107, "off"), (108, "high-vram")):
        body = {"prompt": two_experts(seed=seed), "extra_data": mode(name)}
        ids.append(json.loads(crowded.post("/prompt", body))["prompt_id"])
    crowded.run(two_experts(seed=109), mode("balanced"))
    modes = {trace["prompt_id"]: trace["mode"] for trace in crowded.get_json("/residency/traces")["traces"]}
    assert [modes.get(prompt_id) for prompt_id in ids] == ["low-vram", "balanced", None, "high-vram"]


def test_a_budget_larger_than_the_machine_is_refused_at_its_node(crowded: Server):
    prompt = {"7": {"class_type": "ResidencyMode", "inputs": {"mode": "high-vram", "host_budget_gib": 4000.0}}}
    with pytest.raises(ServerError, match=r"Residency Mode: host_budget_gib is 4000, this machine has [\d.]+ GiB of RAM; choose 0 to"):
        crowded.run(prompt)
    prompt["7"]["inputs"]["host_budget_gib"] = 0.5
    crowded.run(prompt)


def test_a_twin_of_a_loader_that_remembers_its_last_file_remembers_it_for_its_own_node(comfyui: ComfyUI, tmp_path: Path):
    driver = Path(__file__).with_name("twin_driver.py")
    ran = subprocess.run([comfyui.python, driver, comfyui.path, tmp_path], capture_output=True, text=True, timeout=250)
    assert ran.returncode == 0, ran.stderr[-3000:]
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told == {"same node, next prompt": True, "another node": False, "made anew after ComfyUI let go": True, "kept alive": 0}


# --- policy, keep, release, prefetch ---


def test_what_flows_through_the_packs_nodes_is_the_very_same_object(crowded: Server):
    prompt = two_experts(seed=110)
    names = ("Policy", "Keep", "Release", "Prefetch")
    for number, name in enumerate(names):
        own, probe = str(20 + 2 * number), str(21 + 2 * number)
        prompt[own] = {"class_type": f"Residency{name}", "inputs": {"value": ["1", 0]}}
        prompt[probe] = {"class_type": "SameObject", "inputs": {"one": ["1", 0], "other": [own, 0]}}
    run = crowded.run(prompt)
    outputs = crowded.get_json(f"/history/{run.prompt_id}")[run.prompt_id]["outputs"]
    assert [outputs[str(21 + 2 * number)]["text"] for number in range(len(names))] == [["True"]] * len(names)


def test_a_policy_speaks_for_what_flows_through_it_and_the_report_says_so(crowded: Server):
    prompt = with_ours(two_experts(seed=111), "balanced")
    prompt["20"] = {"class_type": "ResidencyPolicy", "inputs": {"value": ["7", 0], "memory_mode": "low-vram", "priority": -5}}
    prompt["8"]["inputs"]["model"] = ["20", 0]
    prompt["21"] = {"class_type": "ResidencyReport", "inputs": {"after": ["9", 0]}}
    run = crowded.run(prompt)
    policies = asked(trace_of(crowded, run.prompt_id))
    assert (policies["residency_expert_b"]["mode"], policies["residency_expert_b"]["priority"]) == ("low-vram", -5)
    assert policies["residency_expert_b"]["source"] == "node 20 (ResidencyPolicy)"
    assert policies["residency_expert_a"]["source"] == "node 1 (ResidencyUNETLoader)"
    (text,) = crowded.get_json(f"/history/{run.prompt_id}")[run.prompt_id]["outputs"]["21"]["text"]
    assert "residency_expert_b: low-vram, priority -5 (node 20 (ResidencyPolicy))" in text
    evicted = [d["component"] for d in trace_of(crowded, run.prompt_id)["decisions"] if d["kind"] == "evict" and d["tier"] == "device"]
    assert [re.sub("-[0-9a-f]+$", "", key) for key in evicted] == ["residency_expert_b"]


def test_release_gives_up_the_component_where_it_runs_and_the_trace_says_what_came_of_it(crowded: Server):
    prompt = two_experts(seed=112)
    inputs = {"value": ["4", 0], "component": ["2", 0], "where": "device"}
    prompt["20"] = {"class_type": "ResidencyRelease", "inputs": inputs}
    prompt["6"]["inputs"]["positive"] = prompt["8"]["inputs"]["positive"] = ["20", 0]
    run = crowded.run(prompt, mode("balanced"))
    plain = crowded.run(two_experts(seed=112), mode("off"))
    assert [pixels(image) for image in run.images] == [pixels(image) for image in plain.images]
    trace = trace_of(crowded, run.prompt_id)
    (decision,) = [d for d in trace["decisions"] if d["reason"] == "node 20 releases it"]
    assert (decision["kind"], decision["tier"]) == ("evict", "device") and decision["component"].startswith("residency_clip_l")
    (eviction,) = [e for e in trace["evictions"] if e["component"] == decision["component"] and e["tier"] == "device"]
    assert (eviction["freed_bytes"], eviction["reason"]) == (0, "its device shares the host's memory: leaving it would free nothing")
    # the text encoder only passed by: what samples does not compute with it
    computes = {node["node_id"]: node["computes"] for node in trace["nodes"]}
    assert all(not key.startswith("residency_clip_l") for node_id in ("6", "8", "20") for key in computes.get(node_id, ()))


def test_release_of_what_was_never_a_model_says_what_to_connect(crowded: Server):
    prompt = two_experts(seed=113)
    prompt["20"] = {"class_type": "ResidencyRelease", "inputs": {"value": ["5", 0]}}
    prompt["6"]["inputs"]["latent_image"] = ["20", 0]
    assert len(crowded.run(prompt).images) == 1
    assert "node 20 is given nothing that was read from a model file: connect a model, a CLIP or a VAE" in crowded.tail(100)


def test_keep_names_what_fits_its_limit_and_a_step_keeps_its_models_from_being_read_ahead(crowded: Server):
    prompt = with_ours(two_experts(seed=114))
    prompt["20"] = {"class_type": "ResidencyKeep", "inputs": {"keep_gib": 0.05}}  # 51 MiB: all but the text encoder
    prompt["8"]["inputs"]["prefetch"] = False
    policies = asked(trace_of(crowded, crowded.run(prompt).prompt_id))
    assert {name for name, policy in policies.items() if not policy["keep"]} == {"residency_clip_l"}
    assert {name for name, policy in policies.items() if not policy["prefetch"]} == {"residency_expert_b"}


def test_a_program_may_ask_for_any_node_of_comfyuis_own(crowded: Server):
    extra = {"residency": {"mode": "balanced", "nodes": {"7": {"memory_mode": "low-vram"}}}}
    policies = asked(trace_of(crowded, crowded.run(two_experts(seed=115), extra).prompt_id))
    assert (policies["residency_expert_b"]["mode"], policies["residency_expert_b"]["source"]) == ("low-vram", "node 7 (UNETLoader)")
    assert policies["residency_expert_a"]["source"] == "extra_data"


# --- other packs ---


def test_a_loader_nobody_has_told_us_of_is_read_ahead_and_placed_like_any_other(crowded: Server, models: Path):
    prompt = two_experts(seed=116)
    prompt["7"] = {"class_type": "UnetLoaderLikeGGUF", "inputs": {"unet_name": "stranger.gguf"}}
    prompt["20"] = {"class_type": "ResidencyPolicy", "inputs": {"value": ["7", 0], "memory_mode": "low-vram"}}
    prompt["8"]["inputs"]["model"] = ["20", 0]
    (models / "diffusion_models" / "stranger.gguf").touch()
    drop_pages(models, "*.gguf")
    run = crowded.run(prompt)
    same = crowded.run(two_experts(seed=116), mode("off"))
    assert [pixels(image) for image in run.images] == [pixels(image) for image in same.images]  # the very weights of expert b
    trace = trace_of(crowded, run.prompt_id)
    (stranger,) = [component for component in trace["components"] if component["name"] == "stranger"]
    assert stranger["kind"] == "MODEL" and stranger["policy"]["source"] == "node 20 (ResidencyPolicy)"
    computes = {node["node_id"]: node["computes"] for node in trace["nodes"]}
    assert computes["8"] == [stranger["key"]]
    (read,) = [transfer for transfer in trace["transfers"] if transfer["component"] == stranger["key"]]
    assert read["status"] == "done" and read["present_bytes"] == stranger["size_bytes"]
    assert any(decision["kind"] == "evict" and decision["component"] == stranger["key"] for decision in trace["decisions"])
    # its model is known: leaving was tried on it
    assert {e["reason"] for e in trace["evictions"] if e["component"] == stranger["key"]} == {
        "its device shares the host's memory: leaving it would free nothing"
    }
