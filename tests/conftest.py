"""Settings for all tests: properties explore new examples on a developer's machine and repeat the same ones in CI, and files of tests run
beside each other as the machine allows, the longest first."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from residency.core.events import Event, Instruction
from residency.core.manager import Manager
from residency.transfers import memory

MOST_JOBS = 4
JOB_BYTES = 6 << 30  # of a job's servers, each 0.5 to 1.5 GB, and of what they draw and read

# Seconds of the files that take the longest, with a ComfyUI and without one: what begins last bounds the end.
LONGEST = {
    "test_faults": 400,
    "test_convert": 250,
    "test_panel": 200,
    "test_soak": 180,
    "test_families": 120,
    "test_replaced": 97,
    "test_event_loop": 90,
    "test_transformers": 90,
    "test_fleet": 80,
    "test_examples": 80,
    "test_mover": 60,
    "test_nodes": 60,
    "test_server": 60,
    "test_order_real": 60,
    "test_neighbours": 60,
    "test_settings_dialog": 60,
    "test_warmth": 50,
    "test_later": 50,
    "test_profiles_real": 50,
    "test_lock_order": 45,
    "test_pages": 45,
    "test_demo": 40,
    "test_bench": 40,
}

settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("developer", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "developer")


def pytest_xdist_auto_num_workers() -> int:
    """For `-n auto`: as many as there are processors for this process, and memory for their servers."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_JOBS, processors, memory.host_memory().total_bytes // JOB_BYTES))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: -LONGEST.get(item.path.stem, 0))


@pytest.fixture(scope="session", autouse=True)
def every_manager_is_validated_after_every_event() -> Iterator[None]:
    """Also those of the simulator, of the runtime and of the local host."""
    handle = Manager.handle

    def validated(self: Manager, event: Event) -> list[Instruction]:
        instructions = handle(self, event)
        self.validate()
        return instructions

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Manager, "handle", validated)
        yield


@pytest.fixture(scope="module", autouse=True)
def no_event_loop_is_left_running() -> Iterator[None]:
    """Or `asyncio.run` would fail in every file that comes after this one."""
    yield
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()


@pytest.fixture
def no_comfyui(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine on which no ComfyUI is found; the working directory is an empty folder."""
    for variable in ("COMFYUI_PATH", "COMFYUI_PYTHON"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr("residency.installation.locate.PACK", tmp_path / "pack")
    monkeypatch.chdir(tmp_path)
