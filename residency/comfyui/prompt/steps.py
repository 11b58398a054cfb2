"""The steps of a running node as safe points: work that belongs on the executor thread can be done between them.

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
    """Of a node that runs on the thread that called `watch`: calls `on_end(steps)` when so many have ended, `on_step(node_id)` between two.

    ComfyUI reports the first step and the last one of a node, and others at most every 0.1 s (unless they have a preview): shorter ones
    come together.
    """

    def __init__(self, on_step: Callable[[str], object], on_end: Callable[[int], object]) -> None:
        super().__init__(NAME)
        self._on_step, self._on_end = on_step, on_end
        self._thread: int | None = None
        self._reported: tuple[str, float] = "", 0.0
        self._left: tuple[str, int | None] = "", None

    def watch(self) -> None:
        """Listen to the running prompt."""
        self._thread, self._reported, self._left = threading.get_ident(), ("", 0.0), ("", None)
        registry = get_progress_state()
        if NAME not in registry.handlers:
            registry.register_handler(self)

    def forget(self) -> None:
        """Listen no more."""
        self._thread = None

    def left(self, node_id: str) -> int | None:
        """Steps that the node has announced and not done; None where it has reported none, or has begun to count again: the count to come
        is not known then."""
        told_by, left = self._left
        return left if told_by == node_id else None

    def update_handler(self, node_id: str, value: float, max_value: float, *args: Any, **kwargs: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        (node_before, value_before), self._reported = self._reported, (node_id, value)
        if node_id != self._left[0]:
            self._left = node_id, max(0, int(max_value - value))
        elif value < value_before:
            self._left = node_id, None
        elif self._left[1] is not None:
            self._left = node_id, max(0, int(max_value - value))
        ended = value - value_before if node_id == node_before and value >= value_before else value
        # the first report can come before anything was computed: the working set is known only after one step; and newer versions of
        # ComfyUI report an unchanged value, which is no step
        if value >= 1 and ended > 0:
            self._on_end(max(1, int(ended)))
            if value < max_value:
                self._on_step(node_id)
