"""Which memory mode a prompt runs in, and who said so.

Precedence, first that speaks wins: the Residency Mode node of the workflow, the API's extra_data, the workflow's own `extra`, the
user's setting. One node's own setting overrides the mode for the components that this node loads or computes with.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..component import Mode

log = logging.getLogger("residency")

MODE_NODE = "ResidencyMode"
NODE_INPUT = "memory_mode"  # the input that our wrapped loaders and samplers add
INHERIT = "workflow"  # the value of that input that says nothing
KEY = "residency"  # in extra_data and in the workflow's extra


@dataclass(frozen=True, slots=True)
class Settings:
    """What one prompt asked for. `host_budget_bytes` None means: what the machine has."""

    mode: Mode
    source: str
    host_budget_bytes: int | None = None


def parse_mode(value: object) -> Mode | None:
    """The mode named by a string; None for anything that is not one."""
    try:
        return Mode(value)
    except ValueError:
        return None


def of_prompt(prompt: Mapping[str, Any], extra_data: Mapping[str, Any], user: Settings) -> Settings:
    """The settings of one prompt. Unknown values are reported and passed over: a shared workflow never breaks on them."""
    for source, values in _sources(prompt, extra_data):
        mode = parse_mode(values.get("mode"))
        if mode is None:
            log.warning(
                "residency: %s asks for mode %r, which this version does not know; choose one of %s",
                source,
                values.get("mode"),
                ", ".join(mode.value for mode in Mode),
            )
            continue
        return Settings(mode, source, _budget(values, source) or user.host_budget_bytes)
    return user


def node_modes(prompt: Mapping[str, Any]) -> dict[str, Mode]:
    """The mode that single nodes ask for, by node id."""
    modes = {}
    for node_id, node in prompt.items():
        value = node.get("inputs", {}).get(NODE_INPUT)
        if isinstance(value, str) and value != INHERIT:
            mode = parse_mode(value)
            if mode is not None:
                modes[node_id] = mode
    return modes


def _sources(prompt: Mapping[str, Any], extra_data: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for node_id, node in prompt.items():
        if node.get("class_type") == MODE_NODE:
            yield f"node {node_id}", node.get("inputs", {})
    workflow = (extra_data.get("extra_pnginfo") or {}).get("workflow") or {}
    for source, place in (("extra_data", extra_data), ("the workflow", workflow.get("extra") or {})):
        values = place.get(KEY)
        if isinstance(values, Mapping) and "mode" in values:
            yield source, values


def _budget(values: Mapping[str, Any], source: str) -> int | None:
    value = values.get("host_budget_gib")
    if value is None or value == 0:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
        return int(value * 2**30)
    log.warning("residency: %s asks for host_budget_gib %r; a number of GiB above 0 is needed, using what the machine has", source, value)
    return None
