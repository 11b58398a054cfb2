"""The workflow that runs the suite on three systems: what all of them run asks for nothing that one of them has not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
JOB: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))["jobs"]["test"]
SYSTEMS = {"ubuntu-latest", "windows-latest", "macos-latest"}


def test_the_suite_runs_on_three_systems_with_the_oldest_and_the_newest_python():
    asked = JOB["strategy"]["matrix"]
    assert set(asked["system"]) == SYSTEMS and asked["python"] == ["3.10", "3.13"]
    assert JOB["defaults"]["run"]["shell"] == "bash"  # Windows has Git's; its own would read the same lines otherwise
    assert any(step.get("run") == "python -m pytest" and "if" not in step for step in JOB["steps"])


def test_what_every_system_runs_is_python_alone():
    """Windows has no make, and no python3: setup-python puts `python` on the path of all three."""
    shared = [step["run"] for step in JOB["steps"] if "run" in step and "if" not in step]
    assert shared and all(line.startswith("python ") for run in shared for line in run.strip().splitlines())
    others = [step["if"] for step in JOB["steps"] if "if" in step]
    assert set(others) == {"matrix.system == 'ubuntu-latest'"}


def test_files_have_the_same_bytes_on_every_system():
    """Git for Windows puts carriage returns into what it checks out, unless it is told."""
    assert "* text=auto eol=lf" in (ROOT / ".gitattributes").read_text(encoding="utf-8")
