"""The memory mode that a prompt runs in, the wishes of its nodes, and who said so. docs/modes.md has the table.

First that speaks wins: the Residency Mode node of the workflow, the API's extra_data, the workflow's own `extra`, the user's setting, the
environment, auto. The wishes of single nodes for their components come before all of these (residency/settings/node_policies.py).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..core.component import Mode
from ..units import shown
from .node_inputs import BUDGET_GIB, INPUTS, MODE_NODE, Family
from .node_policies import NodeAsk, node_source
from .take_out import KEY, family_of, known, mapping

log = logging.getLogger("residency")

MODES = tuple(mode.value for mode in Mode)
MODE_VARIABLE = "RESIDENCY_MODE"
VERSION = 1  # of the settings in extra_data and in the workflow's extra


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one prompt. A budget of None: all that the machine has."""

    mode: Mode
    source: str
    host_budget_bytes: int | None = None
    device_budget_bytes: int | None = None


def parse_mode(value: object) -> Mode | None:
    """The mode named by a string; None for anything that is not one."""
    return Mode(value) if isinstance(value, str) and value in MODES else None


DEFAULT = "the default"  # who has set a mode that nobody has set


def standing(environment: Mapping[str, str]) -> Settings:
    """The settings until the user chooses: the environment's mode, else auto."""
    value = environment.get(MODE_VARIABLE)
    mode = None if value is None else parse_mode(value)
    if mode is not None:
        return Settings(mode, f"the environment variable {MODE_VARIABLE}")
    if value is not None:
        log.warning("residency: %s=%s is not a mode; choose one of %s; using auto", MODE_VARIABLE, shown(value), ", ".join(MODES))
    return Settings(Mode.AUTO, DEFAULT)


def of_prompt(prompt: Mapping[str, Any], extra_data: object, user: Settings) -> Settings:
    """The settings of one prompt; `user` is the user's choice, or the one that stands. Mode and budgets each come from the first that names
    one.

    `extra_data` comes from a client, of any shape. Unknown values are reported and passed over: a shared workflow never breaks on them.
    """
    chosen = user
    mode_is_open = True
    budgets: dict[str, int | None] = {"host_budget_gib": None, "device_budget_gib": None}
    for source, values in _sources(prompt, extra_data):
        if mode_is_open and "mode" in values:
            mode = parse_mode(values["mode"])
            if mode is None:
                told = source, shown(values["mode"]), ", ".join(MODES)
                log.warning("residency: %s asks for mode %s, which this version does not know; choose one of %s", *told)
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


def node_asks(prompt: Mapping[str, Any], extra_data: object) -> list[NodeAsk]:
    """The wishes of the prompt's nodes, in its order: taken out of their inputs on the way in, or given for any node by a program."""
    given = mapping(mapping(mapping(extra_data).get(KEY)).get("nodes"))
    asks = []
    for node_id, node in prompt.items():
        class_type = mapping(node).get("class_type")
        family = family_of(class_type)
        if family is None and node_id not in given:
            continue
        source = node_source(node_id, class_type)
        inputs = mapping(mapping(node).get("inputs"))
        left = {name: inputs[name] for name in INPUTS[family] if not isinstance(inputs.get(name, []), list)} if family else {}
        values = {**left, **mapping(given.get(node_id))}
        checked = {name: value for name, raw in values.items() if (value := known(source, name, raw)) is not None}
        if checked or family is Family.KEEP:
            asks.append(NodeAsk(node_id, str(class_type), family or Family.STEP, checked))
    return asks


def _sources(prompt: Mapping[str, Any], extra_data: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for node_id, node in prompt.items():
        if mapping(node).get("class_type") == MODE_NODE:
            yield node_source(node_id, MODE_NODE), mapping(mapping(node).get("inputs"))
    workflow = mapping(mapping(mapping(extra_data).get("extra_pnginfo")).get("workflow"))
    for source, place in (("extra_data", mapping(extra_data)), ("the workflow", mapping(workflow.get("extra")))):
        values = place.get(KEY)
        if isinstance(values, Mapping):
            version = values.get("version", VERSION)
            if version != VERSION:
                told = source, shown(version), VERSION
                log.warning("residency: the settings of %s have version %s, this pack knows %d; the rest is passed over", *told)
            yield source, values
        elif values is not None:
            log.warning('residency: %s has %s for %s; send an object, like {"mode": "auto"}', source, shown(values), KEY)


def _budget(values: Mapping[str, Any], name: str, source: str) -> int | None:
    value = values.get(name)
    if value is None:
        return None
    try:
        return int(BUDGET_GIB.parse(value) * 2**30) or None
    except ValueError:
        told = source, name, shown(value), BUDGET_GIB.high
        log.warning("residency: %s asks for %s %s; choose a number of GiB from 0 to %g; using what the machine has", *told)
        return None
