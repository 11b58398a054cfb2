"""Settings for all tests: properties explore new examples on a developer's machine and repeat the same ones in CI."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from residency.core.events import Event, Instruction
from residency.core.manager import Manager

settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("developer", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "developer")


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
