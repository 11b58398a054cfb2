"""In which order nodes will run: the rule of ComfyUI's executor, told in small prompts and checked against a plain restatement of it."""

from __future__ import annotations

from typing import Any

import pytest
from graph_story import SlowExecutor, live_list
from hypothesis import given, settings
from hypothesis import strategies as st

from residency.graph import (
    Allowance,
    AllowanceError,
    Grouping,
    NodeTraits,
    all_lazy,
    likely,
    links,
    predict_order,
    predict_pending,
    predict_turns,
)

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
def prompts(draw: st.DrawFn, size: int = 14) -> dict[str, Any]:
    ids = draw(st.permutations([str(number) for number in range(draw(st.integers(1, size)))]))
    made: dict[str, Any] = {}
    for index, node_id in enumerate(ids):
        sources = draw(st.lists(st.sampled_from(ids[:index]), max_size=3)) if index else []
        made[node_id] = node(draw(st.sampled_from(["Node", "Node", "Node", "Output", "Async"])), *sources)
    return {node_id: made[node_id] for node_id in draw(st.permutations(ids))}


LAZY = frozenset({"on_true", "on_false"})
SIZES = {"a": 6, "b": 6, "c": 3, "d": 1}


@st.composite
def lazy_prompts(draw: st.DrawFn, size: int = 14) -> dict[str, Any]:
    """Prompts with switches: lazy inputs that a constant, another node or nobody decides."""
    prompt = draw(prompts(size))
    ids = list(prompt)
    drawn = sorted(draw(st.sets(st.sampled_from(ids))))
    for node_id in drawn:
        sources = [value[0] for value in prompt[node_id]["inputs"].values()]
        earlier = [one for one in ids if one not in drawn and not reaches(prompt, one, node_id)]
        branches = draw(st.lists(st.sampled_from(earlier + sources), max_size=2)) if earlier + sources else []
        lazy = {name: [source, 0] for name, source in zip(sorted(LAZY), branches, strict=False)}
        choice = draw(st.sampled_from([True, False, None]))
        prompt[node_id] = node("Switch", *sources, **lazy, **({} if choice is None else {"switch": choice}))
        if any(reaches(prompt, source, node_id) for source in branches):
            prompt[node_id] = node("Switch", *sources)  # no cycles
    return prompt


def reaches(prompt: dict[str, Any], node_id: str, target: str) -> bool:
    """Whether a node depends on another."""
    stack, seen = [node_id], set()
    while stack:
        one = stack.pop()
        if one == target:
            return True
        if one not in seen:
            seen.add(one)
            stack += [value[0] for value in prompt[one]["inputs"].values() if isinstance(value, list)]
    return False


def listed(prompt: dict[str, Any]) -> list[str]:
    return [node_id for node_id, each in prompt.items() if each["class_type"] == "Output"]


def wishes(prompt: dict[str, Any], data: st.DataObject) -> Any:
    return data.draw(st.sampled_from([None, all_lazy, likely(prompt.get, TRAITS.get)]))


def groupings(prompt: dict[str, Any], data: st.DataObject) -> Grouping | None:
    """Components for some nodes, of which a small device holds a few at a time; or ComfyUI's own rule."""
    keys = st.lists(st.sampled_from(sorted(SIZES)), max_size=2, unique=True)
    computes = {node_id: tuple(data.draw(keys)) for node_id in prompt}
    limit = data.draw(st.sampled_from([None, 0, 4, 7, 10, 20]))
    return None if limit is None else Grouping(computes, SIZES.__getitem__, limit)


@settings(deadline=None, max_examples=300)
@given(lazy_prompts(), st.data())
def test_the_order_is_the_executors_own(prompt: dict[str, Any], data: st.DataObject) -> None:
    """Whatever is lazy, cached or grouped: the heap takes what looking through the whole list at each choice takes."""
    cached, wanted, grouping = data.draw(st.sets(st.sampled_from(sorted(prompt)))), wishes(prompt, data), groupings(prompt, data)
    slow = SlowExecutor(prompt, TRAITS.get, cached, grouping)
    for output in listed(prompt):
        slow.add(output)
    assert predict_order(prompt, listed(prompt), TRAITS.get, cached, wanted, grouping) == slow.run(wanted)


@settings(deadline=None, max_examples=300)
@given(lazy_prompts(), st.data())
def test_from_any_moment_on_the_turns_are_the_executors_own(prompt: dict[str, Any], data: st.DataObject) -> None:
    """A live list with nodes that wait for tasks, and what lazy nodes still ask for: each turn, and what it waits for."""
    wanted, grouping = wishes(prompt, data), groupings(prompt, data)
    slow = SlowExecutor(prompt, TRAITS.get, grouping=grouping)
    for output in listed(prompt):
        slow.add(output)
    slow.run(steps=data.draw(st.integers(0, len(prompt))))
    slow.outside = data.draw(st.sets(st.sampled_from(sorted(prompt)))) & set(slow.pending)
    count = {node_id: len(slow.waits[node_id]) + (node_id in slow.outside) for node_id in slow.pending}
    blocking = {node_id: dict.fromkeys(slow.fed_by(node_id)) for node_id in slow.pending}
    before = len(slow.turns)
    found = predict_turns(slow.pending[:], count, blocking, prompt.get, TRAITS.get, set(slow.done), wanted, slow.grouping)
    slow.run(wanted)
    assert found == slow.turns[before:]


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_prediction_takes_operations_in_proportion_to_nodes_and_links(data: st.DataObject) -> None:
    prompt = data.draw(lazy_prompts(40))
    wanted, grouping, allowance = wishes(prompt, data), groupings(prompt, data), Allowance()
    predict_order(prompt, listed(prompt), TRAITS.get, wanted=wanted, grouping=grouping, allowance=allowance)
    size = len(prompt) + sum(isinstance(value, list) for each in prompt.values() for value in each["inputs"].values())
    assert allowance.spent <= MOST_OPERATIONS * size


def shape(name: str, count: int) -> dict[str, Any]:
    """About `count` nodes of one shape."""
    return {"o": node("Output", "n0")} | GRAPHS[name](count)


def switches(count: int) -> dict[str, Any]:
    """Independent ones, each with two branches and an output of its own."""
    made: dict[str, Any] = {"n0": node("PrimitiveBoolean", value=True)}
    for i in range(count // 4):
        made |= {
            f"t{i}": node("Node"),
            f"f{i}": node("Node"),
            f"s{i}": node("Switch", on_true=[f"t{i}", 0], on_false=[f"f{i}", 0], switch=["n0", 0]),
        }
        made[f"o{i}"] = node("Output", f"s{i}")
    return made


def chained(class_type: str, name: str, count: int) -> dict[str, Any]:
    made = {f"n{i}": node(class_type, **{name: [f"n{i + 1}", 0]}) for i in range(count)}
    return made | {f"n{count}": node("Node")}


GRAPHS = {
    "chain": lambda count: chained("Node", "in0", count),
    "deep lazy chain": lambda count: chained("Switch", "on_true", count),
    "independent switches": switches,
    "wide": lambda count: {"n0": node("Node", *[f"w{i}" for i in range(count)])} | {f"w{i}": node("Node") for i in range(count)},
    "many outputs": lambda count: {"n0": node("Node")} | {f"o{i}": node("Output", "n0") for i in range(count)},
    "a fan behind one feeder": lambda count: (
        {f"w{i}": node("Node", "n0") for i in range(count)}
        | {"n0": node("Node")}
        | {f"o{i}": node("Output", f"w{i}") for i in range(count)}
    ),
}
MOST_OPERATIONS = 16


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("wanted", [None, all_lazy])
@pytest.mark.parametrize("grouped", [False, True])
def test_twice_the_nodes_take_twice_the_operations_and_not_more(name: str, wanted: Any, grouped: bool) -> None:
    spent = []
    for count in (500, 1000, 2000):
        prompt, allowance = shape(name, count), Allowance()
        computes = {node_id: (f"model {node_id}", "base") for node_id in prompt}
        grouping = Grouping(computes, lambda key: 1, count // 4) if grouped else None
        found = predict_order(prompt, listed(prompt), TRAITS.get, wanted=wanted, grouping=grouping, allowance=allowance)
        assert found
        spent.append(allowance.spent)
    assert spent[2] <= 2.1 * spent[1] <= 2.1 * 2.1 * spent[0]


def test_a_prediction_that_takes_more_than_it_may_ends_and_says_so() -> None:
    prompt = switches(100)
    needed = Allowance()
    predict_order(prompt, listed(prompt), TRAITS.get, wanted=all_lazy, allowance=needed)
    predict_order(prompt, listed(prompt), TRAITS.get, wanted=all_lazy, allowance=Allowance(needed.spent))
    with pytest.raises(AllowanceError, match=f"{needed.spent} operations"):
        predict_order(prompt, listed(prompt), TRAITS.get, wanted=all_lazy, allowance=Allowance(needed.spent - 1))


def test_a_node_that_asks_for_lazy_inputs_has_a_turn_for_it_and_one_that_has_asked_has_not() -> None:
    prompt = {"a": node("Node"), "b": node("Node"), "s": node("Switch", on_true=["a", 0], on_false=["b", 0]), "o": node("Output", "s")}
    live = (["o", "s"], {"o": 1, "s": 0}, {"s": {"o": {}}, "o": {}}, prompt.get, TRAITS.get)
    assert predict_turns(*live, wanted=all_lazy) == [("s", 2), ("a", None), ("b", None), ("s", None), ("o", None)]
    assert predict_turns(*live, wanted=all_lazy, asked=["s"]) == [("s", None), ("o", None)]
    assert predict_turns(*live, wanted=all_lazy, cached={"a", "b"}) == [("s", 0), ("s", None), ("o", None)]


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
