"""The bench as a user runs it, on a real server: cold and warm, both sides, and everything it leaves on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from residency.bench import ways
from residency.bench.markdown import BEGIN, END
from residency.bench.models import files_of
from residency.bench.run import Plan, run
from residency.bench.scenarios import Limits, Size, choose
from residency.installation.locate import PACK, ComfyUI


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the bench keeps its models between runs: the first story has them made, the others find them there."""
    return tmp_path_factory.mktemp("cache")


def begin(comfyui: ComfyUI, cache: Path, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "COMFYUI_PATH": str(comfyui.path), "COMFYUI_PYTHON": str(comfyui.python), "RESIDENCY_CACHE": str(cache)}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, "-m", "residency", "bench", "--output-directory", str(folder / "out"), *arguments]
    return subprocess.Popen(command, cwd=PACK, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def bench(comfyui: ComfyUI, cache: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    process = begin(comfyui, cache, folder, *arguments)
    output, errors = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def test_one_run_measures_both_sides_and_leaves_results_traces_pictures_and_a_table(comfyui: ComfyUI, cache: Path, tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    few = ["--scenarios", "S8,S1,S3", "--rounds", "1", "--repeats", "1", "--warm-ups", "1", "--no-references"]
    ran = bench(comfyui, cache, tmp_path, *few, "--png", str(tmp_path / "pictures"), "--markdown", str(page))
    assert ran.returncode == 0, ran.stderr
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    told = {name: raw["summary"] for name, raw in found["scenarios"].items()}
    assert set(told) == {"S8", "S1"} and "no CUDA device" in found["skipped"]["S3"]
    assert [told["S8"]["identical"], told["S1"]["identical"]] == [True, True]
    assert told["S8"]["bound_s"] > 0 and told["S1"]["bound_s"] is None
    cold = found["scenarios"]["S1"]["runs"]
    assert sorted(run["side"] for run in cold) == ["pack", "stock"] and all(len(run["prompts"][0]["nodes"]) == 10 for run in cold)
    assert all(run["seconds"] == run["prompts"][-1]["end_s"] <= run["prompts"][-1]["free_s"] for run in cold)
    assert [(raw["command"], raw["machine"]) for raw in found["scenarios"].values()] == [(found["command"], found["machine"])] * 2
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["S1.html", "S1.png", "S8.html", "S8.png"]
    traces = json.loads((tmp_path / "out" / "traces" / "S1.json").read_text())
    assert {node["class_type"] for node in traces["stock"]["nodes"]} == {node["class_type"] for node in traces["pack"]["nodes"]}
    assert "| S8: " in page.read_text() and "not what the pack gains" in page.read_text()


def test_the_pack_runs_beside_an_earlier_checkout_and_in_another_way_and_all_draw_the_same(comfyui: ComfyUI, cache: Path, tmp_path: Path):
    few = ["--scenarios", "S8", "--rounds", "1", "--repeats", "1", "--warm-ups", "0", "--before", str(PACK)]
    ran = bench(comfyui, cache, tmp_path, *few, "--way", "off=RESIDENCY_NOTE=1 mode=off --verbose DEBUG", "--sides", "off,stock,before")
    assert ran.returncode == 0, ran.stderr
    found = json.loads((tmp_path / "out" / "results.json").read_text())["scenarios"]["S8"]
    assert [(run["side"], run["place"]) for run in found["runs"]] == [("stock", 1), ("before", 1), ("off", 1)]
    assert found["summary"]["identical"] is True and len({run["digest"] for run in found["runs"]}) == 1
    assert found["ways"]["off"].endswith("with RESIDENCY_NOTE=1 mode=off --verbose DEBUG")
    assert {run["side"] for run in found["runs"] if "pack" in run} == {"before"}  # what is off has no trace to tell
    logs = {log.name: "DEBUG" in log.read_text() for log in (tmp_path / "out" / "logs").iterdir()}
    assert logs == {"S8-stock-1.log": False, "S8-before-1.log": False, "S8-off-1.log": True}
    assert all(f"S8 {side} " in " ".join(ran.stdout.split()) for side in ("stock", "before", "off"))


def test_a_switch_posts_each_workflow_when_the_one_before_has_ended(comfyui: ComfyUI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    switch = replace(choose(["C6"])[0], limits=Limits(), prompts=1)
    plan = Plan((switch,), Size.TINY, ways.choose((), ["pack"]), rounds=1, with_references=False)
    found = run(plan, comfyui, tmp_path / "models", tmp_path / "out", print)["scenarios"]["C6"]
    assert found["error"] is None
    (one,) = found["runs"]
    assert one["place"] == 2 and len(one["parts"]) == 3
    assert one["seconds"] == pytest.approx(sum(part["seconds"] for part in one["parts"])) == one["prompts"][-1]["end_s"]
    ends = [prompt["end_s"] for prompt in one["prompts"]]
    assert ends == sorted(ends) and one["prompts"][1]["nodes"][0][2] >= ends[0]
    if one["drive_bytes"] is not None:
        assert one["drive_bytes"] == sum(part["drive_bytes"] for part in one["parts"])


def test_a_run_that_was_cut_short_goes_on_where_it_was(comfyui: ComfyUI, cache: Path, tmp_path: Path):
    path, few = tmp_path / "out" / "results.json", ["--scenarios", "S8", "--rounds", "1", "--repeats", "1", "--warm-ups", "0"]
    with begin(comfyui, cache, tmp_path, *few) as cut:
        assert cut.stderr is not None
        for line in cut.stderr:
            if "S8, stock, round 1" in line:
                break
        cut.terminate()
        cut.communicate()
    before = json.loads(path.read_text())
    assert [run["side"] for run in before["scenarios"]["S8"]["runs"]] == ["stock"]
    ran = bench(comfyui, cache, tmp_path, *few, "--resume", "--verbose")
    assert ran.returncode == 0 and "S8, stock" not in ran.stderr, ran.stderr
    found = json.loads(path.read_text())["scenarios"]["S8"]
    assert found["runs"][:1] == before["scenarios"]["S8"]["runs"] and [run["side"] for run in found["runs"]] == ["stock", "pack"]
    assert found["complete"] and found["summary"]["identical"]
    assert set(json.loads((path.parent / "traces" / "S8.json").read_text())) == {"stock", "pack"}
    logs = {log.name: "DEBUG" in log.read_text() for log in (path.parent / "logs").iterdir()}
    # the end may have come before the first log was copied
    assert {"S8-stock-1.log": False} | logs == {"S8-stock-1.log": False, "S8-pack-1.log": True}
    path.write_text(json.dumps({**before, "machine": {**before["machine"], "boot": "another"}}))
    refused = bench(comfyui, cache, tmp_path, *few, "--resume")
    assert refused.returncode == 2 and "another --output-directory" in refused.stderr


def test_a_server_that_does_not_start_ends_its_scenario_at_once_with_its_log(comfyui: ComfyUI, cache: Path, tmp_path: Path):
    broken = tmp_path / "broken"
    (broken / "comfy").mkdir(parents=True)
    (broken / "main.py").write_text("raise SystemExit('this ComfyUI is broken')")
    for path in ("comfyui_version.py",):
        (broken / path).write_text((comfyui.path / path).read_text())
    models = tmp_path / "models"
    for file in files_of(choose(["S8"])[0], Size.TINY):
        file.at(models).parent.mkdir(parents=True, exist_ok=True)
        file.at(models).write_bytes(bytes(1 << 20))
    ran = bench(
        ComfyUI(broken, comfyui.python, ""), cache, tmp_path, "--scenarios", "S8", "--rounds", "1", "--models-directory", str(models)
    )
    assert ran.returncode == 1 and "this ComfyUI is broken" in ran.stderr
    assert "this ComfyUI is broken" in json.loads((tmp_path / "out" / "results.json").read_text())["scenarios"]["S8"]["error"]


def test_a_language_model_writes_the_same_words_with_the_pack_off_and_on(comfyui: ComfyUI, cache: Path, tmp_path: Path):
    few = ["--family", "language", "--class", "24/64", "--parts", "text", "--no-references", "--rounds", "1", "--repeats", "2"]
    ran = bench(comfyui, cache, tmp_path, *few)
    assert ran.returncode == 0, ran.stderr
    text = json.loads((tmp_path / "out" / "results.json").read_text())["scenarios"]["language-24-64-text"]
    assert text["summary"]["identical"] is True and text["ways"]["stock"] == "without the pack, but its nodes"
    words = {side: [run["words"] for run in text["runs"] if run["side"] == side] for side in ("stock", "pack")}
    assert words["stock"] == words["pack"] and len({str(one) for one in words["pack"]}) == 2  # another text, another answer
    assert all(len(one.split()) == 4 for said in words["pack"] for one in said)
    assert {run["side"] for run in text["runs"] if "pack" in run} == {"pack"}  # off it has no trace
    assert any(used[0].startswith("residency_writer") for used in text["prompts"]["the family's workflow"]["uses"].values())
    assert all(run["predicted_s"] > 0 for run in text["runs"] if run["side"] == "pack")


@pytest.mark.timeout(900)  # six servers, one after the other
def test_a_family_is_switched_from_and_back_to_and_stock_with_its_own_options_stands_beside_it(
    comfyui: ComfyUI, cache: Path, tmp_path: Path
):
    few = ["--family", "qwen_image", "--class", "12/32", "--parts", "text,switch", "--no-references"]
    few += ["--rounds", "1", "--repeats", "1", "--warm-ups", "0"]
    ran = bench(comfyui, cache, tmp_path, *few, "--best-flags", "--sides", "stock,high-ram,pack")
    assert ran.returncode == 0, ran.stderr
    found = json.loads((tmp_path / "out" / "results.json").read_text())["scenarios"]
    assert {name: raw["summary"]["identical"] for name, raw in found.items()} == {
        "qwen_image-12-32-text": True,
        "qwen_image-12-32-switch": True,
    }
    text, switch = found["qwen_image-12-32-text"], found["qwen_image-12-32-switch"]
    assert [run["side"] for run in text["runs"]] == ["stock", "high-ram", "pack"]
    assert text["ways"]["high-ram"] == "without the pack with --high-ram"
    told = text["prompts"]["the family's workflow"]
    assert sorted(told["passes"].values()) == [1, 1, 1, 1, 2]  # two texts, one writer, the decoder; two steps
    assert all(set(used) <= set(text["sizes"]) for used in told["uses"].values())
    assert [prompt["workflow"] for prompt in switch["runs"][0]["prompts"]] == switch["queue"]
    assert [run["predicted_s"] for run in text["runs"]] == [None, None, None]  # neither stock nor a server that has run nothing knows
    foretold = {run["side"]: [part["predicted_s"] for part in run["parts"]] for run in switch["runs"]}
    there, other, back = foretold.pop("pack")
    assert there > 0 and other is None and back > 0 and foretold == {"stock": [None] * 3, "high-ram": [None] * 3}
    assert not any(run["blank"] for raw in found.values() for run in raw["runs"])
    workflow, hardware = (line.split(maxsplit=6) for line in ran.stdout.splitlines() if line.startswith(("workflow ", "GiB of VRAM")))
    assert workflow[1:] == ["qwen_image"] and hardware[-1].endswith("12 / 32")
    assert [raw["limits"]["device_free_bytes"] for raw in found.values()] == [None, None]  # tiny ones fit whatever is left
