"""The plain PyTorch host: real files, real modules, the same core as under ComfyUI."""

from __future__ import annotations

from pathlib import Path

import pytest

from residency.core.component import Component, Mode
from residency.core.timeline import Timeline, Use, UseKind, Visit
from residency.demo.local.host import LocalHost
from residency.demo.local.models import LAYER_BYTES, load, make_weights
from residency.transfers import pagecache
from residency.weights.components import components_of_node
from residency.weights.safetensors import read_header


def component(path: Path, layers: int, seed: int) -> Component:
    make_weights(path, layers * LAYER_BYTES, seed)
    [(found, _)] = components_of_node("Loader", {"name": path.name}, ["MODEL"], lambda _, value: str(path.parent / value)).components
    return found


def two_experts(folder: Path) -> tuple[Timeline, dict[str, Component]]:
    """load A, load B, compute A, compute B; the bytes are read where they are first computed with."""
    a, b = component(folder / "a.safetensors", 4, 1), component(folder / "b.safetensors", 6, 2)
    visits = [Visit("p", str(index), name) for index, name in enumerate(["LoadA", "LoadB", "SampleA", "SampleB", "Save"])]
    uses = [Use(0, a.key, UseKind.LOAD, False), Use(1, b.key, UseKind.LOAD, False)]
    uses += [Use(2, a.key, UseKind.COMPUTE, True), Use(3, b.key, UseKind.COMPUTE, True)]
    return Timeline.of(visits, uses), {a.key: a, b.key: b}


def drop(components: dict[str, Component]) -> None:
    for one in components.values():
        for extent in one.extents:
            pagecache.drop(extent)


@pytest.fixture
def host():  # type: ignore[no-untyped-def]
    made = LocalHost()
    yield made
    made.close()


def test_reading_ahead_changes_when_bytes_move_and_never_what_is_computed(tmp_path: Path, host: LocalHost) -> None:
    timeline, components = two_experts(tmp_path)
    digests = set()
    for mode in (Mode.OFF, Mode.AUTO, Mode.LOW_VRAM, Mode.OFF):
        drop(components)
        run = host.run(timeline, components, mode, passes=lambda visit: 3)
        assert run.trace["outcome"] == "success"
        assert [node["class_type"] for node in run.trace["nodes"]] == ["LoadA", "LoadB", "SampleA", "SampleB", "Save"]
        digests.add(run.digest)
    assert len(digests) == 1


def test_with_the_mode_off_nothing_is_decided_and_nothing_moves(tmp_path: Path, host: LocalHost) -> None:
    trace = host.run(*two_experts(tmp_path), Mode.OFF).trace
    assert trace["decisions"] == trace["transfers"] == trace["evictions"] == []
    assert trace["summary"]["stall_s"] > 0  # it read by itself


def test_planned_every_component_is_announced_in_order_of_use(tmp_path: Path, host: LocalHost) -> None:
    timeline, components = two_experts(tmp_path)
    trace = host.run(timeline, components, Mode.AUTO).trace
    announced = [decision["component"] for decision in trace["decisions"] if decision["kind"] == "prefetch"]
    assert announced == list(timeline.components())
    assert all(transfer["status"] == "done" for transfer in trace["transfers"])


def test_no_budget_reads_nothing_ahead_and_still_computes(tmp_path: Path) -> None:
    host = LocalHost(host_limit_bytes=0)
    try:
        trace = host.run(*two_experts(tmp_path), Mode.AUTO).trace
    finally:
        host.close()
    assert trace["outcome"] == "success"
    assert trace["summary"]["prefetched_bytes"] == 0


def test_a_file_that_disappears_ends_the_prompt_as_an_error(tmp_path: Path, host: LocalHost) -> None:
    timeline, components = two_experts(tmp_path)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(FileNotFoundError):
        host.run(timeline, components, Mode.OFF)
    assert host.runtime.traces[-1].as_dict()["outcome"] == "error"


def test_weights_are_as_large_as_wished_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    make_weights(tmp_path / "a.safetensors", 3 * LAYER_BYTES + 5, 7, lambda done, total: steps.append((done, total)))
    make_weights(tmp_path / "b.safetensors", 3 * LAYER_BYTES, 7)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert sum(tensor.size_bytes for tensor in read_header(str(tmp_path / "a.safetensors")).tensors) == 3 * LAYER_BYTES
    assert steps == [(index * LAYER_BYTES, 3 * LAYER_BYTES) for index in (1, 2, 3)]
    assert len(load(tmp_path / "a.safetensors").layers) == 3
