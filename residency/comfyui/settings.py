"""Which memory mode a prompt runs in, what its nodes ask, and who said so. docs/modes.md has the table.

First that speaks wins: the Residency Mode node of the workflow, the API's extra_data, the workflow's own `extra`, the user's setting, the
environment, auto. What single nodes ask for their components comes before all of these (residency/policies.py).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..component import Mode
from ..node_set import INPUTS, MODE_NODE, Family
from ..policies import NodeAsk
from .hoist import KEY, family_of, known

log = logging.getLogger("residency")

MODE_VARIABLE = "RESIDENCY_MODE"
VERSION = 1  # of the settings in extra_data and in the workflow's extra


@dataclass(frozen=True, slots=True)
class Settings:
    """What one prompt asked for. A budget of None means: what the machine has."""

    mode: Mode
    source: str
    host_budget_bytes: int | None = None
    device_budget_bytes: int | None = None


def parse_mode(value: object) -> Mode | None:
    """The mode named by a string; None for anything that is not one."""
    try:
        return Mode(value)
    except ValueError:
        return None


def standing(environment: Mapping[str, str]) -> Settings:
    """What holds until the user chooses: the environment's mode, else auto."""
    value = environment.get(MODE_VARIABLE)
    mode = None if value is None else parse_mode(value)
    if mode is not None:
        return Settings(mode, f"the environment variable {MODE_VARIABLE}")
    if value is not None:
        log.warning("residency: %s=%r is not a mode; choose one of %s; using auto", MODE_VARIABLE, value, ", ".join(m.value for m in Mode))
    return Settings(Mode.AUTO, "the default")


def of_prompt(prompt: Mapping[str, Any], extra_data: Mapping[str, Any], user: Settings) -> Settings:
    """The settings of one prompt; `user` is what the user chose, or what stands. Mode and budgets each come from the first that names one.

    Unknown values are reported and passed over: a shared workflow never breaks on them.
    """
    chosen = user
    mode_is_open = True
    budgets: dict[str, int | None] = {"host_budget_gib": None, "device_budget_gib": None}
    for source, values in _sources(prompt, extra_data):
        if mode_is_open and "mode" in values:
            mode = parse_mode(values["mode"])
            if mode is None:
                modes = ", ".join(mode.value for mode in Mode)
                log.warning(
                    "residency: %s asks for mode %r, which this version does not know; choose one of %s", source, values["mode"], modes
                )
            else:
                chosen, mode_is_open = Settings(mode, source), False
        for name, found in budgets.items():
            budgets[name] = found or _budget(values, name, source)
    return Settings(
        chosen.mode,
        chosen.source,
        budgets["host_budget_gib"] or user.host_budget_bytes,
        budgets["device_budget_gib"] or user.device_budget_bytes,
    )


def node_asks(prompt: Mapping[str, Any], extra_data: Mapping[str, Any]) -> list[NodeAsk]:
    """What the nodes of the prompt ask, in its order: taken out of their inputs on the way in, or given for any node by a program."""
    ours = extra_data.get(KEY)
    given = ours.get("nodes") if isinstance(ours, Mapping) else None
    asks = []
    for node_id, node in prompt.items():
        class_type = node.get("class_type")
        family = family_of(class_type)
        source = f"node {node_id} ({class_type})"
        inputs = node.get("inputs", {})
        left = {name: inputs[name] for name in INPUTS[family] if not isinstance(inputs.get(name, []), list)} if family else {}
        asked = given.get(node_id) if isinstance(given, Mapping) else None
        values = {**left, **(asked if isinstance(asked, Mapping) else {})}
        checked = {name: value for name, raw in values.items() if (value := known(source, name, raw)) is not None}
        if checked or family is Family.KEEP:
            asks.append(NodeAsk(node_id, str(class_type), family or Family.STEP, checked))
    return asks


def _sources(prompt: Mapping[str, Any], extra_data: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for node_id, node in prompt.items():
        if node.get("class_type") == MODE_NODE:
            yield f"node {node_id} ({MODE_NODE})", node.get("inputs", {})
    workflow = (extra_data.get("extra_pnginfo") or {}).get("workflow") or {}
    for source, place in (("extra_data", extra_data), ("the workflow", workflow.get("extra") or {})):
        values = place.get(KEY)
        if isinstance(values, Mapping):
            version = values.get("version", VERSION)
            if version != VERSION:
                log.warning(
                    "residency: the settings of %s have version %r, this pack knows %d; the rest is passed over", source, version, VERSION
                )
            yield source, values


def _budget(values: Mapping[str, Any], name: str, source: str) -> int | None:
    value = values.get(name)
    if value is None or value == 0:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        return int(value * 2**30)
    log.warning("residency: %s asks for %s %r; a number of GiB above 0 is needed, using what the machine has", source, name, value)
    return None
