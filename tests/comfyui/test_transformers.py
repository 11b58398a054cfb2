"""Language models in a real ComfyUI server: what they write, and that their weights are planned like every other component's."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comfy_story import drop_pages, forget, mode, pixels

from residency.installation.locate import ComfyUI
from residency.installation.script import answer
from residency.installation.server_process import Server, ServerError
from residency.workflow.file import read_workflow

WORKFLOW = Path(__file__).parents[2] / "example_workflows" / "write_prompt.json"

BROKEN = {
    "no_config": "has no config.json; download the whole model folder",
    "only_bin": "holds its weights only as pytorch_model.bin",
    "no_tokenizer": "has no tokenizer",
    "unknown": "model_type 'abacus', architecture Abacus is not one that the installed transformers writes text with",
    "own_code": "runs code of its own from the folder, which is never done here",
    "half_there": "lists model-00004-of-00004.safetensors, which are not there",
}


@pytest.fixture(scope="session")
def language(comfyui: ComfyUI, models: Path) -> Path:
    """models/LLM with the folders of tiny_language.py."""
    folder = models / "LLM"
    script = Path(__file__).with_name("tiny_language.py")
    made = subprocess.run([str(comfyui.python), str(script), str(folder)], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-3000:]
    return folder


@pytest.fixture
def knows(server: Server, language: Path) -> Server:
    """The server, with language models in its models folder."""
    return server


@pytest.fixture
def writes(knows: Server) -> Server:
    """The same with no model loaded and no text cached."""
    forget(knows)
    return knows


def loader(name: str, memory_mode: str = "workflow") -> dict[str, Any]:
    return {"class_type": "ResidencyTransformersLoader", "inputs": {"lm_name": name, "device": "default", "memory_mode": memory_mode}}


def writer(
    seed: int = 1, temperature: float = 1.0, tokens: int = 16, name: str = "writer", text: str = "a cat", **more: str
) -> dict[str, Any]:
    sampling = {"max_new_tokens": tokens, "temperature": temperature, "seed": seed}
    return {
        "1": loader(name, **more),
        "2": {"class_type": "ResidencyWriteText", "inputs": {"lm": ["1", 0], "text": text, "system_prompt": "the sea", **sampling}},
        "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}},
    }


def said(server: Server, prompt: dict[str, Any], node: str = "3", **extra: Any) -> tuple[Any, dict[str, Any]]:
    """The preview node's text, and the trace."""
    run = server.run(prompt, extra or None)
    shown = server.get_json(f"/history/{run.prompt_id}")[run.prompt_id]["outputs"].get(node, {}).get("text")
    return shown, server.get_json(f"/residency/trace?prompt_id={run.prompt_id}")


def the_model(trace: dict[str, Any]) -> dict[str, Any]:
    (component,) = [component for component in trace["components"] if component["kind"] == "LM"]
    return dict(component)


def test_the_same_seed_writes_the_same_text_and_another_seed_another(writes: Server):
    first, _ = said(writes, writer(seed=1))
    other, _ = said(writes, writer(seed=2))
    forget(writes)
    again, _ = said(writes, writer(seed=1))
    assert first == again != other
    forget(writes)
    assert first == said(writes, writer(seed=1), **mode("low-vram"))[0]


def test_temperature_zero_knows_the_same_whatever_the_seed(knows: Server):
    assert said(knows, writer(seed=1, temperature=0.0))[0] == said(knows, writer(seed=2, temperature=0.0))[0]


def test_a_second_run_loads_nothing_again(writes: Server):
    said(writes, writer(seed=3))
    _, trace = said(writes, writer(seed=4))
    assert [node["class_type"] for node in trace["nodes"]] == ["ResidencyWriteText", "PreviewAny"]
    assert sum(transfer["moved_bytes"] for transfer in trace["transfers"]) == 0


def test_all_shards_are_read_ahead_as_one_component_and_the_writer_computes_with_it(writes: Server, models: Path, language: Path):
    drop_pages(models)
    _, trace = said(writes, writer(name="sharded", tokens=4))
    model = the_model(trace)
    assert model["name"] == "sharded" and model["size_bytes"] > 18e6
    (transfer,) = trace["transfers"]
    assert transfer["component"] == model["key"] and transfer["status"] == "done" and transfer["present_bytes"] == model["size_bytes"]
    assert trace["summary"]["prefetched_bytes"] > 0.9 * model["size_bytes"] and trace["summary"]["wasted_bytes"] == 0
    nodes = {node["class_type"]: node for node in trace["nodes"]}
    assert nodes["ResidencyTransformersLoader"]["loads"] == [model["key"]]
    assert nodes["ResidencyWriteText"]["computes"] == [model["key"]]


def test_low_vram_asks_for_the_device_and_hears_why_a_cpu_has_nothing_to_give(writes: Server):
    _, trace = said(writes, writer(seed=5, memory_mode="low-vram"))
    key = the_model(trace)["key"]
    asked = [d for d in trace["decisions"] if d["kind"] == "evict" and d["tier"] == "device" and d["component"] == key]
    assert asked
    assert "its device shares the host's memory" in json.dumps(trace)


def test_an_interrupt_stops_between_two_tokens_and_the_next_prompt_knows(knows: Server):
    waiting = threading.Thread(target=interrupt_when_running, args=(knows, "2"))
    waiting.start()
    with pytest.raises(ServerError, match="execution_interrupted"):
        knows.run(writer(seed=6, tokens=2000, text="a cat on the sea", name="endless"))
    waiting.join()
    assert said(knows, writer(seed=7))[0]


def interrupt_when_running(server: Server, node_id: str) -> None:
    """Interrupt once the trace shows the node running."""
    for _ in range(3000):
        trace = server.get_json("/residency/trace")
        if trace["outcome"] == "running" and any(node["node_id"] == node_id for node in trace["nodes"]):
            server.post("/interrupt", {})
            return
        time.sleep(0.01)


@pytest.mark.parametrize("name", BROKEN)
def test_a_folder_that_cannot_be_used_is_refused_before_anything_runs(knows: Server, name: str):
    with pytest.raises(ServerError) as refused:
        knows.run(writer(name=name))
    assert "400" in str(refused.value) and name in str(refused.value) and BROKEN[name] in str(refused.value).replace('\\"', '"')


@pytest.mark.parametrize("name", ["nowhere", "../checkpoints", "..", ""])
def test_a_name_that_is_no_folder_of_language_models_is_refused(knows: Server, name: str):
    with pytest.raises(ServerError, match="is no folder in"):
        knows.run(writer(name=name))


def test_the_loader_offers_what_has_a_config_and_safetensors(knows: Server):
    inputs = knows.get_json("/object_info/ResidencyTransformersLoader")["ResidencyTransformersLoader"]["input"]
    offered = set(inputs["required"]["lm_name"][1]["options"])
    assert {"writer", "sharded", "seer"} <= offered and not offered & {"no_config", "only_bin"}


def seen(batch: int) -> dict[str, Any]:
    """Two noisy images, the first `batch` of them captioned."""
    image = {"class_type": "LoadImage", "inputs": {"image": "pair.png"}}
    sampling = {"max_new_tokens": 8, "temperature": 0.8, "seed": 3}
    return {
        "1": loader("seer"),
        "5": image,
        "6": {"class_type": "ImageFlip", "inputs": {"image": ["5", 0], "flip_method": "x-axis: vertically"}},
        "7": {"class_type": "ImageBatch", "inputs": {"image1": ["5", 0], "image2": ["6", 0]}},
        "8": {"class_type": "ImageFromBatch", "inputs": {"image": ["7", 0], "batch_index": 0, "length": batch}},
        "2": {"class_type": "ResidencyCaption", "inputs": {"lm": ["1", 0], "image": ["8", 0], "question": "a cat", **sampling}},
        "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}},
    }


def test_each_image_of_a_batch_gets_the_text_it_would_get_alone(writes: Server):
    upload_noise(writes, "pair.png")
    alone, _ = said(writes, seen(1))
    both, trace = said(writes, seen(2))
    assert len(alone) == 1 and len(both) == 2
    assert both[0] == alone[0] != both[1]
    assert {node["node_id"]: node for node in trace["nodes"]}["2"]["computes"] == [the_model(trace)["key"]]


def upload_noise(server: Server, name: str) -> None:
    import io
    import urllib.request
    import uuid

    import numpy
    from PIL import Image

    noise = numpy.random.default_rng(1).integers(0, 255, (40, 56, 3), dtype=numpy.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    edge = uuid.uuid4().hex
    head = f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\nContent-Type: image/png\r\n\r\n'
    body = head.encode() + file.getvalue() + f"\r\n--{edge}--\r\n".encode()
    request = urllib.request.Request(
        f"{server.url}/upload/image", body, {"Content-Type": f"multipart/form-data; boundary={edge}"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200


def test_a_model_that_sees_writes_from_words_alone_too(knows: Server):
    (text,), trace = said(knows, writer(name="seer", temperature=0.0, tokens=8))
    assert text and the_model(trace)["name"] == "seer"


def test_a_model_that_only_reads_text_says_so_when_it_is_shown_an_image(knows: Server):
    upload_noise(knows, "pair.png")
    with pytest.raises(ServerError, match="only reads text; choose a vision-language model"):
        knows.run(seen(1) | {"1": loader("writer")})


def test_the_example_workflow_draws_the_same_image_in_every_mode(knows: Server, models: Path):
    prompt = read_workflow(WORKFLOW).prompt
    prompt["2"]["inputs"] |= {"max_new_tokens": 16, "text": "a cat"}
    prompt["9"]["inputs"] |= {"width": 64, "height": 64}
    prompt["10"]["inputs"]["steps"] = 1
    forget(knows)
    stock = knows.run(prompt, mode("off"))
    for name in ("auto", "low-vram"):
        forget(knows)
        drop_pages(models)
        ours = knows.run(prompt, mode(name))
        assert pixels(ours.images[0]) == pixels(stock.images[0])
    trace = knows.get_json(f"/residency/trace?prompt_id={ours.prompt_id}")
    assert {component["kind"] for component in trace["components"]} == {"LM", "CLIP", "MODEL", "VAE"}
    assert {transfer["component"] for transfer in trace["transfers"]} == {component["key"] for component in trace["components"]}


# --- inside ComfyUI's process ---


@pytest.fixture(scope="module")
def tell(comfyui: ComfyUI, language: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    driver, scratch = Path(__file__).with_name("language_driver.py"), tmp_path_factory.mktemp("language")
    stories: dict[str, dict[str, Any]] = answer(comfyui, driver, comfyui.path, scratch, language, timeout_s=240)
    return stories.__getitem__


def test_comfyui_counts_a_tied_weight_once(tell: Any):
    size = tell("size")
    assert 0.99 * size["files"] < size["model_size"] <= size["files"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_weights_stay_the_mapped_files(tell: Any):
    assert tell("mapped")["mapped"] == tell("mapped")["weights"] > 10


def test_a_model_leaves_the_device_whole_and_its_own_tensors_are_back(tell: Any):
    assert tell("home") == {"there": True, "whole": True, "same": True, "tied": True, "device": "cpu"}


def test_a_model_goes_where_other_programs_leave_room_for_all_of_it(tell: Any):
    assert tell("room") == {"all": ["meta", "meta", "cpu"], "some": ["meta", "cpu", "cpu"]}


def test_writing_leaves_the_random_numbers_of_other_nodes_alone(tell: Any):
    assert tell("random") == {"text": True, "same": True}


def test_the_prompt_is_put_into_the_words_of_the_models_template(tell: Any):
    assert tell("chat") == {
        "template": ["<system> the sea <user> a cat <writer>", True],
        "no system": ["<user> a cat <writer>", True],
        "system refused": ["<user> the sea\n\na cat", True],
        "can think": ["a cat <quiet>", True],
        "plain": ["the sea\na cat", False],
        "image": ["<user> <image> a cat <writer>", True],
    }


def test_nothing_to_write_from_is_said_so(tell: Any):
    assert "give the node a text" in tell("nothing")["said"]
