"""What a recorded run would have taken under other terms: the simulator against itself, and what is not known is said not to be known."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from residency.core.component import Mode
from residency.simulate.machine import GIB
from residency.simulate.policies import OURS_DEVICE, OURS_EXCHANGING, STOCK
from residency.simulate.recorded import Recorded, Unknown, recorded
from residency.simulate.run import run
from residency.simulate.scenarios import Scenario, both_sides, scenarios
from residency.simulate.what_if import Installed, assessed

MACHINE = Installed(48 * GIB, 24 * GIB)
SCENARIOS = {scenario.name: scenario for scenario in scenarios()}


def told(scenario: Scenario, prompt: int = 0) -> dict[str, Any]:
    """The trace of one prompt of a run, as a browser would get it; a simulated run tells no steps, so they are added."""
    trace = json.loads(json.dumps(run(scenario.program, scenario.machine, OURS_DEVICE).traces[prompt].as_dict()))
    for node, step in zip(trace["nodes"], scenario.program.prompts[prompt], strict=True):
        node["steps"] = [[step.compute_s, 0.0, step.passes]]
    return trace


def seconds(found: dict[str, Any], what: str) -> float:
    return next(one["seconds"] for one in found["what_if"] if one["what"] == what)


@pytest.mark.parametrize("name", ["S1", "S1-24", "S2", "S3b-cold"])
def test_what_comfyui_alone_takes_from_a_cold_start_lies_in_the_range_that_is_told(name: str):
    scenario = SCENARIOS[name]
    stock_s = run(scenario.program, scenario.machine, STOCK).prompts_s[0]

    alone = assessed(told(scenario), MACHINE)["alone"]

    assert alone["low_s"] - 0.01 <= stock_s <= alone["high_s"] + 0.01


def test_where_nothing_is_read_comfyui_alone_takes_as_long_and_that_is_said_without_doubt():
    scenario = SCENARIOS["S4"]
    trace = told(scenario, 2)
    alone = assessed(trace, MACHINE)["alone"]
    assert alone["sure"] == "about"
    assert alone["low_s"] == pytest.approx(trace["duration_s"], abs=0.05) == alone["high_s"]


def test_more_ram_helps_where_it_is_short_and_nothing_helps_where_all_of_it_fits():
    short, ample = assessed(told(SCENARIOS["S2"]), MACHINE), assessed(told(SCENARIOS["S4"]), MACHINE)
    assert seconds(short, "ram") < 0.6 * short["what_if"][0]["instead_s"]
    assert seconds(short, "drive") < 0.9 * short["what_if"][0]["instead_s"]
    assert all(one["seconds"] >= 0.99 * one["instead_s"] for one in ample["what_if"])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"outcome": "error"}, Unknown.FAILED),
        ({"began": None}, Unknown.OLD),
        ({"dropped_records": 1}, Unknown.LONG),
        ({"stall_reason": "another pack"}, Unknown.WAITING),
        ({"duration_s": 100.0}, Unknown.MODEL),
    ],
)
def test_what_cannot_be_known_is_not_said(change: dict[str, Any], why: Unknown):
    trace = {**told(SCENARIOS["S1"]), **change}
    if "duration_s" in change:  # every node computed longer than the machine's rates explain
        trace["nodes"][-1]["stall_s"] += 60.0
        trace["nodes"][-1]["end_s"] += 60.0
    found = assessed(trace, MACHINE)
    assert (found["alone"], found["unknown"], found["what_if"]) == (None, why.value, [])


@pytest.mark.parametrize(
    ("change", "why"),
    [({"cached_bytes": None}, Unknown.CACHE), ({"read_bytes_per_s": {}}, Unknown.DRIVE), ({"onload_bytes_per_s": None}, Unknown.LINK)],
)
def test_a_rate_that_nobody_has_measured_is_not_made_up(change: dict[str, Any], why: Unknown):
    trace = told(SCENARIOS["S1"])
    trace["began"] |= change
    trace["transfers"] = []
    assert assessed(trace, MACHINE)["unknown"] == why.value


def test_the_rate_of_a_drive_is_the_one_that_this_run_has_seen():
    trace = told(SCENARIOS["S1"])
    for one in trace["transfers"]:
        one["read_bytes"] = one["moved_bytes"]
    slow = SCENARIOS["S1"].machine.drives[0].read_bytes_per_s / 10
    trace["began"]["read_bytes_per_s"] = dict.fromkeys(trace["began"]["read_bytes_per_s"], slow)
    assert assessed(trace, MACHINE)["alone"]["high_s"] == pytest.approx(65.5, rel=0.05)


def test_files_on_one_drive_whose_rates_differ_in_their_last_digits_are_on_one_drive():
    trace = told(SCENARIOS["S1"])
    trace["transfers"] = []  # which tell this run's own rate
    rates = trace["began"]["read_bytes_per_s"]
    trace["began"]["read_bytes_per_s"] = {key: rate * (1 + 1e-12 * number) for number, (key, rate) in enumerate(rates.items())}

    found = recorded(trace, 1.0)

    assert isinstance(found, Recorded)
    assert len(found.machine.drives) == 1


def test_a_mode_that_auto_has_found_is_simulated_as_auto():
    """Asked for, low-vram gives each expert back when its node has ended, and reads it again where one copy of each is kept."""
    (scenario,) = [one for one in both_sides() if one.name == "Wan"]
    ran = run(
        replace(scenario.program, prompts=scenario.program.prompts[:1] * 3), scenario.machine, replace(OURS_EXCHANGING, mode=Mode.AUTO)
    )
    trace = json.loads(json.dumps(ran.traces[-1].as_dict()))
    for node, step in zip(trace["nodes"], scenario.program.prompts[0], strict=True):
        node["steps"] = [[step.compute_s, 0.0, step.passes]]
    assert (trace["mode"], trace["mode_asked"], trace["copies"]) == ("low-vram", "auto", "one")

    found = assessed(trace, MACHINE)

    assert found["what_if"][0]["instead_s"] == pytest.approx(ran.prompts_s[-1], rel=0.25)


def test_a_prompt_of_the_same_start_is_as_long_as_the_one_that_was_recorded():
    """The start is carried over: without it a warm prompt would seem to read everything."""
    scenario = replace(SCENARIOS["S3b"], program=replace(SCENARIOS["S3b"].program, noise=0.0))
    found = assessed(told(scenario, 2), MACHINE)
    assert found["alone"]["high_s"] < 1.2 * found["what_if"][0]["instead_s"]
