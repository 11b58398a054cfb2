"""Small models of the families that people run, random weights in the formats they are published in.

Each is made of ComfyUI's own modules and quantized by its own layouts (quantized.py), so that its loaders detect, load and compute with
what they would find in a published file, in a few MB. Where ComfyUI takes a size from no file, the metadata says it (small_sizes.py). Run
in the pack's folder by ComfyUI's Python: `python -m residency.comfyui.sample_models.families COMFYUI FOLDER [FAMILY …]`. A file that is
there already is kept.

Stand-ins: the SentencePiece model of Wan's and LTX's text encoders is that of another T5, which ComfyUI ships; VAEs are ComfyUI's tiny
ones where the published one has no size to choose (Z-Image; MiniMax H3, whose sound is sampled and not decoded).
"""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .quantized import Weights, fp8, fp8_scaled, int8_convrot, nvfp4
from .small_sizes import SIZES, small_vision
from .tiny import import_comfyui, random_weights, tae

File = tuple[Weights, dict[str, Any]]  # tensors by name, and metadata whose values are saved as JSON


def make(comfyui: str, folder: str, families: list[str], say: Callable[[str], None] = print) -> None:
    """Write the families' files into ComfyUI's folder layout under `folder`. Imports ComfyUI from the path `comfyui`."""
    import_comfyui(comfyui)
    import torch
    from safetensors.torch import save_file

    small_vision()
    for name, recipe in ((name, recipe) for family in families for name, recipe in FAMILIES[family].items()):
        path = Path(folder, name)
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(zlib.crc32(name.encode()))
        weights, metadata = recipe()
        part = path.with_suffix(".part")
        try:
            save_file({key: tensor.contiguous() for key, tensor in weights.items()}, part, {k: json.dumps(v) for k, v in metadata.items()})
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        say(f"{path.stat().st_size / 1e6:8.1f} MB  {name}")


def _random(model: Any) -> Weights:
    import torch

    return dict(random_weights(model, torch.bfloat16))


def _build(make_model: Callable[..., Any], **shape: Any) -> Any:
    """A module without weights."""
    import comfy.ops
    import torch

    with torch.device("meta"):
        return make_model(**shape, device="meta", dtype=torch.bfloat16, operations=comfy.ops.manual_cast)


def _encoder(make_model: Callable[..., Any], config: dict[str, Any]) -> Any:
    import comfy.ops
    import torch

    with torch.device("meta"):
        return make_model(dict(config), torch.bfloat16, "meta", comfy.ops.manual_cast)


def _spiece() -> Any:
    """A SentencePiece model, as files carry it."""
    import comfy.text_encoders.t5
    import torch

    path = Path(comfy.text_encoders.t5.__file__).parent / "t5_pile_tokenizer" / "tokenizer.model"
    return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)


def _renamed(weights: Weights, names: dict[str, str]) -> Weights:
    def renamed(name: str) -> str:
        return next((new + name.removeprefix(old) for old, new in names.items() if name.startswith(old)), name)

    return {renamed(name): tensor for name, tensor in weights.items()}


def _lora(*modules: tuple[str, int, int]) -> File:
    """Rank 4 on modules of a diffusion model (name, outputs, inputs)."""
    import torch

    found: Weights = {}
    for name, out, fan_in in modules:
        found[f"diffusion_model.{name}.lora_up.weight"] = (torch.randn(out, 4) * 0.5).bfloat16()
        found[f"diffusion_model.{name}.lora_down.weight"] = (torch.randn(4, fan_in) * fan_in**-0.5).bfloat16()
    return found, {}


# Wan 2.2: two experts, one for the noisy steps, and the elder family's VAE

WAN_TEXT = 32


def wan_expert() -> File:
    """One of the two."""
    from comfy.ldm.wan.model import WanModel

    shape = {"dim": 256, "ffn_dim": 512, "num_heads": 2, "num_layers": 4, "freq_dim": 256, "cross_attn_norm": True, "text_dim": WAN_TEXT}
    return fp8_scaled(_random(_build(WanModel, model_type="t2v", **shape))), {"config": {"transformer": {"text_dim": WAN_TEXT}}}


def umt5() -> File:
    """UMT5: the number of layers and the width of their inner one tell it, so they are the published ones."""
    import comfy.text_encoders.t5

    config = json.loads(Path(comfy.text_encoders.t5.__file__).with_name("umt5_config_xxl.json").read_text(encoding="utf-8"))
    small = {"d_model": WAN_TEXT, "d_kv": 16, "num_heads": 2, "vocab_size": 32128}
    weights = fp8_scaled(_random(_encoder(comfy.text_encoders.t5.T5, config | small)))
    return weights | {"spiece_model": _spiece()}, {SIZES: small}


def wan_vae() -> File:
    """Wan 2.1's, narrow; that of Qwen-Image and Krea 2 as well."""
    import torch
    from comfy.ldm.wan.vae import WanVAE

    shape = {"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [], "temperal_downsample": [False, True, True]}
    with torch.device("meta"):
        model = WanVAE(dim=16, z_dim=16, **shape)
    weights = _random(model)
    return weights | {name: torch.ones_like(tensor) for name, tensor in weights.items() if name.endswith("gamma")}, {}


# MiniMax H3

QWEN = {"intermediate_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1}


def h3() -> File:
    """Video and audio in one sequence."""
    from comfy.ldm.minimax.model import MiniMaxH3Model

    shape = {"hidden_size": 256, "num_layers": 4, "num_attention_heads": 2, "attention_head_dim": 128, "ffn_hidden_size": 512}
    inputs = {"text_dim": 64, "timestep_input_dim": 256, "time_embed_hidden_size": 256, "time_embed_dim": 128, "rope_inv_freq_len": 16}
    return int8_convrot(_random(_build(MiniMaxH3Model, **shape, **inputs))), {}


def h3_encoder() -> File:
    """Qwen3-VL 32B, told by its fiftieth layer."""
    from comfy.text_encoders.minimax import MiniMaxQwen3VL

    small = QWEN | {"hidden_size": 64}
    return nvfp4(_random(_encoder(MiniMaxQwen3VL, small))), {SIZES: small}


def h3_vae() -> File:
    """ComfyUI's tiny one for this family."""
    import torch
    from comfy.taesd.taehv import TAEHV

    with torch.device("meta"):
        return _random(TAEHV(latent_channels=24)), {}


# Z-Image


def z_image() -> File:
    """Its narrowest head has 128 channels."""
    from comfy.ldm.lumina.model import NextDiT

    heads = {"n_heads": 2, "n_kv_heads": 2, "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512], "rope_theta": 256.0}
    rest = {"ffn_dim_multiplier": 8.0 / 3.0, "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32}
    shape = {"patch_size": 2, "in_channels": 16, "dim": 256, "n_layers": 4, "qk_norm": True, "cap_feat_dim": 64}
    return nvfp4(_random(_build(NextDiT, **shape, **heads, **rest))), {SIZES: heads | rest}


def z_image_encoder() -> File:
    """Qwen3 4B, unquantized as the template has it."""
    from comfy.text_encoders.llama import Qwen3_4B

    small = QWEN | {"hidden_size": 64}
    return _random(_encoder(Qwen3_4B, small)), {SIZES: {"class": "QWEN3_4B"} | small}


def small_tae() -> File:
    """The tiny VAE of sixteen channels."""
    return dict(tae()), {}


# Qwen-Image


def qwen_image() -> File:
    """Two heads instead of 24."""
    from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel

    small = {"num_attention_heads": 2, "joint_attention_dim": 64}
    return int8_convrot(_random(_build(QwenImageTransformer2DModel, in_channels=64, num_layers=3, **small))), {SIZES: small}


def qwen_image_encoder() -> File:
    """Qwen2.5-VL 7B, told by the width of its keys."""
    from comfy.text_encoders.llama import Qwen25_7BVLI

    small = QWEN | {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4}
    return fp8(_random(_encoder(Qwen25_7BVLI, small))), {SIZES: small}


# Krea 2

KREA_TEXT = 80  # twenty heads


def krea2() -> File:
    """Its text fusion reads twelve layers of the encoder."""
    from comfy.ldm.krea2.model import SingleStreamDiT

    return fp8(_random(_build(SingleStreamDiT, features=256, heads=2, kvheads=1, layers=3, txtdim=KREA_TEXT))), {}


def krea2_encoder() -> File:
    """Qwen3-VL 4B under the names of the published file."""
    import comfy.text_encoders.qwen3vl as qwen3vl

    small = QWEN | {"hidden_size": KREA_TEXT}
    weights = fp8(_random(_encoder(qwen3vl._make_qwen3vl_model("qwen3vl_4b"), small)))
    names = {"model.": "model.language_model.", "visual.": "model.visual."}
    return _renamed(weights, names), {SIZES: {"class": "QWEN3VL_4B"} | small}


# LTX-2.3: one checkpoint with a diffusion model, two VAEs and the text encoder's projections, which three loaders name

GEMMA_TEXT = 64
LTX_WIDTH, LTX_SOUND_WIDTH = 256, 128


def ltx_checkpoint() -> File:
    """The formats of its layers stand in the metadata."""
    import torch
    from comfy.ldm.lightricks.av_model import LTXAVModel
    from comfy.ldm.lightricks.vae.audio_vae import AudioVAE
    from comfy.ldm.lightricks.vae.causal_video_autoencoder import VideoVAE
    from comfy.text_encoders.lt import DualLinearProjection

    heads = {"num_attention_heads": 2, "attention_head_dim": 128, "audio_num_attention_heads": 2, "audio_attention_head_dim": 64}
    attention = {"cross_attention_dim": LTX_WIDTH, "audio_cross_attention_dim": LTX_SOUND_WIDTH, "apply_gated_attention": True}
    attention |= {"cross_attention_adaln": True, "caption_proj_before_connector": True, "caption_projection_first_linear": False}
    connector = {"connector_num_attention_heads": 2, "audio_connector_num_attention_heads": 2, "audio_connector_attention_head_dim": 64}
    connector |= {"connector_num_layers": 3, "connector_apply_gated_attention": True}
    transformer = {"num_layers": 2} | heads | attention | connector
    blocks = [["res_x", {"num_layers": 1}], ["compress_all", {"residual": True, "multiplier": 2}]]
    there = [["res_x", {"num_layers": 1}], *([["compress_all_res", {"multiplier": 2}]] * 3), ["res_x", {"num_layers": 1}]]
    video = {"dims": 3, "latent_channels": 128, "norm_layer": "pixel_norm", "patch_size": 4, "latent_log_var": "uniform"}
    video |= {"encoder_blocks": there, "decoder_blocks": [*(blocks * 3), blocks[0]], "encoder_base_channels": 8, "decoder_base_channels": 8}
    sound = {
        "double_z": True,
        "mel_bins": 64,
        "z_channels": 8,
        "resolution": 256,
        "in_channels": 2,
        "out_ch": 2,
        "ch": 8,
        "ch_mult": [1, 2, 4],
    }
    sound |= {
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "mid_block_add_attention": False,
        "norm_type": "pixel",
        "causality_axis": "height",
    }
    audio = {
        "model": {"params": {"ddconfig": sound, "sampling_rate": 16000}},
        "preprocessing": {"stft": {"filter_length": 1024, "hop_length": 160}},
    }
    vocoder = {
        "upsample_initial_channel": 64,
        "resblock_kernel_sizes": [3],
        "resblock_dilation_sizes": [[1, 3, 5]],
        "output_sample_rate": 24000,
    }
    config = {"transformer": transformer, "vae": video, "audio_vae": audio, "vocoder": vocoder}

    with torch.device("meta"):
        video_vae, audio_vae = VideoVAE(config=video), AudioVAE(metadata={"config": config})
    layers = 48  # of Gemma 3 12B
    width = GEMMA_TEXT * (layers + 1)
    projection = _build(DualLinearProjection, in_dim=width, out_dim_video=LTX_WIDTH, out_dim_audio=LTX_SOUND_WIDTH)
    model, formats = {}, {}
    for name, tensor in fp8(_random(_build(LTXAVModel, **transformer))).items():
        if name.endswith(".comfy_quant"):
            formats[f"model.diffusion_model.{name.removesuffix('.comfy_quant')}"] = json.loads(bytes(tensor.tolist()))
        else:
            model[f"model.diffusion_model.{name}"] = tensor
    rest = _prefixed("vae.", _random(video_vae)) | _renamed(_random(audio_vae), {"autoencoder.": "audio_vae."})
    rest |= {name: torch.ones_like(tensor) for name, tensor in rest.items() if name.endswith("std-of-means")}
    rest |= _prefixed("text_embedding_projection.", _random(projection))
    return model | rest, {"config": config, "_quantization_metadata": {"layers": formats}}


def gemma3() -> File:
    """Gemma 3 12B, told by its layers: attention in fp8, the rest in nvfp4, as "fp4_mixed" files are."""
    from comfy.text_encoders.llama import Gemma3_12B

    small = QWEN | {"hidden_size": GEMMA_TEXT}
    weights = _random(_encoder(Gemma3_12B, small))
    attention = {name: tensor for name, tensor in weights.items() if ".self_attn." in name}
    rest = {name: tensor for name, tensor in weights.items() if name not in attention}
    return fp8(attention) | nvfp4(rest) | {"spiece_model": _spiece()}, {SIZES: small}


def _prefixed(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()}


FAMILIES: dict[str, dict[str, Callable[[], File]]] = {
    "wan2.2": {
        "diffusion_models/wan_high.safetensors": wan_expert,
        "diffusion_models/wan_low.safetensors": wan_expert,
        "loras/wan_lora.safetensors": lambda: _lora(("blocks.0.self_attn.q", 256, 256), ("blocks.3.ffn.0", 512, 256)),
        "text_encoders/umt5.safetensors": umt5,
        "vae/wan_vae.safetensors": wan_vae,
    },
    "minimax_h3": {
        "diffusion_models/h3.safetensors": h3,
        "loras/h3_lora.safetensors": lambda: _lora(("blocks.1.attn.out_proj", 256, 256), ("blocks.2.mlp.fc2", 256, 512)),
        "text_encoders/h3_qwen3vl.safetensors": h3_encoder,
        "vae/h3_tae.safetensors": h3_vae,
    },
    "z_image": {
        "diffusion_models/z_image.safetensors": z_image,
        "text_encoders/qwen3_4b.safetensors": z_image_encoder,
        "vae/tae.safetensors": small_tae,
    },
    "qwen_image": {
        "diffusion_models/qwen_image.safetensors": qwen_image,
        "text_encoders/qwen25_7b.safetensors": qwen_image_encoder,
        "vae/wan_vae.safetensors": wan_vae,
    },
    "krea2": {
        "diffusion_models/krea2.safetensors": krea2,
        "text_encoders/qwen3vl_4b.safetensors": krea2_encoder,
        "vae/wan_vae.safetensors": wan_vae,
    },
    "ltx2.3": {
        "checkpoints/ltx.safetensors": ltx_checkpoint,
        "text_encoders/gemma3.safetensors": gemma3,
    },
}


if __name__ == "__main__":
    make(sys.argv[1], sys.argv[2], sys.argv[3:] or list(FAMILIES), lambda line: print(line, flush=True))
