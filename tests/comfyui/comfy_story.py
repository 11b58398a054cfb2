"""API prompts for the models of residency/comfyui/sample_models/tiny.py, and what the stories do with them."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy
from PIL import Image

LOADERS = {"UNETLoader", "CLIPLoader", "VAELoader"}


def two_experts(seed: int = 1, size: int = 64, steps: int = 1) -> dict[str, Any]:
    """CLIP-L, then expert a, then expert b, then the VAE."""

    def sampler(model: str, latent: str, denoise: float) -> dict[str, Any]:
        inputs = {"seed": seed, "steps": steps, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": denoise}
        links = {"model": [model, 0], "positive": ["4", 0], "negative": ["4", 0], "latent_image": [latent, 0]}
        return {"class_type": "KSampler", "inputs": inputs | links}

    def expert(name: str) -> dict[str, Any]:
        return {"class_type": "UNETLoader", "inputs": {"unet_name": f"residency_expert_{name}.safetensors", "weight_dtype": "default"}}

    clip = {"clip_name": "residency_clip_l.safetensors", "type": "stable_diffusion", "device": "default"}
    return {
        "1": expert("a"),
        "2": {"class_type": "CLIPLoader", "inputs": clip},
        "3": {"class_type": "VAELoader", "inputs": {"vae_name": "residency_tae.safetensors"}},
        "4": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 0], "text": f"a cat, take {seed}"}},
        "5": {"class_type": "EmptySD3LatentImage", "inputs": {"width": size, "height": size, "batch_size": 1}},
        "6": sampler("1", "5", 1.0),
        "7": expert("b"),
        "8": sampler("7", "6", 0.5),
        "9": {"class_type": "VAEDecode", "inputs": {"samples": ["8", 0], "vae": ["3", 0]}},
        "10": {"class_type": "SaveImage", "inputs": {"images": ["9", 0], "filename_prefix": "two"}},
    }


def with_ours(prompt: dict[str, Any], memory_mode: str = "workflow") -> dict[str, Any]:
    """The same prompt with the pack's wrapped nodes in place of the core's."""
    wrapped = LOADERS | {"KSampler"}
    return {
        node_id: {"class_type": f"Residency{node['class_type']}", "inputs": {**node["inputs"], "memory_mode": memory_mode}}
        if node["class_type"] in wrapped
        else node
        for node_id, node in prompt.items()
    }


def mode(name: str) -> dict[str, Any]:
    """The extra_data that asks for a memory mode."""
    return {"residency": {"mode": name}}


def pixels(image: bytes) -> bytes:
    """The decoded pixels; the PNG around them also holds the prompt."""
    return numpy.asarray(Image.open(io.BytesIO(image))).tobytes()


def drop_pages(folder: Path, pattern: str = "*.safetensors") -> None:
    """Put every model file out of the page cache, so that the next read comes from the drive."""
    for path in folder.rglob(pattern):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
