"""Policy, Keep, Release, Prefetch: say something about one component where it flows by, and hand the very same object on.

Policy and Keep are read from the graph before anything runs. Release and Prefetch act when they run; a run that ComfyUI answers from its
cache runs none of them, and loads nothing either.
"""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from comfy_execution.utils import get_executing_context

from ..residency.comfyui import lifecycle
from ..residency.settings.node_inputs import INPUTS, KEEP_NODE, POLICY_NODE, PREFETCH_NODE, RELEASE_NODE, Family
from .inputs import own_input

_COMPONENT = "What this is about: a MODEL, CLIP, VAE, ControlNet, … Without it: what comes in at value."


def _schema(node_id: str, family: Family, name: str, description: str, aliases: list[str], *, needs_value: bool, aside: bool) -> io.Schema:
    same = io.MatchType.Template("value")
    inputs: list[Any] = [io.MatchType.Input("value", template=same, optional=not needs_value, tooltip="Handed on as it is.")]
    if aside:
        inputs.append(io.AnyType.Input("component", optional=True, tooltip=_COMPONENT))
    return io.Schema(
        node_id=node_id,
        display_name=f"Residency {name}",
        category="residency",
        description=description,
        search_aliases=aliases,
        inputs=[*inputs, *(own_input(own) for own in INPUTS[family])],
        outputs=[io.MatchType.Output(template=same, id="out", display_name="value")],
    )


class ResidencyPolicy(io.ComfyNode):
    """How the models that flow through it are placed; it overrules their loader's settings."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        text = "Says how the model that flows through it is placed in memory. It overrules the loader and the workflow."
        aliases = ["memory mode", "offload", "priority", "strategy"]
        return _schema(POLICY_NODE, Family.POLICY, "Policy", text, aliases, needs_value=True, aside=False)

    @classmethod
    def execute(cls, value: Any, **_: Any) -> io.NodeOutput:
        return io.NodeOutput(value)


class ResidencyKeep(io.ComfyNode):
    """Keeps models in RAM across prompts and workflows, up to a limit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        text = (
            "Keeps what flows through it in RAM when the prompt has ended, for the next one. With nothing connected: all models of the "
            "workflow, in the order of their use, up to the limit."
        )
        return _schema(KEEP_NODE, Family.KEEP, "Keep", text, ["warm", "cache models", "pin"], needs_value=False, aside=False)

    @classmethod
    def execute(cls, value: Any = None, **_: Any) -> io.NodeOutput:
        return io.NodeOutput(value)


class ResidencyRelease(io.ComfyNode):
    """Gives a model's memory back at this point of the workflow."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        text = (
            "Gives memory back here: put it between two steps (value) and connect the model that is no longer needed (component). It is "
            "loaded again if something needs it later."
        )
        aliases = ["unload", "free memory", "evict", "purge vram", "clear"]
        return _schema(RELEASE_NODE, Family.RELEASE, "Release", text, aliases, needs_value=True, aside=True)

    @classmethod
    def execute(cls, value: Any, component: Any = None, where: str | None = None) -> io.NodeOutput:
        lifecycle.release(_node_id(), value if component is None else component, where)
        return io.NodeOutput(value)


class ResidencyPrefetch(io.ComfyNode):
    """Asks for a model at this point of the workflow, ahead of its turn."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        text = (
            "Asks for a model here, ahead of its turn: put it between two steps (value) and connect the model (component). A hint: what "
            "does not fit into the memory budget is not read."
        )
        return _schema(PREFETCH_NODE, Family.PREFETCH, "Prefetch", text, ["preload", "warm up", "load early"], needs_value=True, aside=True)

    @classmethod
    def execute(cls, value: Any, component: Any = None) -> io.NodeOutput:
        lifecycle.prefetch(_node_id(), value if component is None else component)
        return io.NodeOutput(value)


def _node_id() -> str:
    context = get_executing_context()
    return context.node_id if context is not None else ""
