"""The parts of a file against ComfyUI's own loaders: the prefixes of every model family, and the models that come out of one checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from residency.installation.locate import ComfyUI
from residency.installation.script import answer
from residency.installation.server_process import Server, serve
from residency.weights.parts import AUDIO_VAE, divide

PIPES = Path(__file__).with_name("packs") / "pipes"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parts")


@pytest.fixture(scope="module")
def told(comfyui: ComfyUI, scratch: Path) -> dict[str, Any]:
    driver = Path(__file__).with_name("parts_driver.py")
    found: dict[str, Any] = answer(comfyui, driver, comfyui.path, scratch, timeout_s=240)
    return found


@pytest.mark.parametrize(
    ("told_as", "part"),
    [("VAE", "VAE"), ("CLIP", "CLIP"), ("CLIP_VISION", "CLIP_VISION"), ("MODEL", "MODEL"), ("LTXVAudioVAELoader", AUDIO_VAE)],
)
def test_every_prefix_by_which_comfyui_picks_tensors_is_known(told: dict[str, Any], told_as: str, part: str):
    prefixes = told["prefixes"][told_as]
    assert len(prefixes) >= 2
    for prefix in prefixes:
        assert divide([f"{prefix}blocks.0.weight", "vae.x" if part == "MODEL" else "model.diffusion_model.x"]).get(part), prefix


def test_each_part_is_as_large_as_the_model_that_comfyui_makes_of_it(told: dict[str, Any]):
    sizes = told["sizes"]
    for kind, model in sizes["models"].items():  # a model has a few small tensors that its file lacks
        assert sizes["parts"][kind] == pytest.approx(model, rel=0.01), kind
    assert sizes["distinct"] == 2 * sum(sizes["parts"].values()) <= sizes["file"] - (1 << 18)  # without the averaged weights


def test_the_models_in_a_pipe_are_told_apart_and_one_that_it_lacks_is_not_expected_again(told: dict[str, Any]):
    sizes = told["sizes"]
    assert sizes["learnt"] == {"MODEL": "MODEL", "CLIP": "CLIP", "VAE": "VAE"}
    assert (sizes["not_made"], sizes["not_made_without_clip"], sizes["not_made_opaque"]) == ([], ["CLIP"], [])


def test_before_its_first_run_a_decoder_is_expected_to_take_what_comfyui_reckons_for_the_largest_latent(told: dict[str, Any]):
    estimates = told["sizes"]["estimates"]
    small, large = estimates["of ComfyUI"]
    assert large > small > 0
    assert estimates["whole"] == [{}, {"4": small}, {"4": large}, {}, {}]
    assert estimates["small"] == [{}, {"4": small // 2}, {}, {}, {}]  # never more than half of the device
    assert not estimates["without"]  # one that encodes is none
    assert estimates["led"] == ["2", "3", "4", "5"]  # what has run with the last node, but for what a time is kept of
    # of the prompt and of its repetition, where the node computes and no run has told
    assert estimates["standing in"] == [5, 5, 0, 0, 3]
    assert estimates["odd"] == [{}] * 5 + [{"4": small}]  # what no decoder decodes is no failure of ours


@pytest.fixture(scope="module")
def piped(comfyui: ComfyUI, told: dict[str, Any], scratch: Path) -> Iterator[Server]:
    (scratch / "models" / "checkpoints").mkdir(parents=True)
    (scratch / "sd3.safetensors").rename(scratch / "models" / "checkpoints" / "sd3.safetensors")
    with serve(comfyui, scratch / "models", ["--cpu"], others=[PIPES]) as server:
        yield server


def named(server: Server, loader: str, text: str) -> set[str]:
    """The components of a prompt that loads with this class and encodes a text."""
    prompt = {
        "1": {"class_type": loader, "inputs": {"ckpt_name": "sd3.safetensors"}},
        "2": {"class_type": "PipeEncode", "inputs": {"pipe": ["1", 0], "text": text}},
    }
    run = server.run(prompt)
    trace = server.get_json(f"/residency/trace?prompt_id={run.prompt_id}")
    return {component["name"] for component in trace["components"]}


def test_a_text_encoder_that_only_a_pipe_carries_is_named_and_one_that_is_never_made_is_named_once(piped: Server):
    whole = {"sd3 [MODEL]", "sd3 [CLIP]", "sd3 [VAE]"}
    assert [named(piped, "PipeLoader", text) for text in ("a cat", "a dog")] == [whole, whole]
    assert [named(piped, "TextlessPipeLoader", text) for text in ("a cat", "a dog")] == [whole, whole - {"sd3 [CLIP]"}]
