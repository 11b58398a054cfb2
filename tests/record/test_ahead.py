"""What is still to come of a prompt, as stories."""

from __future__ import annotations

from typing import Any

from residency.core.timeline import Timeline, Use, UseKind, Visit
from residency.record.ahead import foreseen
from residency.record.node_times import Running


def timeline(*nodes: tuple[str, float]) -> Timeline:
    """(component or "", seconds of computing) of each node of prompt p, and one node of the prompt behind it."""
    visits = tuple(Visit("p", str(index), "Node", compute_s) for index, (_, compute_s) in enumerate(nodes))
    uses = tuple(Use(index, key, UseKind.COMPUTE, True) for index, (key, _) in enumerate(nodes) if key)
    return Timeline((*visits, Visit("behind", "9", "Node", 5.0)), uses)


SURE = dict.fromkeys("012", 0.0)


def ahead(order: Timeline, running: Running | None = None, margins_s: dict[str, float] = SURE, **missing: int) -> dict[str, Any]:
    return foreseen(order, 0, "p", 100.0, running, missing, dict.fromkeys(missing, 10.0), margins_s)


def ends(order: Timeline, running: Running | None, margins_s: dict[str, float]) -> tuple[float, float, float]:
    """Seconds to the earliest, the likeliest and the latest end."""
    found = ahead(order, running, margins_s)
    return found["low_s"] - 100.0, found["end_s"] - 100.0, found["high_s"] - 100.0


def spans(found: dict[str, Any]) -> list[tuple[float, float, float]]:
    return [(node["start_s"], node["stall_s"], node["end_s"]) for node in found["nodes"]]


def test_a_node_waits_for_what_is_read_and_what_is_read_behind_it_comes_while_it_computes():
    found = ahead(timeline(("a", 4.0), ("b", 3.0)), a=20, b=50)
    assert spans(found) == [(100.0, 2.0, 106.0), (106.0, 1.0, 110.0)]
    assert [(read["start_s"], read["end_s"], read["needed_s"]) for read in found["reads"]] == [(100.0, 102.0, 100.0), (102.0, 107.0, 106.0)]
    assert found["end_s"] == 110.0


def test_what_runs_has_less_left_and_what_is_there_is_not_read():
    assert spans(ahead(timeline(("a", 4.0), ("b", 3.0)), Running(1.0))) == [(100.0, 0.0, 103.0), (103.0, 0.0, 106.0)]


def test_a_component_is_read_once():
    found = ahead(timeline(("a", 1.0), ("b", 1.0), ("a", 1.0)), a=10, b=10)
    assert [read["component"] for read in found["reads"]] == ["a", "b"]


def test_what_nobody_knows_has_no_length_and_says_so():
    found = foreseen(timeline(("a", 2.0), ("b", 3.0)), 0, "p", 0.0, None, {"b": 50}, {}, {"1": 0.0})
    assert [node["unknown"] for node in found["nodes"]] == ["new", "drive"]
    assert found["end_s"] == 3.0, "runs of another size say nothing"


def test_the_end_is_told_as_surely_as_the_same_work_has_run_before():
    order = timeline(("", 4.0), ("", 3.0))
    assert ends(order, None, {"0": 1.0, "1": 0.5}) == (5.5, 7.0, 8.5)
    assert ends(order, Running(4.5), {"0": 1.0, "1": 0.5}) == (2.5, 3.0, 4.0)
    assert [node["unknown"] for node in ahead(order, Running(5.5), {"0": 1.0, "1": 0.5})["nodes"]] == ["longer", None]


def test_a_node_that_was_over_before_it_could_be_timed_takes_no_time_again_until_it_does():
    order = timeline(("", 4.0), ("", 0.0))
    assert ends(order, None, {"0": 1.0, "1": 0.0}) == (3.0, 4.0, 5.0)
    assert [node["unknown"] for node in ahead(order, None, {"0": 1.0, "1": 0.0})["nodes"]] == [None, None]
    assert [node["unknown"] for node in ahead(timeline(("", 0.0)), Running(0.1), {"0": 0.0})["nodes"]] == ["longer"]


def test_the_steps_so_far_tell_what_no_earlier_run_can():
    order = timeline(("", 0.8))
    assert ends(order, Running(5.0, [1.0, 1.5, 1.0], 0.5, 10), {}) == (9.5, 9.5, 14.5)
    # one step alone may be an odd one, and a node that does not say how many there are is not asked
    for running in (Running(5.0, [1.0], 0.5, 10), Running(5.0, [1.0, 1.5, 1.0], 0.5, None)):
        assert ahead(order, running, {})["nodes"][0]["unknown"] == "new"


def test_steps_correct_an_earlier_run_and_do_not_forget_what_it_knows_to_come_behind_them():
    order = timeline(("", 20.0))
    assert ends(order, Running(5.0, [1.0, 1.0], 0.0, 3), {"0": 1.0}) == (3.0, 3.0, 15.0)


def test_the_prompt_behind_is_another_story():
    assert [node["node_id"] for node in ahead(timeline(("a", 1.0)))["nodes"]] == ["0"]
