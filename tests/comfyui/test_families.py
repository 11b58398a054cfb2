"""The families that people run, small and in their published formats, in a real ComfyUI with the pack and in one without.

Pictures and sound are bit for bit the same in every memory mode, twice in a row, and after a switch to another family and back; and what a
plan says of such a workflow is what its run then does.
"""

from __future__ import annotations

import json
import subprocess
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from comfy_story import mode, pixels

from residency.comfyui.sample_models.families import OWN_NODES
from residency.comfyui.sample_models.family_prompts import PROMPTS
from residency.core.timeline import UseKind
from residency.installation.locate import PACK, ComfyUI
from residency.installation.server_process import Server, serve
from residency.weights.components import distinct_bytes
from residency.workflow.file import parse_workflow
from residency.workflow.predict import Prediction, predict

SMALL_SIZES = PACK / "residency" / "comfyui" / "sample_models" / "small_sizes_pack"
FAMILIES = sorted([*(PROMPTS.keys() - OWN_NODES), "krea2, otherwise"])  # the others' workflows are none of stock's

Outputs = tuple[bytes, ...]


@pytest.fixture(scope="module")
def folder(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families")
    command = [str(comfyui.python), "-m", "residency.comfyui.sample_models.families", str(comfyui.path), str(folder)]
    made = subprocess.run(command, cwd=PACK, capture_output=True, text=True, check=False)
    if "No module named 'comfy." in made.stderr:
        pytest.skip(f"ComfyUI {comfyui.version} has not all of these families: {made.stderr.splitlines()[-1]}")
    assert made.returncode == 0, made.stderr[-3000:]
    subprocess.run([str(comfyui.python), "-c", OTHER_FILES, str(folder)], check=True)
    return folder


@pytest.fixture(scope="module")
def server(comfyui: ComfyUI, folder: Path) -> Iterator[Server]:
    with serve(comfyui, folder, ["--cpu"], others=[SMALL_SIZES]) as server:
        yield server


@pytest.fixture(scope="module")
def stock(comfyui: ComfyUI, folder: Path) -> Iterator[Callable[[str, int], Outputs]]:
    """Images of a ComfyUI without the pack, each family's made once."""
    made: dict[tuple[str, int], Outputs] = {}
    with serve(comfyui, folder, ["--cpu"], pack=None, others=[SMALL_SIZES]) as server:

        def get(family: str, seed: int) -> Outputs:
            if (family, seed) not in made:
                made[family, seed] = run(server, family, seed)
            return made[family, seed]

        yield get


# Saved in other ways: under the other suffix of safetensors, and by torch; with a LoRA on quantized weights.
OTHER_FILES = """
import shutil, sys, torch
from pathlib import Path
from safetensors.torch import load_file
folder = Path(sys.argv[1])
shutil.copyfile(folder / "diffusion_models/krea2.safetensors", folder / "diffusion_models/krea2_again.sft")
torch.save(load_file(folder / "vae/wan_vae.safetensors"), folder / "vae/wan_vae_again.pt")
(folder / "loras").mkdir(exist_ok=True)
torch.manual_seed(1)
name = "diffusion_model.blocks.1.attn.wq"
lora = {f"{name}.lora_up.weight": torch.randn(256, 4) * 0.5, f"{name}.lora_down.weight": torch.randn(4, 256) / 16}
torch.save(lora, folder / "loras/krea2_lora.pt")
"""


def krea2_otherwise(seed: int) -> dict[str, Any]:
    """Krea 2 of files that were saved in other ways, with a LoRA."""
    names = {"krea2.safetensors": "krea2_again.sft", "wan_vae.safetensors": "wan_vae_again.pt"}
    prompt: dict[str, Any] = json.loads(json.dumps(PROMPTS["krea2"](seed)))
    for node in prompt.values():
        node["inputs"] = {key: names.get(value, value) if isinstance(value, str) else value for key, value in node["inputs"].items()}
    loader = next(node_id for node_id, node in prompt.items() if node["class_type"] == "UNETLoader")
    sampler = next(node for node in prompt.values() if node["class_type"] == "KSampler")
    lora = {"model": [loader, 0], "lora_name": "krea2_lora.pt", "strength_model": 1.0}
    prompt["lora"] = {"class_type": "LoraLoaderModelOnly", "inputs": lora}
    sampler["inputs"]["model"] = ["lora", 0]
    return prompt


EVERY_PROMPT: dict[str, Callable[[int], dict[str, Any]]] = {**PROMPTS, "krea2, otherwise": krea2_otherwise}


def run(server: Server, family: str, seed: int, memory_mode: str | None = None) -> Outputs:
    """Pixels of every picture, then the sound. Another seed has another text: all but the loaders runs."""
    prompt = EVERY_PROMPT[family](seed)
    for node_id, node in list(prompt.items()):
        if node["class_type"] == "LTXVAudioVAEDecode":
            prompt["sound"] = {"class_type": "SaveAudio", "inputs": {"audio": [node_id, 0], "filename_prefix": "family"}}
    ran = server.run(prompt, mode(memory_mode) if memory_mode else None)
    outputs = server.get_json(f"/history/{ran.prompt_id}")[ran.prompt_id]["outputs"]
    sound = [server.get("/view?" + urllib.parse.urlencode(one)) for output in outputs.values() for one in output.get("audio", ())]
    assert len(sound) == ("sound" in prompt)
    return (*map(pixels, ran.images), *sound)


def is_a_picture(image: bytes) -> bool:
    """Not one colour, which is what a model that computes nonsense gives."""
    return float(numpy.frombuffer(image, numpy.uint8).std()) > 5


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_in_a_row_make_what_stock_makes(family: str, server: Server, stock: Callable[[str, int], Outputs]):
    assert is_a_picture(stock(family, 1)[0])
    assert stock(family, 1) != stock(family, 2)
    for seed, memory_mode in enumerate(("auto", "auto", "low-vram"), start=1):
        assert run(server, family, seed, memory_mode) == stock(family, seed), memory_mode
        assert server.get_json("/residency/trace")["mode"] == (memory_mode if memory_mode != "auto" else "balanced")


def test_families_after_one_another_and_back(server: Server, stock: Callable[[str, int], Outputs]):
    for family in FAMILIES:
        assert run(server, family, 4, "balanced") == stock(family, 4), family
    for family in FAMILIES:
        assert run(server, family, 5, "high-vram") == stock(family, 5), family
    assert server.get_json("/residency/status")["failures"] == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_plan_says_what_the_run_does(family: str, server: Server, folder: Path):
    seed = 6 if family in PROMPTS else 16  # a text that the server has encoded for no other family
    server.run(EVERY_PROMPT[family](seed), mode("auto"))
    trace = server.get_json("/residency/trace")
    plan = predict(parse_workflow(EVERY_PROMPT[family](seed)), folder, UseKind.LOAD)
    assert plan.missing == () and plan.not_understood == () and plan.warnings == ()
    assert {key: component.size_bytes for key, component in plan.components.items()} == {
        component["key"]: component["size_bytes"] for component in trace["components"]
    }
    assert distinct_bytes(plan.components.values()) == sum(component.size_bytes for component in plan.components.values())
    planned = steps_of(plan)
    # a loader whose result ComfyUI has kept from the prompts before does not run again
    ran = {node["node_id"]: (sorted(node["loads"]), sorted(node["computes"])) for node in trace["nodes"]}
    assert list(ran) == [node_id for node_id in planned if node_id in ran]
    assert ran == {node_id: planned[node_id] for node_id in ran}
    assert {key for _, computes in ran.values() for key in computes} == set(plan.components)


def steps_of(plan: Prediction) -> dict[str, tuple[list[str], list[str]]]:
    """Of each node in its order: the components that it loads, and those that it computes with."""
    found: dict[str, tuple[list[str], list[str]]] = {visit.node_id: ([], []) for visit in plan.timeline.visits}
    for use in plan.timeline.uses:
        found[plan.timeline.visits[use.position].node_id][use.kind is UseKind.COMPUTE].append(use.component)
    return {node_id: (sorted(loads), sorted(computes)) for node_id, (loads, computes) in found.items()}


def test_a_lora_on_quantized_weights_changes_the_picture(stock: Callable[[str, int], Outputs]):
    assert stock("krea2, otherwise", 1) != stock("krea2", 1)
