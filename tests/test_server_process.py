"""A queue as its client hears it: what counts as a prompt's end, and what is an error."""

from __future__ import annotations

from typing import Any

import pytest

from residency.installation.server_process import Event, Ran, ServerError, follow


def said(now_s: float, kind: str, prompt_id: str = "p", **data: Any) -> Event:
    return now_s, kind, {"prompt_id": prompt_id, **data}


def heard(*events: Event) -> dict[str, Ran]:
    """The prompts that the events name, as they were followed to the last event."""
    ran = {one: Ran(one) for one in sorted({data["prompt_id"] for _, _, data in events if "prompt_id" in data})}
    left = iter(events)
    follow(left, ran, lambda: "the log")
    assert next(left, None) is None
    return ran


def test_a_prompt_and_its_last_node_end_with_its_success_and_not_with_the_collection_behind_it():
    ran = heard(
        said(0.1, "execution_start"),
        said(0.2, "executing", node="4"),
        said(1.0, "executing", node="6"),
        said(9.0, "progress"),
        said(9.5, "execution_success"),
        said(9.8, "executing", node=None),
    )["p"]
    assert ran.nodes == [("4", 0.2, 1.0), ("6", 1.0, 9.5)]
    assert (ran.end_s, ran.free_s) == (9.5, 9.8)


def test_each_prompt_of_a_queue_has_its_own_end_and_the_queue_is_over_when_the_server_is_done_with_all():
    ran = heard(
        said(0.1, "executing", "a", node="6"),
        said(2.0, "execution_success", "a"),
        said(2.3, "executing", "a", node=None),
        said(2.4, "executing", "b", node="6"),
        said(4.0, "execution_success", "b"),
        said(4.3, "executing", "b", node=None),
    )
    assert {name: (one.nodes, one.end_s) for name, one in ran.items()} == {"a": ([("6", 0.1, 2.0)], 2.0), "b": ([("6", 2.4, 4.0)], 4.0)}


def test_a_prompt_that_was_cached_whole_ends_with_its_success_and_has_no_nodes():
    ran = heard(said(0.1, "execution_cached", nodes=["4", "6"]), said(0.2, "execution_success"), said(0.3, "executing", node=None))["p"]
    assert (ran.nodes, ran.end_s) == ([], 0.2)


def test_what_belongs_to_no_prompt_of_the_queue_is_not_heard():
    ran = {"p": Ran("p")}
    others = [said(0.1, "execution_error", "other"), (0.2, "status", {}), said(0.3, "executing", "other", node=None)]
    follow([*others, said(0.4, "execution_success"), said(0.5, "executing", node=None)], ran, lambda: "")
    assert (ran["p"].nodes, ran["p"].end_s) == ([], 0.4)


@pytest.mark.parametrize(
    ("last", "told"),
    [
        (said(1.0, "execution_error", node_type="KSampler", node_id="6", exception_message="no room"), "KSampler 6 failed: no room"),
        (said(1.0, "execution_interrupted", node_type="KSampler", node_id="6"), "KSampler 6 failed: execution_interrupted"),
        (said(1.0, "executing", node=None), "over without execution_success"),
    ],
)
def test_a_prompt_that_does_not_succeed_is_an_error_with_the_end_of_the_log(last: Event, told: str):
    with pytest.raises(ServerError, match=rf"(?s){told}.*the log"):
        heard(said(0.2, "executing", node="6"), last)
