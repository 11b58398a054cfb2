"""Residency Mode: the memory mode and budgets of a whole workflow, as a node that travels in its JSON."""

from __future__ import annotations

from comfy_api.latest import io

from ..residency.comfyui.settings import MODE_NODE
from ..residency.component import Mode


class ResidencyMode(io.ComfyNode):
    """Needs no connection: the host reads it from the prompt before anything runs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
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
                    tooltip="auto: chosen from what fits, the reason is shown in the panel. high-vram: keep everything. "
                    "balanced: models leave when room is needed. low-vram: a model leaves after its last use. off: stock ComfyUI.",
                ),
                io.Float.Input(
                    "host_budget_gib",
                    default=0.0,
                    min=0.0,
                    max=4096.0,
                    step=0.5,
                    optional=True,
                    advanced=True,
                    tooltip="The most RAM, in GiB, that files may be read ahead into; 0 means what the machine has.",
                ),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, mode: str, host_budget_gib: float = 0.0) -> io.NodeOutput:
        return io.NodeOutput()
