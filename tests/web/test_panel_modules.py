"""The panel's modules that need no page, run by node: numbers, words, layout, state. The tests themselves are *.test.mjs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NODE = shutil.which("node")
NODE_SINCE = (20, 19)  # the first that takes a .js file with import statements for a module without being told


def _node_version() -> tuple[int, ...]:
    assert NODE is not None
    printed = subprocess.run([NODE, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    return tuple(int(part) for part in printed.strip().lstrip("v").split(".")[:2])


@pytest.mark.skipif(NODE is None, reason="NOT TESTED: the panel's modules need node on the PATH")
@pytest.mark.parametrize("script", sorted(HERE.glob("*.test.mjs")), ids=lambda script: script.name)
def test_in_node(script: Path) -> None:
    if _node_version() < NODE_SINCE:
        pytest.skip(f"NOT TESTED: node {NODE_SINCE[0]}.{NODE_SINCE[1]} or newer is needed")
    run = subprocess.run([NODE, "--test", str(script)], capture_output=True, encoding="utf-8", timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
