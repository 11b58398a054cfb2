"""What stands between the bench and the machine: memory that is held, traces that are joined, models' room."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from residency.bench import limits, traces
from residency.bench.models import family
from residency.bench.scenarios import Limits, Precision, Size, Workflow
from residency.bench.workflows import prompt
from residency.installation.locate import ComfyUI
from residency.installation.server_process import Ran, ServerError

HOLDER = [sys.executable, "-c", "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"]


def test_a_holder_lives_as_long_as_it_is_used():
    with limits.holding(HOLDER, "memory") as pid:
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)


def interrupted(pids: list[int]) -> None:
    with limits.holding(HOLDER, "memory") as pid:
        pids.append(pid)
        raise KeyboardInterrupt


def test_a_holder_is_ended_when_its_user_is_interrupted():
    pids: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted(pids)
    assert not psutil.pid_exists(pids[0])


def test_a_holder_that_fails_is_quoted():
    holder = [sys.executable, "-c", "import sys; sys.exit('mlock: error 12')"]
    said = r"cannot hold locked RAM \(status 1\): mlock: error 12"
    with pytest.raises(ServerError, match=said), limits.holding(holder, "locked RAM"):
        pass


def trace(started_unix_s: float, duration_s: float, component: str, **summary: Any) -> traces.Trace:
    node = {"node_id": "6", "class_type": "KSampler", "start_s": 0.5, "end_s": duration_s, "loads": [], "computes": [component]}
    components = [{"key": component, "name": component, "kind": "MODEL", "size_bytes": 1}]
    head = {"prompt_id": "p", "started_unix_s": started_unix_s, "duration_s": duration_s, "components": components, "nodes": [node]}
    return {**head, "transfers": [], "evictions": [], "decisions": [], "summary": {"stall_s": 1.0, **summary}}


def test_a_queues_traces_are_one_on_the_first_ones_clock():
    whole = traces.joined([trace(100.0, 2.0, "a"), trace(103.0, 4.0, "b"), trace(108.0, 1.0, "a")])
    assert [(node["start_s"], node["end_s"]) for node in whole["nodes"]] == [(0.5, 2.0), (3.5, 7.0), (8.5, 9.0)]
    assert (whole["duration_s"], whole["summary"], len(whole["components"])) == (9.0, {"stall_s": 3.0}, 2)


def test_a_transfer_that_goes_on_in_the_next_prompt_is_drawn_in_both_and_not_to_the_end_of_the_queue():
    first, second = trace(100.0, 2.0, "a"), trace(103.0, 4.0, "a")
    first["transfers"] = [{"component": "a", "start_s": 0.5, "end_s": None}]
    second["transfers"] = [{"component": "a", "start_s": 0.0, "end_s": 1.0}]
    assert [(one["start_s"], one["end_s"]) for one in traces.joined([first, second])["transfers"]] == [(0.5, 2.0), (3.0, 4.0)]


def test_a_queue_does_not_know_what_one_of_its_prompts_does_not_and_its_rate_is_no_sum():
    first = trace(0.0, 2.0, "a", predicted_compute_s=None, onloaded_bytes=30, onload_bytes_per_s=10.0)
    second = trace(3.0, 2.0, "a", predicted_compute_s=1.0, onloaded_bytes=30, onload_bytes_per_s=30.0)
    third = trace(6.0, 2.0, "a", predicted_compute_s=1.0, onloaded_bytes=0, onload_bytes_per_s=None)
    told = traces.joined([first, second, third])["summary"]
    assert told == {"stall_s": 3.0, "predicted_compute_s": None, "onloaded_bytes": 60, "onload_bytes_per_s": 15.0}


def test_stocks_nodes_take_the_colours_of_the_packs_components():
    one = prompt(Workflow.ONE_B, family(Size.TINY, Precision.BF16), Size.TINY, 1)
    stock = traces.seen(3.0, [Ran("p", [("6", 0.0, 3.0)], 3.0)], [one])
    drawn = traces.coloured_alike(stock, trace(0.0, 1.0, "residency_bench_expert_b_bf16"))
    assert drawn["nodes"][0]["computes"] == ["residency_bench_expert_b_bf16"]


def test_the_median_run_of_each_side_is_kept(tmp_path: Path):
    kept = traces.Traces(tmp_path / "S1.json")
    for seconds in (3.0, 1.0, 2.0):
        kept.add("pack", seconds, trace(0.0, seconds, "a"))
    kept.write()
    assert '"duration_s": 2.0' in (tmp_path / "S1.json").read_text() and "stock" not in (tmp_path / "S1.json").read_text()


def test_what_is_held_changes_only_when_the_limits_do(monkeypatch: pytest.MonkeyPatch):
    holding: list[Limits] = []

    @contextmanager
    def held(wanted: Limits, comfyui: ComfyUI) -> Iterator[list[str]]:
        holding.append(wanted)
        yield ["held"]
        holding.remove(wanted)

    monkeypatch.setattr(limits, "held", held)
    comfyui, less, more = ComfyUI(Path(), Path(sys.executable), "a test"), Limits(24 * 2**30), Limits(48 * 2**30)
    with limits.Holder(comfyui, device=True) as holder:
        assert holder.leave(less) == ["held"] and holder.leave(less) is None
        assert holder.leave(more) == ["held"] and holding == [more]
    assert holding == []
    with limits.Holder(comfyui, device=False) as holder:
        assert holder.leave(less) == ["held"] and holding == [Limits()]  # there is no device memory to hold
        assert holder.leave(more) is None
