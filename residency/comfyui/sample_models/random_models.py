"""Models of real size with random weights that stock loaders accept, for the benchmark.

Run in the pack's folder by ComfyUI's Python: `python -m residency.comfyui.sample_models.random_models COMFYUI SPECIFICATION`. The
specification is JSON: {"make": [{"path", "recipe", "dtype", "seed", "shape": [hidden, double, single, context]}], "spare": [paths]}.
Prints "made DONE TOTAL NAME" (bytes) around each file and "note …" for people to read. The room on the disk is looked at first:
where it is short, spare files are removed, and where that is not enough nothing is written. Draws on the CUDA device where there is one.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .tiny import clip_l, flux, import_comfyui, random_weights, tae

RESERVE_BYTES = 2 * 10**9  # for logs, images, and the files that other programs write meanwhile
LORA_RANK = 16

Weights = Iterator[tuple[str, Any]]


def make(specification: dict[str, Any], say: Callable[[str], None]) -> None:
    """Write the files. ComfyUI must be importable. Raises SystemExit with a sentence when the disk has no room for them."""
    import torch
    from safetensors.torch import save_file

    wanted = [(Path(one["path"]), one) for one in specification["make"]]
    sizes = [_size_bytes(one) for _, one in wanted]
    total_bytes, done_bytes = sum(sizes), 0
    make_room(wanted[0][0].parents[1], total_bytes, [Path(path) for path in specification["spare"]], say)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for (path, one), size_bytes in zip(wanted, sizes, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        say(f"made {done_bytes} {total_bytes} {path.name}")
        torch.manual_seed(one["seed"])
        part = path.with_suffix(".part")
        save_file(dict(_weights(one, device)), part)
        os.replace(part, path)
        done_bytes += size_bytes
    say(f"made {total_bytes} {total_bytes} all")


def make_room(folder: Path, needed_bytes: int, spare: list[Path], say: Callable[[str], None]) -> None:
    """Remove spare files until so many bytes are free in the folder. Raises SystemExit with a sentence when that is not enough."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in spare:
        if shutil.disk_usage(folder).free >= needed_bytes + RESERVE_BYTES:
            break
        if path.exists():
            say(f"note {path.name} is removed to make room: no scenario that is left needs it")
            path.unlink()
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes + RESERVE_BYTES:
        short = f"{needed_bytes / 1e9:.1f} GB of models do not fit into {folder}: {free_bytes / 1e9:.1f} GB are free"
        raise SystemExit(f"{short}; give a folder on another disk with --models-directory, fewer --scenarios or a smaller --size")


def _model(one: dict[str, Any]) -> Any:
    """The module whose state dict the file holds, without weights."""
    recipe = one["recipe"]
    if recipe in ("flux", "lora"):
        return flux(*one["shape"])
    if recipe == "clip_l":
        return clip_l()
    return {"t5xxl": _t5xxl, "vae": vae}[recipe]()


def _size_bytes(one: dict[str, Any]) -> int:
    import torch

    if one["recipe"] in ("tae", "lora"):
        return 1 << 28  # at most
    elements = sum(tensor.numel() for tensor in _model(one).state_dict().values())
    return int(elements * getattr(torch, one["dtype"]).itemsize)


def _weights(one: dict[str, Any], device: str) -> Weights:
    import torch

    dtype = getattr(torch, one["dtype"])
    if one["recipe"] == "tae":
        return tae()
    if one["recipe"] == "lora":
        return _lora(_model(one), dtype)
    return random_weights(_model(one), dtype, device)


def _t5xxl() -> Any:
    import comfy.ops
    import comfy.text_encoders.t5
    import torch

    config = json.loads(Path(comfy.text_encoders.t5.__file__).with_name("t5_config_xxl.json").read_text(encoding="utf-8"))
    return comfy.text_encoders.t5.T5(config, torch.float16, "meta", comfy.ops.disable_weight_init)


def vae() -> Any:
    """Flux's VAE: the shape of its published configuration."""
    import torch
    from comfy.ldm.modules.diffusionmodules.model import Decoder, Encoder

    channels = {"ch": 128, "ch_mult": [1, 2, 4, 4], "in_channels": 3, "out_ch": 3, "z_channels": 16, "double_z": True}
    blocks = {"resolution": 256, "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}
    with torch.device("meta"):
        return torch.nn.ModuleDict({"encoder": Encoder(**channels, **blocks), "decoder": Decoder(**channels, **blocks)})


def _lora(model: Any, dtype: Any) -> Weights:
    """For the attention of every block; the product of the two has about a tenth of the weights' size."""
    import torch

    for name, tensor in model.state_dict().items():
        if "blocks" in name and name.endswith((".qkv.weight", ".linear1.weight")):
            out, fan_in = tensor.shape
            key = f"diffusion_model.{name.removesuffix('.weight')}"
            yield f"{key}.lora_A.weight", (torch.randn(LORA_RANK, fan_in) * fan_in**-0.5).to(dtype)
            yield f"{key}.lora_B.weight", (torch.randn(out, LORA_RANK) * 0.1 * LORA_RANK**-0.5).to(dtype)


if __name__ == "__main__":
    comfyui, asked = sys.argv[1], json.loads(sys.argv[2])
    import_comfyui(comfyui)
    make(asked, lambda line: print(line, flush=True))
