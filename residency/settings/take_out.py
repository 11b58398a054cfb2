"""Takes the pack's own inputs out of a prompt before ComfyUI checks it, and puts their values where only the pack looks.

ComfyUI's cache key of a node is made of its inputs: left there, another memory mode would load the model and sample anew. Inputs that are
taken out also never meet ComfyUI's validation, so that a value which this version does not know is a warning and not a refused prompt.

    prompt["4"]["inputs"]["memory_mode"] = "low-vram"
    -> extra_data["residency"]["nodes"]["4"] = {"memory_mode": "low-vram"}

The saved workflow keeps the inputs; the `prompt` in an image's metadata has run without them and lacks them: they do not change the image.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ..core.component import Mode
from ..units import cut, shown
from .node_inputs import BY_NAME, INPUTS, MODE_NODE, PASSING, REMOVED, Family, Value
from .node_policies import node_source

log = logging.getLogger("residency")

KEY = "residency"  # in extra_data and in the workflow's extra

_MAPPINGS = (dict, Mapping)  # of a dict the second is not asked, which takes 0.5 us each time
_wrapped: dict[str, Family] = {}


def register(class_type: str, family: Family) -> None:
    """This node class wraps a core node and carries the inputs of its family."""
    _wrapped[class_type] = family


def family_of(class_type: object) -> Family | None:
    """The family of one of our nodes; None for everybody else's."""
    return _wrapped.get(class_type) or PASSING.get(class_type) if isinstance(class_type, str) else None


def on_prompt(request: dict[str, Any]) -> dict[str, Any]:
    """A handler that the server calls with the body of each POST /prompt: the body itself, changed in place. Nobody else's nodes are
    touched."""
    prompt = request.get("prompt")
    if not isinstance(prompt, dict):
        return request
    asked = {node_id: values for node_id, node in prompt.items() if isinstance(node, dict) and (values := _take(node_id, node))}
    if asked:
        extra_data = request.get("extra_data")
        if not isinstance(extra_data, dict):
            extra_data = request["extra_data"] = {}
        ours = extra_data.get(KEY)
        if not isinstance(ours, dict):
            ours = extra_data[KEY] = {}
        given = ours.get("nodes")
        others = given if isinstance(given, dict) else {}
        ours["nodes"] = {**others, **{node_id: {**mapping(others.get(node_id)), **values} for node_id, values in asked.items()}}
    return request


def known(source: str, name: str, value: object) -> Value | None:
    """The value of one of our inputs; None, and a warning that names source, value and choices, when it is none of them."""
    rule = BY_NAME.get(name)
    if rule is None:
        told = source, cut(name), shown(value)
        log.warning("residency: %s asks for %s %s, which this version does not know; it is passed over", *told)
        return None
    try:
        return rule.parse(value)
    except ValueError as error:
        why = REMOVED.get(name, {}).get(value) if isinstance(value, str) else None
        problem = "this version does not know" if why is None else f"is not offered any more: {why}"
        log.warning("residency: %s asks for %s %s, which %s; %s. Using %r", source, name, shown(value), problem, error, rule.default)
        return None


def _take(node_id: str, node: dict[str, Any]) -> dict[str, Value]:
    class_type, inputs = node.get("class_type"), node.get("inputs")
    if not isinstance(class_type, str) or not isinstance(inputs, dict):
        return {}
    source = node_source(node_id, class_type)
    if class_type == MODE_NODE:
        _check_mode(source, inputs)
    family = family_of(class_type)
    taken = {}
    for name in INPUTS[family] if family else ():
        if name not in inputs:
            continue
        value = inputs[name]
        if isinstance(value, list):
            log.warning("residency: %s: %s comes over a link and is known too late; using %r", source, name, BY_NAME[name].default)
            continue
        del inputs[name]
        checked = known(source, name, value)
        if checked is not None:
            taken[name] = checked
    return taken


def _check_mode(source: str, inputs: dict[str, Any]) -> None:
    """Nothing depends on this node's inputs, so they may stay; a mode from a newer version must not fail the validation."""
    value, modes = inputs.get("mode"), [mode.value for mode in Mode]
    if "mode" in inputs and not isinstance(value, list) and value not in modes:
        told = source, shown(value), ", ".join(modes)
        log.warning("residency: %s asks for mode %s, which this version does not know; choose one of %s", *told)
        del inputs["mode"]


def mapping(value: object) -> Mapping[str, Any]:
    """The object that a client sent; an empty one for anything else."""
    return value if isinstance(value, _MAPPINGS) else {}
