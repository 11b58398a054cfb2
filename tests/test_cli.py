"""The command line as a user meets it: what it prints, its exit status, and one clear line for bad input."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from residency.cli.main import main
from residency.demo import sides
from residency.installation import doctor, server_process
from residency.installation.locate import PACK, ComfyUI, cache_folder

WORKFLOW = str(PACK / "example_workflows" / "two_experts.json")
SIZES = {"diffusion_models/residency_expert_a": 400, "diffusion_models/residency_expert_b": 500, "text_encoders/residency_clip_l": 60}


pytestmark = pytest.mark.usefixtures("no_comfyui")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name, count in SIZES.items():
        path = tmp_path / "models" / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"w": torch.ones(count, dtype=torch.uint8)}, path)
    return tmp_path / "models"


# --- plan ---


def test_plan_prints_order_uses_bytes_and_what_is_missing(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", WORKFLOW, "--models-directory", str(models)]) == 0
    said = capsys.readouterr().out
    samplers = [line for line in said.splitlines() if "KSampler" in line]
    assert ["expert_a, reads 400 B" in samplers[0], "expert_b, reads 500 B" in samplers[1]] == [True, True]
    assert "3 components, 960 B to read" in said
    assert "missing: residency_tae.safetensors (VAELoader 3)" in said


def test_plan_reads_in_the_loaders_with_the_legacy_patcher(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", WORKFLOW, "--models-directory", str(models), "--patcher", "legacy"]) == 0
    said = capsys.readouterr().out
    assert [line.split()[1] for line in said.splitlines() if ", reads" in line].count("UNETLoader") == 2
    assert not any("KSampler" in line and "reads" in line for line in said.splitlines())


def test_plan_as_json_says_the_same(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", WORKFLOW, "--models-directory", str(models), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {component["size_bytes"] for component in said["components"]} == set(SIZES.values())
    assert [visit["class_type"] for visit in said["visits"]].index("KSampler") > 0
    assert said["missing"] == [{"node_id": "3", "class_type": "VAELoader", "file": "residency_tae.safetensors"}]


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"1": {"inputs": {}}}', "\x00"])
def test_plan_of_what_is_no_workflow_is_one_clear_line_and_status_2(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    path = tmp_path / "odd.json"
    if content is not None:
        path.write_text(content)
    assert main(["plan", str(path), "--models-directory", str(models)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "odd.json" in said.err
    assert said.err.count("\n") == 1


def test_plan_without_a_models_folder_says_which_option_gives_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", WORKFLOW]) == 2
    assert "--models-directory" in capsys.readouterr().err


def test_a_broken_model_file_is_a_warning_in_the_plan(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (models / "diffusion_models" / "residency_expert_a.safetensors").write_bytes(b"oops")
    assert main(["plan", WORKFLOW, "--models-directory", str(models)]) == 0
    assert "warning: node 1: UNETLoader" in capsys.readouterr().out


# --- doctor ---


def test_doctor_without_comfyui_still_tells_about_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "set COMFYUI_PATH" in said
    assert "available of" in said


def test_doctor_goes_on_when_comfyuis_python_does_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {fact.name: fact.value for fact in doctor.look(ComfyUI(tmp_path, tmp_path / "no-python", "test"))}
    assert facts["its Python said"].startswith("nothing")
    assert "host" in facts


def test_a_wrong_variable_is_one_line_and_status_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COMFYUI_PATH", "nowhere")
    assert main(["doctor"]) == 2
    assert "COMFYUI_PATH is nowhere" in capsys.readouterr().err


# --- demo ---


def test_the_demo_without_comfyui_runs_the_same_timeline_on_plain_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RESIDENCY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sides, "LOCAL_MIB", dict.fromkeys(sides.LOCAL_MIB, 8))
    monkeypatch.setattr(sides, "SAMPLER_PASSES", 1)
    monkeypatch.setattr(sides, "FREE_S", 0.0)
    monkeypatch.setattr("residency.demo.sizing._PROBE_BYTES", 16 << 20)
    assert main(["demo", "--repeats", "1", "--output-directory", str(tmp_path / "shown")]) == 0
    said = capsys.readouterr().out
    assert "results with the pack on and off: identical" in said
    assert " ".join(said.split()).count("(medians of 2 pairs): too few to tell a difference from chance (6 are needed).") == 2
    assert "simulated and not run" in said
    assert "comfy install" in said
    assert max(len(line) for line in said.splitlines() if str(tmp_path) not in line) <= 100
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".safetensors"]
    trace = json.loads((tmp_path / "shown" / "trace.json").read_text())
    assert trace["version"] == 1
    assert trace["mode"] != "off"
    assert [node["class_type"] for node in trace["nodes"]].count("KSampler") == 2
    assert Image.open(tmp_path / "shown" / "timeline.png").width > 500
    assert "<svg" in (tmp_path / "shown" / "timeline.html").read_text()


@pytest.mark.parametrize("repeats", ["0", "-1", "many", "1.5"])
def test_a_number_of_repeats_that_is_none_is_one_line_and_status_2(repeats: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", f"--repeats={repeats}"])
    assert ended.value.code == 2
    assert f"'{repeats}' is no number above 0" in capsys.readouterr().err


def test_a_cache_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESIDENCY_CACHE", str(tmp_path / "file"))
    assert main(["demo", "--repeats", "1"]) == 1
    said = capsys.readouterr().err
    assert str(tmp_path / "file") in said
    assert said.count("\n") == 1


def test_models_that_cannot_be_made_say_what_python_said(tmp_path: Path) -> None:
    with pytest.raises(server_process.ServerError, match="could not make the models"):
        sides.make_models(ComfyUI(tmp_path, Path(sys.executable), "test"), tmp_path / "m", lambda *_: None)


def test_a_server_that_dies_says_why_at_once(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("print('cannot find my libraries'); raise SystemExit(7)")
    comfyui = ComfyUI(tmp_path, Path(sys.executable), "test")
    died = pytest.raises(server_process.ServerError, match=r"(?s)status 7.*cannot find my libraries")
    with died, server_process.serve(comfyui, tmp_path, pack=None):
        pytest.fail("it never came up")


def test_a_pack_without_its_entry_is_not_served(tmp_path: Path) -> None:
    with pytest.raises(server_process.ServerError, match="from a checkout"):
        server_process.link_pack(tmp_path, tmp_path / "custom_nodes")


@pytest.mark.parametrize(
    ("environment", "platform", "end"),
    [
        ({"RESIDENCY_CACHE": os.sep + "mine"}, "linux", "mine"),
        ({"XDG_CACHE_HOME": os.sep + "x"}, "linux", "x/residency"),
        ({}, "linux", ".cache/residency"),
        ({}, "darwin", "Library/Caches/residency"),
        ({"LOCALAPPDATA": os.sep + "l"}, "win32", "l/residency/cache"),
    ],
)
def test_models_are_kept_where_the_platform_keeps_caches(environment: dict[str, str], platform: str, end: str) -> None:
    assert cache_folder(environment, platform).as_posix().endswith(end)
