"""Residency Mode: the memory mode and budgets of a whole workflow, as a node that travels in its JSON."""

from __future__ import annotations

from comfy_api.latest import io

from ..residency.comfyui import lifecycle
from ..residency.core.component import Mode
from ..residency.settings.node_inputs import BUDGET_GIB, MODE_NODE

_LARGEST_GIB = BUDGET_GIB.high


class ResidencyMode(io.ComfyNode):
    """Needs no connection: the host reads it from the prompt before anything runs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        budget = {"default": 0.0, "min": 0.0, "max": _LARGEST_GIB, "step": 0.5, "optional": True, "advanced": True}
        return io.Schema(
            node_id=MODE_NODE,
            display_name="Residency Mode",
            category="residency",
            description="Sets how this workflow's models are placed in memory. Put it anywhere; it needs no connection.",
            search_aliases=["memory mode", "low vram", "offload", "prefetch", "vram"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "mode",
                    options=[mode.value for mode in Mode],
                    default=Mode.AUTO.value,
                    optional=True,  # a mode from a newer version of the pack is taken out on the way in: the prompt must stay whole
                    tooltip="auto: chosen from what fits, the reason is shown in the panel. high-vram: keep everything. "
                    "balanced: models leave when room is needed. low-vram: a model leaves after its last use. off: stock ComfyUI.",
                ),
                io.Float.Input(
                    "host_budget_gib",
                    tooltip="The most RAM, in GiB, that files may be read ahead into; 0 means what the machine has.",
                    **budget,
                ),
                io.Float.Input(
                    "device_budget_gib",
                    tooltip="The most device memory, in GiB, that weights may take; 0 means what the device has.",
                    **budget,
                ),
            ],
            outputs=[],
        )

    @classmethod
    def validate_inputs(cls, host_budget_gib: float | None = None, device_budget_gib: float | None = None) -> bool | str:
        host_budget_gib, device_budget_gib = host_budget_gib or 0.0, device_budget_gib or 0.0  # None: it comes over a link
        host_gib, device_gib = (size and size / 2**30 for size in lifecycle.memory_bytes())
        if not 0 <= host_budget_gib <= host_gib:
            has = f"this machine has {host_gib:.1f} GiB of RAM; choose 0 to {host_gib:.1f}"
            return f"Residency Mode: host_budget_gib is {host_budget_gib:g}, {has}"
        if device_gib is not None and not 0 <= device_budget_gib <= device_gib:
            has = f"the device has {device_gib:.1f} GiB; choose 0 to {device_gib:.1f}"
            return f"Residency Mode: device_budget_gib is {device_budget_gib:g}, {has}"
        if not 0 <= device_budget_gib <= _LARGEST_GIB:
            return f"Residency Mode: device_budget_gib is {device_budget_gib:g}; choose 0 (what the device has) to {_LARGEST_GIB:g}"
        return True

    @classmethod
    def execute(cls, **_: object) -> io.NodeOutput:
        return io.NodeOutput()
