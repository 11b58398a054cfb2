"""What fails beside a prompt is counted where everybody looks, and costs the prompt nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from comfy_story import drop_pages, forget, mode, pixels, two_experts

from residency.installation.server_process import Server

SLOW = "residency_expert_a"


@pytest.fixture
def server(start: Callable[..., Server]) -> Server:
    return start(packs=("faults", "slow_drive"))


@contextmanager
def failing(server: Server, name: str) -> Iterator[None]:
    server.post("/faults", {"fault": name})
    try:
        yield
    finally:
        server.post("/faults", {"fault": None})


def counted(server: Server) -> tuple[int, dict[str, int]]:
    status = server.get_json("/residency/status")
    return status["failures"], status["contained_failures"]


def test_a_probe_that_fails_is_a_finding_logged_once_and_counted(server: Server):
    failures, contained = counted(server)
    with failing(server, "doctor raises: _drives"):
        for _ in range(2):
            assert "a probe failed           RuntimeError: sabotage" in server.get("/residency/doctor").decode()
    assert counted(server) == (failures, contained | {"doctor": 2})
    assert server.tail(1000).count("a probe of the doctor failed") == 1
    assert "doctor: 2" in server.get("/residency/doctor").decode()


def test_a_wait_that_cannot_be_told_is_counted(server: Server, models: Path):
    stock = server.run(two_experts(seed=311), mode("off"))
    failures, contained = counted(server)
    forget(server)
    drop_pages(models)
    server.post("/residency/settings", {"read_threads": 1})
    server.post("/slow", {"name": SLOW, "seconds": 1.0})
    try:
        with failing(server, "waits raise: get_progress_state"):
            run = server.run(two_experts(seed=311))
    finally:
        server.post("/slow", {"name": None})
        server.post("/residency/settings", {"read_threads": 0})
    now, more = counted(server)
    told = more.pop("waits")
    assert (now, more) == (failures, contained) and told >= 1
    assert server.tail(1000).count("what a node waits for could not be told") == told
    assert {pixels(image) for image in run.images} == {pixels(image) for image in stock.images}


def test_results_that_cannot_be_looked_at_are_counted_and_the_prompt_is_comfyuis(server: Server):
    stock = server.run(two_experts(seed=312), mode("off"))
    forget(server)
    failures, contained = counted(server)
    with failing(server, "results raise: _look_at_files"):
        run = server.run(two_experts(seed=312))
        assert counted(server) == (failures + 1, contained)
    assert {pixels(image) for image in run.images} == {pixels(image) for image in stock.images}
