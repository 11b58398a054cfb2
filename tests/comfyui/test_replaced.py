"""Files that are replaced, changed or deleted while a queue runs: the images, or the error, are what ComfyUI makes without the pack."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy
import psutil
import pytest
from comfy_story import forget, mode, pixels, two_experts, with_controlnet, with_lora, without_models

from residency.installation.locate import ComfyUI
from residency.installation.server_process import Server, serve

PACKS = [Path(__file__).with_name("packs") / name for name in ("files", "gate")]
FILES = {
    "diffusion model": "diffusion_models/residency_expert_a.safetensors",
    "text encoder": "text_encoders/residency_clip_l.safetensors",
    "VAE": "vae/residency_tae.safetensors",
    "LoRA": "loras/residency_lora.safetensors",
    "ControlNet": "controlnet/residency_control.safetensors",
    "checkpoint": "checkpoints/residency_checkpoint.safetensors",
}
ROOM = 0.15  # of all memory: with less than 0.1 ComfyUI drops results, and nothing is kept for the next prompt
SCALE = 1.25  # of the other file's weights
takes = count(1)


def tensors_of(path: Path) -> tuple[dict[str, Any], bytes]:
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def write(path: Path, header: dict[str, Any], data: bytes) -> None:
    text = json.dumps(header).encode()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.fixture(scope="module")
def originals(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models, and under `other/` the same with other weights. Nothing in here changes."""
    folder = tmp_path_factory.mktemp("originals")
    for name in [*FILES.values(), "diffusion_models/residency_expert_b.safetensors"]:
        if (models / name).exists():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(models / name, folder / name)
    parts = {"model.diffusion_model.": folder / FILES["diffusion model"], "vae.": folder / FILES["VAE"]}
    header: dict[str, Any] = {}
    data = b""
    for prefix, path in parts.items():
        tensors, raw = tensors_of(path)
        for name, entry in tensors.items():
            entry["data_offsets"] = [offset + len(data) for offset in entry["data_offsets"]]
            header[prefix + name] = entry
        data += raw
    write(folder / FILES["checkpoint"], header, data)
    for name in FILES.values():
        tensors, raw = tensors_of(folder / name)
        (folder / "other" / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / "other" / name, tensors, (numpy.frombuffer(raw, numpy.float16) * numpy.float16(SCALE)).tobytes())
    return folder


@pytest.fixture(scope="module")
def place(originals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models folder of the server."""
    folder = tmp_path_factory.mktemp("place")
    for name in [*FILES.values(), "diffusion_models/residency_expert_b.safetensors"]:
        (folder / name).parent.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def busy_server(comfyui: ComfyUI, place: Path) -> Iterator[Server]:
    with serve(comfyui, place, ["--cpu"], others=PACKS) as server:
        yield server


@pytest.fixture
def server(busy_server: Server, originals: Path, place: Path) -> Server:
    memory = psutil.virtual_memory()
    if memory.available < ROOM * memory.total:
        pytest.skip(f"NOTHING WAS KEPT THAT COULD BE REPLACED: {memory.available / 2**30:.1f} GiB of memory are available")
    begin_anew(busy_server, originals, place)
    return busy_server


def begin_anew(server: Server, originals: Path, place: Path) -> None:
    """Every file as it was, nothing loaded, nothing cached."""
    for name in [*FILES.values(), "diffusion_models/residency_expert_b.safetensors"]:
        here, file = place / name, originals / name
        if not here.exists() or here.read_bytes() != file.read_bytes():
            shutil.copy(file, f"{here}.part")
            os.replace(f"{here}.part", here)
    forget(server)


def draw(seed: int, loads: str) -> dict[str, Any]:
    """One sampler over everything that its models come from."""
    prompt = two_experts(seed)
    del prompt["7"], prompt["8"]
    prompt["9"]["inputs"]["samples"] = ["6", 0]
    if loads == "checkpoint":
        prompt["1"] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "residency_checkpoint.safetensors"}}
        del prompt["3"]
        prompt["9"]["inputs"]["vae"] = ["1", 2]
    if loads == "LoRA":
        with_lora(prompt)
    if loads == "ControlNet":
        with_controlnet(prompt)
    return prompt


class Story:
    """The same prompts with the pack and without, each from the same beginning."""

    def __init__(self, server: Server, originals: Path, place: Path) -> None:
        self.server, self.originals, self.place = server, originals, place

    def changing(self, prompt: dict[str, Any], name: str, how: str, after: str | None = None) -> dict[str, Any]:
        """The prompt with a node that does this to the file: at its end, or when the node `after` has run."""
        inputs: dict[str, Any] = {"path": str(self.place / name), "other": str(self.originals / "other" / name), "how": how}
        last = next(node_id for node_id, node in prompt.items() if node["class_type"] == "SaveImage")
        link = [after, 0] if after else prompt[last]["inputs"]["images"]
        return prompt | {"99": {"class_type": "ChangeFile", "inputs": inputs | {"take": next(takes), "after": link}}}

    def both(self, prompts: list[dict[str, Any]]) -> tuple[list[Any], list[Any], list[str]]:
        """Their outcomes with the pack, those without, and their ids with the pack. The first does not end before all are queued."""
        ours, ids = self._run(prompts)
        begin_anew(self.server, self.originals, self.place)
        stock, _ = self._run(prompts, **mode("off"))
        return ours, stock, ids

    def _run(self, prompts: list[dict[str, Any]], **extra: Any) -> tuple[list[Any], list[str]]:
        busy, *others = prompts
        last = next(node["inputs"][name] for node in busy.values() for name in ("images", "source") if name in node["inputs"])
        # else a fast one is over before the last is there, and nothing is kept for what nobody knows of
        busy = busy | {"98": {"class_type": "QueueHolds", "inputs": {"prompts": len(others), "after": last}}}
        asked = [json.loads(self.server.post("/prompt", {"prompt": one, "extra_data": extra}))["prompt_id"] for one in (busy, *others)]
        deadline_s = time.monotonic() + 120
        while not self.server.get_json(f"/history/{asked[-1]}"):
            assert time.monotonic() < deadline_s, "the queue has not ended"
            time.sleep(0.05)
        return [self._outcome(one) for one in asked], asked

    def _outcome(self, prompt_id: str) -> Any:
        """The pixels of its images, or the error."""
        messages = self.server.get_json(f"/history/{prompt_id}")[prompt_id]["status"]["messages"]
        failed = [(data["node_type"], data["exception_type"]) for event, data in messages if event == "execution_error"]
        return failed or [pixels(image) for image in self.server.images(prompt_id)]

    def decided(self, prompt_id: str, kind: str) -> dict[str, str]:
        """Reason by component."""
        trace = self.server.get_json(f"/residency/trace?prompt_id={prompt_id}")
        names = {component["key"]: component["name"] for component in trace["components"]}
        return {names[one["component"]]: one["reason"] for one in trace["decisions"] if one["kind"] == kind}

    def told(self, ids: list[str]) -> str:
        return f"{[self.decided(one, kind) for one in ids for kind in ('keep', 'give up')]}\n{self.server.tail(40)}"

    def cached(self, prompt_id: str) -> set[str]:
        messages = self.server.get_json(f"/history/{prompt_id}")[prompt_id]["status"]["messages"]
        return {node_id for event, data in messages if event == "execution_cached" for node_id in data["nodes"]}


@pytest.fixture
def writer(comfyui: ComfyUI, originals: Path, place: Path) -> Path:
    """A language model that writes, and another one's weights."""
    made = originals / "LLM"
    if not made.exists():
        script = Path(__file__).with_name("tiny_language.py")
        ran = subprocess.run([str(comfyui.python), str(script), str(made)], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr[-3000:]
        other = originals / "other" / "LLM" / "writer"
        other.mkdir(parents=True)
        tensors, raw = tensors_of(made / "writer" / "model.safetensors")
        # larger ones as well: with small weights every word is as likely as another, and two models say the same by the same seed
        weights = numpy.roll(numpy.frombuffer(raw, numpy.float16), 1) * numpy.float16(8)
        write(other / "model.safetensors", tensors, weights.tobytes())
    return shutil.copytree(made / "writer", place / "LLM" / "writer", dirs_exist_ok=True)


@pytest.fixture
def story(server: Server, originals: Path, place: Path) -> Story:
    return Story(server, originals, place)


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_is_replaced_while_another_prompt_runs_is_read_again(story: Story, what: str):
    first, third = draw(next(takes), what), draw(next(takes), what)
    third["6"]["inputs"]["seed"] = first["6"]["inputs"]["seed"]  # that the two images differ is the file's doing
    third["4"]["inputs"]["text"] = first["4"]["inputs"]["text"]
    ours, stock, ids = story.both([first, story.changing(without_models(), FILES[what], "replaced"), third])
    assert ours == stock and stock[0] != stock[2]
    told = story.decided(ids[2], "give up")
    assert f"{Path(FILES[what]).name} was replaced since it was loaded" in told.values() and len(told) == 1, story.told(ids)
    assert story.cached(ids[2])  # what else was kept still is


@pytest.mark.parametrize("how", ["rewritten", "twin", "recreated", "touched", "deleted"])
def test_whatever_happens_to_a_file_meanwhile_is_seen(story: Story, how: str):
    seed = next(takes)
    changing = story.changing(without_models(), FILES["diffusion model"], how)
    ours, stock, ids = story.both([draw(seed, ""), changing, draw(seed, "")])
    assert ours == stock and (stock[0] == stock[2]) == (how == "touched")
    if how != "deleted":
        assert "residency_expert_a" in story.decided(ids[2], "give up"), story.told(ids)


def test_a_base_models_file_counts_for_the_lora_that_was_put_on_it(story: Story):
    seed = next(takes)
    changing = story.changing(without_models(), FILES["diffusion model"], "replaced")
    ours, stock, ids = story.both([draw(seed, "LoRA"), changing, draw(seed, "LoRA")])
    assert ours == stock and stock[0] != stock[2] and not story.cached(ids[2]) & {"1", "11"}


def test_what_comfyui_keeps_by_itself_is_used_as_it_is_and_the_trace_tells_what_was_loaded(story: Story):
    seed = next(takes)
    first = story.changing(draw(seed, ""), FILES["diffusion model"], "replaced", after="9")
    again = draw(seed, "")
    again["6"]["inputs"]["steps"] = 2
    ours, stock, ids = story.both([first, again])
    assert ours == stock and "1" in story.cached(ids[1])
    keys = [{one["key"] for one in story.server.get_json(f"/residency/trace?prompt_id={one}")["components"]} for one in ids]
    assert keys[0] == keys[1]  # not the file that lies there now, which nobody has read


def test_a_result_is_not_kept_whose_file_was_replaced_while_it_was_in_use(story: Story):
    seed = next(takes)
    first = story.changing(draw(seed, ""), FILES["diffusion model"], "replaced", after="9")
    ours, stock, ids = story.both([first, without_models(), draw(seed, "")])
    assert ours == stock and stock[0] != stock[2]
    assert "residency_expert_a" not in story.decided(ids[1], "keep") and "1" not in story.cached(ids[2])


def test_a_file_that_is_replaced_before_its_loaders_turn_is_the_one_that_is_told(story: Story):
    first = story.changing(draw(next(takes), ""), FILES["diffusion model"], "replaced", after="5")
    ours, stock, ids = story.both([first])
    assert ours == stock
    trace = story.server.get_json(f"/residency/trace?prompt_id={ids[0]}")
    [loaded] = next(node["loads"] for node in trace["nodes"] if node["node_id"] == "1")
    foreseen = [one["key"] for one in trace["components"] if one["name"] == "residency_expert_a"]
    assert len(foreseen) == 2 and loaded == foreseen[1]  # in the order in which they became known


def test_a_folder_of_a_language_model_is_read_again_when_anything_in_it_was_replaced(story: Story, writer: Path):
    def write(seed: int) -> dict[str, Any]:
        sampling = {"max_new_tokens": 40, "temperature": 2.0, "seed": seed, "text": "a cat", "system_prompt": "the sea"}
        return {
            "1": {"class_type": "ResidencyTransformersLoader", "inputs": {"lm_name": writer.name, "device": "default"}},
            "2": {"class_type": "ResidencyWriteText", "inputs": {"lm": ["1", 0], **sampling}},
            "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}},
        }

    seed = next(takes)
    changing = story.changing(without_models(), f"LLM/{writer.name}/model.safetensors", "replaced")
    _, _, ids = story.both([write(seed), changing, write(seed)])
    told = [story.server.get_json(f"/history/{one}")[one]["outputs"]["3"]["text"] for one in (ids[0], ids[2])]
    assert told[0] != told[1], f"{story.cached(ids[2])} {story.told(ids)}"
    assert "model.safetensors was replaced since it was loaded" in story.decided(ids[2], "give up").values(), story.told(ids)


def test_what_a_prompt_has_used_is_comfyuis_own_from_then_on(story: Story):
    """Without the pack the third prompt loads the model, and the fourth finds it in ComfyUI's cache, whatever has become of the file."""
    seed = next(takes)
    third = story.changing(draw(seed + 1000, ""), FILES["diffusion model"], "replaced", after="9")
    fourth = draw(seed, "")
    ours, stock, ids = story.both([draw(seed, ""), without_models(), third, fourth])
    assert ours == stock and stock[0] == stock[3] and "1" in story.cached(ids[2])


def test_when_the_pack_is_turned_off_nothing_is_left_that_comfyui_would_have_dropped(story: Story):
    seed = next(takes)
    first = draw(seed, "")
    first["20"] = {"class_type": "ResidencyKeep", "inputs": {"value": ["1", 0]}}
    first["6"]["inputs"]["model"] = ["20", 0]
    [old, _], ids = story._run([first, without_models()])
    assert "residency_expert_a" in story.decided(ids[1], "keep")
    story.server.post("/residency/mode", {"mode": "off"})
    try:
        part = story.place / "part"
        shutil.copy(story.originals / "other" / FILES["diffusion model"], part)
        os.replace(part, story.place / FILES["diffusion model"])
        [new], ids = story._run([draw(seed, "")])
    finally:
        story.server.post("/residency/mode", {"mode": "auto"})
    assert new != old and "1" not in story.cached(ids[0])
