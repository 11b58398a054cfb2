"""What a run leaves on disk when servers do not start or the time is over."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from residency.bench import run as bench
from residency.bench.models import files_of
from residency.bench.pace import Kind, Seen
from residency.bench.scenarios import Size, choose
from residency.bench.ways import Way
from residency.installation.locate import ComfyUI

NAMES = ["S4", "S8", "S4b"]


@pytest.fixture
def broken(tmp_path: Path) -> ComfyUI:
    """A ComfyUI that ends at once, and files where its models would be."""
    (tmp_path / "main.py").write_text("raise SystemExit('this ComfyUI is broken')")
    for scenario in choose(NAMES):
        for file in files_of(scenario, Size.TINY):
            file.at(tmp_path / "models").parent.mkdir(parents=True, exist_ok=True)
            file.at(tmp_path / "models").write_bytes(bytes(1 << 20))
    return ComfyUI(tmp_path, Path(sys.executable), "this test")


def told(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch, **plan: Any) -> list[tuple[str, dict[str, Any]]]:
    """Each line that was said, with what was on disk then; last the end."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    path, lines = comfyui.path / "out" / "results.json", []

    def on_disk() -> dict[str, Any]:
        return json.loads(path.read_text()) if path.exists() else {"scenarios": {}}

    asked = bench.Plan(choose(NAMES), Size.TINY, **plan)
    found = bench.run(asked, comfyui, comfyui.path / "models", path.parent, lambda line: lines.append((line, on_disk())))
    assert json.loads(json.dumps(found)) == on_disk()
    return [*lines, ("the end", found)]


def test_a_server_that_fails_is_on_disk_before_the_next_one_is_started(broken: ComfyUI, monkeypatch: pytest.MonkeyPatch):
    lines = told(broken, monkeypatch, rounds=2)
    failures = [(line, found) for line, found in lines if " failed: " in line]
    assert [line.split()[0] for line, _ in failures] == ["S4", "S8", "S4b"]
    for (_, found), name in zip(failures[1:], NAMES, strict=False):
        assert "this ComfyUI is broken" in found["scenarios"][name]["error"]
    assert all("broken" in raw["error"] and not raw["complete"] for raw in lines[-1][1]["scenarios"].values())


def test_when_the_time_is_over_nothing_is_begun_and_the_file_says_so(broken: ComfyUI, monkeypatch: pytest.MonkeyPatch):
    end = told(broken, monkeypatch, time_limit_s=0.001)[-1][1]
    assert end["scenarios"] == {} and end["skipped"] == dict.fromkeys(NAMES, "the time limit came first")


@pytest.mark.parametrize(("limit_s", "sides"), [(1000, ["stock", "before", "pack"]), (250, ["stock", "pack"]), (150, ["stock"])])
def test_where_not_all_sides_fit_the_last_one_runs_all_the_same(
    broken: ComfyUI, monkeypatch: pytest.MonkeyPatch, limit_s: float, sides: list[str]
):
    clock, ran = [0.0], []

    def side(run: bench.Bench, session: Any, *rest: Any) -> None:
        way = rest[3][0]
        ran.append(way.side)
        clock[0] += 100.0
        run.pace.queues.extend(Seen(way.side, work.scenario.name, kind, 1, 50.0) for work in session for kind in (Kind.FIRST, Kind.LATER))

    monkeypatch.setattr(bench, "_side", side)
    monkeypatch.setattr(bench.Bench, "elapsed_s", lambda run: clock[0])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    ways = tuple(Way(name) for name in ("stock", "before", "pack"))
    plan = bench.Plan(choose(["S8"]), Size.TINY, ways, rounds=1, warm_ups=1, prompts=1, time_limit_s=limit_s, with_references=False)
    bench.run(plan, broken, broken.path / "models", broken.path / "out", lambda line: None)
    assert ran == sides
