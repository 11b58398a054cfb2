"""Whatever a workflow file holds, `plan` and `convert` end with status 0 or 2, one line on stderr when it is 2, and never a traceback."""

from __future__ import annotations

import copy
import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from subgraph_story import STORIES
from test_workflow import Graph

from residency.cli.main import main
from residency.workflow.file import parse_workflow

pytestmark = pytest.mark.usefixtures("no_comfyui")

EXAMPLES = [json.loads(path.read_text(encoding="utf-8")) for path in (Path(__file__).parents[1] / "example_workflows").glob("*.json")]
GRAPHS = [*EXAMPLES, *(data for data, _, _ in STORIES.values())]
DOCUMENTS = [*GRAPHS, *(parse_workflow(graph).prompt for graph in GRAPHS)]
LINKED = Graph().node(1, "SomeLoader", outputs="MODEL:MODEL").node(2, "SaveLatent", "samples:LATENT").link(1, 0, 2, "samples").saved()

ODD: list[Any] = [None, True, 0, -1, 2, 4, -10, 1e999, float("nan"), 10**40, 1.5, "", "\ud800", "a\nb", "\0", "-1", "a.safetensors", [], {}]
ODD += [
    "Reroute",
    "GetNode",
    "SetNode",
    "PrimitiveNode",
    "ResidencyPolicy",
    "ResidencyReport",
    "ResidencyUNETLoader",
    [[1], 2],
    ["1", 1e999],
]
ODD += [["x", 2, 3], {"on": True, "lora": "a.safetensors"}, [["a.safetensors", [1]]], {"__value__": [["b.safetensors"]]}, "x" * 400 + ".pt"]
KEYS = ["id", "type", "inputs", "outputs", "links", "link", "linkIds", "nodes", "widget", "widgets_values", "properties", "definitions"]
KEYS += ["subgraphs", "mode", "class_type", "prompt"]


class Ended:
    """One run of the command line, its streams as a terminal's: UTF-8, nothing that it cannot encode."""

    def __init__(self, *arguments: str) -> None:
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
        with redirect_stdout(out), redirect_stderr(err):
            self.status = main(arguments)
        self.out, self.err = (self._written(stream) for stream in (out, err))

    @staticmethod
    def _written(stream: io.TextIOWrapper) -> str:
        stream.flush()
        written: bytes = stream.buffer.getvalue()  # type: ignore[attr-defined]
        return written.decode()

    def well(self) -> bool:
        return self.status == 0 or (self.status == 2 and self.err.count("\n") == 1 and len(self.err) < 1000)


def runs(path: Path) -> list[Ended]:
    """Every command that reads a workflow; the models folder is the file's."""
    options = ["--models-directory", str(path.parent), "--ram", "64GB", "--mode", "off"]
    plans = [Ended("plan", str(path), *options), Ended("plan", str(path), *options, "--guess", "--json")]
    return [*plans, Ended("convert", str(path)), Ended("convert", str(path), "--back")]


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A real workflow with a few parts gone, replaced by odd JSON, or by a part from elsewhere in it."""
    data = copy.deepcopy(draw(st.sampled_from(DOCUMENTS)))
    for _ in range(draw(st.integers(1, 4))):
        places: list[tuple[Any, Any]] = []
        level = [data]
        while level:
            places += [(one, key) for one in level for key in (one if isinstance(one, dict) else range(len(one)))]
            level = [one[key] for one in level for key in (one if isinstance(one, dict) else range(len(one)))]
            level = [one for one in level if isinstance(one, dict | list)]
        if not places:
            break
        owner, key = places[draw(st.integers(0, len(places) - 1))]
        odd = copy.deepcopy(draw(st.sampled_from(ODD)))
        match draw(st.sampled_from(["replace", "replace", "remove", "add", "elsewhere"])):
            case "replace":
                owner[key] = odd
            case "remove":
                del owner[key]
            case "add" if isinstance(owner, dict):
                owner[draw(st.sampled_from(KEYS))] = odd
            case "add":
                owner.insert(key, odd)
            case "elsewhere":
                other, place = places[draw(st.integers(0, len(places) - 1))]
                owner[key] = json.loads(json.dumps(other[place]))
    return data


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(mutated())
def test_a_workflow_with_parts_that_are_odd(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    path = tmp_path_factory.mktemp("odd") / "w.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    for ended in runs(path):
        assert ended.well(), ended.err


@pytest.mark.parametrize(
    ("links", "says"),
    [
        ([[1, 1, 1e999, 2, 0, "LATENT"]], "link 1 has inf for the number of a slot"),
        ([[1, 1, float("nan"), 2, 0, "LATENT"]], "link 1 has nan for the number of a slot"),
        ([[1, 1, True, 2, 0, "LATENT"]], "link 1 has True"),
        ([[1, 1]], "link [1, 1] does not say what it joins"),
        ([{"id": 1}], "does not say what it joins"),
        ([7], "link 7 does not say what it joins"),
        (7, "the links of the workflow are 7, not a list"),
        ([[[1], 1, 0, 2, 0, "LATENT"]], "does not say what it joins"),
    ],
)
def test_a_link_that_is_none_is_named(tmp_path: Path, links: Any, says: str) -> None:
    path = tmp_path / "w.json"
    path.write_text(json.dumps({**LINKED, "links": links}))
    for ended in runs(path):
        assert ended.status == 2 and says in ended.err and str(path) in ended.err and ended.err.count("\n") == 1


@pytest.mark.parametrize("slot", [10**30, -5, 99])
def test_a_slot_that_is_not_there_gives_nothing(tmp_path: Path, slot: int) -> None:
    path = tmp_path / "w.json"
    path.write_text(json.dumps({**LINKED, "links": [[1, 1, slot, 2, slot, "LATENT"]]}))
    assert all(ended.well() for ended in runs(path))


def holding(name: str, count: int) -> list[dict[str, Any]]:
    """Subgraphs, each of which holds `count` instances of the next one."""
    found = []
    for level in range(200):
        nodes = [{"id": number, "type": f"{name}{level + 1}"} for number in range(count)]
        found.append({"id": f"{name}{level}", "nodes": nodes, "links": []})
    return [*found, {"id": f"{name}200", "nodes": [], "links": []}]


@pytest.mark.parametrize("count", [1, 2])
def test_subgraphs_in_one_another_without_end_are_refused(tmp_path: Path, count: int) -> None:
    path = tmp_path / "w.json"
    data = {"nodes": [{"id": 1, "type": "s0"}], "links": [], "definitions": {"subgraphs": holding("s", count)}}
    path.write_text(json.dumps(data))
    for ended in runs(path):
        assert ended.status == 2 and "subgraphs" in ended.err


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"\xff\xfe\xff",
        b"\x80abc",
        b"[" * 100_000,
        b'{"nodes": [' + b"[" * 500 + b"]" * 500 + b"]}",
        b'{"1": ' + b"9" * 5000 + b"}",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\0\0\0\0WEBPEXIF\xff\xff\xff\x7fII*\0\xff\xff\xff\xff",
    ],
)
def test_what_is_no_workflow_is_said_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.json"
    path.write_bytes(content)
    for ended in runs(path):
        assert (ended.status, ended.out) == (2, "") and ended.well() and str(path) in ended.err


def test_a_folder_a_file_that_is_not_there_and_a_name_that_none_can_have(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.json", Path("a\0b")):
        assert all((ended.status, ended.out) == (2, "") and ended.well() for ended in runs(path))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_every_unicode_encoding_is_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "w.json"
    path.write_text(json.dumps(EXAMPLES[0]), encoding=encoding)
    assert json.loads(Ended("convert", str(path), "--back").out)["nodes"]


def test_half_of_a_surrogate_pair_goes_through(tmp_path: Path) -> None:
    """In a class name, a title and a file name, to a terminal and to a file."""
    data = {"1": {"class_type": "SaveLatent\ud800", "inputs": {"name": "\udfff.safetensors"}, "_meta": {"title": "\ud800é"}}}
    path, target = tmp_path / "w.json", tmp_path / "out.json"
    path.write_text(json.dumps(data))
    assert all(ended.well() for ended in runs(path))
    assert json.loads(Ended("convert", str(path)).out) == data
    assert Ended("convert", str(path), "-o", str(target)).status == 0
    assert json.loads(target.read_text(encoding="utf-8")) == data


def test_a_place_that_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    path.write_text(json.dumps(EXAMPLES[0]))
    ended = Ended("convert", str(path), "-o", str(tmp_path / "none" / "out.json"))
    assert ended.status == 2 and ended.well() and "--output" in ended.err


@pytest.mark.skipif(sys.platform == "win32", reason="sparse files")
def test_a_huge_file_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    with open(path, "wb") as file:
        os.truncate(file.fileno(), 1 << 40)
    ended = Ended("convert", str(path))
    assert ended.status == 2 and "which no workflow has" in ended.err
