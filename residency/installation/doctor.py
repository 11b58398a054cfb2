"""The pack's findings on this machine: ComfyUI, Python, memory, drives, which seams fit. A probe that fails says so and stops nothing."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

from ..core.component import Mode
from ..findings import Fact, memory, safely
from ..transfers import drive_of, machine, measure_read_rate
from ..transfers.storage import storage_of
from ..units import UsageError, size
from .locate import PACK, ComfyUI

PROBE_TIMEOUT_S = 120.0
RATE_BYTES = 256 << 20


def look(comfyui: ComfyUI | None) -> list[Fact]:
    """All facts, in the order in which they are shown."""
    facts = [Fact("pack", "folder", str(PACK)), Fact("pack", "Python here", f"{platform.python_version()} ({sys.executable})")]
    facts += [Fact("pack", "modes", ", ".join(mode.value for mode in Mode))]
    for probe in (memory, _drives(comfyui), lambda: _comfyui(comfyui)):
        facts += safely(probe)
    return facts


def ask_server(url: str, timeout_s: float = PROBE_TIMEOUT_S) -> str:
    """A running server's answer to GET /residency/doctor. Raises UsageError where there is none."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/residency/doctor", timeout=timeout_s) as answer:
            return str(answer.read().decode("utf-8"))
    except (OSError, ValueError, HTTPException) as error:
        raise UsageError(f"{url} does not answer as a ComfyUI with this pack ({error}); start it, or leave --url out") from error


def _drives(comfyui: ComfyUI | None) -> Callable[[], Iterator[Fact]]:
    def probe() -> Iterator[Fact]:
        models = comfyui.path / "models" if comfyui else Path.cwd()
        drive = drive_of(str(models))
        storage = storage_of(str(models))
        yield Fact("drive", "models on", f"{drive} ({storage.kind}), {models}" + (f": {storage.costs}" if storage.costs else ""))
        largest = max(models.rglob("*.safetensors"), key=lambda path: path.stat().st_size, default=None)
        why_not = machine.not_kept(str(models))
        if why_not is not None:
            yield Fact("drive", "reading ahead", f"not done: {why_not}")
        if largest is None:
            yield Fact("drive", "cold reading", "not measured: no .safetensors file there")
            return
        rate = measure_read_rate(str(largest), RATE_BYTES)
        yield Fact("drive", "cold reading", f"{size(rate)}/s ({largest.name})" if rate else f"not measured: {largest.name} is in use")

    return probe


# Runs in ComfyUI's Python, in its folder. Says what it can as JSON on its last line.
_PROBE = """
import json, sys
sys.path.insert(0, sys.argv[1]); sys.path.append(sys.argv[2]); sys.argv = sys.argv[:1]
import torch
facts = {"torch": torch.__version__, "device": "cpu"}
if torch.cuda.is_available():
    facts["device"] = torch.cuda.get_device_name(0)
    facts["device_bytes"] = torch.cuda.mem_get_info(0)
elif torch.backends.mps.is_available():
    facts["device"] = "mps"
from comfy.cli_args import args
args.cpu = facts["device"] == "cpu"
try:
    import comfy_aimdo; facts["aimdo"] = True
except ImportError:
    facts["aimdo"] = False
try:
    from residency.comfyui.seams import functions as seams
    facts["seams"] = [[str(part) if not isinstance(part, bool) else part for part in row] for row in seams.report()]
except Exception as error:
    facts["seams_error"] = f"{type(error).__name__}: {error}"
print(json.dumps(facts))
"""


def _comfyui(comfyui: ComfyUI | None) -> Iterator[Fact]:
    if comfyui is None:
        yield Fact("ComfyUI", "found", "none; set COMFYUI_PATH to the folder with its main.py")
        return
    yield Fact("ComfyUI", "found", f"{comfyui.path} ({comfyui.found_by})")
    yield Fact("ComfyUI", "version", comfyui.version)
    yield Fact("ComfyUI", "Python", str(comfyui.python))
    said = _ask(comfyui)
    if isinstance(said, str):
        yield Fact("ComfyUI", "its Python said", said)
        return
    yield Fact("ComfyUI", "torch", said["torch"])
    device = said["device"]
    if "device_bytes" in said:
        free_bytes, total_bytes = said["device_bytes"]
        device += f", {size(free_bytes)} free of {size(total_bytes)}"
    yield Fact("ComfyUI", "device", device)
    dynamic = said["aimdo"] and "device_bytes" in said
    told = "dynamic VRAM (likely): weights are read at their first use" if dynamic else "legacy: loader nodes read the weights"
    yield Fact("ComfyUI", "patcher", told)
    if "seams_error" in said:
        yield Fact("features", "not checked", said["seams_error"])
    for name, fits, reason in said.get("seams", ()):
        yield Fact("features", name, ("on" if fits else "off") + (f": {reason}" if reason else ""))
    if dynamic:
        yield Fact(
            "features", "of the device", "proved by what a server's first prompts show: the panel and GET /residency/status tell of them"
        )


def _ask(comfyui: ComfyUI) -> dict[str, Any] | str:
    """The probe's answer, or in one line why there is none."""
    command = [str(comfyui.python), "-c", _PROBE, str(comfyui.path), str(PACK)]
    try:
        answer = subprocess.run(command, cwd=comfyui.path, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nothing: {error}"
    lines = answer.stdout.strip().splitlines()
    if answer.returncode or not lines:
        return (answer.stderr.strip().splitlines() or [f"nothing, status {answer.returncode}"])[-1]
    found: dict[str, Any] = json.loads(lines[-1])
    return found
