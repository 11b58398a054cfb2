"""The demo as a newcomer runs it, on a real server with tiny experts: what it shows, and what is left when it ends or is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from PIL import Image

from residency.core.component import Extent
from residency.installation.locate import PACK, ComfyUI
from residency.transfers import cached_bytes

EXPERT_MIB = 12


def begin(comfyui: ComfyUI, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Everything that it writes outside the repository comes to lie in `folder`."""
    (folder / "temporary").mkdir()
    environment = {**os.environ, "COMFYUI_PATH": str(comfyui.path), "COMFYUI_PYTHON": str(comfyui.python), "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"RESIDENCY_CACHE": str(folder / "cache"), "TMPDIR": str(folder / "temporary"), "COLUMNS": "100"}
    command = [sys.executable, "-m", "residency", "demo", "--expert-mib", str(EXPERT_MIB), "--output-directory", str(folder / "out")]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child goes on ignoring what is ignored here
    try:
        return subprocess.Popen(
            [*command, *arguments],
            cwd=PACK,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)


def left_behind(folder: Path) -> list[Path]:
    """Files other than whole models and results."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent != folder / "out"]
    return [path for path in files if path.suffix != ".safetensors"]


def test_both_sides_run_in_turn_and_all_that_is_left_are_models_and_results(comfyui: ComfyUI, tmp_path: Path):
    ran = begin(comfyui, tmp_path, "--repeats", "2")
    said, errors = ran.communicate()
    assert ran.returncode == 0, errors

    text = " ".join(said.split())
    assert text.count("medians of 2 pairs): too few to tell a difference from chance (6 are needed)") == 2
    probe = next((tmp_path / "cache").rglob("residency_tae.safetensors"))
    if cached_bytes(Extent(str(probe), 0, probe.stat().st_size)) is not None:
        assert "page cache, checked before each run" in text
    assert "images with the pack on and off: identical" in text
    assert max(len(line) for line in said.splitlines() if str(tmp_path) not in line) <= 100
    trace = json.loads((tmp_path / "out" / "trace.json").read_text())
    assert trace["mode"] != "off" and [node["class_type"] for node in trace["nodes"]].count("KSampler") == 2
    assert Image.open(tmp_path / "out" / "timeline.png").width > 500
    assert "<svg" in (tmp_path / "out" / "timeline.html").read_text()
    assert left_behind(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT as a terminal does")
@pytest.mark.parametrize("when", ["making residency_expert_a.safetensors", "starting ComfyUI", "cold runs"])
def test_ctrl_c_leaves_no_server_no_process_and_no_half_file(comfyui: ComfyUI, tmp_path: Path, when: str):
    running = begin(comfyui, tmp_path, "--repeats", "20")
    assert running.stdout is not None and running.stderr is not None
    for line in running.stdout:
        if line.startswith(when):
            break
    children = psutil.Process(running.pid).children(recursive=True)
    os.kill(running.pid, signal.SIGINT)  # to the demo alone: it has to end its children by itself
    running.stdout.read()
    errors = running.stderr.read()

    assert running.wait() == 130, errors
    assert "Traceback" not in errors
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert left_behind(tmp_path) == []
