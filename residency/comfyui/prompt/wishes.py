"""The wishes of nodes while they run: a Release node gives a model up, a Prefetch node asks for one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ...core.events import PrefetchAsked, ReleaseAsked
from ...runtime import Runtime
from ...settings.node_inputs import DEVICE, DEVICE_AND_HOST
from ..device.models import Models
from .running import RunningPrompt

log = logging.getLogger("residency")


class Wishes:
    """Of the running prompt, which `current()` gives; none are followed where that is None. On the executor's thread.

    `guard(function, *arguments)` calls it, and answers for its errors.
    """

    def __init__(self, runtime: Runtime, models: Models, current: Callable[[], RunningPrompt | None], guard: Callable[..., object]) -> None:
        self._runtime, self._models, self._current, self._guard = runtime, models, current, guard

    def release(self, node_id: str, value: Any, where: str | None) -> None:
        """Give up the component behind `value`. `where` None: as the prompt says. Does nothing while the pack is off."""
        self._guard(self._release, node_id, value, where)

    def _release(self, node_id: str, value: Any, where: str | None) -> None:
        prompt = self._current()
        if prompt is not None:
            asked = where or prompt.value(node_id, "where", DEVICE)
            for key in self._components_behind(prompt, node_id, value):
                self._runtime.tell(ReleaseAsked(self._runtime.clock(), key, asked == DEVICE_AND_HOST, f"node {node_id} releases it"))
            self._runtime.safe_point()

    def prefetch(self, node_id: str, value: Any) -> None:
        """Ask for the component behind `value` now. Does nothing while the pack is off."""
        self._guard(self._prefetch, node_id, value)

    def _prefetch(self, node_id: str, value: Any) -> None:
        prompt = self._current()
        if prompt is not None:
            for key in self._components_behind(prompt, node_id, value):
                self._runtime.tell(PrefetchAsked(self._runtime.clock(), key, f"node {node_id} asks for it"))

    def _components_behind(self, prompt: RunningPrompt, node_id: str, value: Any) -> tuple[str, ...]:
        key = self._models.key_of(value)
        if key is not None:
            return (key,)
        found = tuple(sorted(prompt.graph.node_components.get(node_id, ()))) if prompt.graph is not None else ()
        if not found:
            log.warning("residency: node %s is given nothing that was read from a model file: connect a model, a CLIP or a VAE", node_id)
        return found
