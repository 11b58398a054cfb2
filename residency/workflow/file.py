"""Workflow files: the API format, the format that ComfyUI's editor saves, and pictures with either inside, as the prompt to be queued."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from ..graph import NodeTraits, links
from ..units import printable, size
from .core_nodes import core_nodes, core_traits
from .editor_format import flatten
from .editor_graph import UiError
from .embedded import MOST_BYTES, texts

_MOST_OUTPUTS = 1000  # a slot number beyond is nonsense in the file
_DEEPEST = 100  # lists and objects in one another


class WorkflowError(Exception):
    """One line: which file, what is wrong with it, and the way out."""


@dataclass(frozen=True)
class Workflow:
    """`prompt` is in API format; `outputs` are its output nodes in the prompt's order.

    `output_types` holds the types that the file itself gives of its nodes' outputs (only the editor's format does), by node id.
    """

    prompt: dict[str, dict[str, Any]]
    outputs: list[str]
    output_types: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    _traits: Mapping[str, NodeTraits] = field(default_factory=dict, repr=False)

    def traits(self, class_type: str) -> NodeTraits | None:
        """The class's traits: from ComfyUI's own classes, else as far as the file shows them; None when nothing is known."""
        return core_traits(class_type) or self._traits.get(class_type)


def read_workflow(path: str | Path) -> Workflow:
    """Read a workflow file, or a picture that ComfyUI has saved. Raises WorkflowError when the file cannot be read as one.

    Of a picture the prompt counts, which has run; output types of unknown classes are taken from the editor's workflow beside it.
    """
    saved, *ran = read_documents(path)
    if not ran:
        return parse_workflow(saved, str(path))
    prompt = parse_workflow(ran[0], str(path))
    try:
        editor = parse_workflow(saved, str(path))
    except WorkflowError:
        return prompt
    same = {node_id for node_id, node in editor.prompt.items() if prompt.prompt.get(node_id, {}).get("class_type") == node["class_type"]}
    types = {node_id: types for node_id, types in editor.output_types.items() if node_id in same}
    told = all(node_id in types for node_id, node in prompt.prompt.items() if core_traits(node["class_type"]) is None)
    return Workflow(prompt.prompt, prompt.outputs, types, () if told else prompt.warnings, {**prompt._traits, **editor._traits})


def read_documents(path: str | Path) -> list[Any]:
    """The JSON of a workflow file; of a picture the editor's workflow, then the prompt, as far as they are in it.

    Raises WorkflowError when there is none.
    """
    try:
        with open(path, "rb") as opened:
            huge = os.fstat(opened.fileno()).st_size > MOST_BYTES
            file = opened if opened.seekable() else BytesIO(opened.read(MOST_BYTES + 1))  # a pipe
            found = texts(file)
            file.seek(0)
            raw = b"" if found is not None or huge else file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise WorkflowError(f"{path}: cannot be read as text ({what}); give a workflow saved as .json") from error
    if found is None:
        if huge or len(raw) > MOST_BYTES:
            raise WorkflowError(f"{path}: more than {size(MOST_BYTES)}, which no workflow has; give a workflow saved as .json")
        return [_json(raw, path)]
    documents = [_json(found[keyword].encode(), path) for keyword in ("workflow", "prompt") if found.get(keyword)]
    if not documents:
        raise WorkflowError(f"{path}: a picture without a workflow in it; give one that ComfyUI saved, or a workflow saved as .json")
    return documents


def _json(raw: bytes, path: str | Path) -> Any:
    try:
        text = raw.decode(json.detect_encoding(raw))
    except UnicodeDecodeError as error:
        raise WorkflowError(f"{path}: cannot be read as text ({error.reason}); give a workflow saved as .json") from error
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WorkflowError(f"{path}: not JSON ({error}); save the workflow again from ComfyUI") from error
    level = [data]
    for _ in range(_DEEPEST):
        level = [inner for one in level if isinstance(one, dict | list) for inner in (one.values() if isinstance(one, dict) else one)]
        if not level:
            return data
    raise WorkflowError(f"{path}: its JSON is nested more than {_DEEPEST} deep; save the workflow again from ComfyUI")


def parse_workflow(data: object, name: str = "workflow") -> Workflow:
    """The same from parsed JSON; `name` is its name in errors."""
    if isinstance(data, dict) and isinstance(data.get("nodes"), list):
        return _from_ui(data, name)
    if isinstance(data, dict) and isinstance(data.get("prompt"), dict):
        data = data["prompt"]
    if not isinstance(data, dict) or not data or not any(_is_node(node) for node in data.values()):
        raise WorkflowError(f"{name}: no ComfyUI workflow; in ComfyUI use Save, or Export (API)")
    return _from_api(data, name)


def _is_node(node: object) -> bool:
    return isinstance(node, dict) and isinstance(node.get("class_type"), str)


def _from_api(data: Mapping[str, Any], name: str) -> Workflow:
    prompt: dict[str, dict[str, Any]] = {}
    for node_id, node in data.items():
        if not _is_node(node):
            raise WorkflowError(f"{name}: node {printable(node_id)} has no class_type; export the workflow again with Export (API)")
        inputs = node.get("inputs", {})
        if not isinstance(inputs, dict):
            raise WorkflowError(f"{name}: the inputs of node {printable(node_id)} are no object; export it again with Export (API)")
        prompt[node_id] = {**node, "inputs": inputs}
    traits = _guessed(prompt)
    warnings: tuple[str, ...] = ()
    if traits:
        warnings = (f"{name}: the output types of {', '.join(map(printable, sorted(traits)))} are not known; what they carry is guessed",)
    return Workflow(prompt, _outputs(prompt, traits), {}, warnings, traits)


def _guessed(prompt: Mapping[str, Mapping[str, Any]]) -> dict[str, NodeTraits]:
    """Traits of unknown classes, from the types that known readers of theirs expect; "*" where nobody known does.

    A class of which a node is read by nobody is taken for an output: why else is it there?
    """
    types: dict[str, dict[int, str]] = {}
    read = set()
    for node in prompt.values():
        reader = core_nodes().get(node["class_type"])
        for socket, source, slot in links(node):
            read.add(source)
            if source in prompt and 0 <= slot < _MOST_OUTPUTS:
                kind = reader.sockets.get(socket, "*") if reader is not None else "*"
                slots = types.setdefault(prompt[source]["class_type"], {})
                if slots.get(slot, "*") == "*":
                    slots[slot] = "*" if "," in kind or kind.startswith("COMFY_") else kind
    found = {}
    for class_type in _classes(prompt):
        if core_traits(class_type) is None:
            slots = types.get(class_type, {})
            is_output = any(node["class_type"] == class_type and node_id not in read for node_id, node in prompt.items())
            found[class_type] = NodeTraits(tuple(slots.get(slot, "*") for slot in range(max(slots, default=-1) + 1)), is_output)
    return found


def _from_ui(data: dict[str, Any], name: str) -> Workflow:
    try:
        flat = flatten(data)
    except UiError as error:
        raise WorkflowError(f"{name}: {error}; open it in ComfyUI and save it again") from error
    traits = {
        class_type: NodeTraits(
            next((t for i, t in flat.output_types.items() if flat.prompt[i]["class_type"] == class_type), ()), guess.is_output
        )
        for class_type, guess in _guessed(flat.prompt).items()
    }
    types_that_differ = {
        node_id: types
        for node_id, types in flat.output_types.items()
        if (known := core_traits(flat.prompt[node_id]["class_type"])) is None or types != known.outputs
    }
    warnings = tuple(f"{name}: {warning}" for warning in flat.warnings)
    return Workflow(flat.prompt, _outputs(flat.prompt, traits), types_that_differ, warnings, traits)


def _classes(prompt: Mapping[str, Mapping[str, Any]]) -> set[str]:
    return {node["class_type"] for node in prompt.values()}


def _outputs(prompt: Mapping[str, Mapping[str, Any]], extra: Mapping[str, NodeTraits]) -> list[str]:
    found = []
    for node_id, node in prompt.items():
        traits = core_traits(node["class_type"]) or extra.get(node["class_type"])
        if traits is not None and traits.is_output:
            found.append(node_id)
    return found
