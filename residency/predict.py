"""What the pack would act on for a workflow file, told without ComfyUI: order of nodes, their components, bytes, missing files."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .component import Component
from .graph import NODE_OPERATIONS, OPERATIONS, Allowance, computes, likely, links, predict_order
from .node_set import core_inputs
from .pretrained import subfolders
from .timeline import Timeline, Use, UseKind, Visit
from .weights import DATA_TYPES, LANGUAGE_MODEL, SAFETENSORS_SUFFIXES, WHOLE_FILE_SUFFIXES, components_of_node
from .workflow import Workflow

# Input names and the model folders that they usually choose from, for a file name that lies in several folders.
_FOLDERS = {
    "ckpt": ("checkpoints",),
    "unet": ("diffusion_models", "unet"),
    "clip_vision": ("clip_vision",),
    "clip": ("text_encoders", "clip"),
    "vae": ("vae",),
    "lora": ("loras",),
    "control_net": ("controlnet",),
    "upscale": ("upscale_models",),
}
_LANGUAGE_INPUT = "lm_name"  # names a folder: nothing in the value itself says so
_LANGUAGE_FOLDERS = ("LLM", "transformers")


@dataclass(frozen=True, slots=True)
class Prediction:
    """`missing` lists (node id, class, file name) of weights that are in no model folder."""

    timeline: Timeline
    components: Mapping[str, Component]
    missing: tuple[tuple[str, str, str], ...]
    warnings: tuple[str, ...]


class ModelFolder:
    """Finds the files that widgets name under ComfyUI's `models` folder. Folders of extra_model_paths.yaml are not searched."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folders = sorted(folder for folder in path.iterdir() if folder.is_dir()) if path.is_dir() else []
        self.missing: list[str] = []

    def resolve(self, input_name: str, value: str) -> str | None:
        """Absolute path of the file, None when the value names none. Notes what looks like weights and is nowhere."""
        if input_name == _LANGUAGE_INPUT:
            found = subfolders([str(self._path / name) for name in _LANGUAGE_FOLDERS]).get(value)
            if found is None:
                self.missing.append(value)
            return found
        if not value.lower().endswith(SAFETENSORS_SUFFIXES + WHOLE_FILE_SUFFIXES) or "\n" in value:
            return None
        preferred = next((folders for word, folders in _FOLDERS.items() if word in input_name), ())
        for folder in sorted(self._folders, key=lambda folder: folder.name not in preferred):
            if (folder / value).is_file():
                return os.path.abspath(folder / value)
        self.missing.append(value)
        return None


def predict(
    workflow: Workflow, models: Path, reads_at: UseKind, prompt_id: str = "predicted", sizes: Mapping[str, int] | None = None
) -> Prediction:
    """The timeline of a workflow. `reads_at` is LOAD with ComfyUI's legacy patcher, COMPUTE under dynamic VRAM.

    `sizes` are bytes by file name for weights that are not there; each such file is one component. Raises AllowanceError for a graph that
    takes longer than any that people draw.
    """
    sizes = sizes or {}
    components: dict[str, Component] = {}
    loads: dict[str, tuple[tuple[str, str | None], ...]] = {}
    missing: list[tuple[str, str, str]] = []
    warnings = list(workflow.warnings)
    diffusion_models = _declared_models(workflow, sizes)
    for node_id, node in workflow.prompt.items():
        class_type = node["class_type"]
        folder = ModelFolder(models)
        types = _types(workflow, node_id)
        found = components_of_node(class_type, core_inputs(class_type, node["inputs"]), types, folder.resolve)
        carried = found.components + _declared(node, types, [name for name in folder.missing if name in sizes], sizes, diffusion_models)
        components.update((component.key, component) for component, _ in carried)
        loads[node_id] = tuple((component.key, kind) for component, kind in carried)
        missing += [(node_id, class_type, name) for name in folder.missing if name not in sizes]
        warnings += [f"node {node_id}: {warning}" for warning in found.warnings]

    wanted = likely(workflow.prompt.get, workflow.traits)
    allowance = Allowance(OPERATIONS + NODE_OPERATIONS * len(workflow.prompt))
    order = predict_order(workflow.prompt, workflow.outputs, workflow.traits, wanted=wanted, allowance=allowance)
    used = computes(workflow.prompt, order, workflow.traits, loads, workflow.output_types.get, wanted, allowance)

    def reads(key: str) -> UseKind:
        # the node that loads a language model maps its files and reads them, whichever patcher the other models have
        return UseKind.LOAD if key in components and components[key].kind == LANGUAGE_MODEL else reads_at

    uses = []
    for position, node_id in enumerate(order):
        keys = dict.fromkeys(key for key, _ in loads.get(node_id, ()))
        uses += [Use(position, key, UseKind.LOAD, reads(key) is UseKind.LOAD) for key in keys]
        uses += [Use(position, key, UseKind.COMPUTE, reads(key) is UseKind.COMPUTE) for key in used.get(node_id, ())]
    visits = [Visit(prompt_id, node_id, workflow.prompt[node_id]["class_type"]) for node_id in order]
    return Prediction(Timeline.of(visits, uses), components, tuple(missing), tuple(warnings))


def _types(workflow: Workflow, node_id: str) -> tuple[str, ...]:
    traits = workflow.traits(workflow.prompt[node_id]["class_type"])
    return workflow.output_types.get(node_id) or (traits.outputs if traits else ())


def _declared_models(workflow: Workflow, sizes: Mapping[str, int]) -> frozenset[str]:
    """Of the files that are only known by name and size, those that a loader makes a diffusion model of."""
    return frozenset(
        value
        for node_id, node in workflow.prompt.items()
        if "MODEL" in _types(workflow, node_id) and "model" not in {name for name, _, _ in links(node)}
        for value in node["inputs"].values()
        if isinstance(value, str) and value in sizes
    )


def _declared(
    node: Mapping[str, Any], types: Sequence[str], names: Sequence[str], sizes: Mapping[str, int], diffusion_models: Collection[str]
) -> tuple[tuple[Component, str | None], ...]:
    """What a node would load from files that are only known by name and size, by the same rules as from real ones.

    A size tells no parts: a file that holds a diffusion model counts as that, and what else is taken from it as nothing. Else all of it
    would be read for the first node that needs a sliver.
    """
    handles = tuple(dict.fromkeys(kind for kind in types if kind not in DATA_TYPES))
    linked = {name for name, _, _ in links(node)}
    patches = any(kind.lower() in linked for kind in handles)  # takes what it gives: a LoRA, not a loader
    found: list[tuple[Component, str | None]] = []
    for name in names:
        carriers = tuple(kind for kind in handles if kind == "MODEL" or name not in diffusion_models)
        if handles and not carriers:
            continue
        kind = "LORA" if patches else carriers[0] if carriers else "WEIGHTS"
        component = Component(f"{name} (declared)", Path(name).stem, kind, sizes[name])
        found += [(component, carrier) for carrier in carriers] or [(component, None)]
    return tuple(found)
