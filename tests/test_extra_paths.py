"""extra_model_paths.yaml in `plan`: folders elsewhere are searched as ComfyUI searches them; loaders that an API prompt only names."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from residency.cli.main import main
from residency.units import UsageError
from residency.workflow.extra_paths import ExtraFolder, read_extra_paths

MACHINE = ["--vram", "24GB", "--ram", "64GB", "--disk", "1.5GB/s", "--link", "25GB/s"]

pytestmark = pytest.mark.usefixtures("no_comfyui")


def drawn(*loaders: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """A model, and where there is a second loader a text encoder, in API format."""
    prompt = {str(number): {"class_type": kind, "inputs": inputs} for number, (kind, inputs) in enumerate(loaders, start=1)}
    prompt["20"] = {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}}
    links: dict[str, Any] = {"model": ["1", 0], "latent_image": ["20", 0]}
    if len(loaders) > 1:
        prompt["21"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 0], "text": "a cat"}}
        links["positive"] = ["21", 0]
    prompt["22"] = {"class_type": "KSampler", "inputs": links}
    prompt["23"] = {"class_type": "SaveLatent", "inputs": {"samples": ["22", 0]}}
    return prompt


def unet(name: str) -> tuple[str, dict[str, Any]]:
    return "UNETLoader", {"unet_name": name, "weight_dtype": "default"}


@pytest.fixture
def sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Bytes that `plan` reads, by component name, and the files that it does not find."""
    (tmp_path / "models").mkdir()

    def plan(prompt: dict[str, Any], *options: str) -> tuple[dict[str, int], list[str]]:
        (tmp_path / "w.json").write_text(json.dumps(prompt))
        main(["plan", str(tmp_path / "w.json"), "--json", "--models-directory", str(tmp_path / "models"), *MACHINE, *options])
        told = json.loads(capsys.readouterr().out)
        return {one["name"]: one["size_bytes"] for one in told["components"]}, [one["file"] for one in told["missing"]]

    return plan


def weights(path: Path, size_bytes: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"w": torch.ones(size_bytes, dtype=torch.uint8)}, path)


def test_a_file_in_an_extra_folder_is_found_and_the_own_folder_comes_first(tmp_path: Path, sizes: Any) -> None:
    weights(tmp_path / "shared" / "unets" / "there.safetensors", 70)
    weights(tmp_path / "shared" / "unets" / "both.safetensors", 71)
    weights(tmp_path / "models" / "diffusion_models" / "both.safetensors", 8)
    assert sizes(drawn(unet("there.safetensors"))) == ({}, ["there.safetensors"])
    config = tmp_path / "paths.yaml"
    option = ("--extra-model-paths-config", str(config))
    config.write_text("a111:\n    base_path: shared\n    unet: |\n        nowhere\n        unets\nempty:\n")
    assert sizes(drawn(unet("there.safetensors")), *option) == ({"there": 70}, [])
    assert sizes(drawn(unet("both.safetensors")), *option) == ({"both": 8}, [])
    config.write_text("a111:\n    base_path: shared\n    is_default: true\n    diffusion_models: unets\n")
    assert sizes(drawn(unet("both.safetensors")), *option) == ({"both": 71}, [])


def test_the_file_of_the_comfyui_that_is_found_counts_unless_a_models_folder_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    comfyui = tmp_path / "ComfyUI"
    (comfyui / "models").mkdir(parents=True)
    (comfyui / "execution.py").touch()
    for name in ("main.py", "nodes.py", "folder_paths.py", "comfyui_version.py"):
        (comfyui / name).touch()
    (comfyui / "comfy").mkdir()
    monkeypatch.setenv("COMFYUI_PATH", str(comfyui))
    weights(tmp_path / "elsewhere" / "x.safetensors", 60)
    (comfyui / "extra_model_paths.yaml").write_text(f"mine:\n  diffusion_models: {tmp_path / 'elsewhere'}\n")
    (tmp_path / "w.json").write_text(json.dumps(drawn(unet("x.safetensors"))))
    plan = ["plan", str(tmp_path / "w.json"), "--json", *MACHINE]
    assert main(plan) == 0
    assert [one["size_bytes"] for one in json.loads(capsys.readouterr().out)["components"]] == [60]
    assert main([*plan, "--models-directory", str(comfyui / "models")]) == 2


@pytest.mark.parametrize("text", ["- a", "", "{", "a: [", "\0"])
def test_a_file_that_is_no_such_list_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"x\.yaml: .*as ComfyUI's example does$"):
        read_extra_paths(tmp_path / "x.yaml")
    with pytest.raises(UsageError, match="cannot be read"):
        read_extra_paths(tmp_path / "none.yaml")


def test_without_pyyaml_that_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)  # as where it is not installed
    with pytest.raises(UsageError, match="needs PyYAML"):
        read_extra_paths(tmp_path / "x.yaml")


def test_values_that_name_no_folder_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: text\nb:\n  base_path: /m\n  vae: [1]\n  loras:\n  clip: te\n")
    assert read_extra_paths(tmp_path / "x.yaml") == (ExtraFolder("text_encoders", Path("/m/te")),)


def test_loaders_of_gguf_files_are_known_by_name_in_an_api_prompt(tmp_path: Path, sizes: Any) -> None:
    for name, size_bytes in (("diffusion_models/m-Q4.gguf", 40), ("text_encoders/t-Q8.gguf", 30), ("clip/l.safetensors", 0)):
        path = tmp_path / "models" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(size_bytes))
    weights(tmp_path / "models" / "clip" / "l.safetensors", 5)
    two = {"clip_name1": "l.safetensors", "clip_name2": "t-Q8.gguf", "type": "flux"}
    prompt = drawn(("UnetLoaderGGUF", {"unet_name": "m-Q4.gguf"}), ("DualCLIPLoaderGGUF", two))
    assert sizes(prompt) == ({"m-Q4": 40, "l + t-Q8": 35}, [])


@pytest.mark.parametrize("suffix", ["sft", "pt", "ckpt", "pth", "bin"])
def test_every_suffix_that_comfyui_lists_has_its_bytes(tmp_path: Path, sizes: Any, suffix: str) -> None:
    weights(tmp_path / "models" / "diffusion_models" / f"x.{suffix}", 90)
    (found,) = sizes(drawn(unet(f"x.{suffix}")))[0].values()
    whole = (tmp_path / "models" / "diffusion_models" / f"x.{suffix}").stat().st_size
    assert found == (90 if suffix == "sft" else whole)


def test_of_a_split_model_only_the_file_that_is_named_is_read(tmp_path: Path, sizes: Any) -> None:
    for number, size_bytes in ((1, 30), (2, 50)):
        weights(tmp_path / "models" / "diffusion_models" / f"m-0000{number}-of-00002.safetensors", size_bytes)
    assert sizes(drawn(unet("m-00001-of-00002.safetensors"))) == ({"m-00001-of-00002": 30}, [])


def test_a_folder_of_the_diffusers_library_is_read_model_by_model(tmp_path: Path, sizes: Any) -> None:
    pipe = tmp_path / "models" / "diffusers" / "sd"
    weights(pipe / "unet" / "diffusion_pytorch_model.safetensors", 80)
    weights(pipe / "vae" / "diffusion_pytorch_model.safetensors", 9)
    weights(pipe / "text_encoder" / "model.safetensors", 20)
    (pipe / "model_index.json").write_text("{}")
    found, missing = sizes(drawn(("DiffusersLoader", {"model_path": "sd"})))
    assert (sorted(found.values()), missing) == ([9, 20, 80], [])
