"""The table of scenarios, the files and the prompts that it asks for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from residency.bench.models import family, files_of
from residency.bench.scenarios import GIB, SCENARIOS, Limits, Precision, Scenario, Size, Temperature, Workflow, choose, references
from residency.bench.sessions import sessions
from residency.bench.workflows import prompt


def test_every_scenario_has_a_name_of_its_own_and_a_way_to_learn_its_compute_time():
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
    assert references(SCENARIOS) == ()
    assert all(scenario.resident for one in SCENARIOS for scenario in references([one]))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_scenario_is_measured_alone_with_the_resident_runs_of_its_workflows_and_precision(scenario: Scenario):
    told = {(one.precision, one.queue[0]) for one in (scenario, *references([scenario])) if one.resident}
    assert {(scenario.precision, workflow.computes_like) for workflow in scenario.queue} <= told


def test_the_classes_of_hardware_are_measured_from_the_second_prompt_to_the_sixth():
    classes = [one for one in SCENARIOS if one.name in ("C1", "C2", "C4", "C5")]
    assert [tuple(range(one.warm_ups + 1, one.warm_ups + one.prompts + 1)) for one in classes] == [(2, 3, 4, 5, 6)] * 4


def test_only_warm_scenarios_have_warm_ups_that_count_for_something():
    assert all(scenario.warm_ups > 0 for scenario in SCENARIOS if scenario.temperature is Temperature.WARM)


def test_choosing_keeps_the_tables_order_and_refuses_what_it_does_not_know():
    assert [scenario.name for scenario in choose(["S1", "S4"])] == ["S4", "S1"]
    with pytest.raises(ValueError, match="no scenario 'S99'; choose from S4, S8"):
        choose(["S99"])


@pytest.mark.parametrize("size", Size)
@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("workflow", [one for one in Workflow if one not in (Workflow.FAMILY, Workflow.OTHER)])
def test_a_prompt_uses_the_files_of_its_workflow_each_in_a_node_and_links_only_to_nodes_it_has(
    size: Size, precision: Precision, workflow: Workflow
):
    models = family(size, precision)
    made = prompt(workflow, models, size, 7)
    used = {name for names in made.uses.values() for name in names}
    assert used == {file.name for file in models.files(workflow)}
    values = [value for node in made.graph.values() for value in node["inputs"].values()]
    assert used == {value for value in values if isinstance(value, str) and value.endswith(".safetensors")}
    assert {value[0] for value in values if isinstance(value, list)} <= set(made.graph)
    assert set(made.uses) == set(made.passes) <= set(made.graph)


def test_every_number_is_another_prompt_and_the_same_number_the_same():
    models = family(Size.TINY, Precision.BF16)
    first, again, other = (prompt(Workflow.LORA, models, Size.TINY, number).graph for number in (1, 1, 2))
    assert first == again
    changed = {node for node in first if first[node] != other[node]}
    assert {first[node]["class_type"] for node in changed} == {"CLIPTextEncode", "KSampler", "LoraLoaderModelOnly"}


def test_the_files_of_a_queue_are_listed_once_in_the_order_of_first_use():
    (queue,) = choose(["S7"])
    names = [file.name.removeprefix("residency_bench_").split(".")[0] for file in files_of(queue, Size.FULL)]
    assert names == ["clip_l", "t5xxl", "expert_a_bf16", "vae", "expert_b_bf16"]


def test_one_server_runs_the_cold_scenario_first_then_ever_more_device_memory():
    asked = choose(["S4", "S3", "S1", "S2", "S3b", "S5"])
    found = [[one.name for one in session] for session in sessions(asked, references(asked))]
    assert found == [["S1", "S3", "S4"], ["S2"], ["S3b", "S4b"], ["S5"]]


@pytest.mark.parametrize(
    ("host_gib", "told"),
    [(None, ()), (8, ("--cache-ram", "2.0", "8.0")), (32, ("--cache-ram", "3.2", "32.0")), (256, ("--cache-ram", "10.0", "128.0"))],
)
def test_where_ram_is_held_comfyui_keeps_what_it_would_on_a_machine_of_that_size(host_gib: int | None, told: tuple[str, ...]):
    scenario = replace(choose(["C4"])[0], true_reserve=True, limits=Limits(8 * GIB, None if host_gib is None else host_gib * GIB))
    assert scenario.server_arguments == ("--disable-dynamic-vram", *told)
    assert replace(scenario, true_reserve=False).server_arguments == ("--disable-dynamic-vram",)
