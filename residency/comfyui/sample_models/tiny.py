"""Small models with random weights that stock loaders accept: two flux-shaped experts, a CLIP-L, a tiny VAE. For the demo and the tests.

Run as a script by the Python that runs ComfyUI: `python tiny.py COMFYUI FOLDER [EXPERT_MIB [more]]`; "more" adds a ControlNet and a LoRA
for the experts. Prints one line "made DONE TOTAL NAME" (bytes) before each file. A file that is there already is kept: files are written
under another name and renamed when whole.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

EXPERT_MIB = 300
RECIPE = 1  # another number whenever the same size makes other files

Weights = dict[str, Any]


def expert_shape(size_mib: int) -> tuple[int, int, int]:
    """(hidden size, double blocks, single blocks) of a flux model of about `size_mib` in 16 bit.

    A double block has 36 h² weights, a single one 15 h² (comfy/ldm/flux/layers.py), the layers around them about 6 h².
    """
    hidden = 128
    for candidate in (256, 512, 1024):
        if size_mib * 2**19 >= candidate * candidate * (36 + 15 + 6):
            hidden = candidate
    blocks = size_mib * 2**19 / (hidden * hidden) - 6
    double = max(1, round(blocks / 2 / 36))
    return hidden, double, max(1, round((blocks - 36 * double) / 15))


def make(comfyui: str, folder: str, expert_mib: int = EXPERT_MIB, say: Callable[[str], None] = print, *, more: bool = False) -> None:
    """Write the models into ComfyUI's folder layout under `folder`. Imports ComfyUI from the path `comfyui`."""
    wanted = {
        "diffusion_models/residency_expert_a.safetensors": (_flux, expert_mib, 1),
        "diffusion_models/residency_expert_b.safetensors": (_flux, expert_mib, 2),
        "text_encoders/residency_clip_l.safetensors": (_clip_l, 235, 3),
        "vae/residency_tae.safetensors": (_tae, 5, 4),
    }
    if more:
        wanted["controlnet/residency_control.safetensors"] = (_control, expert_mib, 5)
        wanted["loras/residency_lora.safetensors"] = (_lora, expert_mib, 6)
    missing = {name: recipe for name, recipe in wanted.items() if not Path(folder, name).exists()}
    total_bytes = sum(size_mib for _, size_mib, _ in missing.values()) << 20
    if not missing:
        return
    import_comfyui(comfyui)
    import torch
    from safetensors.torch import save_file

    done_bytes = 0
    for name, (recipe, size_mib, seed) in missing.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        say(f"made {done_bytes} {total_bytes} {path.name}")
        torch.manual_seed(seed)
        part = path.with_suffix(".part")
        try:
            save_file(dict(recipe(size_mib)), part)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        done_bytes += size_mib << 20
    say(f"made {total_bytes} {total_bytes} all")


def import_comfyui(comfyui: str) -> None:
    """Make its modules importable in this process, without a device."""
    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [comfyui, *(path for path in sys.path if path != here)]  # the script's folder would hide modules of the same names
    sys.argv = sys.argv[:1]  # ComfyUI reads the command line when it is imported
    from comfy.cli_args import args

    args.cpu = True


def random_weights(model: Any, dtype: Any = None, device: str = "cpu") -> Iterator[tuple[str, Any]]:
    """Gains 1, the rest normal over sqrt(fan-in): activations stay finite through any depth, so that images can be compared.

    Drawn on `device` from torch's seed there, handed out on the CPU in `dtype` (None: half).
    """
    import torch

    dtype = dtype or torch.float16
    for name, shape in ((name, tensor.shape) for name, tensor in model.state_dict().items()):
        if len(shape) == 1 and name.endswith((".weight", ".scale")):
            yield name, torch.ones(shape).to(dtype)
        else:
            fan_in = shape[1:].numel() if len(shape) > 1 and "embed" not in name else 2500
            yield name, (torch.randn(shape, device=device) * fan_in**-0.5).to(dtype).cpu()


def _flux(size_mib: int) -> Iterator[tuple[str, Any]]:
    return random_weights(flux(*expert_shape(size_mib)))


def flux(hidden: int, double: int, single: int, context: int = 768) -> Any:
    """A flux model without weights; `context` is the width of its text encoder."""
    from comfy.ldm.flux.model import Flux

    return Flux(image_model="flux", **_flux_parameters(hidden, double, single, context))


def _flux_parameters(hidden: int, double: int, single: int, context: int = 768) -> dict[str, Any]:
    import comfy.ops
    import torch

    shape = {"hidden_size": hidden, "num_heads": hidden // 128, "depth": double, "depth_single_blocks": single, "mlp_ratio": 4.0}
    inputs = {"in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": 768, "context_in_dim": context, "guidance_embed": True}
    positions = {"axes_dim": [16, 56, 56], "theta": 10000, "qkv_bias": True, "txt_ids_dims": []}
    build = {"device": "meta", "dtype": torch.float16, "operations": comfy.ops.disable_weight_init}
    return {**shape, **inputs, **positions, **build}


def _control(expert_mib: int) -> Iterator[tuple[str, Any]]:
    """A ControlNet as wide as the expert, with one double block; it takes an image as its hint."""
    from comfy.ldm.flux.controlnet import ControlNetFlux

    hidden, _, _ = expert_shape(expert_mib)
    weights = random_weights(ControlNetFlux(image_model="flux", **_flux_parameters(hidden, 1, 0)))
    # ComfyUI tells a ControlNet for flux by the names of published files, which differ here from those of its own module
    return ((re.sub(r"(query|key)_norm\.weight$", r"\1_norm.scale", name), weight) for name, weight in weights)


def _lora(expert_mib: int) -> Iterator[tuple[str, Any]]:
    """Rank 4 on the first image projection of the expert."""
    import torch

    hidden, _, _ = expert_shape(expert_mib)
    name = "diffusion_model.double_blocks.0.img_attn.proj"
    yield f"{name}.lora_up.weight", (torch.randn(hidden, 4) * 0.5).half()
    yield f"{name}.lora_down.weight", (torch.randn(4, hidden) * hidden**-0.5).half()
    yield f"{name}.alpha", torch.tensor(4.0).half()


def _clip_l(_: int) -> Iterator[tuple[str, Any]]:
    return random_weights(clip_l())


def clip_l() -> Any:
    """CLIP-L without weights."""
    import comfy.clip_model
    import comfy.ops
    import comfy.sd1_clip
    import torch

    config = json.loads(Path(comfy.sd1_clip.__file__).with_name("sd1_clip_config.json").read_text(encoding="utf-8"))
    return comfy.clip_model.CLIPTextModel(config, torch.float16, "meta", comfy.ops.manual_cast)


def _tae(_: int) -> Iterator[tuple[str, Any]]:
    return tae()


def tae() -> Iterator[tuple[str, Any]]:
    """The weights of a tiny VAE with 16 latent channels."""
    import torch
    from comfy.taesd.taesd import TAESD

    with torch.device("meta"):
        model = TAESD(latent_channels=16)
    # a marker of its own tells the loader that this is a whole VAE; the two numbers scale its latents
    fixed = {"vae_scale": torch.tensor(1.0).half(), "vae_shift": torch.tensor(0.0).half()}
    return iter({**dict(random_weights(model)), **fixed}.items())


if __name__ == "__main__":
    size_mib = int(sys.argv[3]) if len(sys.argv) > 3 else EXPERT_MIB
    make(sys.argv[1], sys.argv[2], size_mib, lambda line: print(line, flush=True), more="more" in sys.argv[4:])
