"""Folders of the transformers library: the shards that are read, in order, and every way in which a folder can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from residency.core.timeline import UseKind
from residency.weights.components import components_of_node
from residency.weights.transformers_folder import FolderError, Modality, Pretrained, cache_bytes, inspect, modality, shards, subfolders
from residency.workflow.file import parse_workflow

TEXT = {"llama": "LlamaForCausalLM", "gemma3": "Gemma3ForConditionalGeneration", "qwen3_5": "Qwen3_5ForCausalLM"}
VISION = {
    "llava": "LlavaForConditionalGeneration",
    "gemma3": "Gemma3ForConditionalGeneration",
    "qwen3_5": ("Qwen3_5ForConditionalGeneration",),
}


def folder(path: Path, *weights: str, config: dict[str, Any] | None = None, **index: str) -> Path:
    """A model folder with files of 16 bytes of weights each, and an index when there is one: tensor name=file name."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"model_type": "llama"} if config is None else config))
    (path / "tokenizer.json").write_text("{}")
    for name in weights:
        save_file({name: torch.ones(8, dtype=torch.float16)}, path / name)
    if index:
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return path


def names(found: tuple[str, ...]) -> list[str]:
    return [Path(file).name for file in found]


def test_shards_are_those_of_the_index_in_order_and_nothing_beside_them(tmp_path: Path) -> None:
    model = folder(tmp_path / "m", "b.safetensors", "a.safetensors", "consolidated.safetensors", z="a.safetensors", y="b.safetensors")
    assert names(shards(str(model))) == ["a.safetensors", "b.safetensors"]


def test_one_whole_file_comes_before_an_index_that_was_left_behind(tmp_path: Path) -> None:
    model = folder(tmp_path / "m", "model.safetensors", z="gone.safetensors")
    assert names(shards(str(model))) == ["model.safetensors"]


def test_folders_are_offered_once_by_name_from_the_first_root_that_has_them(tmp_path: Path) -> None:
    first = folder(tmp_path / "LLM" / "same", "model.safetensors")
    folder(tmp_path / "transformers" / "same", "model.safetensors")
    other = folder(tmp_path / "transformers" / "other", "model.safetensors")
    (tmp_path / "LLM" / "empty").mkdir()
    roots = [str(tmp_path / "LLM"), str(tmp_path / "transformers"), str(tmp_path / "nowhere")]
    assert subfolders(roots) == {"same": str(first), "other": str(other)}


def test_a_sound_folder_tells_its_config_and_files(tmp_path: Path) -> None:
    model = folder(tmp_path / "m", "model.safetensors")
    found = inspect(str(model))
    assert found.config == {"model_type": "llama"} and names(found.shards) == ["model.safetensors"]


def spoil(model: Path, how: str) -> None:
    match how:
        case "no folder":
            model.rename(model.with_name("elsewhere"))
        case "no config":
            (model / "config.json").unlink()
        case "config is no JSON":
            (model / "config.json").write_text("{")
        case "config is a list":
            (model / "config.json").write_text("[]")
        case "no tokenizer":
            (model / "tokenizer.json").unlink()
        case "only bin":
            (model / "model.safetensors").rename(model / "pytorch_model.bin")
        case "no weights":
            (model / "model.safetensors").unlink()
        case "index without a map":
            (model / "model.safetensors").rename(model / "a.safetensors")
            (model / "model.safetensors.index.json").write_text("{}")
        case "shard missing":
            (model / "model.safetensors").rename(model / "a.safetensors")
            (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}))
        case "quantised":
            (model / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}))


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("no folder", "is no folder; choose"),
        ("no config", "has no config.json; download"),
        ("config is no JSON", "cannot be read as JSON"),
        ("config is a list", "holds no JSON object; download"),
        ("no tokenizer", "has no tokenizer"),
        ("only bin", "only as pytorch_model.bin.*; download"),
        ("no weights", "holds neither model.safetensors nor"),
        ("index without a map", "has no weight_map"),
        ("shard missing", "lists b.safetensors, which are not there; finish"),
        ("quantised", r"is quantised \(gptq\).*; choose"),
    ],
)
def test_each_fault_names_the_folder_and_the_way_out(tmp_path: Path, how: str, what: str) -> None:
    model = folder(tmp_path / "m", "model.safetensors")
    spoil(model, how)
    with pytest.raises(FolderError, match=what) as error:
        inspect(str(model))
    assert str(model) in str(error.value)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, Modality.TEXT),
        ({"model_type": "llama"}, Modality.TEXT),
        ({"model_type": "llava"}, Modality.VISION),
        ({"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]}, Modality.VISION),
        ({"model_type": "qwen3_5", "architectures": ["Qwen3_5ForCausalLM"]}, Modality.TEXT),
        ({"model_type": "qwen3_5", "architectures": ["Qwen3_5ForConditionalGeneration"]}, Modality.VISION),
    ],
)
def test_the_architecture_tells_whether_a_model_sees(config: dict[str, Any], expected: Modality) -> None:
    assert modality(Pretrained("/m", config, ()), TEXT, VISION) is expected


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"model_type": "bert"}, "update transformers or choose another"),
        ({"model_type": "llama", "architectures": ["LlamaModel"]}, "architecture LlamaModel is not one"),
        ({}, "model_type None"),
        ({"model_type": "own", "auto_map": {"AutoModel": "m.M"}}, "runs code of its own from the folder, which is never done"),
    ],
)
def test_an_architecture_that_writes_no_text_is_refused(config: dict[str, Any], what: str) -> None:
    with pytest.raises(FolderError, match=what):
        modality(Pretrained("/m", config, ()), TEXT, VISION)


def test_keys_and_values_are_counted_from_the_text_part_of_the_config() -> None:
    llama_8b = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}
    assert cache_bytes(llama_8b, tokens=1, element_bytes=2) == 131072  # 128 KiB a token, as known for this model
    assert cache_bytes({"text_config": llama_8b, "num_hidden_layers": 1}, 10, 2) == 1310720
    assert cache_bytes({"model_type": "odd"}, 10, 2) == 0


def test_a_folder_is_one_component_of_its_shards_in_order(tmp_path: Path) -> None:
    model = folder(
        tmp_path / "Writer-1.5B", "a.safetensors", "b.safetensors", "consolidated.safetensors", x="b.safetensors", y="a.safetensors"
    )
    found = components_of_node("Loader", {"lm_name": "Writer-1.5B"}, ("RESIDENCY_LM",), lambda name, value: str(model))
    ((component, carried),) = found.components
    assert (component.name, component.kind, carried, component.size_bytes) == ("Writer-1.5B", "LM", "RESIDENCY_LM", 32)
    assert [Path(extent.path).name for extent in component.extents] == ["a.safetensors", "b.safetensors"]


def test_a_shard_that_is_replaced_makes_another_component(tmp_path: Path) -> None:
    model = folder(tmp_path / "m", "model.safetensors")

    def key() -> str:
        return components_of_node("Loader", {"lm_name": "m"}, ("RESIDENCY_LM",), lambda name, value: str(model)).components[0][0].key

    before = key()
    save_file({"w": torch.ones(16, dtype=torch.float16)}, model / "model.safetensors")
    assert key() != before


def test_a_folder_that_cannot_be_used_is_a_warning_and_left_to_comfyui(tmp_path: Path) -> None:
    model = folder(tmp_path / "m", "a.safetensors", x="a.safetensors", y="gone.safetensors")
    found = components_of_node("Loader", {"lm_name": "m"}, ("RESIDENCY_LM",), lambda name, value: str(model))
    assert found.components == () and "finish the download" in found.warnings[0]


def writes(name: str) -> dict[str, Any]:
    return {
        "1": {"class_type": "ResidencyTransformersLoader", "inputs": {"lm_name": name}},
        "2": {"class_type": "ResidencyWriteText", "inputs": {"lm": ["1", 0], "text": "writer", "system_prompt": "writer"}},
        "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}},
    }


@pytest.mark.parametrize("reads_at", [UseKind.LOAD, UseKind.COMPUTE])
def test_a_prediction_reads_the_folder_in_its_loader_and_computes_in_the_writer(tmp_path: Path, reads_at: UseKind) -> None:
    from residency.workflow.predict import predict

    folder(tmp_path / "LLM" / "writer", "model.safetensors")
    prediction = predict(parse_workflow(writes("writer")), tmp_path, reads_at)
    (key,) = prediction.components
    uses = [(prediction.timeline.visits[use.position].class_type, use.kind, use.reads) for use in prediction.timeline.uses]
    assert uses == [("ResidencyTransformersLoader", UseKind.LOAD, True), ("ResidencyWriteText", UseKind.COMPUTE, False)]
    assert prediction.components[key].size_bytes == 16 and prediction.missing == ()


def test_a_prediction_names_a_folder_that_is_nowhere(tmp_path: Path) -> None:
    from residency.workflow.predict import predict

    prediction = predict(parse_workflow(writes("gone")), tmp_path, UseKind.LOAD)
    assert prediction.missing == (("1", "ResidencyTransformersLoader", "gone"),)
