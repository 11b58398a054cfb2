"""Prompts of one shape and any size, of ComfyUI's own node classes: on each of them predicting has to stay linear."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Prompt = dict[str, dict[str, Any]]
Loads = dict[str, tuple[tuple[str, str | None], ...]]


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """An input that is text is a link to the first output of that node."""
    return {"class_type": class_type, "inputs": {name: [value, 0] if isinstance(value, str) else value for name, value in inputs.items()}}


def image(color: int = 0) -> dict[str, Any]:
    return node("EmptyImage", width=16, height=16, batch_size=1, color=color)


def switch(choice: Any, on_true: str, on_false: str) -> dict[str, Any]:
    return node("ComfySwitchNode", switch=choice, on_true=on_true, on_false=on_false)


def chain(count: int) -> Prompt:
    made = {"n0": image()} | {f"n{i}": node("ImageInvert", image=f"n{i - 1}") for i in range(1, count)}
    return made | {"o": node("PreviewImage", images=f"n{count - 1}")}


def wide(count: int) -> Prompt:
    """One node that reads from all others."""
    return {f"n{i}": image(i) for i in range(count)} | {"o": node("PreviewImage", **{f"image{i}": f"n{i}" for i in range(count)})}


def many_outputs(count: int) -> Prompt:
    return {"n": image()} | {f"o{i}": node("PreviewImage", images="n") for i in range(count)}


def switches(count: int) -> Prompt:
    """Independent ones, decided by one constant."""
    made: Prompt = {"b": node("PrimitiveBoolean", value=True)}
    for i in range(count // 4):
        made |= {f"t{i}": image(i), f"f{i}": image(count + i), f"s{i}": switch("b", f"t{i}", f"f{i}")}
        made[f"o{i}"] = node("PreviewImage", images=f"s{i}")
    return made


def undecided_switches(count: int) -> Prompt:
    """Independent ones that no constant decides: both branches are expected."""
    return switches(count) | {"b": node("GetImageSize", image="t0")}


def nested_switches(count: int) -> Prompt:
    """Each one the branch of the next; the deepest branch is taken."""
    made: Prompt = {"s0": image()}
    for i in range(1, count // 2):
        made |= {f"f{i}": image(i), f"s{i}": switch(True, f"s{i - 1}", f"f{i}")}
    return made | {"o": node("PreviewImage", images=f"s{count // 2 - 1}")}


def lazy_chain(count: int) -> Prompt:
    """Switches with the same branch twice."""
    made: Prompt = {"s0": image()} | {f"s{i}": switch(False, f"s{i - 1}", f"s{i - 1}") for i in range(1, count)}
    return made | {"o": node("PreviewImage", images=f"s{count - 1}")}


def text_to_image(made: Prompt, name: str, model: str) -> None:
    made[f"k{name}"] = node("KSampler", model=model, positive="text", negative="text", latent_image="empty")
    made[f"d{name}"] = node("VAEDecode", samples=f"k{name}", vae="vae")
    made[f"o{name}"] = node("PreviewImage", images=f"d{name}")


def around() -> Prompt:
    return {
        "base": node("UNETLoader"),
        "clip": node("CLIPLoader"),
        "vae": node("VAELoader"),
        "text": node("CLIPTextEncode", clip="clip"),
        "empty": node("EmptyLatentImage"),
    }


def loras(count: int) -> Prompt:
    """A chain of LoRAs before one sampler."""
    made, last = around(), "base"
    for i in range(count):
        made[f"l{i}"] = node("LoraLoaderModelOnly", model=last)
        last = f"l{i}"
    text_to_image(made, "", last)
    return made


def lora_sweep(count: int) -> Prompt:
    """One model, and a LoRA and a sampler for each image."""
    made = around()
    for i in range(count // 4):
        made[f"l{i}"] = node("LoraLoaderModelOnly", model="base")
        text_to_image(made, str(i), f"l{i}")
    return made


def lora_ladder(count: int) -> Prompt:
    """A chain of LoRAs with a sampler behind each."""
    made, last = around(), "base"
    for i in range(count // 4):
        made[f"l{i}"] = node("LoraLoaderModelOnly", model=last)
        last = f"l{i}"
        text_to_image(made, str(i), last)
    return made


def loaders(count: int) -> Prompt:
    """A model and a sampler for each image."""
    made = around()
    for i in range(count // 4):
        made[f"m{i}"] = node("UNETLoader")
        text_to_image(made, str(i), f"m{i}")
    return made


SHAPES: dict[str, Callable[[int], Prompt]] = {
    "chain": chain,
    "wide": wide,
    "many outputs": many_outputs,
    "independent switches": switches,
    "undecided switches": undecided_switches,
    "nested switches": nested_switches,
    "deep lazy chain": lazy_chain,
    "LoRA chain": loras,
    "LoRA sweep": lora_sweep,
    "LoRA ladder": lora_ladder,
    "many loaders": loaders,
}


def loads(prompt: Prompt) -> Loads:
    """Each loader with a component of its own."""
    kinds = {"UNETLoader": "MODEL", "CLIPLoader": "CLIP", "VAELoader": "VAE", "LoraLoaderModelOnly": "MODEL"}
    return {
        node_id: ((f"file of {node_id}", kinds[each["class_type"]]),) for node_id, each in prompt.items() if each["class_type"] in kinds
    }


def outputs(prompt: Prompt) -> list[str]:
    return [node_id for node_id, each in prompt.items() if each["class_type"] == "PreviewImage"]
