"""Wraps a node of ComfyUI's own and adds the memory setting: `wrapped("UNETLoader")` is all that one more node needs.

The wrapped node asks the core node for its inputs, outputs and texts each time ComfyUI asks for the schema, so that a new option
appears by itself, and calls the core node to do the work. The host reads the memory setting from the prompt, before anything runs.
"""

from __future__ import annotations

import copy
from typing import Any

from comfy_api.latest import io

import nodes as core_nodes

from ..residency.comfyui.settings import INHERIT, NODE_INPUT
from ..residency.component import Mode

PREFIX = "Residency"

MEMORY_MODES = [INHERIT, *(mode.value for mode in Mode if mode is not Mode.OFF)]


def memory_mode_input() -> io.Combo.Input:
    """The setting that every wrapped node carries; it travels in the workflow JSON like any widget value."""
    return io.Combo.Input(
        NODE_INPUT,
        options=MEMORY_MODES,
        default=INHERIT,
        optional=True,
        advanced=True,
        tooltip="How the weights of this node are placed. 'workflow' follows the Residency Mode node or your settings; 'low-vram' drops "
        "the weights after their last use; 'high-vram' keeps them; 'balanced' lets them leave when room is needed.",
    )


def wrapped(core_id: str) -> type[io.ComfyNode] | None:
    """A V3 node that does what the core node `core_id` does; None when this ComfyUI has no such node."""
    core = core_nodes.NODE_CLASS_MAPPINGS.get(core_id)
    if core is None:
        return None
    base = _WrappedV3 if isinstance(core, type) and issubclass(core, io.ComfyNode) else _WrappedV1
    return type(f"{PREFIX}{core_id}", (base,), {"CORE": core, "CORE_ID": core_id, "__doc__": f"{core_id} with a memory setting."})


class _Wrapped(io.ComfyNode):
    CORE: Any = None
    CORE_ID = ""

    @classmethod
    def _title(cls) -> str:
        return f"{core_nodes.NODE_DISPLAY_NAME_MAPPINGS.get(cls.CORE_ID, cls.CORE_ID)} (Residency)"


class _WrappedV1(_Wrapped):
    """Around a node class of the first generation: INPUT_TYPES, RETURN_TYPES, FUNCTION."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        core = cls.CORE
        inputs = [
            _input(name, spec, optional=category == "optional")
            for category in ("required", "optional")
            for name, spec in core.INPUT_TYPES().get(category, {}).items()
        ]
        names = getattr(core, "RETURN_NAMES", core.RETURN_TYPES)
        tooltips = getattr(core, "OUTPUT_TOOLTIPS", (None,) * len(core.RETURN_TYPES))
        outputs = [
            io.Custom(output_type).Output(display_name=name, tooltip=tooltip)
            for output_type, name, tooltip in zip(core.RETURN_TYPES, names, tooltips, strict=False)
        ]
        return io.Schema(
            node_id=f"{PREFIX}{cls.CORE_ID}",
            display_name=cls._title(),
            category=f"residency/{core.CATEGORY}",
            description=getattr(core, "DESCRIPTION", ""),
            inputs=[*inputs, memory_mode_input()],
            outputs=outputs,
        )

    @classmethod
    def execute(cls, memory_mode: str = INHERIT, **inputs: Any) -> io.NodeOutput:
        return io.NodeOutput(*getattr(cls.CORE(), cls.CORE.FUNCTION)(**inputs))


class _WrappedV3(_Wrapped):
    """Around a node class of the third generation: its schema, with one more input."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        schema = copy.copy(cls.CORE.define_schema())
        schema.node_id = f"{PREFIX}{cls.CORE_ID}"
        schema.display_name = cls._title()
        schema.category = f"residency/{schema.category}"
        schema.inputs = [*(schema.inputs or []), memory_mode_input()]
        return schema

    @classmethod
    def execute(cls, memory_mode: str = INHERIT, **inputs: Any) -> Any:
        return cls.CORE.EXECUTE_NORMALIZED(**inputs)


def _input(name: str, spec: tuple[Any, ...], *, optional: bool) -> Any:
    """One entry of INPUT_TYPES as a V3 input; every option of it is carried over as it is."""
    kind, options = spec[0], dict(spec[1]) if len(spec) > 1 else {}
    if isinstance(kind, list | tuple):
        return io.Combo.Input(name, options=list(kind), optional=optional, extra_dict=options)
    return io.Custom(kind).Input(name, optional=optional, extra_dict=options)
