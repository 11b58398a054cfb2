"""Workflows between ComfyUI's own nodes and this pack's: back and forth is the same, and nothing dangles."""

from __future__ import annotations

import copy
import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from residency.cli.main import main
from residency.core.timeline import UseKind
from residency.settings.node_inputs import INPUTS, Family
from residency.workflow.convert import to_core, to_residency
from residency.workflow.core_nodes import LANGUAGE_NODES, core_nodes
from residency.workflow.file import parse_workflow
from residency.workflow.predict import predict

EXAMPLES = sorted((Path(__file__).parents[1] / "example_workflows").glob("*.json"))
ALL = core_nodes().keys()

API = {
    "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "a.safetensors", "weight_dtype": "default"}},
    "2": {"class_type": "SomebodysSampler", "inputs": {"model": ["1", 0], "strategy": "fast"}},
}


def saved(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


def in_subgraph(data: dict[str, Any]) -> dict[str, Any]:
    """The same nodes as the definition of a subgraph that the root uses once: there, links are objects."""
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    links = [dict(zip(names, link, strict=True)) for link in data["links"]]
    definition = {"id": "0f7a", "name": "All of it", "inputs": [], "outputs": [], "nodes": data["nodes"], "links": links}
    root = {"id": 1, "type": "0f7a", "mode": 0, "inputs": [], "outputs": []}
    return {**data, "nodes": [root], "links": [], "definitions": {"subgraphs": [definition]}}


def graphs(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield data
    yield from (data.get("definitions") or {}).get("subgraphs", ())


def assert_whole(data: dict[str, Any]) -> None:
    """Each link is named by the output it leaves and by the input it enters, and by nobody else."""
    for graph in graphs(data):
        nodes = {node["id"]: node for node in graph["nodes"]}
        links = [list(link.values()) if isinstance(link, dict) else link for link in graph["links"]]
        for link_id, origin, slot, target, target_slot, _ in links:
            assert link_id in nodes[origin]["outputs"][slot]["links"]
            assert nodes[target]["inputs"][target_slot]["link"] == link_id
        entering = [slot["link"] for node in nodes.values() for slot in node["inputs"] if slot["link"] is not None]
        leaving = [link_id for node in nodes.values() for slot in node["outputs"] for link_id in slot["links"]]
        assert sorted(entering) == sorted(leaving) == sorted(link[0] for link in links)


def test_a_prompts_nodes_become_their_twins_and_strangers_stay():
    converted = to_residency(API, ALL)
    assert [node["class_type"] for node in converted.data.values()] == ["ResidencyUNETLoader", "SomebodysSampler"]
    assert converted.changed == 1 and API["1"]["class_type"] == "UNETLoader"
    assert to_core(converted.data, ALL).data == API


def test_only_what_is_available_is_used_and_what_cannot_be_converted_is_told():
    assert to_residency(API, {"ResidencyVAELoader"}).data == API
    twins = to_residency(API, ALL).data
    back = to_core(twins, {"VAELoader"})
    assert back.data == twins
    assert back.notes == ("ResidencyUNETLoader: this ComfyUI has no UNETLoader; the node is left as it is",)


def test_settings_of_a_prompts_twins_are_left_out_and_a_strangers_inputs_are_not():
    ours = to_residency(API, ALL).data
    ours["1"]["inputs"] |= {"memory_mode": "low-vram", "priority": ["2", 0]}
    assert to_core({"prompt": ours}, ALL).data == {"prompt": API}


def test_what_flows_through_the_packs_nodes_flows_past_them_and_what_shows_the_report_goes():
    prompt = {
        "1": API["1"],
        "2": {"class_type": "ResidencyPolicy", "inputs": {"value": ["1", 0], "memory_mode": "low-vram"}},
        "3": {"class_type": "ResidencyRelease", "inputs": {"value": ["2", 0], "component": ["9", 0]}},
        "4": {"class_type": "SomebodysSampler", "inputs": {"model": ["3", 0]}},
        "5": {"class_type": "ResidencyReport", "inputs": {"after": ["4", 0]}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0]}},
        "7": {"class_type": "ResidencyMode", "inputs": {"mode": "low-vram"}},
        "8": {"class_type": "SomebodysSampler", "inputs": {"model": ["10", 0], "seed": None}},
        "10": {"class_type": "ResidencyKeep", "inputs": {}},
    }
    before = copy.deepcopy(prompt)
    converted = to_core(prompt, ALL)
    assert converted.data == {
        "1": API["1"],
        "4": {"class_type": "SomebodysSampler", "inputs": {"model": ["1", 0]}},
        "8": {"class_type": "SomebodysSampler", "inputs": {"seed": None}},
    }
    assert converted.notes == ("node 6 (SaveImage) showed the report and goes with it",)
    assert prompt == before


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
@pytest.mark.parametrize("inside", [False, True], ids=["root", "subgraph"])
def test_an_editors_file_goes_back_and_forth(path: Path, inside: bool):
    data = in_subgraph(saved(path)) if inside else saved(path)
    assert_whole(data)
    plain = to_core(data, ALL).data
    assert_whole(plain)
    left = {node["class_type"] for node in parse_workflow(plain).prompt.values() if node["class_type"].startswith("Residency")}
    assert left <= set(LANGUAGE_NODES)  # these have no twin of ComfyUI's
    ours = to_residency(plain, ALL)
    assert_whole(ours.data)
    assert ours.changed >= 5 and to_core(ours.data, ALL).data.keys() == plain.keys()
    assert parse_workflow(to_core(ours.data, ALL).data).prompt == parse_workflow(plain).prompt


def test_the_settings_of_a_twin_come_back_when_its_node_is_converted_again():
    example = next(path for path in EXAMPLES if path.stem == "mixed_models")
    plain = to_core(saved(example), ALL).data
    assert not [node for node in plain["nodes"] if node["type"].startswith("Residency")]
    priorities = [node["inputs"].get("priority") for node in parse_workflow(to_residency(plain, ALL).data).prompt.values()]
    assert priorities.count(1) == 1


widget_values = st.lists(st.one_of(st.integers(), st.text(max_size=5), st.booleans()), min_size=9, max_size=9)


@given(st.sampled_from(["UNETLoader", "KSampler", "CLIPTextEncode", "SaveImage", "Unknown"]), widget_values, st.booleans())
def test_any_node_of_the_editor_is_the_same_after_there_and_back(kind, values, new_format):
    core = core_nodes().get(kind)
    values = values[: len(core.widgets)] if core else values
    inputs = [{"name": "text", "type": "STRING", "widget": {"name": "text"}, "link": None}] if new_format else []
    node = {"id": 1, "type": kind, "inputs": inputs, "outputs": [], "properties": {"Node name for S&R": kind}, "widgets_values": values}
    data = {"nodes": [node], "links": []}
    assert to_core(to_residency(data, ALL).data, ALL).data == data


def test_there_is_a_twin_of_each_loader_and_it_carries_the_same_widgets_and_ours_behind_them():
    for name, core in core_nodes().items():
        twin = core_nodes().get(f"Residency{name}")
        if twin is not None:
            added = twin.widgets[len(core.widgets) :]
            assert twin.widgets[: len(core.widgets)] == core.widgets
            assert added in (tuple(INPUTS[Family.LOADER]), tuple(INPUTS[Family.STEP]))
            assert (twin.traits, twin.sockets) == (core.traits, core.sockets)


def test_the_command_writes_a_file_and_says_how_many_nodes_it_has_changed(tmp_path, capsys):
    source, target = tmp_path / "api.json", tmp_path / "ours.json"
    source.write_text(json.dumps(API))
    assert main(["convert", str(source), "-o", str(target)]) == 0
    assert "1 nodes converted" in capsys.readouterr().out
    assert main(["convert", str(target), "--back"]) == 0
    assert json.loads(capsys.readouterr().out) == API


def test_the_command_refuses_what_is_no_workflow(tmp_path, capsys):
    source = tmp_path / "list.json"
    source.write_text("[1, 2]")
    assert main(["convert", str(source)]) == 2
    assert "no ComfyUI workflow" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "missing.json")]) == 2
    assert "missing.json" in capsys.readouterr().err


def test_a_twin_reads_the_same_component_whatever_is_set_on_it(tmp_path):
    (tmp_path / "diffusion_models").mkdir()
    (tmp_path / "diffusion_models" / "a.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    twin = to_residency(API, ALL).data
    twin["1"]["inputs"] |= {"memory_mode": "low-vram", "strategy": "offload", "priority": 3}
    core, ours = (predict(parse_workflow(prompt), tmp_path, UseKind.LOAD) for prompt in (API, twin))
    assert ours.components and ours.components.keys() == core.components.keys()


def test_the_examples_are_what_their_tool_writes():
    tool = runpy.run_path(str(Path(__file__).parents[1] / "tools" / "example_workflows.py"))
    for path in EXAMPLES:
        if path.stem in tool:
            assert tool[path.stem]().saved() == saved(path), path.stem
    assert len([path for path in EXAMPLES if path.stem in tool]) == 4


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_says_that_its_models_are_placeholders_and_where_others_come_from(path):
    notes = [node["widgets_values"][0] for node in json.loads(path.read_text(encoding="utf-8"))["nodes"] if "Note" in node["type"]]
    assert any("placeholders" in note and "templates" in note for note in notes)
