"""Which ready node runs next: nodes that share a model go one after the other, where the device does not hold all models."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from graph_story import live_list
from hypothesis import given, settings
from hypothesis import strategies as st

from residency.graph import Grouping, NodeTraits, predict_order, predict_pending
from residency.graph.grouping import FEEDS_FEEDER, FEEDS_OUTPUT, REST, URGENT, choose

TRAITS = {
    "Node": NodeTraits(("LATENT",)),
    "Output": NodeTraits(is_output=True),
    "Async": NodeTraits(("LATENT",), is_async=True),
}
SIZES = {"a": 6, "b": 6, "vae": 1, "c": 3}
Computes = Mapping[str, tuple[str, ...]]


def node(class_type: str, *sources: str) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": {f"in{i}": [source, 0] for i, source in enumerate(sources)}}


def grouping(computes: Computes, limit_bytes: int = 8, recent: tuple[str, ...] = ()) -> Grouping:
    return Grouping(computes, SIZES.__getitem__, limit_bytes, recent)


def used(computes: Computes) -> set[str]:
    return {key for keys in computes.values() for key in keys}


def order(prompt: dict[str, Any], computes: Computes, limit_bytes: int | None = 8) -> list[str]:
    listed = [node_id for node_id, each in prompt.items() if each["class_type"] == "Output"]
    return predict_order(prompt, listed, TRAITS.get, grouping=None if limit_bytes is None else grouping(computes, limit_bytes))


def alternating() -> tuple[dict[str, Any], Computes]:
    """Four samplers that do not depend on each other, their models by turns."""
    samplers = ("A1", "B1", "A2", "B2")
    shown = {f"show {name}": node("Output", name) for name in samplers}
    return {name: node("Node") for name in samplers} | shown, {name: (name[0].lower(),) for name in samplers}


def only(found: list[str], *names: str) -> list[str]:
    return [node_id for node_id in found if node_id in names]


def test_independent_samplers_of_two_models_are_grouped_by_model() -> None:
    prompt, computes = alternating()
    assert order(prompt, computes, None) == ["A1", "show A1", "B1", "show B1", "A2", "show A2", "B2", "show B2"]
    assert order(prompt, computes) == ["A1", "show A1", "A2", "show A2", "B1", "show B1", "B2", "show B2"]


def test_when_everything_fits_nothing_changes() -> None:
    prompt, computes = alternating()
    assert not grouping(computes, 12).pays(used(computes)) and grouping(computes, 11).pays(used(computes))
    assert order(prompt, computes, 12) == order(prompt, computes, None)


def test_a_decoder_between_the_samplers_does_not_make_the_model_forgotten() -> None:
    samplers = ("A1", "B1", "A2", "B2")
    prompt = {name: node("Node") for name in samplers}
    prompt |= {f"decode {name}": node("Node", name) for name in samplers}
    prompt |= {f"show {name}": node("Output", f"decode {name}") for name in samplers}
    computes = {name: (name[0].lower(),) for name in samplers} | {f"decode {name}": ("vae",) for name in samplers}
    found = order(prompt, computes)
    assert only(found, *samplers) == ["A1", "A2", "B1", "B2"]
    assert found[:3] == ["A1", "decode A1", "show A1"]


def test_a_preview_is_not_kept_waiting_even_if_its_decoder_does_not_fit_beside_the_model() -> None:
    """ComfyUI shows an image before it makes the next one; loading the decoder in between is the price."""
    prompt = {"A1": node("Node"), "d1": node("Node", "A1"), "o1": node("Output", "d1")}
    prompt |= {"A2": node("Node"), "d2": node("Node", "A2"), "o2": node("Output", "d2")}
    computes = {"A1": ("a",), "A2": ("a",), "d1": ("vae",), "d2": ("vae",)}
    assert order(prompt, computes, 6) == ["A1", "d1", "o1", "A2", "d2", "o2"]


def test_two_chains_through_the_same_two_models_go_side_by_side() -> None:
    """An expert for the first steps, another for the last ones, two images: each expert is loaded once."""
    prompt = {}
    for i in "12":
        prompt |= {f"A{i}": node("Node"), f"B{i}": node("Node", f"A{i}"), f"d{i}": node("Node", f"B{i}"), f"o{i}": node("Output", f"d{i}")}
    computes = {"A1": ("a",), "A2": ("a",), "B1": ("b",), "B2": ("b",), "d1": ("vae",), "d2": ("vae",)}
    assert only(order(prompt, computes, None), *computes) == ["A1", "B1", "d1", "A2", "B2", "d2"]
    assert order(prompt, computes) == ["A1", "A2", "B1", "d1", "o1", "B2", "d2", "o2"]


def test_a_node_without_weights_and_one_that_needs_nothing_new_are_left_in_place() -> None:
    computes = {"own": ("a",), "other": ("b",), "third": ("a",)}
    two = grouping(computes, recent=("a", "b"))
    assert two.choose("own", ["own", "other"], lambda _: REST) == "own"
    assert two.choose("plain", ["plain", "other"], lambda _: REST) == "plain"


def test_what_fits_beside_what_was_used_does_not_have_to_wait() -> None:
    computes = {"own": ("vae",), "other": ("a",), "big": ("b",)}
    assert grouping(computes, recent=("a",)).choose("own", ["own", "other"], lambda _: REST) == "own"
    assert grouping(computes, recent=("a",)).choose("big", ["big", "other"], lambda _: REST) == "other"


def test_a_node_that_needs_more_than_was_just_used_is_not_preferred() -> None:
    computes = {"own": ("b",), "patched": ("a", "c"), "same": ("a",)}
    assert grouping(computes, recent=("a",)).choose("own", ["own", "patched", "same"], lambda _: REST) == "same"
    assert grouping(computes, recent=("a",)).choose("own", ["own", "patched"], lambda _: REST) == "own"


def test_output_and_async_nodes_and_the_feeders_of_outputs_keep_their_place() -> None:
    computes = {"own": ("b",), "other": ("a",)}
    ranks = {"own": URGENT, "other": FEEDS_OUTPUT}
    assert grouping(computes, recent=("a",)).choose("own", ["other", "own"], ranks.__getitem__) == "own"
    ranks = {"own": FEEDS_OUTPUT, "other": FEEDS_FEEDER}
    assert grouping(computes, recent=("a",)).choose("own", ["other", "own"], ranks.__getitem__) == "own"
    ranks = {"own": FEEDS_FEEDER, "other": REST}
    assert grouping(computes, recent=("a",)).choose("own", ["other", "own"], ranks.__getitem__) == "other"


def test_what_was_used_long_ago_is_forgotten_as_the_device_fills_and_the_last_node_never() -> None:
    used = grouping({"1": ("vae",), "2": ("a",), "3": ("b",), "4": ("a", "b")})
    used.ran("1")
    used.ran("2")
    assert used.recent == ("vae", "a")
    used.ran("3")
    assert used.recent == ("b",)
    used.ran("none")
    assert used.recent == ("b",)
    used.ran("4")
    assert used.recent == ("a", "b")


@given(st.lists(st.sampled_from("uvwxyz"), min_size=1, unique=True), st.data())
def test_the_choice_is_one_of_the_candidates(ready: list[str], data: st.DataObject) -> None:
    keys = st.sets(st.sampled_from(sorted(SIZES)))
    computes = {node_id: sorted(data.draw(keys)) for node_id in ready}
    own, recent, limit = data.draw(st.sampled_from(ready)), data.draw(keys), data.draw(st.integers(0, 16))
    chosen = choose(own, ready, computes, recent, lambda used: sum(SIZES[key] for key in used) <= limit)
    assert chosen in ready
    if chosen != own:
        assert recent.issuperset(computes[chosen]) and not recent.issuperset(computes[own])


@st.composite
def weighted(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, tuple[str, ...]], int]:
    """A prompt without cycles, what its nodes compute with, a limit."""
    prompt: dict[str, Any] = {}
    computes = {}
    for number in range(draw(st.integers(1, 14))):
        sources = draw(st.lists(st.sampled_from(sorted(prompt)), max_size=3, unique=True)) if prompt else []
        prompt[str(number)] = node(draw(st.sampled_from(["Node", "Node", "Node", "Output", "Async"])), *sources)
        computes[str(number)] = tuple(draw(st.lists(st.sampled_from(sorted(SIZES)), max_size=2, unique=True)))
    return prompt, computes, draw(st.integers(0, 17))


@settings(deadline=None)
@given(weighted())
def test_every_node_runs_once_and_after_its_inputs(story: tuple[dict[str, Any], dict[str, tuple[str, ...]], int]) -> None:
    prompt, computes, limit = story
    found = order(prompt, computes, limit)
    assert len(set(found)) == len(found)
    assert sorted(found) == sorted(order(prompt, computes, None))
    place = {node_id: position for position, node_id in enumerate(found)}
    assert all(place[value[0]] < place[node_id] for node_id in found for value in prompt[node_id]["inputs"].values())
    if not grouping(computes, limit).pays(used(computes)):
        assert found == order(prompt, computes, None)


@settings(deadline=None)
@given(weighted())
def test_after_each_node_the_order_of_the_rest_is_the_rest_of_the_order(
    story: tuple[dict[str, Any], dict[str, tuple[str, ...]], int],
) -> None:
    """The prediction from the live list, with what has run so far, is the one that was made before the prompt began."""
    prompt, computes, limit = story
    outputs = [node_id for node_id, each in prompt.items() if each["class_type"] == "Output"]
    live = grouping(computes, limit)
    whole = predict_order(prompt, outputs, TRAITS.get, grouping=live)
    for done, node_id in enumerate(whole):
        pending, count, blocking = live_list(prompt, outputs, whole[:done])
        assert predict_pending(pending, count, blocking, prompt.get, TRAITS.get, grouping=live) == whole[done:]
        live.ran(node_id)


@settings(deadline=None)
@given(st.lists(st.sampled_from("ab"), min_size=1, max_size=12))
def test_independent_samplers_change_the_model_at_most_once(models: list[str]) -> None:
    prompt = {f"{i}": node("Node") for i in range(len(models))} | {f"show {i}": node("Output", f"{i}") for i in range(len(models))}
    computes = {f"{i}": (model,) for i, model in enumerate(models)}
    ran = [computes[node_id] for node_id in order(prompt, computes) if node_id in computes]
    assert sum(one != next_ for one, next_ in pairwise(ran)) == len(set(models)) - 1
