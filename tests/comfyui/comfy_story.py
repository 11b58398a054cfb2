"""API prompts for the models of residency/comfyui/sample_models/tiny.py, and what the stories do with them."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy
from PIL import Image

from residency.installation.server_process import Server

LOADERS = {"UNETLoader", "CLIPLoader", "VAELoader"}
_colours = count(1)


def until(told: Callable[[], Any], seconds: float = 60) -> Any:
    """The first answer that is not empty, or the last."""
    deadline_s = time.monotonic() + seconds
    while not (answer := told()) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return answer


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


def with_lora(prompt: dict[str, Any]) -> dict[str, Any]:
    """The same prompt with a LoRA on expert a."""
    lora = {"model": ["1", 0], "lora_name": "residency_lora.safetensors", "strength_model": 1.0}
    prompt["11"] = {"class_type": "LoraLoaderModelOnly", "inputs": lora}
    prompt["6"]["inputs"]["model"] = ["11", 0]
    return prompt


def with_controlnet(prompt: dict[str, Any]) -> dict[str, Any]:
    """The same prompt with a ControlNet in the first sampler."""
    prompt["12"] = {"class_type": "ControlNetLoader", "inputs": {"control_net_name": "residency_control.safetensors"}}
    prompt["13"] = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0x808080}}
    links = {"positive": ["4", 0], "negative": ["4", 0], "control_net": ["12", 0], "image": ["13", 0], "vae": ["3", 0]}
    numbers = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
    prompt["14"] = {"class_type": "ControlNetApplyAdvanced", "inputs": links | numbers}
    prompt["6"]["inputs"] |= {"positive": ["14", 0], "negative": ["14", 1]}
    return prompt


def with_ours(prompt: dict[str, Any], memory_mode: str = "workflow") -> dict[str, Any]:
    """The same prompt with the pack's wrapped nodes in place of the core's."""
    wrapped = LOADERS | {"KSampler"}
    return {
        node_id: {"class_type": f"Residency{node['class_type']}", "inputs": {**node["inputs"], "memory_mode": memory_mode}}
        if node["class_type"] in wrapped
        else node
        for node_id, node in prompt.items()
    }


def asking(prompt: dict[str, Any]) -> dict[str, Any]:
    """The same prompt, in which the pack's own nodes ask for b, keep the VAE, and release a."""
    prompt["20"] = {"class_type": "ResidencyPrefetch", "inputs": {"value": ["7", 0]}}
    prompt["21"] = {"class_type": "ResidencyKeep", "inputs": {"value": ["3", 0]}}
    prompt["22"] = {"class_type": "ResidencyRelease", "inputs": {"value": ["6", 0], "component": ["1", 0]}}
    prompt["8"]["inputs"] |= {"model": ["20", 0], "latent_image": ["22", 0]}
    prompt["9"]["inputs"]["vae"] = ["21", 0]
    return prompt


def without_models() -> dict[str, Any]:
    """A prompt that nothing of is cached: ComfyUI drops every model that is loaded for another one."""
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": next(_colours)}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "none"}},
    }


def forget(server: Server) -> None:
    """Nothing is loaded, and nothing cached that was made before."""
    server.post("/free", {"unload_models": True, "free_memory": True})
    between_prompts(server)


def between_prompts(server: Server, extra_data: dict[str, Any] | None = None) -> None:
    """Returns when ComfyUI's worker has done what it was asked to do between two prompts. It looks after each prompt, when the client has
    heard of its end: so after the second of these it has."""
    for _ in range(2):
        server.run(without_models(), extra_data)


def wait(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    assert until(condition, timeout_s), "it never came"


def running_node(server: Server) -> str | None:
    """The node that the last prompt is at."""
    if server.get_json("/residency/status")["last_prompt_id"] is None:
        return None
    trace = server.get_json("/residency/trace")
    if trace["outcome"] != "running" or not trace["nodes"]:
        return None
    node = trace["nodes"][-1]
    return node["node_id"] if node["end_s"] is None else None


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
