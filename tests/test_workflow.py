"""Workflow files: what the editor saves becomes the prompt that the editor would queue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from subgraph_story import STORIES, linked

from residency.workflow.core_nodes import core_nodes, core_traits
from residency.workflow.file import WorkflowError, parse_workflow, read_workflow

API = {
    "1": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    "2": {"class_type": "SaveLatent", "inputs": {"samples": ["1", 0], "filename_prefix": "x"}},
}


def _slots(text: str) -> list[list[str]]:
    return [slot.split(":") for slot in text.split()]


class Graph:
    """Builds what the editor saves: nodes with slots, and links as lists or objects."""

    def __init__(self, *, objects: bool = False) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.links: list[Any] = []
        self.objects = objects

    def node(self, node_id: int, kind: str, inputs: str = "", outputs: str = "", **fields: Any) -> Graph:
        """Slots are written "name:TYPE name:TYPE"; a type in lower case is a widget's."""
        ins: list[dict[str, Any]] = [{"name": name, "type": kind, "link": None} for name, kind in _slots(inputs)]
        for slot in ins:
            if slot["type"].islower():
                slot |= {"type": slot["type"].upper(), "widget": {"name": slot["name"]}}
        outs = [{"name": name, "type": kind, "links": []} for name, kind in _slots(outputs)]
        self.nodes.append({"id": node_id, "type": kind, "mode": 0, "inputs": ins, "outputs": outs} | fields)
        return self

    def link(self, origin: int, slot: int, target: int, name: str | int) -> Graph:
        link_id = len(self.links) + 1
        index = name if isinstance(name, int) else 0
        for node in self.nodes:
            if node["id"] == target and isinstance(name, str):
                index = [each["name"] for each in node["inputs"]].index(name)
                node["inputs"][index]["link"] = link_id
        names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        values = (link_id, origin, slot, target, index, "*")
        self.links.append(dict(zip(names, values, strict=True)) if self.objects else list(values))
        return self

    def saved(self, *subgraphs: dict[str, Any]) -> dict[str, Any]:
        return {"nodes": self.nodes, "links": self.links, "version": 0.4} | ({"definitions": {"subgraphs": subgraphs}} if subgraphs else {})


def prompt(graph: Graph, *subgraphs: dict[str, Any]) -> dict[str, Any]:
    return parse_workflow(graph.saved(*subgraphs)).prompt


def two_nodes() -> Graph:
    graph = Graph().node(1, "EmptyLatentImage", outputs="LATENT:LATENT", widgets_values=[64, 32, 1])
    graph.node(3, "SaveLatent", "samples:LATENT", widgets_values=["x"])
    return graph


def test_an_api_file_is_taken_as_it_is_with_its_output_nodes() -> None:
    workflow = parse_workflow(API)
    assert (workflow.prompt, workflow.outputs, workflow.warnings) == (API, ["2"], ())
    assert parse_workflow({"prompt": API, "client_id": "c"}) == workflow


def test_a_file_is_read_with_or_without_a_byte_order_mark(tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "a.json").write_text(json.dumps(API), encoding=encoding)
        assert read_workflow(tmp_path / "a.json").outputs == ["2"]


def test_an_unknown_class_is_named_and_taken_for_an_output_when_nothing_reads_it() -> None:
    nodes = {"1": {"class_type": "Mystery", "inputs": {}}, "2": {"class_type": "Show", "inputs": {"x": ["1", 0]}}}
    workflow = parse_workflow(nodes | {"3": {"class_type": "SaveImage", "inputs": {"images": ["1", 2]}}}, "a.json")
    assert workflow.outputs == ["2", "3"]
    assert workflow.warnings == ("a.json: the output types of Mystery, Show are not known; what they carry is guessed",)


def test_what_reads_from_an_unknown_class_tells_its_output_types() -> None:
    nodes = {"1": {"class_type": "CustomSampler", "inputs": {}}, "2": {"class_type": "VAEDecode", "inputs": {"samples": ["1", 1]}}}
    traits = parse_workflow(nodes).traits("CustomSampler")
    assert traits is not None and traits.outputs == ("*", "LATENT")


@pytest.mark.parametrize("objects", [False, True])
def test_links_may_be_lists_or_objects(objects: bool) -> None:
    graph = Graph(objects=objects).node(1, "EmptyLatentImage", outputs="LATENT:LATENT", widgets_values=[64, 32, 1])
    graph.node(3, "SaveLatent", "samples:LATENT", widgets_values=["x"]).link(1, 0, 3, "samples")
    assert prompt(graph) == {
        "1": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 32, "batch_size": 1}},
        "3": {"class_type": "SaveLatent", "inputs": {"filename_prefix": "x", "samples": ["1", 0]}},
    }


def test_the_editors_choice_for_the_next_seed_is_no_value() -> None:
    values = [7, "randomize", 20, 8.0, "euler", "simple", 1.0]
    sampler = prompt(Graph().node(1, "KSampler", outputs="LATENT:LATENT", widgets_values=values))["1"]
    assert sampler["inputs"] == {"seed": 7, "steps": 20, "cfg": 8.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}


def test_an_unknown_class_names_its_widgets_in_the_file() -> None:
    node: dict[str, Any] = {
        "inputs": "model:MODEL seed:int steps:int name:string",
        "outputs": "LATENT:LATENT",
        "widgets_values": [7, "fixed", 20, "x"],
    }
    assert prompt(Graph().node(1, "CustomSampler", **node))["1"]["inputs"] == {"seed": 7, "steps": 20, "name": "x"}


def test_values_saved_by_name_are_taken_by_name() -> None:
    assert prompt(Graph().node(1, "Custom", outputs="A:A", widgets_values={"a": 1, "b": [1, 2]}))["1"]["inputs"] == {
        "a": 1,
        "b": {"__value__": [1, 2]},
    }


def test_a_combo_brings_the_widgets_of_its_choice() -> None:
    graph = Graph().node(1, "ResizeImageMaskNode", outputs="IMAGE:IMAGE", widgets_values=["scale dimensions", 512, 256, "center", "area"])
    assert prompt(graph)["1"]["inputs"] == {
        "resize_type": "scale dimensions",
        "resize_type.width": 512,
        "resize_type.height": 256,
        "resize_type.crop": "center",
        "scale_method": "area",
    }


def test_a_linked_widget_keeps_its_place_among_the_inputs() -> None:
    """The executor walks the inputs in this order."""
    graph = Graph().node(1, "PrimitiveInt", outputs="INT:INT", widgets_values=[5, "fixed"])
    graph.node(2, "KSampler", "model:MODEL steps:int", "LATENT:LATENT", widgets_values=[7, "fixed", 20, 8.0, "euler", "simple", 1.0])
    graph.node(4, "UNETLoader", outputs="MODEL:MODEL", widgets_values=["a", "default"]).link(4, 0, 2, "model").link(1, 0, 2, "steps")
    found = prompt(graph)["2"]["inputs"]
    assert list(found) == ["seed", "steps", "cfg", "sampler_name", "scheduler", "denoise", "model"]
    assert found["steps"] == ["1", 0]


def test_notes_vanish_and_reroutes_are_followed() -> None:
    graph = two_nodes().node(2, "Reroute", "any:*", "LATENT:LATENT").node(5, "Reroute", "any:*", "LATENT:LATENT")
    graph.node(6, "Note", widgets_values=["hello"]).node(7, "MarkdownNote", widgets_values=["hello"])
    graph.link(1, 0, 2, "any").link(2, 0, 5, "any").link(5, 0, 3, "samples")
    assert list(prompt(graph)) == ["1", "3"]
    assert prompt(graph)["3"]["inputs"]["samples"] == ["1", 0]


def test_a_primitive_gives_its_value() -> None:
    graph = Graph().node(1, "PrimitiveNode", outputs="INT:INT", widgets_values=[96, "fixed"])
    graph.node(2, "EmptyLatentImage", "width:int", "LATENT:LATENT", widgets_values=[64, 64, 1]).link(1, 0, 2, "width")
    assert prompt(graph) == {"2": {"class_type": "EmptyLatentImage", "inputs": {"width": 96, "height": 64, "batch_size": 1}}}


def test_get_and_set_nodes_are_a_link_by_name() -> None:
    graph = (
        two_nodes()
        .node(5, "SetNode", "LATENT:LATENT", widgets_values=["a"])
        .node(6, "GetNode", outputs="LATENT:LATENT", widgets_values=["a"])
    )
    assert prompt(graph.link(1, 0, 5, "LATENT").link(6, 0, 3, "samples"))["3"]["inputs"]["samples"] == ["1", 0]


def test_what_is_muted_is_gone_with_the_links_from_it() -> None:
    graph = two_nodes().link(1, 0, 3, "samples")
    graph.nodes[0]["mode"] = 2
    assert prompt(graph) == {"3": {"class_type": "SaveLatent", "inputs": {"filename_prefix": "x"}}}


def test_a_bypassed_node_hands_on_its_input_of_the_same_type() -> None:
    graph = two_nodes().node(2, "LatentComposite", "samples_to:LATENT samples_from:LATENT", "LATENT:LATENT", mode=4)
    graph.node(9, "VAELoader", outputs="VAE:VAE").node(8, "VAEDecode", "samples:LATENT vae:VAE", "IMAGE:IMAGE", mode=4)
    graph.node(4, "SaveImage", "images:IMAGE")
    graph.link(1, 0, 2, "samples_to").link(2, 0, 3, "samples").link(9, 0, 8, "vae").link(8, 0, 4, "images")
    found = prompt(graph)
    assert found["3"]["inputs"]["samples"] == ["1", 0]
    assert "images" not in found["4"]["inputs"]


def doubling(kind: str = "LatentMultiply") -> dict[str, Any]:
    """A subgraph "sub": its latent input goes through a node 5 whose widget is the subgraph's second input."""
    inner = Graph(objects=True).node(5, kind, "samples:LATENT multiplier:float", "LATENT:LATENT", widgets_values=[2.0])
    inner.link(-10, 0, 5, "samples").link(-10, 1, 5, "multiplier").link(5, 0, -20, 0)
    ends = {
        "inputs": [{"name": "latent", "type": "LATENT", "linkIds": [1]}, {"name": "times", "type": "FLOAT", "linkIds": [2]}],
        "outputs": [{"name": "out", "type": "LATENT", "linkIds": [3]}],
    }
    return {"id": "sub", "name": "Double", "nodes": inner.nodes, "links": inner.links} | ends


def test_a_subgraph_is_expanded_each_time_it_is_used() -> None:
    graph = (
        two_nodes()
        .node(7, "sub", "latent:LATENT", "out:LATENT")
        .node(8, "sub", "latent:LATENT times:float", "out:LATENT", widgets_values=[3.0])
    )
    found = prompt(graph.link(1, 0, 7, "latent").link(7, 0, 8, "latent").link(8, 0, 3, "samples"), doubling())
    assert list(found) == ["1", "3", "7:5", "8:5"]
    assert found["3"]["inputs"]["samples"] == ["8:5", 0]
    assert found["8:5"]["inputs"] == {"multiplier": 3.0, "samples": ["7:5", 0]}
    assert found["7:5"]["inputs"] == {"multiplier": 2.0, "samples": ["1", 0]}


def test_a_bypassed_subgraph_hands_on_and_a_muted_one_does_not() -> None:
    for mode, inputs in ((4, {"filename_prefix": "x", "samples": ["1", 0]}), (2, {"filename_prefix": "x"})):
        graph = two_nodes().node(7, "sub", "latent:LATENT", "out:LATENT", mode=mode).link(1, 0, 7, "latent").link(7, 0, 3, "samples")
        found = prompt(graph, doubling())
        assert list(found) == ["1", "3"]
        assert found["3"]["inputs"] == inputs


def test_subgraphs_nest() -> None:
    outer = Graph(objects=True).node(2, "sub", "latent:LATENT", "out:LATENT").link(-10, 0, 2, "latent").link(2, 0, -20, 0)
    ends = {"inputs": [{"name": "in", "type": "LATENT", "linkIds": [1]}], "outputs": [{"name": "out", "type": "LATENT", "linkIds": [2]}]}
    wrapper = {"id": "outer", "nodes": outer.nodes, "links": outer.links} | ends
    graph = two_nodes().node(7, "outer", "in:LATENT", "out:LATENT").link(1, 0, 7, "in").link(7, 0, 3, "samples")
    found = prompt(graph, wrapper, doubling())
    assert found["3"]["inputs"]["samples"] == ["7:2:5", 0]
    assert found["7:2:5"]["inputs"]["samples"] == ["1", 0]


@pytest.mark.parametrize("name", STORIES)
def test_widgets_that_a_subgraph_shows_have_the_values_of_its_instance(name: str) -> None:
    """The same files go through ComfyUI's editor in tests/comfyui/test_editor.py."""
    data, width, height = STORIES[name]
    (latent,) = (node["inputs"] for node in parse_workflow(data).prompt.values() if node["class_type"] == "EmptyLatentImage")
    assert (latent["width"], latent["height"]) == (width, height)


def test_values_by_name_count_where_an_instance_has_no_others() -> None:
    for fields in ({"widgets_values_named": {"width": 96}}, {"widgets_values": [], "widgets_values_named": {"width": 96}}):
        instance = {**linked()["nodes"][0], **fields}
        data = {**linked(), "nodes": [instance, linked()["nodes"][1]]}
        assert parse_workflow(data).prompt["7:5"]["inputs"]["width"] == 96


def test_a_primitive_inside_a_subgraph_gives_the_value_of_the_instance() -> None:
    inner = Graph(objects=True).node(4, "PrimitiveNode", outputs="INT:INT", widgets_values=[64, "fixed"])
    inner.node(5, "EmptyLatentImage", "width:int", "L:LATENT", widgets_values=[32, 32, 1]).link(4, 0, 5, "width").link(5, 0, -20, 0)
    sub = {"id": "sub", "inputs": [], "outputs": [{"name": "out", "type": "LATENT", "linkIds": [2]}]}
    graph = Graph().node(7, "sub", outputs="L:LATENT", widgets_values=[96], properties={"proxyWidgets": [["4", "value"]]})
    graph.node(3, "SaveLatent", "samples:LATENT").link(7, 0, 3, "samples")
    assert prompt(graph, {**sub, "nodes": inner.nodes, "links": inner.links})["7:5"]["inputs"]["width"] == 96


def test_values_that_the_file_gives_no_name_to_are_kept_by_their_place() -> None:
    """Older editors list no input for a widget."""
    values = ["big.safetensors", 7, "fixed", ["row", {"lora": "a.safetensors"}]]
    found = prompt(Graph().node(1, "SomeLoader", outputs="MODEL:MODEL", widgets_values=values))["1"]["inputs"]
    assert found == {"widget 0": "big.safetensors", "widget 1": 7, "widget 3": {"__value__": ["row", {"lora": "a.safetensors"}]}}
    named = prompt(Graph().node(1, "SomeLoader", outputs="M:MODEL", widgets_values=values, widgets_values_named={"file": "b.safetensors"}))
    assert named["1"]["inputs"] == {"file": "b.safetensors"}


def test_a_value_that_follows_a_number_is_a_choice_where_every_value_has_a_name() -> None:
    found = prompt(Graph().node(1, "SomeNode", "steps:int mode:combo", "A:A", widgets_values=[7, "fixed"]))["1"]["inputs"]
    assert found == {"steps": 7, "mode": "fixed"}


def test_a_combo_that_brings_a_seed_may_save_the_choice_for_the_next_one_or_not() -> None:
    for extra in ([], ["fixed"]):
        values = ["", 512, "on", 0.7, 64, 0.95, 0.05, 1.05, 5, *extra, 0.5, False, True]
        inputs = prompt(Graph().node(1, "TextGenerate", "clip:CLIP", "S:STRING", widgets_values=values))["1"]["inputs"]
        assert (inputs["sampling_mode.seed"], inputs["sampling_mode.presence_penalty"], inputs["thinking"]) == (5, 0.5, False)


def test_an_unknown_class_without_outputs_is_told_by_the_file_too() -> None:
    graph = Graph().node(1, "CustomLoader", outputs="MODEL:MODEL").node(2, "CustomShow", "model:MODEL").link(1, 0, 2, "model")
    assert parse_workflow(graph.saved()).output_types.keys() == {"1", "2"}


def test_the_file_tells_the_types_of_classes_nobody_knows() -> None:
    graph = Graph().node(1, "CustomLoader", outputs="MODEL:MODEL x:CUSTOM").node(2, "CustomShow", "model:MODEL").link(1, 0, 2, "model")
    graph.node(3, "ComfySwitchNode", "on_true:MODEL", "output:MODEL").link(1, 0, 3, "on_true")
    workflow = parse_workflow(graph.saved())
    assert workflow.outputs == ["2"]
    loader = workflow.traits("CustomLoader")
    assert loader is not None and loader.outputs == ("MODEL", "CUSTOM")
    assert workflow.output_types["3"] == ("MODEL",)


def test_numbered_nodes_come_in_the_order_of_their_numbers() -> None:
    graph = Graph().node(10, "EmptyLatentImage", outputs="L:LATENT").node(9, "EmptyLatentImage", outputs="L:LATENT")
    assert list(prompt(graph)) == ["9", "10"]


def test_links_in_a_circle_of_reroutes_end() -> None:
    graph = two_nodes().node(5, "Reroute", "any:*", "L:LATENT").node(6, "Reroute", "any:*", "L:LATENT")
    assert "samples" not in prompt(graph.link(5, 0, 6, "any").link(6, 0, 5, "any").link(6, 0, 3, "samples"))["3"]["inputs"]


def test_ten_thousand_reroutes_in_a_row() -> None:
    graph = two_nodes()
    for number in range(10, 10_010):
        graph.nodes.append(
            {"id": number, "type": "Reroute", "inputs": [{"name": "", "type": "*", "link": number}], "outputs": [{"name": "", "type": "*"}]}
        )
        graph.links.append([number, 1 if number == 10 else number - 1, 0, number, 0, "LATENT"])
    graph.nodes[1]["inputs"][0]["link"] = 5
    graph.links.append([5, 10_009, 0, 3, 0, "LATENT"])
    assert prompt(graph)["3"]["inputs"]["samples"] == ["1", 0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("[]", "no ComfyUI workflow"),
        ("{}", "no ComfyUI workflow"),
        ('{"a": 1}', "no ComfyUI workflow"),
        ('{"1": {"class_type": "A"}, "2": 5}', "node 2 has no class_type"),
        ('{"1": {"class_type": "A", "inputs": []}}', "inputs of node 1"),
        ('{"nodes": [1], "links": []}', "not in the editor's format"),
        ('{"nodes": [{"id": 1}], "links": []}', "not in the editor's format"),
        (
            '{"nodes": [{"id": 1, "type": "s"}], "definitions": {"subgraphs": [{"id": "s", "nodes": [{"id": 1, "type": "s"}]}]}}',
            "contains itself",
        ),
    ],
)
def test_what_is_no_workflow_is_said_in_one_line_with_the_file(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(WorkflowError) as caught:
        read_workflow(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and says in message and "\n" not in message


def test_a_missing_and_a_binary_file_are_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\xff")
    for name in ("none.json", "a.png"):
        with pytest.raises(WorkflowError, match="cannot be read as text"):
            read_workflow(tmp_path / name)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-20, 20) | st.sampled_from(["1", "Reroute", "KSampler", "sub", "*", "LATENT"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "id",
                    "type",
                    "mode",
                    "inputs",
                    "outputs",
                    "links",
                    "link",
                    "nodes",
                    "name",
                    "definitions",
                    "subgraphs",
                    "widgets_values",
                    "class_type",
                    "widget",
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=30,
)


@settings(deadline=None, max_examples=300)
@given(json_values, st.lists(st.fixed_dictionaries({"id": json_values, "type": json_values, "inputs": json_values}), max_size=3))
def test_any_json_is_read_or_refused_in_one_line(data: Any, nodes: list[Any]) -> None:
    for document in (data, {"nodes": nodes, "links": data}, {"nodes": data, "definitions": data}, {"prompt": data}):
        try:
            workflow = parse_workflow(document)
        except WorkflowError as error:
            assert "\n" not in str(error)
        else:
            assert set(workflow.outputs) <= set(workflow.prompt)


def test_the_table_of_core_nodes_knows_what_prediction_needs() -> None:
    assert core_nodes()["CheckpointLoaderSimple"].folders == {"ckpt_name": "checkpoints"}
    save, switch = core_traits("SaveImage"), core_traits("ComfySwitchNode")
    assert save is not None and save.is_output
    assert switch is not None and switch.lazy == {"on_true", "on_false"}
    assert any(node.traits.is_async for node in core_nodes().values())
    assert (Path(__file__).parents[1] / "residency" / "workflow" / "core_nodes.json").stat().st_size < 150_000
