"""The pack in a ComfyUI that it does not fit: loaded, silent but for one line, without nodes, hooks and routes."""

from __future__ import annotations

import logging

from comfy_api.latest import ComfyExtension, io

log = logging.getLogger("residency")

OLDEST = "0.26"


def version() -> str:
    try:
        from comfyui_version import __version__
    except ImportError:
        return "of an unknown version"
    return str(__version__)


def tell(error: BaseException) -> None:
    what = f"{type(error).__name__}: {error}"
    log.warning("residency: off with this ComfyUI (%s), nothing was changed: %s; the oldest that works is %s", version(), what, OLDEST)


class Unfit(ComfyExtension):
    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        tell(self._error)  # 0.3.75 never calls on_load
        return []
