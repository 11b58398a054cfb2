"""The pack as ComfyUI sees it: its nodes, and how it is switched on when it is loaded."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from ..residency.comfyui import lifecycle
from .mode import ResidencyMode
from .policy import ResidencyKeep, ResidencyPolicy, ResidencyPrefetch, ResidencyRelease
from .report import ResidencyReport
from .transformers import NODES as LANGUAGE_NODES
from .transformers import register_folders
from .unfit import tell
from .wrap import wrapped_nodes


class ResidencyExtension(ComfyExtension):
    def __init__(self) -> None:
        self._unfit: Exception | None = NotImplementedError("it calls no on_load")  # as 0.3.75 does not

    async def on_load(self) -> None:
        try:
            lifecycle.load()
            register_folders()
            self._unfit = None
        except Exception as error:  # a ComfyUI whose functions are others: what was begun is taken back
            self._unfit = error
            lifecycle.take_back()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        if self._unfit is not None:
            tell(self._unfit)
            return []
        # ComfyUI's own nodes, comfy_extras included, are registered before any custom node is loaded (nodes.init_extra_nodes)
        own = [ResidencyMode, ResidencyPolicy, ResidencyKeep, ResidencyRelease, ResidencyPrefetch, ResidencyReport]
        return [*own, *LANGUAGE_NODES, *wrapped_nodes()]
