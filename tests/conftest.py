"""Settings for all tests: properties explore new examples on a developer's machine and repeat the same ones in CI."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("developer", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "developer")


@pytest.fixture
def no_comfyui(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine on which no ComfyUI is found; the working directory is an empty folder."""
    for variable in ("COMFYUI_PATH", "COMFYUI_PYTHON"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr("residency.installation.locate.PACK", tmp_path / "pack")
    monkeypatch.chdir(tmp_path)
