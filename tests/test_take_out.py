"""The pack's inputs leave a prompt before ComfyUI sees it: what is taken, what is left alone, what is named."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from residency.settings import take_out
from residency.settings.node_inputs import Family
from residency.settings.prompt import node_asks


@pytest.fixture(autouse=True)
def wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(take_out, "_wrapped", {"ResidencyUNETLoader": Family.LOADER, "ResidencyKSampler": Family.STEP})


def request(**inputs):
    return {"prompt": {"4": {"class_type": "ResidencyUNETLoader", "inputs": {"unet_name": "a.safetensors", **inputs}}}}


def test_our_values_move_into_extra_data_and_the_rest_of_the_node_stays():
    body = take_out.on_prompt(request(memory_mode="low-vram", strategy="auto", priority=3))
    assert body["prompt"]["4"]["inputs"] == {"unet_name": "a.safetensors"}
    assert body["extra_data"]["residency"]["nodes"] == {"4": {"memory_mode": "low-vram", "strategy": "auto", "priority": 3}}


def test_two_modes_of_one_prompt_look_the_same_to_comfyui():
    low, high = (take_out.on_prompt(request(memory_mode=mode)) for mode in ("low-vram", "high-vram"))
    assert low["prompt"] == high["prompt"]


def test_what_a_program_put_into_extra_data_stays_and_the_nodes_own_input_wins():
    body = request(memory_mode="low-vram")
    body["extra_data"] = {
        "residency": {"mode": "off", "nodes": {"4": {"memory_mode": "balanced", "priority": 7}, "9": {"prefetch": False}}}
    }
    ours = take_out.on_prompt(body)["extra_data"]["residency"]
    assert ours == {"mode": "off", "nodes": {"4": {"memory_mode": "low-vram", "priority": 7}, "9": {"prefetch": False}}}


def test_a_value_from_a_newer_version_is_named_with_its_choices_and_dropped(caplog):
    body = take_out.on_prompt(request(memory_mode="nvme", strategy="striped"))
    assert body["prompt"]["4"]["inputs"] == {"unet_name": "a.safetensors"} and "extra_data" not in body
    assert "node 4 (ResidencyUNETLoader) asks for memory_mode 'nvme'" in caplog.text and "choose one of workflow, auto" in caplog.text
    assert "strategy 'striped'" in caplog.text and "choose one of auto, resident, offload, release. Using 'auto'" in caplog.text


@pytest.mark.parametrize(("value", "why"), [("snapshot", "the copy in RAM stays"), ("layerwise", "ComfyUI itself streams")])
def test_a_strategy_that_an_earlier_version_offered_is_named_once_with_the_reason_and_the_prompt_goes_on(caplog, value, why):
    body = take_out.on_prompt(request(strategy=value, priority=3))
    assert body["prompt"]["4"]["inputs"] == {"unet_name": "a.safetensors"}
    assert [dict(ask.values) for ask in node_asks(body["prompt"], body["extra_data"])] == [{"priority": 3}]
    (warning,) = caplog.messages
    assert f"node 4 (ResidencyUNETLoader) asks for strategy '{value}', which is not offered any more: " in warning
    assert why in warning and "choose one of auto, resident, offload, release. Using 'auto'" in warning


def test_a_program_that_asks_for_a_strategy_of_an_earlier_version_is_told_the_same(caplog):
    prompt = {"1": {"class_type": "UNETLoader", "inputs": {}}}
    assert node_asks(prompt, {"residency": {"nodes": {"1": {"strategy": "snapshot"}}}}) == []
    assert "node 1 (UNETLoader) asks for strategy 'snapshot', which is not offered any more: " in caplog.text


def test_a_linked_value_stays_and_is_named(caplog):
    body = take_out.on_prompt(request(memory_mode=["8", 0]))
    assert body["prompt"]["4"]["inputs"]["memory_mode"] == ["8", 0]
    assert "memory_mode comes over a link" in caplog.text


def test_somebody_elses_inputs_of_the_same_name_are_left_alone():
    body = {"prompt": {"1": {"class_type": "TheirSampler", "inputs": {"memory_mode": "fast", "strategy": 1, "priority": "high"}}}}
    assert take_out.on_prompt(copy.deepcopy(body)) == body


def test_a_mode_node_from_a_newer_version_loses_only_its_mode(caplog):
    body = {"prompt": {"7": {"class_type": "ResidencyMode", "inputs": {"mode": "turbo", "host_budget_gib": 2.0}}}}
    assert take_out.on_prompt(body)["prompt"]["7"]["inputs"] == {"host_budget_gib": 2.0}
    assert "mode 'turbo'" in caplog.text


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=4), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(st.dictionaries(st.sampled_from(["memory_mode", "strategy", "priority", "seed", "prefetch"]), json_values), json_values)
def test_no_body_makes_it_raise_and_what_is_not_ours_stays(inputs, extra_data):
    prompt = {"1": {"class_type": "ResidencyUNETLoader", "inputs": dict(inputs)}, "2": extra_data}
    body = take_out.on_prompt({"prompt": prompt, "extra_data": extra_data})
    left = body["prompt"]["1"]["inputs"]
    assert all(name in left for name in inputs if name in ("seed", "prefetch"))
    assert not [name for name, value in left.items() if name in ("memory_mode", "strategy", "priority") and not isinstance(value, list)]
    assert take_out.on_prompt(prompt) is prompt
