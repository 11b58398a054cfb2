"""Fleets on a virtual clock: what must hold of every trace, and what choosing well is worth on one."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from residency.cli.machines import machine
from residency.cli.main import main
from residency.fleet.forecast import Forecast, Job
from residency.fleet.simulation import Result, simulate
from residency.fleet.traffic import LORAS_OF_REQUEST, Request, Traffic, generate
from residency.simulate import GB, OURS, OURS_EXCHANGING, Step

MACHINE = machine(24 * GB, 64 * GB, 1.5e9, 25e9)


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    traffic = Traffic(requests=2000, workers=12, models=30)
    return {one.policy: one for one in simulate(generate(traffic), MACHINE, 12)}


def test_ours_beats_every_other_way_where_models_do_not_fit_everywhere(results: dict[str, Result]):
    others = [one for name, one in results.items() if name not in ("residency", "bound")]
    assert len(others) == 6
    assert results["residency"].p95_s * 1.1 < min(one.p95_s for one in others)


def test_nothing_is_better_than_the_bound(results: dict[str, Result]):
    bound = results["bound"]
    for one in results.values():
        assert one.p50_s >= bound.p50_s and one.p95_s >= bound.p95_s and one.p99_s >= bound.p99_s
        assert one.stall_s_per_prompt >= bound.stall_s_per_prompt
        assert one.read_bytes >= bound.read_bytes


def test_the_same_seed_gives_the_same_figures():
    def figures(seed: int) -> list[tuple[str, float, int]]:
        requests = generate(Traffic(requests=60, workers=3, models=8, seed=seed))
        return [(one.policy, one.p95_s, one.read_bytes) for one in simulate(requests, MACHINE, 3, seed)]

    assert figures(1) == figures(1) != figures(2)


def test_one_worker_and_one_model_wait_for_the_first_reading_only():
    job = Job((Step("1", "Sample", 10.0, ("a",), 20),), {"a": 6 * GB}, "a")
    requests = [Request(100.0 * n, "c", job) for n in range(4)]
    for one in simulate(requests, MACHINE, 1):
        assert one.read_bytes == 6 * GB
        assert one.p50_s == pytest.approx(10.0, abs=0.01)
        assert one.p99_s > 12.0


def test_a_simulated_worker_exchanges():
    small = machine(12 * GB, 16 * GB, 1.5e9, 25e9)
    job = Job((Step("1", "Sample", 10.0, ("a",), 20),), {"a": 7 * 2**30 * 5 // 2}, "a")
    (ours,) = simulate([Request(0.0, "c", job)], small, 1, only=("residency",))
    assert ours.stall_s_per_prompt == pytest.approx(Forecast(small, OURS_EXCHANGING).of(job, {}).stall_s, abs=1e-6)
    assert ours.stall_s_per_prompt < 0.9 * Forecast(small, OURS).of(job, {}).stall_s


def test_a_generated_trace_has_the_shape_that_it_tells():
    requests = generate(Traffic(requests=4000, workers=8, models=40, load=0.5))
    assert all(before.time_s <= after.time_s for before, after in pairwise(requests))
    computing_s = sum(request.job.compute_s for request in requests)
    assert computing_s / (8 * requests[-1].time_s) == pytest.approx(0.5, rel=0.05)
    models = [request.job.model for request in requests]
    counts = sorted((models.count(model) for model in set(models)), reverse=True)
    assert counts[0] > 3 * counts[len(counts) // 2]  # a few base models are most of it
    loras = [sum("-lora-" in key for key in request.job.keys) for request in requests]
    assert max(loras) <= 5
    assert loras.count(0) / len(loras) == pytest.approx(LORAS_OF_REQUEST[0], abs=0.03)


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["fleet", "simulate", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_command_tells_every_policy(capsys: pytest.CaptureFixture[str]):
    found = told(capsys, "--workers", "3", "--trace", "generated", "--requests", "50", "--seed", "7")
    names = [one["policy"] for one in found["policies"]]
    assert {"random", "round_robin", "least_queue", "residency", "bound"} <= set(names)
    for one in found["policies"]:
        assert 0 < one["p50_s"] <= one["p95_s"] <= one["p99_s"]
        assert {"stall_s_per_prompt", "read_bytes", "prompts_per_gpu_hour"} <= one.keys()
    assert found["trace"]["seed"] == 7
    assert main(["fleet", "simulate", "--workers", "2", "--requests", "20"]) == 0
    assert "residency" in capsys.readouterr().out


def test_a_trace_out_of_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    line = {"time_s": 0, "client": "a", "steps": [{"compute_s": 4.0, "passes": 20, "components": {"a.safetensors": "6GB"}}]}
    (tmp_path / "trace.jsonl").write_text("\n".join(json.dumps({**line, "time_s": n}) for n in range(3)))
    found = told(capsys, "--workers", "1", "--trace", str(tmp_path / "trace.jsonl"))
    assert found["trace"]["requests"] == 3
    assert {one["read_bytes"] for one in found["policies"]} == {6 * GB}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workers", "0"], "'0' is no number from 1 to"),
        (["--load", "0"], "load is 0; give the share"),
        (["--trace", "nowhere.jsonl"], "nowhere.jsonl: cannot be read"),
        (["--trace", "TRACE", "--models", "3"], "--models is of a generated trace"),
        (["--trace", "TRACE"], "trace.jsonl:1: '[1]' is no request"),
    ],
)
def test_what_cannot_be_simulated_is_said_in_a_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    (tmp_path / "trace.jsonl").write_text("[1]\n")
    arguments = [str(tmp_path / "trace.jsonl") if one == "TRACE" else one for one in arguments]
    try:
        status = main(["fleet", "simulate", *arguments])
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert said in capsys.readouterr().err
