"""ComfyUI's own node classes, and this pack's, as they are known without running it: a shipped table, written by tools/core_nodes.py.

One entry of the table, without keys that are empty or false:
    out        link types of the outputs, in slot order, separated by spaces
    is_output, is_async
    lazy       names of lazy inputs
    sockets    name:TYPE of the inputs that are no widgets, in order, separated by spaces
    widgets    names of widget inputs in the order in which workflow files save their values; null where the editor saves its own choice
               of what to do with a seed after each run; [name, {choice: widgets that it adds}] for a combo that adds widgets
    folders    widget name -> ComfyUI's name of the models folder whose files it lists
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from ..graph import NodeTraits
from ..settings import node_inputs

AFTER_SEED = frozenset({"fixed", "increment", "decrement", "randomize"})  # the editor's choice for the next seed


@dataclass(frozen=True, slots=True)
class CoreNode:
    traits: NodeTraits
    sockets: Mapping[str, str]
    widgets: tuple[Any, ...]
    folders: Mapping[str, str]

    def named_values(self, values: Sequence[object]) -> dict[str, Any]:
        """Widget name -> value, from the values that a workflow file saves for a node of this class; stops where they end."""
        found: dict[str, Any] = {}
        _take(self.widgets, values, 0, "", found)
        return found

    def count(self, values: Sequence[object]) -> int:
        """The number of the saved values that are those of this class's widgets; those that another class added come behind them."""
        return _take(self.widgets, values, 0, "", {})


def _take(widgets: Iterable[Any], values: Sequence[object], at: int, prefix: str, found: dict[str, Any]) -> int:
    """The place behind the last value that was taken. Not every class saves the choice for the next seed where a combo brought it."""
    for widget in widgets:
        if at >= len(values):
            return at
        value = values[at]
        if widget is None and prefix and not (isinstance(value, str) and value in AFTER_SEED):
            continue
        at += 1
        if isinstance(widget, list):
            name, choices = widget
            found[prefix + name] = value
            at = _take(choices.get(value, ()) if isinstance(value, str) else (), values, at, f"{prefix}{name}.", found)
        elif widget is not None:
            found[prefix + widget] = value
    return at


_LOADER_INPUTS = tuple(node_inputs.INPUTS[node_inputs.Family.LOADER])
_SAMPLING = ("max_new_tokens", "temperature", "seed", None)  # None: what the editor does with the seed after each run
LANGUAGE_NODES: Mapping[str, CoreNode] = {
    "ResidencyTransformersLoader": CoreNode(
        NodeTraits(("RESIDENCY_LM",)), {}, ("lm_name", "device", *node_inputs.INPUTS[node_inputs.Family.LOADER]), {"lm_name": "LLM"}
    ),
    "ResidencyWriteText": CoreNode(NodeTraits(("STRING",)), {"lm": "RESIDENCY_LM"}, ("text", "system_prompt", *_SAMPLING), {}),
    "ResidencyCaption": CoreNode(NodeTraits(("STRING",)), {"lm": "RESIDENCY_LM", "image": "IMAGE"}, ("question", *_SAMPLING), {}),
}


def _gguf_loader(output: str, files: tuple[str, ...], folder: str, *options: str) -> CoreNode:
    return CoreNode(NodeTraits((output,)), {}, (*files, *options), dict.fromkeys(files, folder))


_CLIP_NAMES = ("clip_name1", "clip_name2", "clip_name3", "clip_name4")
# The loaders of ComfyUI-GGUF, which do not ship with ComfyUI: an API prompt does not say what they give.
GGUF_LOADERS: Mapping[str, CoreNode] = {
    "UnetLoaderGGUF": _gguf_loader("MODEL", ("unet_name",), "diffusion_models"),
    "UnetLoaderGGUFAdvanced": _gguf_loader("MODEL", ("unet_name",), "diffusion_models", "dequant_dtype", "patch_dtype", "patch_on_device"),
    "CLIPLoaderGGUF": _gguf_loader("CLIP", ("clip_name",), "text_encoders", "type"),
    "DualCLIPLoaderGGUF": _gguf_loader("CLIP", _CLIP_NAMES[:2], "text_encoders", "type"),
    "TripleCLIPLoaderGGUF": _gguf_loader("CLIP", _CLIP_NAMES[:3], "text_encoders"),
    "QuadrupleCLIPLoaderGGUF": _gguf_loader("CLIP", _CLIP_NAMES, "text_encoders"),
}


@cache
def core_nodes() -> Mapping[str, CoreNode]:
    """class_type -> facts, this pack's nodes included; read once, on first use."""
    table = json.loads((Path(__file__).with_name("core_nodes.json")).read_text(encoding="utf-8"))
    found = {name: _core_node(name, facts) for name, facts in table["nodes"].items()}
    found["DiffusersLoader"] = replace(found["DiffusersLoader"], folders={"model_path": "diffusers"})  # it lists folders, not files
    return {**found, **_own_nodes(found), **LANGUAGE_NODES, **GGUF_LOADERS}


def _core_node(name: str, facts: Mapping[str, Any]) -> CoreNode:
    traits = NodeTraits(
        tuple(facts.get("out", "").split()),
        facts.get("is_output", False),
        facts.get("is_async", False),
        frozenset(facts.get("lazy", ())),
        node_inputs.ASIDE.get(name, frozenset()),
    )
    sockets = dict(socket.split(":", 1) for socket in facts.get("sockets", "").split())
    return CoreNode(traits, sockets, tuple(facts.get("widgets", ())), facts.get("folders", {}))


def _own_nodes(core: Mapping[str, CoreNode]) -> dict[str, CoreNode]:
    found = {}
    for name, node in core.items():
        family = node_inputs.family(node.sockets.values(), node.traits.outputs, node.folders.values())
        if family is not None:
            widgets = (*node.widgets, *node_inputs.INPUTS[family])
            found[node_inputs.wrapped_id(name)] = CoreNode(node.traits, node.sockets, widgets, node.folders)
    for name, family in node_inputs.PASSING.items():
        aside = node_inputs.ASIDE.get(name, frozenset())
        sockets = {"value": "COMFY_MATCHTYPE_V3", **dict.fromkeys(aside, "*")}
        found[name] = CoreNode(NodeTraits(("COMFY_MATCHTYPE_V3",), aside=aside), sockets, tuple(node_inputs.INPUTS[family]), {})
    widgets = ("mode", "host_budget_gib", "device_budget_gib")
    found[node_inputs.MODE_NODE] = CoreNode(NodeTraits((), is_output=True), {}, widgets, {})
    found[node_inputs.REPORT_NODE] = CoreNode(NodeTraits(("IMAGE", "STRING", "STRING"), is_output=True), {"after": "*"}, (), {})
    return found


def core_traits(class_type: str) -> NodeTraits | None:
    """Traits of a class that ships with ComfyUI or with this pack; None for all others."""
    node = core_nodes().get(class_type)
    return None if node is None else node.traits
