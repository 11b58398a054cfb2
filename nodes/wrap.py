"""Wraps ComfyUI's own loaders and computing nodes and adds the memory settings: one mechanism for all that this ComfyUI has.

Which nodes those are is asked from the installed node classes (residency/settings/node_inputs.py has the rule), so that a new loader
appears by itself. A wrapped node asks its core node for inputs, outputs and texts each time ComfyUI asks for the schema, and calls it to
do the work. The values of the added inputs are taken out of the prompt before it is checked (residency/settings/take_out.py).
"""

from __future__ import annotations

import copy
import inspect
import logging
import weakref
from collections.abc import Iterator
from typing import Any, ClassVar

import folder_paths
from comfy_api.latest import io
from comfy_execution.utils import get_executing_context

import nodes as core_nodes

from ..residency.settings import take_out
from ..residency.settings.node_inputs import INPUTS, WIDGET_TYPES, Family, family, wrapped_id
from .inputs import own_input

log = logging.getLogger("residency")

_MARK = "residency: a file of "
_NEWEST = ""  # no node has this id


def wrapped_nodes() -> list[type[io.ComfyNode]]:
    """A V3 node around each core node that loads weights or computes with them. Custom nodes and API nodes are left alone."""
    found = []
    for core_id, core in list(core_nodes.NODE_CLASS_MAPPINGS.items()):
        if getattr(core, "RELATIVE_PYTHON_MODULE", "nodes").split(".")[0] not in ("nodes", "comfy_extras"):
            continue
        try:
            kind = family_of(core)
        except Exception as error:
            log.warning("residency: %s has no wrapped twin: its inputs cannot be read (%s: %s)", core_id, type(error).__name__, error)
            continue
        if kind is not None:
            found.append(wrapped(core_id, core, kind))
            take_out.register(wrapped_id(core_id), kind)
    return found


def family_of(core: Any) -> Family | None:
    """How a core node class is wrapped; None: not at all."""
    inputs = list(_inputs_listing_folders(core))
    sockets = [kind for kind, folders, is_widget in inputs if not is_widget]
    return family(sockets, [str(output) for output in core.RETURN_TYPES or ()], [name for _, folders, _ in inputs for name in folders])


def _inputs_listing_folders(core: Any) -> Iterator[tuple[str, list[str], bool]]:
    """(link type, model folders whose files it lists, whether it is a widget) of each input.

    ComfyUI's own cache of file lists is filled with one made-up name for each folder while the class is asked for its inputs: that also
    finds the folders that are empty here. It is thrown away behind the `with`.
    """
    with folder_paths.cache_helper:
        for name in folder_paths.folder_names_and_paths:
            folder_paths.cache_helper.set(name, ([_MARK + name], {}, 0.0))
        inputs = core.INPUT_TYPES()
    for category in ("required", "optional"):
        for spec in inputs.get(category, {}).values():
            kind, options = spec[0], spec[1] if len(spec) > 1 else {}
            values = kind if isinstance(kind, list | tuple) else options.get("options") or ()
            folders = [value[len(_MARK) :] for value in values if isinstance(value, str) and value.startswith(_MARK)]
            is_widget = not isinstance(kind, str) or (kind in WIDGET_TYPES and not options.get("forceInput"))
            yield str(kind), folders, is_widget


def wrapped(core_id: str, core: Any, kind: Family) -> type[io.ComfyNode]:
    """A V3 node that works as the core node does, with the inputs of its family added."""
    more = {"CORE": core, "CORE_ID": core_id, "FAMILY": kind, "__doc__": f"{core_id} with memory settings."}
    if issubclass(core, io.ComfyNode):
        # a subclass: its own checks, fingerprints and helpers go on working; what ComfyUI has remembered of the core class is forgotten
        remembered = {name: None for name, value in vars(io.ComfyNode.GET_BASE_CLASS()).items() if value is None and name[:1] == "_"}
        execute = _execute_async if inspect.iscoroutinefunction(core.execute) else _execute
        body = {**remembered, **more, "define_schema": classmethod(_v3_schema), "execute": classmethod(execute)}
        return type(wrapped_id(core_id), (core,), body)
    return type(wrapped_id(core_id), (_WrappedV1,), {**more, "_made": {}})


def _title(core_id: str) -> str:
    return f"{core_nodes.NODE_DISPLAY_NAME_MAPPINGS.get(core_id, core_id)} (Residency)"


def _own_inputs(cls: Any) -> list[Any]:
    return [own_input(name) for name in INPUTS[cls.FAMILY]]


def _v3_schema(cls: Any) -> io.Schema:
    schema = copy.copy(cls.CORE.define_schema())
    schema.node_id = wrapped_id(cls.CORE_ID)
    schema.display_name = _title(cls.CORE_ID)
    schema.category = f"residency/{schema.category}"
    schema.inputs = [*(schema.inputs or []), *_own_inputs(cls)]
    return schema


def _execute(cls: Any, **inputs: Any) -> Any:
    return cls.CORE.execute.__func__(cls, **_without_ours(cls, inputs))


async def _execute_async(cls: Any, **inputs: Any) -> Any:
    return await cls.CORE.execute.__func__(cls, **_without_ours(cls, inputs))


def _without_ours(cls: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name not in INPUTS[cls.FAMILY]}


class _WrappedV1(io.ComfyNode):
    """Around a node class of the first generation: INPUT_TYPES, RETURN_TYPES, FUNCTION."""

    CORE: Any = None
    CORE_ID = ""
    FAMILY = Family.LOADER
    _made: ClassVar[dict[str, Any]] = {}  # node id -> weak reference to what ComfyUI made for it; each twin has its own

    @classmethod
    def define_schema(cls) -> io.Schema:
        core = cls.CORE
        inputs = [
            _input(name, spec, optional=category == "optional")
            for category in ("required", "optional")
            for name, spec in core.INPUT_TYPES().get(category, {}).items()
        ]
        count = len(core.RETURN_TYPES)
        outputs = [
            io.Custom(output_type).Output(display_name=name, tooltip=tooltip, is_output_list=is_list)
            for output_type, name, tooltip, is_list in zip(
                core.RETURN_TYPES,
                getattr(core, "RETURN_NAMES", core.RETURN_TYPES),
                getattr(core, "OUTPUT_TOOLTIPS", (None,) * count),
                getattr(core, "OUTPUT_IS_LIST", (False,) * count),
                strict=False,
            )
        ]
        return io.Schema(
            node_id=wrapped_id(cls.CORE_ID),
            display_name=_title(cls.CORE_ID),
            category=f"residency/{core.CATEGORY}",
            description=getattr(core, "DESCRIPTION", ""),
            search_aliases=list(getattr(core, "SEARCH_ALIASES", ())),
            is_input_list=getattr(core, "INPUT_IS_LIST", False),
            is_deprecated=getattr(core, "DEPRECATED", False),
            is_experimental=getattr(core, "EXPERIMENTAL", False),
            inputs=[*inputs, *_own_inputs(cls)],
            outputs=outputs,
        )

    def __init__(self) -> None:
        """ComfyUI makes one of these for each node and keeps it while the node is in the prompt; the core node's object lives as long."""
        super().__init__()
        self.core = self.CORE()
        self._made[_NEWEST] = weakref.ref(self)

    @classmethod
    def execute(cls, **inputs: Any) -> Any:
        result = getattr(cls._core_object(), cls.CORE.FUNCTION)(**_without_ours(cls, inputs))
        return io.NodeOutput.from_dict(result) if isinstance(result, dict) else io.NodeOutput(*result)

    @classmethod
    def _core_object(cls) -> Any:
        """The core node's object of the running node: a LoRA loader holds its last file in it.

        ComfyUI runs nodes of the third generation without their object. It makes a new one just before the node runs for the first time.
        """
        context = get_executing_context()
        node_id = context.node_id if context is not None else _NEWEST
        found = _alive(cls._made, node_id) or _alive(cls._made, _NEWEST)
        for dead in [key for key in cls._made if _alive(cls._made, key) is None]:
            del cls._made[dead]
        if found is None:
            return cls.CORE()
        cls._made[node_id] = weakref.ref(found)
        return found.core


def _alive(made: dict[str, Any], key: str) -> Any:
    reference = made.get(key)
    return None if reference is None else reference()


def _input(name: str, spec: tuple[Any, ...], *, optional: bool) -> Any:
    """One entry of INPUT_TYPES as a V3 input; every option of it is carried over as it is."""
    kind, options = spec[0], dict(spec[1]) if len(spec) > 1 else {}
    if isinstance(kind, list | tuple):
        return io.Combo.Input(name, options=list(kind), optional=optional, extra_dict=options)
    return io.Custom(kind).Input(name, optional=optional, extra_dict=options)
