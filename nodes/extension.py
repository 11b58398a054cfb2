"""The pack as ComfyUI sees it: its nodes, and what is switched on when it is loaded."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from ..residency.comfyui import lifecycle
from .mode import ResidencyMode
from .report import ResidencyReport
from .transformers import NODES as LANGUAGE_NODES
from .transformers import register_folders
from .wrap import wrapped

WRAPPED = (
    "UNETLoader",
    "CLIPLoader",
    "DualCLIPLoader",
    "VAELoader",
    "CheckpointLoaderSimple",
    "KSampler",
)


class ResidencyExtension(ComfyExtension):
    async def on_load(self) -> None:
        register_folders()
        lifecycle.load()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        found = (wrapped(core_id) for core_id in WRAPPED)
        return [ResidencyMode, ResidencyReport, *LANGUAGE_NODES, *(node for node in found if node is not None)]
