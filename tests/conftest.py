"""Settings for all tests: properties explore new examples on a developer's machine and repeat the same ones in CI, and files of tests run
beside each other as the machine allows, the longest first."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from residency.core.events import Event
from residency.core.instructions import Instruction
from residency.core.manager import Manager
from residency.transfers import memory

MOST_JOBS = 4
JOB_BYTES = 6 << 30  # of a job's servers, each 0.5 to 1.5 GB, and of what they draw and read

# Files that take more than half a minute on two cores, the longest first: what begins last bounds the end.
LONGEST = [
    f"comfyui/test_{name}"
    for name in (
        "faults", "panel", "bench", "soak", "families", "convert", "fleet", "replaced", "order_real", "neighbours", "server", "demo",
        "event_loop", "profiles_real", "warmth", "nodes", "settings_dialog", "transformers", "examples", "mover", "later", "pages",
        "lock_order", "abandoned",
    )
]  # fmt: skip

settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("developer", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "developer")


def pytest_xdist_auto_num_workers() -> int:
    """For `-n auto`: as many as there are processors for this process, and memory for their servers."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_JOBS, processors, memory.host_memory().total_bytes // JOB_BYTES))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(LONGEST)}
    here = Path(__file__).parent
    items.sort(key=lambda item: rank.get(item.path.relative_to(here).with_suffix("").as_posix(), len(rank)))


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
