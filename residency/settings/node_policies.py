"""The wishes of single nodes for their components, and which of them is heard. docs/modes.md has the table.

A policy node that a component flows through speaks before the loader that reads it, the loader before a step that computes with it; among
equals the first in the prompt. Each of mode, strategy and priority is decided by itself; prefetch is off when any of them says so. A
component for which no node asks is decided by the mode of the whole prompt, and then `Policy.source` names who chose that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..core.component import Mode, Policy, Strategy
from ..core.timeline import Timeline
from ..units import cut
from .node_inputs import INHERIT, KEEP_GIB, Family, Value

_SPEAKS = (Family.POLICY, Family.LOADER, Family.STEP)


def node_source(node_id: object, class_type: object) -> str:
    """A node as messages name it; both come from whoever sent the prompt."""
    return f"node {cut(str(node_id))} ({cut(str(class_type))})"


@dataclass(frozen=True, slots=True)
class NodeAsk:
    """The wishes of one node, by the name of the input. A node of ComfyUI's own, for which a program asks, ranks with the steps."""

    node_id: str
    class_type: str
    family: Family
    values: Mapping[str, Value]

    @property
    def source(self) -> str:
        """Who asks, for people."""
        return node_source(self.node_id, self.class_type)


def policies(
    asks: Iterable[NodeAsk], node_components: Mapping[str, Iterable[str]], sizes: Mapping[str, int], whole: str
) -> dict[str, Policy]:
    """The policy of each component of a prompt.

    `node_components` says which components each node loads, computes with or hands on; `sizes` has the bytes of all components in the
    order of their first use; `whole` names who chose the mode of the prompt.
    """
    asks = sorted(asks, key=lambda ask: _SPEAKS.index(ask.family) if ask.family in _SPEAKS else len(_SPEAKS))
    by_component: dict[str, list[NodeAsk]] = {key: [] for key in sizes}
    for ask in asks:
        if ask.family in _SPEAKS:
            for key in node_components.get(ask.node_id, ()):
                by_component.setdefault(key, []).append(ask)
    found = {key: _policy(heard, whole) for key, heard in by_component.items()}
    for ask in asks:
        if ask.family is Family.KEEP:
            for key in _kept(ask, node_components, sizes):
                found[key] = replace(found[key], keep=True, source=f"{found[key].source}; kept by {ask.source}")
    return found


def with_hints(timeline: Timeline, prompt_id: str, asks: Iterable[NodeAsk]) -> Timeline:
    """The timeline with the working sets that steps of this prompt name instead of the expected ones."""
    hints = {ask.node_id: int(float(ask.values["working_set_gib"]) * 2**30) for ask in asks if ask.values.get("working_set_gib")}
    if not hints:
        return timeline
    visits = tuple(
        replace(visit, working_set_bytes=hints[visit.node_id]) if visit.prompt_id == prompt_id and visit.node_id in hints else visit
        for visit in timeline.visits
    )
    return replace(timeline, visits=visits)


def _policy(heard: list[NodeAsk], whole: str) -> Policy:
    policy = Policy(source=whole)
    sources: dict[str, str] = {}
    for ask in reversed(heard):  # the last word is that of the first
        said: dict[str, Any] = {}
        if ask.values.get("memory_mode", INHERIT) != INHERIT:
            said["mode"] = Mode(ask.values["memory_mode"])
        if ask.values.get("strategy", "auto") != "auto":
            said["strategy"] = Strategy(ask.values["strategy"])
        if ask.values.get("priority"):
            said["priority"] = int(ask.values["priority"])
        if ask.values.get("prefetch") is False:
            said["prefetch"] = False
        policy = replace(policy, **said)
        sources.update(dict.fromkeys(said, ask.source))
    if sources:
        told = [f"{name} by {source}" for name, source in sorted(sources.items())]
        if not sources.keys() & {"mode", "strategy"}:
            told.append(f"mode by {whole}")
        single = len(set(sources.values())) == 1 and sources.keys() & {"mode", "strategy"}
        policy = replace(policy, source=next(iter(sources.values())) if single else ", ".join(told))
    return policy


def _kept(ask: NodeAsk, node_components: Mapping[str, Iterable[str]], sizes: Mapping[str, int]) -> list[str]:
    """The components that fit into the node's limit, taken in the order of their first use; of the whole prompt where nothing flows in."""
    flowing = frozenset(node_components.get(ask.node_id, ()))
    left_bytes = int(float(ask.values.get("keep_gib", KEEP_GIB.default)) * 2**30)
    kept = []
    for key, size_bytes in sizes.items():
        if (not flowing or key in flowing) and size_bytes <= left_bytes:
            left_bytes -= size_bytes
            kept.append(key)
    return kept
