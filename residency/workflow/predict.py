"""A workflow file as the pack would act on it, told without ComfyUI: order of nodes, their components, bytes, and the unknown."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from ..core.component import Component
from ..core.timeline import Timeline, Use, UseKind, Visit
from ..graph import NODE_OPERATIONS, OPERATIONS, Allowance, computes, is_handle, is_link, likely, links, predict_order
from ..settings.node_inputs import core_inputs
from ..weights.components import DATA_TYPES, LANGUAGE_MODEL, components_of_node
from .core_nodes import core_nodes
from .extra_paths import ExtraFolder
from .file import Workflow
from .model_folder import ModelFolder, names_weights

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")  # as the Hugging Face hub names them
_SUBGRAPH = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_OFF = ("on", "enabled", "active")  # what rows of a list widget call their switch


class Why(Enum):
    """Why something counts as nothing in a plan."""

    MISSING = "missing"  # a value that names weights which are in no model folder
    UNUSABLE = "unusable"  # a file that is there and cannot be read as weights
    FOLDER = "folder"  # a value that looks like a folder of weights, or a repository that a node downloads
    LOADER = "loader"  # a node that must load something, of a class that nobody knows, and no value of it names weights
    CLASS = "class"  # any other node of a class that nobody knows: no value of it names weights, and no link brings it any
    CIRCLE = "circle"  # nodes that read from one another: ComfyUI refuses to run them


@dataclass(frozen=True, slots=True)
class NotUnderstood:
    """One thing that a plan leaves out: `value` of these nodes, which are of one class; `may_mean` is for people."""

    why: Why
    class_type: str
    node_ids: tuple[str, ...]
    value: str
    may_mean: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """`missing` lists (node id, class, file name) of weights that are in no model folder, `named` every weights file that widgets name.

    All but `named` is about the nodes that will run.
    """

    timeline: Timeline
    components: Mapping[str, Component]
    missing: tuple[tuple[str, str, str], ...]
    warnings: tuple[str, ...]
    not_understood: tuple[NotUnderstood, ...] = ()
    named: frozenset[str] = frozenset()

    @property
    def says_nothing(self) -> bool:
        """Whether not one component is known, though there are some."""
        return not self.components and any(one.why is not Why.CLASS for one in self.not_understood)

    @property
    def reads_nothing(self) -> bool:
        """Whether no node names weights, as in a workflow of nodes that have a service compute."""
        return not self.components and not self.says_nothing


def predict(
    workflow: Workflow,
    models: Path,
    reads_at: UseKind,
    prompt_id: str = "predicted",
    sizes: Mapping[str, int] | None = None,
    extra: Sequence[ExtraFolder] = (),
) -> Prediction:
    """The timeline of a workflow. `reads_at` is LOAD with ComfyUI's legacy patcher, COMPUTE under dynamic VRAM.

    `sizes` are bytes by file name for weights that are not there; each such file is one component. Raises AllowanceError for a graph that
    takes longer than any that people draw.
    """
    wanted = likely(workflow.prompt.get, workflow.traits)
    outputs = workflow.outputs or _ends(workflow)
    allowance = Allowance(OPERATIONS + NODE_OPERATIONS * len(workflow.prompt))
    order = predict_order(workflow.prompt, outputs, workflow.traits, wanted=wanted, allowance=allowance)
    runs = set(order)
    reader = _Reader(workflow, ModelFolder(models, sizes or {}, extra))
    if not workflow.outputs:
        reader.warnings.append("no node saves or shows anything, so ComfyUI would refuse it; planned as if its last nodes did")
    for node_id in workflow.prompt:
        reader.read(node_id, node_id in runs)
    for node_id in outputs:
        if node_id not in runs:
            class_type = workflow.prompt[node_id]["class_type"]
            reader.note(Why.CIRCLE, class_type, node_id, "", "it waits for nodes that read from one another in a circle")
    components, loads = reader.components, reader.loads
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
    return Prediction(
        Timeline.of(visits, uses),
        components,
        tuple(reader.missing),
        (*workflow.warnings, *reader.warnings),
        reader.not_understood(),
        frozenset(reader.named),
    )


class _Reader:
    """Finds the loads of node after node."""

    def __init__(self, workflow: Workflow, folder: ModelFolder) -> None:
        self._workflow = workflow
        self._folder = folder
        self._diffusion_models = _declared_models(workflow, folder.sizes)
        self._notes: dict[tuple[Why, str, str], tuple[list[str], str]] = {}
        self.components: dict[str, Component] = {}
        self.loads: dict[str, tuple[tuple[str, str | None], ...]] = {}
        self.missing: list[tuple[str, str, str]] = []
        self.warnings: list[str] = []
        self.named: set[str] = set()

    def read(self, node_id: str, runs: bool) -> None:
        """One node; of a node that does not run only the names are kept."""
        node = self._workflow.prompt[node_id]
        class_type = node["class_type"]
        types = _types(self._workflow, node_id)
        core = core_nodes().get(class_type)
        search = self._folder.search(core.folders if core is not None else None)
        inputs = core_inputs(class_type, node["inputs"])
        inner = {name: value for name, value in _inner(inputs) if names_weights(value) or value in self._folder.sizes}
        inputs = {**inputs, **inner}
        found = components_of_node(class_type, inputs, types, search.resolve)
        self.named.update(search.named)
        if not runs:
            return
        carried = found.components + _declared(node, types, search.declared, self._diffusion_models)
        self.components.update((component.key, component) for component, _ in carried)
        self.loads[node_id] = tuple((component.key, kind) for component, kind in carried)
        self.missing += [(node_id, class_type, name) for name in search.missing]
        self.warnings += [f"node {node_id}: {warning}" for warning in found.warnings]
        for name in search.missing:
            self.note(Why.MISSING, class_type, node_id, name, "weights that are in no model folder and have no size given")
        for warning in found.warnings:
            self.note(Why.UNUSABLE, class_type, node_id, warning, "weights that cannot be read")
        if core is None and not search.named:
            self._unknown(node_id, node, types, inputs)

    def _unknown(self, node_id: str, node: Mapping[str, Any], types: Sequence[str], inputs: Mapping[str, Any]) -> None:
        """A node of a class that nobody knows, of which no value names weights. One that models are linked to computes with those."""
        class_type = node["class_type"]
        gives = tuple(dict.fromkeys(kind for kind in types if is_handle(kind)))
        sources = [(source, slot) for _, source, slot in links(node)]
        loader = bool(gives) and not sources
        repositories = [value for value in inputs.values() if isinstance(value, str) and _REPOSITORY.fullmatch(value)] if loader else []
        for value in repositories:
            self.note(Why.FOLDER, class_type, node_id, value, f"a folder of weights, or a repository to download; it gives {gives[0]}")
        if _SUBGRAPH.fullmatch(class_type):
            self.note(Why.LOADER, class_type, node_id, "", "a subgraph whose definition is not in the file")
        elif loader and not repositories:
            means = f"a loader: it gives {', '.join(gives)}, and none of its values names a file of weights"
            self.note(Why.LOADER, class_type, node_id, "", means)
        elif not repositories and not any(is_handle(self._type(source, slot)) for source, slot in sources):
            self.note(Why.CLASS, class_type, node_id, "", "a class that this version does not know; it may load weights of its own")

    def _type(self, node_id: str, slot: int) -> str:
        """The link type of an output; that of plain data where nobody knows."""
        types = _types(self._workflow, node_id) if node_id in self._workflow.prompt else ()
        return types[slot] if slot < len(types) else "*"

    def note(self, why: Why, class_type: str, node_id: str, value: str, may_mean: str) -> None:
        """One more thing that is not understood; nodes of one class that have it in common count once."""
        nodes, _ = self._notes.setdefault((why, class_type, value), ([], may_mean))
        nodes += [node_id] if node_id and node_id not in nodes else []

    def not_understood(self) -> tuple[NotUnderstood, ...]:
        return tuple(
            NotUnderstood(why, class_type, tuple(nodes), value, may_mean)
            for (why, class_type, value), (nodes, may_mean) in self._notes.items()
        )


def _ends(workflow: Workflow) -> list[str]:
    """The nodes that nobody reads from; all where each is read."""
    read = {source for node in workflow.prompt.values() for _, source, _ in links(node)}
    return [node_id for node_id in workflow.prompt if node_id not in read] or list(workflow.prompt)


def _inner(inputs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, text) of everything inside lists and objects among the inputs, as widgets with rows save them; rows that are off left out."""
    stack = [(name, value) for name, value in inputs.items() if isinstance(value, dict | list) and not is_link(value)][::-1]
    while stack:
        name, value = stack.pop()
        if isinstance(value, str):
            yield name, value
        elif isinstance(value, list):
            stack += [(f"{name}.{index}", one) for index, one in enumerate(value)][::-1]
        elif isinstance(value, dict) and all(value.get(switch, True) for switch in _OFF):
            stack += [(f"{name}.{key}", one) for key, one in value.items()][::-1]


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
    node: Mapping[str, Any], types: Sequence[str], sizes: Mapping[str, int], diffusion_models: Collection[str]
) -> tuple[tuple[Component, str | None], ...]:
    """The components that a node would load from files that are only known by name and size, by the same rules as from real ones.

    A size tells no parts: a file that holds a diffusion model counts as that, and other parts taken from it as nothing. Else all of it
    would be read for the first node that needs a sliver.
    """
    handles = tuple(dict.fromkeys(kind for kind in types if kind not in DATA_TYPES))
    linked = {name for name, _, _ in links(node)}
    patches = any(kind.lower() in linked for kind in handles)  # takes what it gives: a LoRA, not a loader
    found: list[tuple[Component, str | None]] = []
    for name, size_bytes in sizes.items():
        carriers = tuple(kind for kind in handles if kind == "MODEL" or name not in diffusion_models)
        if handles and not carriers:
            continue
        kind = "LORA" if patches else carriers[0] if carriers else "WEIGHTS"
        component = Component(f"{name} (declared)", Path(name).stem, kind, size_bytes)
        found += [(component, carrier) for carrier in carriers] or [(component, None)]
    return tuple(found)
