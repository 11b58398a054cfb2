"""How often a sampler passes over its model, told by the prompt alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .traits import links

MOST = 10_000


def sampler_passes(prompt: Mapping[str, Any], node_id: str) -> int:
    """The `steps` of the node or of the nearest one above it (a scheduler); 1 where none says any."""
    reached, level = {node_id}, [node_id]
    while level:
        for one in level:
            steps = prompt[one]["inputs"].get("steps")
            if isinstance(steps, int) and not isinstance(steps, bool) and 0 < steps <= MOST:
                return steps
        above = dict.fromkeys(source for one in level for _, source, _ in links(prompt[one]))
        level = [source for source in above if source not in reached and source in prompt]
        reached.update(level)
    return 1
