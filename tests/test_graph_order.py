"""In which order nodes will run: the rule of ComfyUI's executor, told in small prompts and checked against a plain restatement of it."""

from __future__ import annotations

from typing import Any

import pytest
from graph_story import live_list
from hypothesis import given, settings
from hypothesis import strategies as st

from residency.graph import NodeTraits, all_lazy, likely, links, predict_order, predict_pending

TRAITS = {
    "Node": NodeTraits(("LATENT",)),
    "Output": NodeTraits(is_output=True),
    "Async": NodeTraits(("LATENT",), is_async=True),
    "Switch": NodeTraits(("*",), lazy=frozenset({"on_true", "on_false"})),
    "PrimitiveBoolean": NodeTraits(("BOOLEAN",)),
}


def node(class_type: str, *sources: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": {f"in{i}": [source, 0] for i, source in enumerate(sources)} | inputs}


def order(prompt: dict[str, Any], *outputs: str, **options: Any) -> list[str]:
    listed = outputs or [node_id for node_id, each in prompt.items() if each["class_type"] == "Output"]
    return predict_order(prompt, listed, TRAITS.get, **options)


def test_inputs_come_before_the_node_and_the_last_input_first() -> None:
    prompt = {"a": node("Node"), "b": node("Node"), "c": node("Node", "a", "b"), "d": node("Node", "c"), "e": node("Output", "d")}
    assert order(prompt) == ["b", "a", "c", "d", "e"]


def test_what_feeds_an_output_soon_goes_before_what_was_added_first() -> None:
    prompt = {
        "far1": node("Node"),
        "far2": node("Node", "far1"),
        "far3": node("Node", "far2"),
        "far": node("Output", "far3"),
        "loader": node("Node"),
        "decode": node("Node", "loader"),
        "near": node("Output", "decode"),
    }
    assert order(prompt) == ["loader", "decode", "near", "far1", "far2", "far3", "far"]


def test_async_nodes_go_first() -> None:
    assert order({"a": node("Node"), "b": node("Async"), "c": node("Output", "b", "a")}) == ["b", "a", "c"]


def test_the_outputs_are_visited_in_the_order_in_which_they_are_queued() -> None:
    prompt = {"a": node("Node"), "b": node("Node"), "x": node("Output", "a"), "y": node("Output", "b")}
    assert order(prompt, "x", "y") == ["a", "x", "b", "y"]
    assert order(prompt, "y", "x") == ["b", "y", "a", "x"]


def test_nodes_that_no_output_needs_do_not_run() -> None:
    assert order({"a": node("Node"), "idle": node("Node", "a"), "c": node("Output", "a")}) == ["a", "c"]


def test_cached_nodes_and_what_only_they_need_do_not_run_but_outputs_do() -> None:
    prompt = {"a": node("Node"), "b": node("Node", "a"), "c": node("Node", "b"), "d": node("Output", "c")}
    assert order(prompt, cached={"a", "b"}) == ["c", "d"]
    assert order(prompt, cached={"a", "b", "c", "d"}) == ["d"]


def test_lazy_inputs_are_left_out_unless_someone_guesses() -> None:
    prompt = {
        "a": node("Node"),
        "b": node("Node"),
        "s": node("Switch", on_true=["a", 0], on_false=["b", 0], switch=True),
        "o": node("Output", "s"),
    }
    assert order(prompt) == ["s", "o"]
    assert order(prompt, wanted=all_lazy) == ["a", "b", "s", "o"]
    assert order(prompt, wanted=likely(prompt.get, TRAITS.get)) == ["a", "s", "o"]


def test_a_switch_is_read_through_primitive_nodes_and_not_through_others() -> None:
    prompt = {
        "a": node("Node"),
        "b": node("Node"),
        "p": node("PrimitiveBoolean", value=False),
        "s": node("Switch", on_true=["a", 0], on_false=["b", 0], switch=["p", 0]),
        "o": node("Output", "s"),
    }
    assert order(prompt, wanted=likely(prompt.get, TRAITS.get)) == ["p", "b", "s", "o"]
    prompt["p"] = node("Node", value=False)
    assert set(order(prompt, wanted=likely(prompt.get, TRAITS.get))) == set(prompt)


def test_a_link_to_nowhere_an_unknown_class_and_a_cycle_do_not_break_it() -> None:
    assert order({"a": node("Mystery", "nowhere"), "b": node("Output", "a")}) == ["a", "b"]
    prompt = {"a": node("Node", "b"), "b": node("Node", "a"), "x": node("Output", "b"), "c": node("Node"), "y": node("Output", "c")}
    assert order(prompt) == ["c", "y"]


def test_ten_thousand_nodes_in_a_row() -> None:
    prompt = {str(number): node("Node", str(number - 1)) for number in range(1, 10_000)} | {"0": node("Node"), "o": node("Output", "9999")}
    assert order(prompt) == [*(str(number) for number in range(10_000)), "o"]


def test_pending_nodes_that_wait_for_a_task_come_last_with_what_waits_for_them() -> None:
    """The executor adds a block from outside to an async node that has started."""
    prompt = {"a": node("Async"), "b": node("Node", "a"), "c": node("Node"), "d": node("Output", "b", "c")}
    found = predict_pending(
        prompt, {"a": 1, "b": 1, "c": 0, "d": 2}, {"a": {"b": {}}, "b": {"d": {}}, "c": {"d": {}}, "d": {}}, prompt.get, TRAITS.get
    )
    assert found == ["c", "a", "b", "d"]


def test_pending_state_is_not_changed() -> None:
    prompt = {"a": node("Node"), "b": node("Output", "a")}
    count, blocking = {"a": 0, "b": 1}, {"a": {"b": {0: True}}, "b": {}}
    assert predict_pending(prompt, count, blocking, prompt.get, TRAITS.get, wanted=all_lazy) == ["a", "b"]
    assert (count, blocking) == ({"a": 0, "b": 1}, {"a": {"b": {0: True}}, "b": {}})


@st.composite
def prompts(draw: st.DrawFn) -> dict[str, Any]:
    ids = draw(st.permutations([str(number) for number in range(draw(st.integers(1, 14)))]))
    made: dict[str, Any] = {}
    for index, node_id in enumerate(ids):
        sources = draw(st.lists(st.sampled_from(ids[:index]), max_size=3)) if index else []
        made[node_id] = node(draw(st.sampled_from(["Node", "Node", "Node", "Output", "Async"])), *sources)
    return {node_id: made[node_id] for node_id in draw(st.permutations(ids))}


def restated(prompt: dict[str, Any], outputs: list[str], cached: set[str]) -> list[str]:
    """ComfyUI's choice (comfy_execution/graph.py), one node at a time and without any cleverness."""
    pending: list[str] = []
    for output in outputs:
        stack = [output]
        while stack:
            node_id = stack.pop()
            if node_id not in pending:
                pending.append(node_id)
                stack += [value[0] for value in prompt[node_id]["inputs"].values() if value[0] not in cached]
    found = []
    while pending:
        feeds = {n: [t for t in pending if [n, 0] in prompt[t]["inputs"].values()] if n not in cached else [] for n in pending}
        ready = [n for n in pending if not any(n in targets for targets in feeds.values())]
        shown = {n for n in pending if prompt[n]["class_type"] == "Output"}
        urgent = [n for n in ready if n in shown or prompt[n]["class_type"] == "Async"]
        near = [n for n in ready if shown.intersection(feeds[n])]
        next_near = [n for n in ready if any(shown.intersection(feeds[t]) for t in feeds[n])]
        chosen = [*urgent, *near, *next_near, *ready][0]
        found.append(chosen)
        pending.remove(chosen)
    return found


@settings(deadline=None)
@given(prompts(), st.data())
def test_the_order_is_the_executors_own(prompt: dict[str, Any], data: st.DataObject) -> None:
    outputs = [node_id for node_id, each in prompt.items() if each["class_type"] == "Output"]
    cached = data.draw(st.sets(st.sampled_from(sorted(prompt))))
    assert order(prompt, *outputs, cached=cached) == restated(prompt, outputs, cached) if outputs else True


@settings(deadline=None)
@given(prompts())
def test_after_each_node_the_pending_order_is_the_rest_of_the_order(prompt: dict[str, Any]) -> None:
    """Nothing happens that the graph did not say: replanning changes nothing."""
    outputs = [node_id for node_id, each in prompt.items() if each["class_type"] == "Output"]
    whole = predict_order(prompt, outputs, TRAITS.get)
    for done in range(len(whole)):
        pending, count, blocking = live_list(prompt, outputs, whole[:done])
        assert predict_pending(pending, count, blocking, prompt.get, TRAITS.get) == whole[done:]


@pytest.mark.parametrize("slot", [float("inf"), float("-inf"), float("nan")])
def test_a_link_to_no_slot_leads_nowhere(slot: float) -> None:
    assert list(links({"class_type": "Any", "inputs": {"a": ["1", slot], "b": ["2", 0]}})) == [("b", "2", 0)]
