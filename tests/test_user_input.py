"""Whatever a client sends, no reader of the pack raises, what is used lies within its limits, and a message stays short."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from residency.core.component import Mode
from residency.core.timeline import Timeline, Visit
from residency.settings import take_out
from residency.settings.node_inputs import BY_NAME, Family
from residency.settings.node_policies import policies, with_hints
from residency.settings.prompt import Settings, node_asks, of_prompt, parse_mode, standing
from residency.settings.user import LIMITS, NAMES, UserSettings, parse
from residency.units import SHOWN_CHARACTERS, cut, shown

GIB = 2**30
USER = Settings(Mode.BALANCED, "the user's setting")
OURS = {"ResidencyUNETLoader": Family.LOADER, "ResidencyKSampler": Family.STEP}

numbers = (
    st.integers()
    | st.floats()
    | st.sampled_from([float("inf"), float("-inf"), float("nan"), 1e308, -1e308, 10**400, -(10**400), 2**63, 0, -0.0, 4096, 4096.5, 1e-300])
)
scalars = st.none() | st.booleans() | numbers | st.text(max_size=5) | st.sampled_from([*(mode.value for mode in Mode), "x" * 10_000])
words = st.sampled_from(
    [
        *BY_NAME,
        *NAMES,
        "mode",
        "nodes",
        "residency",
        "extra",
        "extra_pnginfo",
        "workflow",
        "version",
        "host_budget_gib",
        "device_budget_gib",
        "1",
    ]
)
values: st.SearchStrategy[Any] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.text(max_size=3), inner, max_size=4), max_leaves=12
)
classes = st.sampled_from(["ResidencyMode", *OURS, "ResidencyPolicy", "ResidencyKeep", "ResidencyRelease", "UNETLoader"])
ours = st.dictionaries(st.sampled_from([*BY_NAME, "mode", "host_budget_gib", "device_budget_gib"]), values, max_size=4)
nodes = st.fixed_dictionaries({"class_type": classes | values}, optional={"inputs": ours | values}) | values
prompts = st.dictionaries(st.sampled_from(["1", "2", "3", "n" * 10_000]), nodes, max_size=3)
asked = st.fixed_dictionaries(
    {"residency": ours | values | st.fixed_dictionaries({"nodes": st.dictionaries(st.sampled_from("123"), ours)})}
)
in_workflow = st.fixed_dictionaries(
    {"extra_pnginfo": values | st.fixed_dictionaries({"workflow": values | st.fixed_dictionaries({"extra": asked})})}
)
extras = values | asked | in_workflow

whatever = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    monkeypatch.setattr(take_out, "_wrapped", OURS)
    caplog.set_level(logging.WARNING)
    return caplog.records


def short(records: list[logging.LogRecord]) -> bool:
    lines = [record.getMessage() for record in records]
    records.clear()
    return all(len(line) < 700 for line in lines)


@whatever
@given(prompts, extras)
def test_a_prompt_has_a_mode_and_budgets_within_the_limits(told: list[logging.LogRecord], prompt: dict[str, Any], extra_data: Any):
    chosen = of_prompt(prompt, extra_data, USER)
    assert isinstance(chosen.mode, Mode) and len(chosen.source) < 200
    for budget_bytes in (chosen.host_budget_bytes, chosen.device_budget_bytes):
        assert budget_bytes is None or 0 < budget_bytes <= 4096 * GIB
    assert short(told)


@whatever
@given(prompts, extras)
def test_what_nodes_ask_gives_policies(told: list[logging.LogRecord], prompt: dict[str, Any], extra_data: Any):
    asks = node_asks(prompt, extra_data)
    found = policies(asks, {node_id: ["a"] for node_id in prompt}, {"a": GIB, "b": GIB}, "the default")
    assert set(found) == {"a", "b"} and all(-100 <= policy.priority <= 100 and len(policy.source) < 2000 for policy in found.values())
    timeline = Timeline(tuple(Visit("p", node_id, "KSampler") for node_id in prompt), ())
    assert all(0 <= visit.working_set_bytes <= 1024 * GIB for visit in with_hints(timeline, "p", asks).visits)
    assert short(told)


@whatever
@given(st.dictionaries(st.sampled_from(["prompt", "extra_data", "client_id"]), prompts | extras))
def test_a_request_goes_through_and_is_still_json(told: list[logging.LogRecord], request_body: dict[str, Any]):
    before = set(request_body)
    after = take_out.on_prompt(request_body)
    assert after is request_body and before <= set(after) <= before | {"extra_data"}
    json.dumps(after)
    assert short(told)


@whatever
@given(values | st.dictionaries(st.sampled_from([*NAMES, "version"]), values))
def test_settings_are_within_their_limits_or_refused_in_one_short_sentence(sent: Any):
    found = parse(sent)
    if isinstance(found, UserSettings):
        assert all(low <= getattr(found, name) <= high for name, (low, high, _) in LIMITS.items())
    else:
        assert 0 < len(found) < 400 and "\n" not in found


@whatever
@given(values)
def test_a_mode_is_one_of_the_modes_or_none(told: list[logging.LogRecord], value: Any):
    assert parse_mode(value) is None or value in {mode.value for mode in Mode}
    assert isinstance(standing({"RESIDENCY_MODE": str(value)}).mode, Mode) and short(told)


@whatever
@given(values)
def test_an_input_of_ours_is_within_its_limits_or_says_nothing(told: list[logging.LogRecord], value: Any):
    for name in [*BY_NAME, "from a newer version", "x" * 10_000]:
        take_out.known("node 1", name, value)
    assert short(told)


@whatever
@given(values)
def test_a_message_shows_a_few_dozen_characters_of_a_value(value: Any):
    assert 0 < len(shown(value)) <= SHOWN_CHARACTERS


def test_a_value_as_deep_or_as_long_as_a_body_may_be_is_cut():
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert shown("x" * 50_000_000).startswith("'xxx") and len(shown(deep)) < 20 and "digits" in shown(10**5000)
    assert (shown("warp"), shown(-3), shown(["auto"])) == ("'warp'", "-3", "['auto']")
    assert cut("a" * 70).count("a") == SHOWN_CHARACTERS - 3
    assert parse_mode(deep) is None and isinstance(parse({"mode": deep}), str)
