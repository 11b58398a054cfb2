"""The predicted order against ComfyUI's real executor, in a process of its own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comfy_story import two_experts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from order_graphs import Prompt, RealOrder, change_one, random_prompt

from residency.installation.locate import ComfyUI

many = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def real(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealOrder]:
    with RealOrder(comfyui.path, comfyui.python, tmp_path_factory.mktemp("comfyui")) as process:
        yield process


def assert_followed(answer: dict[str, Any]) -> None:
    """Every choice was the one that the prediction from the live list, made just before it, had first."""
    assert answer["error"] is None
    for node, waited, predicted in answer["stages"]:
        assert waited or predicted[0] == node


def starts(answer: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(node for node, _, _ in answer["stages"]))


@many
@given(seed=st.integers(0, 2**32), size=st.integers(1, 40), hash_order=st.booleans())
def test_a_random_prompt_runs_in_the_predicted_order(real: RealOrder, seed: int, size: int, hash_order: bool) -> None:
    prompt = random_prompt(random.Random(seed), size)
    listed = None if hash_order else [node_id for node_id, node in prompt.items() if node["class_type"] == "PreviewAny"]
    answer = real.ask(prompt, listed)
    assert_followed(answer)
    assert answer["done"] == answer["predicted"] == answer["stages"][0][2]


@many
@given(seed=st.integers(0, 2**32), size=st.integers(1, 40), lazy=st.booleans())
def test_what_is_cached_is_left_out_of_the_order(real: RealOrder, seed: int, size: int, lazy: bool) -> None:
    rng = random.Random(seed)
    prompt = random_prompt(rng, size, lazy=lazy)
    real.ask(prompt)
    change_one(prompt, rng)
    answer = real.ask(prompt, keep=True)
    assert_followed(answer)
    assert answer["cached"]
    assert answer["done"] == answer["predicted_lazy"]


@many
@given(seed=st.integers(0, 2**32), size=st.integers(1, 40))
def test_switches_with_constants_run_in_the_predicted_order(real: RealOrder, seed: int, size: int) -> None:
    answer = real.ask(random_prompt(random.Random(seed), size, lazy=True))
    assert_followed(answer)
    assert answer["done"] == answer["predicted_lazy"]


def needs(real: RealOrder, *classes: str) -> None:
    if not real.classes.issuperset(classes):
        pytest.skip("this ComfyUI has no tests/execution/testing_nodes")


def image(color: int) -> dict[str, Any]:
    return {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": color}}


def show(node_id: str, slot: int = 0) -> dict[str, Any]:
    return {"class_type": "PreviewAny", "inputs": {"source": [node_id, slot]}}


def test_a_switch_that_no_constant_decides_is_met_again_when_it_has_asked(real: RealOrder) -> None:
    """The wider guess follows both branches; the live list knows better at the next node."""
    prompt: Prompt = {
        "1": image(1),
        "2": image(2),
        "3": {"class_type": "GetImageSize", "inputs": {"image": ["1", 0]}},
        "4": {"class_type": "ComfySwitchNode", "inputs": {"switch": ["3", 2], "on_false": ["1", 0], "on_true": ["2", 0]}},
        "5": show("4"),
    }
    answer = real.ask(prompt, ["5"])
    assert_followed(answer)
    assert answer["predicted"] == ["1", "3", "4", "5"]
    assert answer["predicted_lazy"] == ["1", "3", "2", "4", "5"] == answer["done"]


def test_a_lazy_mix_asks_for_one_image_only(real: RealOrder) -> None:
    needs(real, "TestLazyMixImages", "StubMask")
    mask = {"class_type": "StubMask", "inputs": {"value": 0.0, "height": 8, "width": 8, "batch_size": 1}}
    mix = {"class_type": "TestLazyMixImages", "inputs": {"image1": ["1", 0], "image2": ["2", 0], "mask": ["3", 0]}}
    answer = real.ask({"1": image(1), "2": image(2), "3": mask, "4": mix, "5": show("4")}, ["5"])
    assert_followed(answer)
    assert answer["done"] == ["3", "1", "4", "5"]
    assert answer["predicted_lazy"] == ["3", "1", "2", "4", "5"]  # both: a wrong guess reads too much, a missing one stalls


def loop(rounds: int) -> tuple[Prompt, list[str]]:
    prompt: Prompt = {
        "1": image(1),
        "2": image(2),
        "3": {"class_type": "TestForLoopOpen", "inputs": {"remaining": rounds, "initial_value1": ["2", 0]}},
        "4": {"class_type": "TestVariadicAverage", "inputs": {"input1": ["1", 0], "input2": ["3", 2]}},
        "5": {"class_type": "TestForLoopClose", "inputs": {"flow_control": ["3", 0], "initial_value1": ["4", 0]}},
        "6": show("5"),
    }
    return prompt, ["6"]


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_loop_that_expands_itself_is_followed_round_by_round(real: RealOrder, rounds: int) -> None:
    needs(real, "TestForLoopOpen", "TestForLoopClose", "TestVariadicAverage")
    prompt, outputs = loop(rounds)
    answer = real.ask(prompt, outputs)
    assert_followed(answer)
    assert len(answer["done"]) > len(prompt)
    assert answer["done"][-1] == "6"


def test_a_node_that_expands_to_a_subgraph_is_followed(real: RealOrder) -> None:
    needs(real, "TestMakeListNode", "TestMixedExpansionReturns")
    prompt: Prompt = {
        "1": {"class_type": "TestMakeListNode", "inputs": {"value1": 0.1, "value2": 0.2, "value3": 0.3}},
        "2": {"class_type": "TestMixedExpansionReturns", "inputs": {"input1": ["1", 0]}},
        "3": show("2", 0),
        "4": show("2", 1),
    }
    answer = real.ask(prompt, ["3", "4"])
    assert_followed(answer)
    assert len(answer["done"]) > len(prompt)


def test_a_node_that_awaits_is_met_again_when_its_task_has_ended(real: RealOrder) -> None:
    """It ends when it ends: only the starts, and the choices made without waiting, are the graph's."""
    needs(real, "TestSleep")
    sleep = {"class_type": "TestSleep", "inputs": {"value": ["1", 0], "seconds": 0.2}}
    prompt: Prompt = {"1": image(1), "2": sleep, "3": show("2"), "4": image(4), "5": show("4"), "6": image(6), "7": show("6")}
    answer = real.ask(prompt, ["3", "5", "7"])
    assert_followed(answer)
    assert starts(answer)[:6] == ["4", "5", "6", "7", "1", "2"]
    waiting = answer["stages"][-2]
    assert waiting[0] == "2" and waiting[1]


NODES = 1500  # the limit is 1,000 in ComfyUI's process, as it starts; the time for them grows with their square


def test_more_nodes_than_pythons_recursion_limit(real: RealOrder) -> None:
    prompt: Prompt = {"0": image(0)}
    for number in range(1, NODES):
        prompt[str(number)] = {"class_type": "ImageInvert", "inputs": {"image": [str(number - 1), 0]}}
    prompt[str(NODES)] = show(str(NODES - 1))
    answer = real.ask(prompt, [str(NODES)], execute=False)
    assert answer["done"] == answer["predicted"] == [str(number) for number in range(NODES + 1)]


SAMPLERS = ("A1", "B1", "A2", "B2")


def sampler(expert: str, seed: int, latent: str = "5") -> dict[str, Any]:
    """A KSampler of two_experts() with another model and seed."""
    node: dict[str, Any] = two_experts()["6"]
    node["inputs"] |= {"model": [{"A": "1", "B": "7"}[expert], 0], "seed": seed, "latent_image": [latent, 0]}
    return node


def by_turns() -> tuple[Prompt, list[str]]:
    """Four samplers that do not depend on each other, the experts by turns."""
    prompt = {node_id: node for node_id, node in two_experts().items() if node_id in ("1", "2", "4", "5", "7")}
    prompt |= {name: sampler(name[0], seed) for seed, name in enumerate(SAMPLERS)}
    prompt |= {f"show {name}": show(name) for name in SAMPLERS}
    return prompt, [f"show {name}" for name in SAMPLERS]


def two_chains() -> tuple[Prompt, list[str]]:
    """Two images, each through expert a, then expert b, then the VAE."""
    prompt = {node_id: node for node_id, node in two_experts().items() if node_id in ("1", "2", "3", "4", "5", "7")}
    for i in "12":
        prompt |= {f"A{i}": sampler("A", int(i)), f"B{i}": sampler("B", int(i), f"A{i}")}
        prompt[f"decode {i}"] = {"class_type": "VAEDecode", "inputs": {"samples": [f"B{i}", 0], "vae": ["3", 0]}}
        prompt[f"show {i}"] = show(f"decode {i}")
    return prompt, ["show 1", "show 2"]


def hosted(
    device_limit_bytes: int | None, *, reorder: bool = True, other_pick: bool = False, operations: int | None = None
) -> dict[str, Any]:
    return {"device_limit_bytes": device_limit_bytes, "reorder": reorder, "other_pick": other_pick, "operations": operations}


def sampled(answer: dict[str, Any]) -> list[str]:
    assert answer["error"] is None and answer["failures"] == 0
    return [node_id for node_id in answer["done"] if node_id in SAMPLERS]


def expert_bytes(models: Path) -> int:
    return (models / "diffusion_models" / "residency_expert_a.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("story", "stock", "grouped"),
    [(by_turns, ["A1", "B1", "A2", "B2"], ["A1", "A2", "B1", "B2"]), (two_chains, ["A1", "B1", "A2", "B2"], ["A1", "A2", "B1", "B2"])],
)
def test_a_device_that_holds_one_model_runs_its_nodes_together_and_makes_the_same(
    real: RealOrder, models: Path, story: Any, stock: list[str], grouped: list[str]
) -> None:
    """What the host foretells when the prompt begins is what runs, and every node makes what it makes without the pack."""
    prompt, outputs = story()
    plain = real.ask_hosted(prompt, outputs, models, None)
    assert sampled(plain) == stock
    small = real.ask_hosted(prompt, outputs, models, hosted(expert_bytes(models) * 3 // 2))
    assert sampled(small) == grouped and small["unfit"] == []
    assert small["announced"] == [small["done"]]
    assert small["results"] == plain["results"] and len(set(map(small["results"].get, grouped))) == 4


def test_where_there_is_a_device_a_first_prompt_goes_by_what_comfyui_reckons_for_its_decoder(real: RealOrder, models: Path) -> None:
    """What the picture's decoder pushes out without a plan has to be read again in the next prompt."""
    plain, limited, without = (real.ask_hosted(two_experts(), ["10"], models, wish) for wish in (None, hosted(1 << 30), hosted(None)))
    assert list(limited["working_sets"]) == ["9"] and 0 < limited["working_sets"]["9"] <= 1 << 29
    assert without["working_sets"] == {} and limited["failures"] == 0
    assert limited["results"] == plain["results"] and limited["done"] == plain["done"]


@pytest.mark.parametrize("wish", [hosted(None), hosted(1 << 40), hosted(1, reorder=False)])
def test_where_all_models_fit_or_nobody_asks_comfyuis_order_stands(real: RealOrder, models: Path, wish: dict[str, Any]) -> None:
    prompt, outputs = by_turns()
    answer = real.ask_hosted(prompt, outputs, models, wish)
    assert sampled(answer) == ["A1", "B1", "A2", "B2"]
    assert answer["announced"] == [answer["done"]]


def test_a_comfyui_that_chooses_in_another_way_keeps_its_order_and_is_foretold_so(real: RealOrder, models: Path) -> None:
    prompt, outputs = by_turns()
    answer = real.ask_hosted(prompt, outputs, models, hosted(expert_bytes(models) * 3 // 2, other_pick=True))
    assert answer["unfit"] == ["node choice"]
    assert sampled(answer) == ["A1", "B1", "A2", "B2"]
    assert answer["announced"] == [answer["done"]]


def switches(count: int) -> tuple[Prompt, list[str]]:
    """Independent switches with two images each, all of them shown."""
    prompt: Prompt = {"b": {"class_type": "PrimitiveBoolean", "inputs": {"value": True}}}
    for i in range(count):
        prompt |= {f"t{i}": image(i), f"f{i}": image(1000 + i), f"o{i}": show(f"s{i}")}
        inputs = {"switch": ["b", 0], "on_true": [f"t{i}", 0], "on_false": [f"f{i}", 0]}
        prompt[f"s{i}"] = {"class_type": "ComfySwitchNode", "inputs": inputs}
    return prompt, [f"o{i}" for i in range(count)]


def test_sixty_switches_are_planned_once_and_make_what_they_make_without_the_pack(real: RealOrder, models: Path) -> None:
    """Twenty independent switches took 20 s: each that asked for its input multiplied the work of the next prediction."""
    prompt, outputs = switches(60)
    plain = real.ask_hosted(prompt, outputs, models, None)
    answer = real.ask_hosted(prompt, outputs, models, hosted(None))
    assert answer["error"] is None and answer["failures"] == 0
    assert answer["done"] == plain["done"] == answer["announced"][0]
    assert answer["results"] == plain["results"]
    assert answer["plans"] == 1 and sorted(answer["asks"]) == sorted(f"s{i}" for i in range(60))
    (trace,) = answer["traces"]
    assert trace["outcome"] == "success" and trace["summary"]["replans"] == 0
    assert 0 < trace["summary"]["own_s"] < trace["duration_s"]


def test_a_prediction_that_takes_more_than_it_may_leaves_the_prompt_to_comfyui_and_says_so(real: RealOrder, models: Path) -> None:
    prompt, outputs = switches(10)
    plain = real.ask_hosted(prompt, outputs, models, None)
    for operations in (0, 200):  # none for the first look at the graph, or for its order
        answer = real.ask_hosted(prompt, outputs, models, hosted(None, operations=operations))
        assert answer["error"] is None and answer["failures"] == 0
        assert (answer["done"], answer["results"]) == (plain["done"], plain["results"])
        (trace,) = answer["traces"]
        assert trace["outcome"] == "abandoned"
        assert "operations, more than it may" in trace["outcome_reason"]


def test_what_has_to_be_predicted_again_and_again_ends_the_prompts_trace_and_not_the_prompt(real: RealOrder, models: Path) -> None:
    """A loop that expands itself is predicted anew each round: with an allowance for a few of them the rest of it is ComfyUI's alone."""
    needs(real, "TestForLoopOpen", "TestForLoopClose", "TestVariadicAverage")
    prompt, outputs = loop(20)
    plain = real.ask_hosted(prompt, outputs, models, None)
    whole = real.ask_hosted(prompt, outputs, models, hosted(None))
    answer = real.ask_hosted(prompt, outputs, models, hosted(None, operations=2000))
    assert whole["traces"][0]["outcome"] == "success" and answer["traces"][0]["outcome"] == "abandoned"
    assert 0 < answer["traces"][0]["summary"]["nodes"] < whole["traces"][0]["summary"]["nodes"]
    assert len(answer["done"]) == len(whole["done"]) == len(plain["done"])
    assert answer["error"] is None and answer["failures"] == 0


def test_what_a_node_does_without_is_passed_over(real: RealOrder, models: Path) -> None:
    """A mix by a mask of zeros asks for one image of two: the order that was foretold holds but for the other."""
    needs(real, "TestLazyMixImages", "StubMask")
    mask = {"class_type": "StubMask", "inputs": {"value": 0.0, "height": 8, "width": 8, "batch_size": 1}}
    mix = {"class_type": "TestLazyMixImages", "inputs": {"image1": ["1", 0], "image2": ["2", 0], "mask": ["3", 0]}}
    prompt = {"1": image(1), "2": image(2), "3": mask, "4": mix, "5": show("4")}
    answer = real.ask_hosted(prompt, ["5"], models, hosted(None))
    assert answer["done"] == ["3", "1", "4", "5"] and answer["failures"] == 0
    assert answer["announced"] == [["3", "1", "2", "4", "5"]]
    assert answer["plans"] == 1 and answer["traces"][0]["summary"]["nodes"] == 5  # the mix starts twice


def test_weights_that_a_node_does_without_are_not_read_on(real: RealOrder, models: Path) -> None:
    """A switch that no constant decides: with its answer the other expert leaves the plan at once."""
    prompt, _ = by_turns()
    prompt = {node_id: node for node_id, node in prompt.items() if not node_id.startswith("show")}
    prompt |= {"size": {"class_type": "GetImageSize", "inputs": {"image": ["probe", 0]}}, "probe": image(1), "out": show("switch")}
    inputs = {"switch": ["size", 0], "on_true": ["A1", 0], "on_false": ["B1", 0]}
    prompt["switch"] = {"class_type": "ComfySwitchNode", "inputs": inputs}
    answer = real.ask_hosted(prompt, ["out"], models, hosted(None))
    assert answer["error"] is None and answer["failures"] == 0
    assert {"A1", "B1"} <= set(answer["announced"][0])
    assert "A1" in answer["done"] and "B1" not in answer["done"]
    assert answer["traces"][0]["summary"]["replans"] == 1
