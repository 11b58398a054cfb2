"""Parts of one file: which bytes each loader takes, told in checkpoints of real names whose data is a hole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparse_story import GIB, LTX_CHECKPOINT, MIB, sparse

from residency.core.component import Component
from residency.core.timeline import UseKind
from residency.graph import NodeTraits, computes
from residency.weights.components import components_of_node, distinct_bytes
from residency.weights.parts import PREFIXES
from residency.workflow.core_nodes import core_traits
from residency.workflow.file import parse_workflow
from residency.workflow.predict import predict


def made_of(folder: Path, class_type: str, inputs: dict[str, Any], *outputs: str) -> dict[str | None, Component]:
    found = components_of_node(class_type, inputs, outputs, lambda _, value: str(folder / value) if (folder / value).is_file() else None)
    assert found.warnings == ()
    return {kind: component for component, kind in found.components}


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


CKPT, GEMMA = "ltx.safetensors", "gemma.safetensors"
LTX: dict[str, dict[str, Any]] = {
    "audio": node("LTXVAudioVAELoader", ckpt_name=CKPT),
    "ckpt": node("CheckpointLoaderSimple", ckpt_name=CKPT),
    "te": node("LTXAVTextEncoderLoader", text_encoder=GEMMA, ckpt_name=CKPT, device="default"),
    "up": node("LatentUpscaleModelLoader", model_name="up.safetensors"),
    "empty": node("LTXVEmptyLatentAudio", audio_vae=["audio", 0], frames_number=97, frame_rate=25, batch_size=1),
    "video": node("EmptyLTXVLatentVideo", width=64, height=64, length=9, batch_size=1),
    "both": node("LTXVConcatAVLatent", video_latent=["video", 0], audio_latent=["empty", 0]),
    "text": node("CLIPTextEncode", clip=["te", 0], text="a cat"),
    "sample": node("KSampler", model=["ckpt", 0], positive=["text", 0], negative=["text", 0], latent_image=["both", 0]),
    "apart": node("LTXVSeparateAVLatent", av_latent=["sample", 0]),
    "bigger": node("LTXVLatentUpsampler", samples=["apart", 0], upscale_model=["up", 0], vae=["ckpt", 2]),
    "pixels": node("VAEDecode", samples=["bigger", 0], vae=["ckpt", 2]),
    "sound": node("LTXVAudioVAEDecode", samples=["apart", 1], audio_vae=["audio", 0]),
    "save": node("SaveImage", images=["pixels", 0]),
    "hear": node("PreviewAudio", audio=["sound", 0]),
}


@pytest.fixture
def ltx(tmp_path: Path) -> Path:
    sparse(tmp_path / "checkpoints" / CKPT, LTX_CHECKPOINT)
    sparse(
        tmp_path / "text_encoders" / GEMMA, {"model.layers.0.self_attn.q_norm.weight": 8 * GIB, "vision_model.x": GIB, "spiece_model": 5}
    )
    sparse(tmp_path / "latent_upscale_models" / "up.safetensors", {"upsampler.0.weight": GIB})
    return tmp_path


def test_three_loaders_of_one_file_are_parts_that_share_no_byte_and_each_node_reads_its_own(ltx: Path) -> None:
    found = predict(parse_workflow(LTX), ltx, UseKind.COMPUTE)
    sizes = {component.name: component.size_bytes for component in found.components.values()}
    assert sizes == {
        "ltx [AUDIO_VAE]": 200 * MIB,
        "ltx [MODEL]": 22 * GIB + 4 + 8192,
        "ltx [VAE]": 1300 * MIB + 512,
        "gemma + ltx [TEXT_PROJECTION]": 9 * GIB + 5 + 2100 * MIB,
        "up": GIB,
    }
    assert distinct_bytes(found.components.values()) == sum(sizes.values())
    names = {key: component.name for key, component in found.components.items()}
    computed = {
        visit.node_id: [names[use.component] for use in found.timeline.at(position) if use.kind is UseKind.COMPUTE]
        for position, visit in enumerate(found.timeline.visits)
    }
    assert {node_id: used for node_id, used in computed.items() if used} == {
        "text": ["gemma + ltx [TEXT_PROJECTION]"],
        "sample": ["ltx [MODEL]"],
        "bigger": ["up"],
        "pixels": ["ltx [VAE]"],
        "sound": ["ltx [AUDIO_VAE]"],
    }


def test_a_checkpoint_of_which_only_the_size_is_known_counts_as_its_diffusion_model(tmp_path: Path) -> None:
    sizes = {CKPT: 27 * GIB, GEMMA: 9 * GIB, "up.safetensors": GIB}
    found = predict(parse_workflow(LTX), tmp_path, UseKind.COMPUTE, sizes=sizes)
    reads: dict[str, str] = {}
    for use in found.timeline.uses:
        if use.reads:
            reads.setdefault(found.components[use.component].name, found.timeline.visits[use.position].node_id)
    assert reads == {"gemma": "text", "ltx": "sample", "up": "bigger"}
    assert distinct_bytes(found.components.values()) == sum(sizes.values())


def test_the_text_encoder_of_the_first_ltx2_files_shares_its_connectors_with_the_diffusion_model(tmp_path: Path) -> None:
    blocks = [f"model.diffusion_model.{kind}_embeddings_connector.transformer_1d_blocks.0.attn1.to_q.bias" for kind in ("audio", "video")]
    others = {"model.diffusion_model.x": 100, "text_embedding_projection.aggregate_embed.weight": 40, "vae.x": 7}
    sparse(tmp_path / CKPT, dict.fromkeys(blocks, 10) | others)
    clip = made_of(tmp_path, "LTXAVTextEncoderLoader", {"ckpt_name": CKPT}, "CLIP")["CLIP"]
    model = made_of(tmp_path, "CheckpointLoaderSimple", {"ckpt_name": CKPT}, "MODEL", "CLIP", "VAE")["MODEL"]
    assert (clip.size_bytes, model.size_bytes) == (60, 120)
    assert distinct_bytes([clip, model]) == 160


@pytest.mark.parametrize("encoder", ["cond_stage_model.x", "text_encoders.t5xxl.x", "conditioner.embedders.1.model.x"])
def test_parts_without_an_output_of_their_own_are_in_the_pipe(tmp_path: Path, encoder: str) -> None:
    sparse(tmp_path / "sd.safetensors", {"model.diffusion_model.x": 100, encoder: 20, "first_stage_model.x": 7, "model_ema.x": 100})
    outputs = ("PIPE_LINE", "MODEL", "VAE")
    found = made_of(tmp_path, "easy comfyLoader", {"ckpt_name": "sd.safetensors", "vae_name": "Baked VAE"}, *outputs)
    assert {kind: component.size_bytes for kind, component in found.items()} == {"MODEL": 100, "VAE": 7, "CLIP": 20}

    table = {"Load": NodeTraits(outputs), "Unpack": NodeTraits(("PIPE_LINE", "MODEL", "CLIP"))}
    prompt = {
        "load": node("Load"),
        "unpack": node("Unpack", pipe=["load", 0]),
        "text": node("CLIPTextEncode", clip=["unpack", 2]),
        "sample": node("KSampler", model=["unpack", 1], positive=["text", 0], latent_image=["empty", 0]),
        "empty": node("EmptyLatentImage"),
    }
    loads = {"load": tuple((component.name, kind) for kind, component in found.items())}
    used = computes(prompt, prompt, lambda name: table.get(name) or core_traits(name), loads)
    assert used == {"text": ("sd [CLIP]",), "sample": ("sd [MODEL]",)}


def test_a_loader_with_a_vae_file_of_its_own_leaves_that_of_the_checkpoint(tmp_path: Path) -> None:
    sparse(tmp_path / "sd.safetensors", {"model.diffusion_model.x": 100, "cond_stage_model.x": 20, "first_stage_model.x": 7})
    sparse(tmp_path / "own.safetensors", {"encoder.x": 9})
    sparse(tmp_path / "style.safetensors", {"lora_unet_x": 3})
    inputs = {"ckpt_name": "sd.safetensors", "vae_name": "own.safetensors", "lora_name": "style.safetensors"}
    found = components_of_node("easy comfyLoader", inputs, ("PIPE_LINE", "MODEL", "VAE"), lambda _, value: str(tmp_path / value))
    assert [(component.name, component.kind, kind) for component, kind in found.components] == [
        ("sd [MODEL]", "MODEL", "MODEL"),
        ("sd [CLIP]", "CLIP", "CLIP"),
        ("own", "VAE", "VAE"),
        ("style", "LORA", "PIPE_LINE"),
        ("style", "LORA", "MODEL"),
    ]


@pytest.mark.parametrize(
    ("names", "handle"),
    [
        (["model.layers.0.x", "vision_model.x", "text_embedding_projection.video_aggregate_embed.weight"], "CLIP"),  # a text encoder
        (["model.control_model.x", "model.diffusion_model.project_modules.x"], "MODEL_PATCH"),
        (["audio_vae.x", "vocoder.x"], "VAE"),
        (["net.x", "vae.x"], "UPSCALE_MODEL"),
        (["model.x", "first_stage_model.x"], "STYLE_MODEL"),
        (["double_blocks.0.x", "vector_in.x"], "MODEL"),
        (["model.diffusion_model.x", "model.diffusion_model.x.weight_scale", "model.diffusion_model.x.comfy_quant"], "MODEL"),
    ],
)
def test_a_file_for_one_thing_is_taken_whole_whatever_its_names_begin_with(tmp_path: Path, names: list[str], handle: str) -> None:
    sparse(tmp_path / "a.safetensors", dict.fromkeys(names, 10))
    [(kind, component)] = made_of(tmp_path, "SomeLoader", {"name": "a.safetensors"}, handle).items()
    assert (kind, component.name, component.size_bytes) == (handle, "a", 10 * len(names))


def test_a_second_set_of_averaged_weights_is_read_by_nobody(tmp_path: Path) -> None:
    sparse(tmp_path / "sd.safetensors", {"model.diffusion_model.x": 100, "model_ema.x": 100, "alphas_cumprod": 4})
    assert made_of(tmp_path, "UNETLoader", {"unet_name": "sd.safetensors"}, "MODEL")["MODEL"].size_bytes == 100


def test_scales_of_quantised_weights_are_in_the_part_of_their_weights(tmp_path: Path) -> None:
    scales = ("weight_scale", "weight_scale_2", "input_scale", "comfy_quant", "scaled_fp8")
    tensors = {f"{part}.x.{name}": 1 for part in ("model.diffusion_model", "text_encoders.t5xxl", "vae") for name in ("weight", *scales)}
    sparse(tmp_path / "aio.safetensors", tensors)
    found = made_of(tmp_path, "CheckpointLoaderSimple", {"ckpt_name": "aio.safetensors"}, "MODEL", "CLIP", "VAE")
    assert {kind: component.size_bytes for kind, component in found.items()} == {"MODEL": 6, "CLIP": 6, "VAE": 6}


LOADERS = {
    "CheckpointLoaderSimple": ("MODEL", "CLIP", "VAE"),
    "unCLIPCheckpointLoader": ("MODEL", "CLIP", "VAE", "CLIP_VISION"),
    "UNETLoader": ("MODEL",),
    "LTXVAudioVAELoader": ("VAE",),
    "VAELoader": ("VAE",),
    "LTXAVTextEncoderLoader": ("CLIP",),
    "easy comfyLoader": ("PIPE_LINE", "MODEL", "VAE"),
    "pipe": ("PIPE_LINE",),
    "other": ("BBOX_DETECTOR", "SEGM_DETECTOR"),
}
prefixes_st = st.sampled_from([*(prefix for found in PREFIXES.values() for prefix in found), "model.", "model_ema.", "", "naïve "])
tensors_st = st.dictionaries(st.builds("{}{}".format, prefixes_st, st.integers(0, 9)), st.integers(0, 50), min_size=1, max_size=20)


@settings(deadline=None)
@given(tensors_st, st.lists(st.sampled_from(sorted(LOADERS)), min_size=1, max_size=5))
def test_loaders_of_one_file_never_read_a_byte_that_it_has_not(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, int], classes: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("p")
    path = sparse(folder / "a.safetensors", tensors)
    data_bytes = sum(tensors.values())
    everything = []
    for class_type in classes:
        found = list(made_of(folder, class_type, {"ckpt_name": "a.safetensors"}, *LOADERS[class_type]).values())
        apart = {component.key: component for component in found}.values()
        assert sum(component.size_bytes for component in apart) == distinct_bytes(found) <= data_bytes
        for component in found:
            assert component.size_bytes == sum(extent.size_bytes for extent in component.extents)
            assert all(extent.start + extent.size_bytes <= path.stat().st_size for extent in component.extents)
        everything += found
    assert distinct_bytes(everything) <= data_bytes
    by_key = {component.key: component.extents for component in everything}
    assert all(by_key[component.key] == component.extents for component in everything)
