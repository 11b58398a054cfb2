"""What is still to come of a prompt, as stories."""

from __future__ import annotations

from typing import Any

from residency.core.timeline import Timeline, Use, UseKind, Visit
from residency.record.ahead import foreseen


def timeline(*nodes: tuple[str, float]) -> Timeline:
    """(component or "", seconds of computing) of each node of prompt p, and one node of the prompt behind it."""
    visits = tuple(Visit("p", str(index), "Node", compute_s) for index, (_, compute_s) in enumerate(nodes))
    uses = tuple(Use(index, key, UseKind.COMPUTE, True) for index, (key, _) in enumerate(nodes) if key)
    return Timeline((*visits, Visit("behind", "9", "Node", 5.0)), uses)


def ahead(order: Timeline, position: int = 0, ran_s: float | None = None, **missing: int) -> dict[str, Any]:
    return foreseen(order, position, "p", 100.0, ran_s, missing, dict.fromkeys(missing, 10.0))


def spans(found: dict[str, Any]) -> list[tuple[float, float, float]]:
    return [(node["start_s"], node["stall_s"], node["end_s"]) for node in found["nodes"]]


def test_a_node_waits_for_what_is_read_and_what_is_read_behind_it_comes_while_it_computes():
    found = ahead(timeline(("a", 4.0), ("b", 3.0)), a=20, b=50)
    assert spans(found) == [(100.0, 2.0, 106.0), (106.0, 1.0, 110.0)]
    assert [(read["start_s"], read["end_s"], read["needed_s"]) for read in found["reads"]] == [(100.0, 102.0, 100.0), (102.0, 107.0, 106.0)]
    assert found["end_s"] == 110.0


def test_what_runs_has_less_left_and_what_is_there_is_not_read():
    assert spans(ahead(timeline(("a", 4.0), ("b", 3.0)), ran_s=1.0)) == [(100.0, 0.0, 103.0), (103.0, 0.0, 106.0)]


def test_a_component_is_read_once():
    found = ahead(timeline(("a", 1.0), ("b", 1.0), ("a", 1.0)), a=10, b=10)
    assert [read["component"] for read in found["reads"]] == ["a", "b"]


def test_what_nobody_knows_has_no_length_and_says_so():
    found = foreseen(timeline(("a", 0.0), ("b", 3.0)), 0, "p", 0.0, None, {"b": 50}, {})
    assert [node["known"] for node in found["nodes"]] == [False, False]
    assert found["end_s"] == 3.0


def test_the_prompt_behind_is_another_story():
    assert [node["node_id"] for node in ahead(timeline(("a", 1.0)))["nodes"]] == ["0"]
