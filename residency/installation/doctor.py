"""What the pack finds on this machine: ComfyUI, Python, memory, drives, which seams fit. A probe that fails says so and stops nothing."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.component import Mode
from ..transfers import drive_of, host_memory, is_rotational, machine, measure_read_rate, pressure
from ..units import size
from .locate import PACK, ComfyUI

PROBE_TIMEOUT_S = 120.0
RATE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Fact:
    topic: str
    name: str
    value: str


def look(comfyui: ComfyUI | None) -> list[Fact]:
    """Everything that can be told, in the order in which it is shown."""
    facts = [Fact("pack", "folder", str(PACK)), Fact("pack", "Python here", f"{platform.python_version()} ({sys.executable})")]
    facts += [Fact("pack", "modes", ", ".join(mode.value for mode in Mode))]
    for probe in (_memory, _drives(comfyui), lambda: _comfyui(comfyui)):
        facts += _safely(probe)
    return facts


def text(facts: list[Fact]) -> str:
    """The facts as aligned lines, a heading for each topic."""
    lines: list[str] = []
    topic = ""
    for fact in facts:
        if fact.topic != topic:
            lines += ([""] if lines else []) + [fact.topic]
            topic = fact.topic
        lines.append(f"  {fact.name:<24} {fact.value}")
    return "\n".join(lines)


def _safely(probe: Callable[[], Iterator[Fact]]) -> list[Fact]:
    facts: list[Fact] = []
    try:
        facts.extend(probe())
    except Exception as error:  # a diagnosis goes on: what fails is a finding itself
        facts.append(Fact("doctor", "a probe failed", f"{type(error).__name__}: {error}"))
    return facts


def _memory() -> Iterator[Fact]:
    memory = host_memory()
    yield Fact("memory", "host", f"{size(memory.available_bytes)} available of {size(memory.total_bytes)}, by {memory.limit}")
    yield Fact("memory", "waiting for memory", f"{pressure():.1f} % of the last ten seconds")
    if memory.commit_bytes is not None:
        yield Fact("memory", "may be asked for", size(memory.commit_bytes))
    if memory.pinnable_bytes is not None:
        yield Fact("memory", "may be pinned", size(memory.pinnable_bytes))
    for lack in machine.lacks():
        yield Fact("memory", lack.name, lack.why)


def _drives(comfyui: ComfyUI | None) -> Callable[[], Iterator[Fact]]:
    def probe() -> Iterator[Fact]:
        models = comfyui.path / "models" if comfyui else Path.cwd()
        drive = drive_of(str(models))
        kind = {True: "turns", False: "does not turn", None: "kind unknown"}[is_rotational(drive)]
        yield Fact("drive", "models on", f"{drive} ({kind}), {models}")
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
