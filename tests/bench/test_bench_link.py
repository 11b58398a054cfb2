"""The rate that the pack's copies reached: of a queue, of a scenario, and against the machine's own."""

from __future__ import annotations

from typing import Any

import pytest
from bench_story import GB, MACHINE, copied, ran, results, scenario

from residency.bench import link, markdown
from residency.bench.results import PACK, STOCK, summarise


def told(raw: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = summarise(results(S3=raw))["scenarios"]["S3"]["summary"]
    return found


@pytest.mark.parametrize(
    ("prompts", "rate"),
    [
        ([], None),
        ([{}], None),
        ([copied(0, None)], None),
        ([copied(40 * GB, 50e9)], 50e9),
        ([copied(40 * GB, 50e9), copied(0, None), {}], 50e9),
        ([copied(40 * GB, 20e9), copied(40 * GB, 40e9)], pytest.approx(80e9 / 3)),
        ([copied(40 * GB, 20e9), copied(1, 50e9)], pytest.approx(20e9)),
        ([{link.RATE: 20e9}, {link.RATE: 20e9}], pytest.approx(20e9)),
    ],
)
def test_a_queues_rate_is_all_its_bytes_over_all_its_seconds_of_copying(prompts: list[dict[str, Any]], rate: float | None):
    assert link.rate(prompts) == rate


def test_a_scenarios_rate_is_the_median_of_the_packs_runs_that_copied_and_its_share_that_of_the_link_from_pinned_memory():
    runs = [ran(PACK, 9.0, pack=[copied(20 * GB, rate)]) for rate in (30e9, None, 38e9, 36e9)]
    found = told(scenario(ran(STOCK, 9.0), *runs, ran(PACK, 9.0)))
    assert (found["onload_bytes_per_s"], found["onload_share"]) == (36e9, pytest.approx(0.9))


def test_where_nothing_was_copied_or_there_is_no_device_nothing_is_claimed():
    quiet = told(scenario(ran(STOCK, 9.0), ran(PACK, 9.0, pack=[copied(0, None)])))
    assert (quiet["onload_bytes_per_s"], quiet["onload_share"], link.cell(quiet)) == (None, None, "–")
    elsewhere = told({**scenario(ran(PACK, 9.0, pack=[copied(GB, 8e9)])), "machine": MACHINE})
    assert (elsewhere["onload_share"], link.cell(elsewhere)) == (None, "8.0 GB/s")


@pytest.mark.parametrize(
    ("rates", "line"),
    [
        ({"S3": 36e9}, "90.0% of the pinned rate of its machine; target ≥ 90%: reached"),
        ({"S3": 39e9, "S7": 35.8e9, "S4": None}, "89.5% (S7) to 97.5% of the pinned rate of its machine; target ≥ 90%: missed"),
    ],
)
def test_the_scenario_that_comes_off_worst_decides_and_one_line_says_so(rates: dict[str, float | None], line: str):
    found = summarise(results(**{name: scenario(ran(PACK, 9.0, pack=[copied(20 * GB, rate)])) for name, rate in rates.items()}))
    assert f"\nLink rate reached: {line}.\n" in markdown.section(found)
    assert f"\nlink rate reached: {line}\n" in markdown.terminal(found)


def test_without_a_rate_there_is_no_line():
    assert link.line(summarise(results(S3=scenario(ran(PACK, 9.0))))) is None
