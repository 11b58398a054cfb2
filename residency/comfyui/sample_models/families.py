"""The files of the families that people run, made of random weights in the formats they are published in.

Each is made by its recipe (recipes.py); one of published size is written without being made (published.py). Run in the pack's folder
by ComfyUI's Python: `python -m residency.comfyui.sample_models.families COMFYUI FOLDER [full] [spare=FILE …] [FAMILY …]`. Prints
"made DONE TOTAL NAME" (bytes) on the way. A file that is there already is kept.
"""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from . import language, published, recipes
from .random_models import make_room
from .recipes import File
from .small_sizes import small_vision
from .tiny import import_comfyui

FAMILIES: dict[str, dict[str, Callable[[bool], File]]] = {
    "wan2.2": {
        "diffusion_models/wan_high.safetensors": recipes.wan_expert,
        "diffusion_models/wan_low.safetensors": recipes.wan_expert,
        "loras/wan_high_lora.safetensors": recipes.wan_lora,
        "loras/wan_low_lora.safetensors": recipes.wan_lora,
        "text_encoders/umt5.safetensors": recipes.umt5,
        "vae/wan_vae.safetensors": recipes.wan_vae,
    },
    "minimax_h3": {
        "diffusion_models/h3.safetensors": recipes.h3,
        "loras/h3_lora.safetensors": recipes.h3_lora,
        "text_encoders/h3_qwen3vl.safetensors": recipes.h3_encoder,
        "vae/h3_vae.safetensors": recipes.h3_vae,
    },
    "z_image": {
        "diffusion_models/z_image.safetensors": recipes.z_image,
        "text_encoders/qwen3_4b.safetensors": recipes.z_image_encoder,
        "vae/z_image_vae.safetensors": recipes.z_image_vae,
    },
    "qwen_image": {
        "diffusion_models/qwen_image.safetensors": recipes.qwen_image,
        "text_encoders/qwen25_7b.safetensors": recipes.qwen_image_encoder,
        "text_encoders/qwen_writer.safetensors": recipes.qwen_writer,
        "vae/wan_vae.safetensors": recipes.wan_vae,
    },
    "krea2": {
        "diffusion_models/krea2.safetensors": recipes.krea2,
        "text_encoders/qwen3vl_4b.safetensors": recipes.krea2_encoder,
        "vae/wan_vae.safetensors": recipes.wan_vae,
    },
    "ltx2.3": {
        "checkpoints/ltx.safetensors": recipes.ltx_checkpoint,
        "text_encoders/gemma3.safetensors": recipes.gemma3,
    },
    "language": {
        "diffusion_models/z_image.safetensors": recipes.z_image,
        **{
            f"LLM/{language.NAME}/{language.shard_name(number)}": partial(language.shard, number)
            for number in range(1, language.SHARDS + 1)
        },
        "text_encoders/qwen3_4b.safetensors": recipes.z_image_encoder,
        "vae/z_image_vae.safetensors": recipes.z_image_vae,
    },
}
TEXTS = {"language": (f"LLM/{language.NAME}", language.texts)}  # folders that hold more than weights
OWN_NODES = frozenset({"language"})  # their workflows have nodes of the pack


def make(
    comfyui: str, folder: str, families: list[str], say: Callable[[str], None] = print, *, full: bool = False, spare: Iterable[Path] = ()
) -> None:
    """Write the families' files into ComfyUI's folder layout under `folder`. Imports ComfyUI from the path `comfyui`.

    Where the disk is short of room for full ones, spare files are removed. Raises SystemExit with a sentence when that is not enough.
    """
    import_comfyui(comfyui)
    import torch
    from safetensors.torch import save_file

    if not full:
        small_vision()
    wanted = {Path(folder, name): recipe for family in families for name, recipe in FAMILIES[family].items()}
    missing = {path: recipe for path, recipe in wanted.items() if not path.exists()}
    sizes = {path: published.size_bytes(recipe(full)[0]) for path, recipe in missing.items()} if full else dict.fromkeys(missing, 0)
    total_bytes, done_bytes = sum(sizes.values()), 0
    if full and missing:
        make_room(Path(folder), total_bytes, list(spare), say)
    for folder_name, texts in (TEXTS[family] for family in families if family in TEXTS):
        Path(folder, folder_name).mkdir(parents=True, exist_ok=True)
        for name, text in texts(full).items():
            Path(folder, folder_name, name).write_text(text, encoding="utf-8")
    for path, recipe in missing.items():
        say(f"made {done_bytes} {total_bytes} {path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(zlib.crc32("/".join(path.parts[-2:]).encode()))
        weights, values = recipe(full)
        metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
        if full:
            published.write(weights, metadata, path, partial(_told, say, total_bytes, path.name, done_bytes))
            done_bytes += sizes[path]
            continue
        part = path.with_suffix(".part")
        try:
            save_file({key: tensor.contiguous() for key, tensor in weights.items()}, part, metadata)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    say(f"made {total_bytes} {total_bytes} all")


def _told(say: Callable[[str], None], total_bytes: int, name: str, before_bytes: int, so_far_bytes: int) -> None:
    say(f"made {before_bytes + so_far_bytes} {total_bytes} {name}")


if __name__ == "__main__":
    where, rest = sys.argv[1:3], sys.argv[3:]
    dispensable = [Path(word.removeprefix("spare=")) for word in rest if word.startswith("spare=")]
    named = [word for word in rest if word in FAMILIES]
    say_so = partial(print, flush=True)
    make(where[0], where[1], named or list(FAMILIES), say_so, full="full" in rest, spare=dispensable)
