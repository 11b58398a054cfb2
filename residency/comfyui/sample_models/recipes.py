"""Recipes: which tensors, of which shapes and formats, a file of a family holds, and its metadata; small ones, or of the published sizes.

Each is made of ComfyUI's own modules and quantized by its own layouts (quantized.py), so that its loaders detect, load and compute as with
a published file. A small one has a few MB; where ComfyUI takes a size from no file, the metadata says it (small_sizes.py). The tensors of a
full one are shapes without values.

Stand-ins: the SentencePiece model of Wan's and LTX's text encoders is that of another T5, which ComfyUI ships; VAEs are ComfyUI's tiny
ones where the published one has no size to choose (small Z-Image; MiniMax H3, whose sound is sampled and not decoded). Qwen-Image 2.1's
modules are younger than ComfyUI 0.33: its files are the elder Qwen-Image with as many layers as have its bytes, Qwen2.5-VL 7B as the
encoder, and Qwen3-VL 8B, whose tokenizer is the same, as the language model that writes the prompt.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .quantized import Weights, fp8, fp8_scaled, int8_convrot, nvfp4
from .random_models import vae
from .small_sizes import SIZES
from .tiny import random_weights, tae

File = tuple[Weights, dict[str, Any]]  # tensors by name, and metadata whose values are saved as JSON


def _random(model: Any, full: bool) -> Weights:
    """A module's weights by name; of a full one without values."""
    import torch

    if full:
        return {name: torch.empty(tensor.shape, dtype=torch.bfloat16, device="meta") for name, tensor in model.state_dict().items()}
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


def _ones(weights: Weights, ending: str) -> Weights:
    """Those whose names end so, with ones in them."""
    import torch

    return {name: torch.ones((), dtype=tensor.dtype).expand(tensor.shape) for name, tensor in weights.items() if name.endswith(ending)}


def _lora(*modules: tuple[str, int, int]) -> File:
    """Rank 4 on modules of a diffusion model (name, outputs, inputs)."""
    import torch

    found: Weights = {}
    for name, out, fan_in in modules:
        found[f"diffusion_model.{name}.lora_up.weight"] = (torch.randn(out, 4) * 0.5).bfloat16()
        found[f"diffusion_model.{name}.lora_down.weight"] = (torch.randn(4, fan_in) * fan_in**-0.5).bfloat16()
    return found, {}


def _full_lora(weights: Weights, rank: int) -> File:
    """For every quantized matrix of a diffusion model, a tenth of its size."""
    import torch

    found: Weights = {}
    for name in (name.removesuffix(".weight") for name, weight in weights.items() if weight.ndim == 2 and weight.dtype.itemsize == 1):
        out, fan_in = weights[f"{name}.weight"].shape
        for part, shape in (("lora_up", (out, rank)), ("lora_down", (rank, fan_in))):
            found[f"diffusion_model.{name}.{part}.weight"] = torch.empty(shape, dtype=torch.bfloat16, device="meta")
        found[f"diffusion_model.{name}.alpha"] = torch.tensor(0.1 * rank)
    return found, {}


# Wan 2.2: two experts, one for the noisy steps, and the elder family's VAE

WAN_TEXT = 32


def wan_expert(full: bool) -> File:
    """One of the two."""
    from comfy.ldm.wan.model import WanModel

    if full:
        shape = {"dim": 5120, "ffn_dim": 13824, "num_heads": 40, "num_layers": 40, "cross_attn_norm": True}
        return fp8_scaled(_random(_build(WanModel, model_type="t2v", **shape), full)), {}
    shape = {"dim": 256, "ffn_dim": 512, "num_heads": 2, "num_layers": 4, "freq_dim": 256, "cross_attn_norm": True, "text_dim": WAN_TEXT}
    return fp8_scaled(_random(_build(WanModel, model_type="t2v", **shape), full)), {"config": {"transformer": {"text_dim": WAN_TEXT}}}


def wan_lora(full: bool) -> File:
    """The steps' LoRA of one of them."""
    if full:
        return _full_lora(wan_expert(full)[0], 128)
    return _lora(("blocks.0.self_attn.q", 256, 256), ("blocks.3.ffn.0", 512, 256))


def umt5(full: bool) -> File:
    """UMT5: the number of layers and the width of their inner one tell it, so they are the published ones."""
    import comfy.text_encoders.t5

    config = json.loads(Path(comfy.text_encoders.t5.__file__).with_name("umt5_config_xxl.json").read_text(encoding="utf-8"))
    small = {} if full else {"d_model": WAN_TEXT, "d_kv": 16, "num_heads": 2, "vocab_size": 32128}
    weights = fp8_scaled(_random(_encoder(comfy.text_encoders.t5.T5, config | small), full))
    return weights | {"spiece_model": _spiece()}, _sizes(small)


def wan_vae(full: bool) -> File:
    """Wan 2.1's; that of Qwen-Image and Krea 2 as well."""
    import torch
    from comfy.ldm.wan.vae import WanVAE

    shape = {"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [], "temperal_downsample": [False, True, True]}
    with torch.device("meta"):
        model = WanVAE(dim=96 if full else 16, z_dim=16, **shape)
    weights = _random(model, full)
    return weights | _ones(weights, "gamma"), {}


# MiniMax H3

QWEN = {"intermediate_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1}


def h3(full: bool) -> File:
    """Video and audio in one sequence; of published size in the "pruned" form, with a curve in place of its time embedder."""
    from comfy.ldm.minimax.model import MiniMaxH3Model

    if full:
        return int8_convrot(_random(_build(MiniMaxH3Model, adaln_curve_grid=1001, time_embed_dim=32), full)), {}
    shape = {"hidden_size": 256, "num_layers": 4, "num_attention_heads": 2, "attention_head_dim": 128, "ffn_hidden_size": 512}
    inputs = {"text_dim": 64, "timestep_input_dim": 256, "time_embed_hidden_size": 256, "time_embed_dim": 128, "rope_inv_freq_len": 16}
    return int8_convrot(_random(_build(MiniMaxH3Model, **shape, **inputs), full)), {}


def h3_lora(full: bool) -> File:
    """The steps' LoRA."""
    if full:
        return _full_lora(h3(full)[0], 48)
    return _lora(("blocks.1.attn.out_proj", 256, 256), ("blocks.2.mlp.fc2", 256, 512))


def h3_encoder(full: bool) -> File:
    """Qwen3-VL 32B, told by its fiftieth layer."""
    from comfy.text_encoders.minimax import MiniMaxQwen3VL

    small = {} if full else QWEN | {"hidden_size": 64}
    return _fp4_mixed(_random(_encoder(MiniMaxQwen3VL, small), full)), _sizes(small)


def h3_vae(full: bool) -> File:
    """ComfyUI's tiny one for this family."""
    import torch
    from comfy.taesd.taehv import TAEHV

    with torch.device("meta"):
        return _random(TAEHV(latent_channels=24), full), {}


# Z-Image


def z_image(full: bool) -> File:
    """Its narrowest head has 128 channels. Of published size unquantized, as the template has it."""
    from comfy.ldm.lumina.model import NextDiT

    count = 30 if full else 2
    heads = {"n_heads": count, "n_kv_heads": count, "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512], "rope_theta": 256.0}
    rest = {"ffn_dim_multiplier": 8.0 / 3.0, "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32}
    shape = {"patch_size": 2, "in_channels": 16, "dim": 256, "n_layers": 4, "qk_norm": True, "cap_feat_dim": 64}
    if full:
        return _random(_build(NextDiT, **shape | {"dim": 3840, "n_layers": 30, "cap_feat_dim": 2560}, **heads, **rest), full), {}
    return nvfp4(_random(_build(NextDiT, **shape, **heads, **rest), full)), {SIZES: heads | rest}


def z_image_encoder(full: bool) -> File:
    """Qwen3 4B, unquantized as the template has it."""
    from comfy.text_encoders.llama import Qwen3_4B

    small = {} if full else QWEN | {"hidden_size": 64}
    return _random(_encoder(Qwen3_4B, small), full), _sizes(small, "QWEN3_4B")


def z_image_vae(full: bool) -> File:
    """Flux's; small ComfyUI's tiny one of sixteen channels."""
    return (_random(vae(), full) if full else dict(tae())), {}


# Qwen-Image


def qwen_image(full: bool) -> File:
    """Two heads instead of 24."""
    from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel

    small = {} if full else {"num_attention_heads": 2, "joint_attention_dim": 64}
    layers = 24 if full else 3  # 8 GB
    return int8_convrot(_random(_build(QwenImageTransformer2DModel, in_channels=64, num_layers=layers, **small), full)), _sizes(small)


def qwen_writer(full: bool) -> File:
    """Qwen3-VL 8B under the names of the published file."""
    import comfy.text_encoders.qwen3vl as qwen3vl

    small = {} if full else QWEN | {"hidden_size": 64}
    weights = int8_convrot(_random(_encoder(qwen3vl._make_qwen3vl_model("qwen3vl_8b"), small), full))
    names = {"model.lm_head.": "lm_head.", "model.": "model.language_model.", "visual.": "model.visual."}
    return _renamed(weights, names), _sizes(small, "QWEN3VL_8B")


def qwen_image_encoder(full: bool) -> File:
    """Qwen2.5-VL 7B, told by the width of its keys."""
    from comfy.text_encoders.llama import Qwen25_7BVLI

    small = {} if full else QWEN | {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4}
    return int8_convrot(_random(_encoder(Qwen25_7BVLI, small), full)), _sizes(small)


# Krea 2

KREA_TEXT = 80  # twenty heads


def krea2(full: bool) -> File:
    """Its text fusion reads twelve layers of the encoder."""
    from comfy.ldm.krea2.model import SingleStreamDiT

    small = {} if full else {"features": 256, "heads": 2, "kvheads": 1, "layers": 3, "txtdim": KREA_TEXT}
    return fp8(_random(_build(SingleStreamDiT, **small), full)), {}


def krea2_encoder(full: bool) -> File:
    """Qwen3-VL 4B under the names of the published file."""
    import comfy.text_encoders.qwen3vl as qwen3vl

    small = {} if full else QWEN | {"hidden_size": KREA_TEXT}
    weights = fp8(_random(_encoder(qwen3vl._make_qwen3vl_model("qwen3vl_4b"), small), full))
    names = {"model.": "model.language_model.", "visual.": "model.visual."}
    return _renamed(weights, names), _sizes(small, "QWEN3VL_4B")


# LTX-2.3: one checkpoint with a diffusion model, two VAEs and the text encoder's projections, which three loaders name

GEMMA_TEXT, GEMMA_LAYERS = 64, 48


def ltx_checkpoint(full: bool) -> File:
    """The formats of its layers stand in the metadata."""
    import torch
    from comfy.ldm.lightricks.av_model import LTXAVModel
    from comfy.ldm.lightricks.vae.audio_vae import AudioVAE
    from comfy.ldm.lightricks.vae.causal_video_autoencoder import VideoVAE
    from comfy.text_encoders.lt import DualLinearProjection

    config = _ltx_config(32, 48, 8, 4, 128, 1024) if full else _ltx_config(2, 2, 3, 1, 8, 64)
    transformer = config["transformer"]
    with torch.device("meta"):
        video_vae, audio_vae = VideoVAE(config=config["vae"]), AudioVAE(metadata={"config": config})
    width = (3840 if full else GEMMA_TEXT) * (GEMMA_LAYERS + 1)
    widths = {"out_dim_video": transformer["cross_attention_dim"], "out_dim_audio": transformer["audio_cross_attention_dim"]}
    projection = _build(DualLinearProjection, in_dim=width, **widths)
    model, formats = {}, {}
    weights = _random(_build(LTXAVModel, **transformer), full)
    # ten of 48 blocks are not quantized: with them the file has the published one's 29 GB
    whole = {name: weight for name, weight in weights.items() if name.startswith(tuple(f"transformer_blocks.{at}." for at in range(10)))}
    quantized = fp8({name: weight for name, weight in weights.items() if not full or name not in whole})
    for name, tensor in ((whole if full else {}) | quantized).items():
        if name.endswith(".comfy_quant"):
            formats[f"model.diffusion_model.{name.removesuffix('.comfy_quant')}"] = json.loads(bytes(tensor.tolist()))
        else:
            model[f"model.diffusion_model.{name}"] = tensor
    rest = _prefixed("vae.", _random(video_vae, full)) | _renamed(_random(audio_vae, full), {"autoencoder.": "audio_vae."})
    rest |= _ones(rest, "std-of-means")
    rest |= _prefixed("text_embedding_projection.", _random(projection, full))
    return model | rest, {"config": config, "_quantization_metadata": {"layers": formats}}


def _ltx_config(heads: int, layers: int, connector_layers: int, blocks: int, channels: int, vocoder_channels: int) -> dict[str, Any]:
    """As the checkpoint's metadata has it. `blocks` of each stage of a VAE, which begins with so many `channels`."""
    shape = {"num_attention_heads": heads, "attention_head_dim": 128, "audio_num_attention_heads": heads, "audio_attention_head_dim": 64}
    attention = {"cross_attention_dim": 128 * heads, "audio_cross_attention_dim": 64 * heads, "apply_gated_attention": True}
    attention |= {"cross_attention_adaln": True, "caption_proj_before_connector": True, "caption_projection_first_linear": False}
    connector = {"connector_num_attention_heads": heads, "audio_connector_num_attention_heads": heads}
    connector |= {
        "audio_connector_attention_head_dim": 64,
        "connector_num_layers": connector_layers,
        "connector_apply_gated_attention": True,
    }
    res = ["res_x", {"num_layers": blocks}]
    there = [res, *([["compress_all_res", {"multiplier": 2}]] * 3), res]
    back = [*([res, ["compress_all", {"residual": True, "multiplier": 2}]] * 3), res]
    video = {"dims": 3, "latent_channels": 128, "norm_layer": "pixel_norm", "patch_size": 4, "latent_log_var": "uniform"}
    video |= {"encoder_blocks": there, "decoder_blocks": back, "encoder_base_channels": channels, "decoder_base_channels": channels}
    sound: dict[str, Any] = {
        "double_z": True,
        "mel_bins": 64,
        "z_channels": 8,
        "resolution": 256,
        "in_channels": 2,
        "out_ch": 2,
        "ch": channels,
    }
    sound |= {"ch_mult": [1, 2, 4], "num_res_blocks": blocks, "attn_resolutions": [], "mid_block_add_attention": False}
    sound |= {"norm_type": "pixel", "causality_axis": "height"}
    audio = {
        "model": {"params": {"ddconfig": sound, "sampling_rate": 16000}},
        "preprocessing": {"stft": {"filter_length": 1024, "hop_length": 160}},
    }
    vocoder: dict[str, Any] = {
        "upsample_initial_channel": vocoder_channels,
        "resblock_kernel_sizes": [3],
        "resblock_dilation_sizes": [[1, 3, 5]],
    }
    vocoder |= {"output_sample_rate": 24000}
    return {"transformer": {"num_layers": layers} | shape | attention | connector, "vae": video, "audio_vae": audio, "vocoder": vocoder}


def gemma3(full: bool) -> File:
    """Gemma 3 12B, told by its layers."""
    from comfy.text_encoders.llama import Gemma3_12B

    small = {} if full else QWEN | {"hidden_size": GEMMA_TEXT}
    return _fp4_mixed(_random(_encoder(Gemma3_12B, small), full)) | {"spiece_model": _spiece()}, _sizes(small)


def _fp4_mixed(weights: Weights) -> Weights:
    """Attention in fp8, the rest in nvfp4, which gives a text encoder the bytes that its published file has."""
    attention = {name: tensor for name, tensor in weights.items() if ".self_attn." in name}
    return fp8(attention) | nvfp4({name: tensor for name, tensor in weights.items() if name not in attention})


def _sizes(small: dict[str, Any], encoder_class: str | None = None) -> dict[str, Any]:
    """The metadata of a small file: its sizes."""
    return {SIZES: ({"class": encoder_class} if encoder_class else {}) | small} if small else {}


def _prefixed(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()}
