"""`plan` never says that a workflow fits when it did not understand it: what it left out is listed, with what it may mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from test_workflow import Graph

from residency.cli.main import main

MACHINE = ["--vram", "24GB", "--ram", "64GB", "--disk", "1.5GB/s", "--link", "25GB/s"]

pytestmark = pytest.mark.usefixtures("no_comfyui")


def sampled(graph: Graph, loader: int = 1) -> Graph:
    """The loader's model samples a latent that is saved."""
    graph.node(20, "EmptyLatentImage", outputs="LATENT:LATENT", widgets_values=[64, 64, 1])
    values = [7, "fixed", 20, 8.0, "euler", "simple", 1.0]
    graph.node(21, "KSampler", "model:MODEL latent_image:LATENT", "LATENT:LATENT", widgets_values=values)
    graph.node(22, "SaveLatent", "samples:LATENT", widgets_values=["x"])
    return graph.link(loader, 0, 21, "model").link(20, 0, 21, "latent_image").link(21, 0, 22, "samples")


def unknown_loader(*values: Any, **fields: Any) -> Graph:
    """A loader of a class that nobody knows; an older editor lists no inputs for its widgets."""
    return sampled(Graph().node(1, "UNETLoaderOfSomePack", outputs="MODEL:MODEL", widgets_values=list(values), **fields))


class Plan:
    """Runs the command on a graph."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.models = folder / "models"
        self.models.mkdir()
        self._folder = folder
        self._capsys = capsys

    def file(self, name: str, size_bytes: int = 100) -> None:
        path = self.models / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"w": torch.ones(size_bytes, dtype=torch.uint8)}, path)

    def text(self, graph: Any, *options: str, status: int = 0) -> str:
        path = self._folder / "w.json"
        path.write_text(json.dumps(graph.saved() if isinstance(graph, Graph) else graph))
        assert main(["plan", str(path), "--models-directory", str(self.models), *MACHINE, *options]) == status
        heard = self._capsys.readouterr()
        assert heard.err.count("\n") == (1 if status else 0)
        return heard.out

    def sizes(self, sizes: dict[str, Any]) -> tuple[str, str]:
        (self._folder / "sizes.json").write_text(json.dumps(sizes))
        return "--sizes", str(self._folder / "sizes.json")

    def json(self, graph: Any, *options: str, status: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.text(graph, *options, "--json", status=status))
        return found


@pytest.fixture
def plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Plan:
    return Plan(tmp_path, capsys)


def components(told: dict[str, Any]) -> dict[str, int]:
    return {one["name"]: one["size_bytes"] for one in told["components"]}


# --- an unknown loader ---


def test_a_plan_that_understood_nothing_says_so_and_fails(plan: Plan) -> None:
    said = plan.text(unknown_loader("big.safetensors", "default", "cuda:0"), status=2)
    assert "missing: big.safetensors (UNETLoaderOfSomePack 1)" in said and "1 thing was not understood" in said
    assert "fits" not in said and "0 B" not in said
    told = plan.json(unknown_loader("big.safetensors", "default", "cuda:0"), status=2)
    (one,) = told["not_understood"]
    assert (one["why"], one["class_type"], one["node_ids"], one["value"]) == ("missing", "UNETLoaderOfSomePack", ["1"], "big.safetensors")
    assert all("nothing" in mode["verdict"] for mode in told["modes"])


def test_a_file_of_an_unknown_loader_is_its_component_wherever_the_value_lies(plan: Plan) -> None:
    plan.file("loras/deep/row.safetensors", 40)
    plan.file("diffusion_models/big.safetensors", 300)
    for values in (
        ["big.safetensors", "default"],
        [["big.safetensors", 1.0]],
        [{"on": True, "file": {"name": "big.safetensors"}}],
        [[["big.safetensors", 1.0], {"on": False, "lora": "gone.safetensors"}]],
    ):
        told = plan.json(unknown_loader(*values))
        assert (components(told), told["not_understood"]) == ({"big": 300}, []), values
    by_name = {"widgets_values": {"file": "deep\\row.safetensors"}}
    assert components(plan.json(sampled(Graph().node(1, "Loader", outputs="MODEL:MODEL", **by_name)))) == {"row": 40}


def test_a_size_given_for_the_file_of_an_unknown_loader_counts(plan: Plan) -> None:
    told = plan.json(unknown_loader("big.safetensors"), *plan.sizes({"big.safetensors": "9.8GB"}))
    assert components(told) == {"big": 9_800_000_000} and told["not_understood"] == []
    told = plan.json(unknown_loader("no suffix at all"), *plan.sizes({"no suffix at all": "9.8GB"}))
    assert sum(components(told).values()) == 9_800_000_000


def test_a_value_without_a_suffix_that_is_found_in_a_model_folder_counts(plan: Plan) -> None:
    (plan.models / "engines").mkdir()
    (plan.models / "engines" / "unet.plan").write_bytes(b"x" * 70)
    assert components(plan.json(unknown_loader("unet.plan"))) == {"unet": 70}
    plan.file("LLM/writer/model-00001-of-00002.safetensors", 30)
    plan.file("LLM/writer/model-00002-of-00002.safetensors", 50)
    (plan.models / "LLM" / "writer" / "config.json").write_text("{}")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (plan.models / "LLM" / "writer" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert components(plan.json(unknown_loader("writer"))) == {"writer": 80}


def test_a_known_class_takes_a_text_for_no_file(plan: Plan) -> None:
    (plan.models / "loras").mkdir()
    (plan.models / "loras" / "default").write_bytes(b"x")
    graph = sampled(Graph().node(1, "UNETLoader", outputs="MODEL:MODEL", widgets_values=["big.safetensors", "default"]))
    assert components(plan.json(graph, *plan.sizes({"big.safetensors": "1GB"}))) == {"big": 1_000_000_000}


# --- what is listed ---


def test_the_verdict_is_about_what_was_understood(plan: Plan) -> None:
    plan.file("diffusion_models/small.safetensors")
    graph = unknown_loader("small.safetensors").node(2, "Mystery", outputs="IMAGE:IMAGE").node(3, "Mystery", outputs="IMAGE:IMAGE")
    graph.node(4, "SaveImage", "images:IMAGE").node(5, "SaveImage", "images:IMAGE").link(2, 0, 4, "images").link(3, 0, 5, "images")
    said = plan.text(graph)
    assert (
        "1 component, 100 B to read; 1 thing was not understood:\nnot understood: Mystery 2, 3: a class that this version does not" in said
    )
    assert "balanced: what was understood fits; 1 thing was not understood" in said
    assert plan.json(graph)["modes"][0]["verdict"] == "what was understood fits; 1 thing was not understood"
    assert "balanced: fits, and nothing waits" in plan.text(unknown_loader("small.safetensors"))


@pytest.mark.parametrize(
    ("values", "why", "means"),
    [
        (["Qwen/Qwen2.5-VL-7B-Instruct"], "folder", "repository"),
        (["fp16", 3], "loader", "a loader: it gives MODEL"),
        (["a.gguf"], "missing", "in no model folder"),
    ],
)
def test_what_an_unknown_loader_may_mean_is_told(plan: Plan, values: list[Any], why: str, means: str) -> None:
    (one,) = plan.json(unknown_loader(*values), status=2)["not_understood"]
    assert one["why"] == why and means in one["may_mean"]


def test_a_subgraph_without_its_definition_is_named_as_one(plan: Plan) -> None:
    graph = sampled(Graph().node(1, "0b1d2f4e-1111-4222-8333-444455556666", outputs="MODEL:MODEL"))
    (one,) = plan.json(graph, status=2)["not_understood"]
    assert "a subgraph whose definition is not in the file" in one["may_mean"]


def test_a_file_that_cannot_be_read_is_not_understood(plan: Plan) -> None:
    (plan.models / "vae").mkdir()
    (plan.models / "vae" / "bad.safetensors").write_bytes(b"oops")
    (one,) = plan.json(unknown_loader("bad.safetensors"), status=2)["not_understood"]
    assert one["why"] == "unusable" and "bad.safetensors" in one["value"]
    assert plan.text(unknown_loader("bad.safetensors"), status=2).count("bad.safetensors") == 1


def test_nodes_in_a_circle_are_not_a_workflow_that_fits(plan: Plan) -> None:
    inputs = {"samples": ["1", 0]}
    ring = {"1": {"class_type": "LatentFlip", "inputs": inputs}, "2": {"class_type": "SaveLatent", "inputs": inputs}}
    (one,) = plan.json(ring, status=2)["not_understood"]
    assert one["why"] == "circle"


def test_a_workflow_that_saves_nothing_is_planned_as_if_its_last_nodes_did(plan: Plan) -> None:
    plan.file("diffusion_models/small.safetensors")
    graph = unknown_loader("small.safetensors")
    graph.nodes = [node for node in graph.nodes if node["type"] != "SaveLatent"]
    told = plan.json(graph)
    assert [visit["class_type"] for visit in told["visits"]][-1] == "KSampler" and "ComfyUI would refuse" in told["warnings"][0]


def test_a_workflow_that_reads_no_weights_fits(plan: Plan) -> None:
    graph = Graph().node(1, "EmptyLatentImage", outputs="LATENT:LATENT").node(2, "SaveLatent", "samples:LATENT").link(1, 0, 2, "samples")
    said = plan.text(graph)
    assert "\nno node names weights: nothing is to be read\n" in said and "balanced: fits, and nothing waits" in said


def test_a_workflow_that_a_service_computes_is_no_mistake_and_its_unknown_class_has_one_line(plan: Plan) -> None:
    graph = Graph()
    for number in (1, 2):
        graph.node(number, "SomeServiceV9", outputs="IMAGE:IMAGE", widgets_values=["a cat", "model-xl"])
        graph.node(number + 10, "SaveImage", "images:IMAGE").link(number, 0, number + 10, "images")
    said = plan.text(graph)
    assert (
        "\nno node names weights: nothing is to be read; 1 thing was not understood:\nnot understood: SomeServiceV9 1, 2: a class" in said
    )
    assert "balanced: what was understood fits; 1 thing was not understood" in said


def test_a_node_of_an_unknown_class_computes_with_the_models_that_are_linked_to_it(plan: Plan) -> None:
    plan.file("diffusion_models/small.safetensors")
    graph = Graph().node(1, "UNETLoader", outputs="MODEL:MODEL", widgets_values=["small.safetensors", "default"])
    graph.node(2, "Draw", "model:MODEL", "IMAGE:IMAGE").node(3, "SaveImage", "images:IMAGE")
    told = plan.json(graph.link(1, 0, 2, "model").link(2, 0, 3, "images"))
    assert told["not_understood"] == []
    (draws,) = (visit for visit in told["visits"] if visit["class_type"] == "Draw")
    assert [(use["kind"], use["reads"]) for use in draws["uses"]] == [("compute", True)]


# --- only what runs ---


def switched(on: bool) -> Graph:
    graph = Graph()
    for number, name in ((1, "on.safetensors"), (2, "off.safetensors")):
        graph.node(number, "UNETLoader", outputs="MODEL:MODEL", widgets_values=[name, "default"])
    graph.node(3, "ComfySwitchNode", "on_false:MODEL on_true:MODEL", "MODEL:MODEL", widgets_values=[on])
    return sampled(graph.link(1, 0, 3, "on_true").link(2, 0, 3, "on_false"), 3)


def test_files_of_a_branch_that_is_switched_off_are_not_missing(plan: Plan) -> None:
    plan.file("diffusion_models/on.safetensors")
    told = plan.json(switched(True))
    assert (told["missing"], told["not_understood"], list(components(told))) == ([], [], ["on"])
    told = plan.json(switched(False), status=2)
    assert [one["file"] for one in told["missing"]] == ["off.safetensors"]


def test_a_size_for_a_branch_that_is_switched_off_is_no_mistake(plan: Plan) -> None:
    assert components(plan.json(switched(True), *plan.sizes({"on.safetensors": 5, "off.safetensors": 6}))) == {"on": 5}


# --- the folder ---


def test_a_value_stays_inside_the_models_folder(plan: Plan, tmp_path: Path) -> None:
    plan.file("vae/x.safetensors")
    save_file({"w": torch.ones(9)}, tmp_path / "secret.safetensors")
    for value in ("../../secret.safetensors", str(tmp_path / "secret.safetensors")):
        assert [one["file"] for one in plan.json(unknown_loader(value), status=2)["missing"]] == [value]


def test_names_that_no_file_can_have_are_missing(plan: Plan) -> None:
    plan.file("vae/x.safetensors")
    for value in ("\0.safetensors", "\ud800.safetensors", "x" * 600 + ".safetensors"):
        assert [one["file"] for one in plan.json(unknown_loader(value), status=2)["missing"]] == [value]
        plan.text(unknown_loader(value), status=2)
