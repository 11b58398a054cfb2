"""The steps of a running node as safe points: what may only happen on the executor thread can happen between them.

Samplers, tiled decoders and upscalers report each step to ComfyUI's progress registry, on the thread that runs the node. The registry is
made anew for each prompt, so the handler is added to it at each prompt's first node.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from comfy_execution.progress import ProgressHandler, get_progress_state

NAME = "residency"


class Steps(ProgressHandler):
    """Calls `on_step(node_id)` at each reported step of a node that runs on the thread that called `watch`."""

    def __init__(self, on_step: Callable[[str], object]) -> None:
        super().__init__(NAME)
        self._on_step = on_step
        self._thread: int | None = None
        self._last: tuple[str, float] | None = None

    def watch(self) -> None:
        """Listen to the running prompt."""
        self._thread, self._last = threading.get_ident(), None
        registry = get_progress_state()
        if NAME not in registry.handlers:
            registry.register_handler(self)

    def forget(self) -> None:
        """Listen no more."""
        self._thread = None

    def update_handler(self, node_id: str, value: float, max_value: float, *args: Any, **kwargs: Any) -> None:
        # the first report can come before anything was computed: the working set is known only after one step
        if threading.get_ident() == self._thread and 1 <= value < max_value and self._last != (node_id, value):
            self._last = node_id, value  # the same value again tells of the node's activity, and of no step
            self._on_step(node_id)
