"""What the executor's live list holds of a drawn prompt, for the tests of the order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def live_list(
    prompt: dict[str, Any], outputs: Iterable[str], done: Sequence[str]
) -> tuple[list[str], dict[str, int], dict[str, dict[str, Any]]]:
    """(pending nodes in the order of their insertion, how many each waits for, whom each holds up) once the nodes of `done` have run."""
    inserted: list[str] = []
    for output in outputs:
        stack = [output]
        while stack:
            node_id = stack.pop()
            if node_id not in inserted:
                inserted.append(node_id)
                stack += [value[0] for value in prompt[node_id]["inputs"].values()]
    pending = [node_id for node_id in inserted if node_id not in done]
    blocking: dict[str, dict[str, Any]] = {n: {t: {} for t in pending if [n, 0] in prompt[t]["inputs"].values()} for n in pending}
    return pending, {n: sum(n in targets for targets in blocking.values()) for n in pending}, blocking
