"""The prompts, in ComfyUI's API format, and which of their nodes computes with which file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from ..comfyui.sample_models.family_prompts import PICTURES, PROMPTS, SMALL_PICTURE
from ..core.timeline import UseKind
from ..workflow.file import parse_workflow
from ..workflow.predict import Prediction, predict
from . import models as model_files
from .models import Family
from .scenarios import Scenario, Size, Workflow

# Steps, and the image's side in pixels.
_IMAGE = {Size.TINY: (2, 64), Size.SMALL: (6, 512), Size.FULL: (20, 1024)}


@dataclass(frozen=True, slots=True)
class Prompt:
    """`uses`: for each node that computes with weights, the names of their files, or the components of a family's; `passes`: how often it
    goes through them."""

    workflow: Workflow
    graph: dict[str, Any]
    uses: dict[str, tuple[str, ...]]
    passes: dict[str, int]


def of(scenario: Scenario, workflow: Workflow, size: Size, number: int, folder: Path) -> Prompt:
    """The scenario's prompt of this number. The files of a family must be in the models folder."""
    if workflow is Workflow.OTHER:
        return replace(prompt(Workflow.ONE_A, model_files.other(size), size, number), workflow=workflow)
    if scenario.family is None:
        return prompt(workflow, model_files.family(size, scenario.precision), size, number)
    picture = PICTURES[scenario.family] if size is Size.FULL else SMALL_PICTURE
    graph = PROMPTS[scenario.family](number, picture)
    uses: dict[str, tuple[str, ...]] = {}
    told = _prediction(scenario.family, folder).timeline
    for use in told.uses:
        if use.kind is UseKind.COMPUTE:
            node_id = told.visits[use.position].node_id
            uses[node_id] = (*uses.get(node_id, ()), use.component)
    samplers = [node_id for node_id in uses if "Sampler" in graph[node_id]["class_type"]]  # they share the steps
    passes = {node_id: picture.steps // len(samplers) if node_id in samplers else 1 for node_id in uses}
    return Prompt(workflow, graph, uses, passes)


def sizes(scenario: Scenario, folder: Path) -> dict[str, int]:
    """Bytes of each component of its family; none without one."""
    if scenario.family is None:
        return {}
    return {key: one.size_bytes for key, one in _prediction(scenario.family, folder).components.items()}


@cache
def _prediction(family: str, folder: Path) -> Prediction:
    return predict(parse_workflow(PROMPTS[family](1)), folder, UseKind.COMPUTE)


def prompt(workflow: Workflow, models: Family, size: Size, number: int) -> Prompt:
    """The prompt of this number: a seed, a text and a LoRA strength of its own."""
    steps, side = _IMAGE[size]
    graph: dict[str, Any] = {}
    uses: dict[str, tuple[str, ...]] = {}
    passes: dict[str, int] = {}

    def node(node_id: str, class_type: str, **inputs: Any) -> list[Any]:
        graph[node_id] = {"class_type": class_type, "inputs": inputs}
        return [node_id, 0]

    def sampler(node_id: str, model: list[Any], files: tuple[str, ...], latent: list[Any], denoise: float) -> list[Any]:
        uses[node_id], passes[node_id] = files, steps
        how = {"seed": number, "steps": steps, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": denoise}
        return node(node_id, "KSampler", model=model, positive=text, negative=text, latent_image=latent, **how)

    def expert(node_id: str, name: str) -> list[Any]:
        return node(node_id, "UNETLoader", unet_name=name, weight_dtype="default")

    names = [one.name for one in models.encoders]
    if len(names) == 2:
        clip = node("2", "DualCLIPLoader", clip_name1=names[0], clip_name2=names[1], type="flux", device="default")
    else:
        clip = node("2", "CLIPLoader", clip_name=names[0], type="stable_diffusion", device="default")
    vae = node("3", "VAELoader", vae_name=models.vae.name)
    text = node("4", "CLIPTextEncode", clip=clip, text=f"a lighthouse above a calm sea, take {number}")
    uses["4"], passes["4"] = tuple(names), 1
    latent = node("5", "EmptySD3LatentImage", width=side, height=side, batch_size=1)
    first = models.expert_b.name if workflow is Workflow.ONE_B else models.expert_a.name
    model = expert("1", first)
    files: tuple[str, ...] = (first,)
    if workflow is Workflow.LORA:
        strength = round(0.2 + 0.05 * (number % 17), 2)
        model = node("11", "LoraLoaderModelOnly", model=model, lora_name=models.lora.name, strength_model=strength)
        files = (models.lora.name, first)
    latent = sampler("6", model, files, latent, 1.0)
    if workflow in (Workflow.TWO, Workflow.LORA):
        latent = sampler("10", expert("9", models.expert_b.name), (models.expert_b.name,), latent, 0.5)
    image = node("7", "VAEDecode", samples=latent, vae=vae)
    uses["7"], passes["7"] = (models.vae.name,), 1
    node("8", "SaveImage", images=image, filename_prefix="bench")
    return Prompt(workflow, graph, uses, passes)
