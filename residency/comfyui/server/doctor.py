"""The findings of a bug report, told by the running server: GET /residency/doctor. Looks, changes nothing, names no prompt and no key."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator
from itertools import chain
from typing import Any

import comfy.model_management as model_management
import folder_paths
import torch
from comfy.cli_args import args
from comfyui_version import __version__ as comfyui_version

import nodes as core_nodes

from ... import __version__, findings
from ...findings import Fact
from ...record.text import line, placed, waiting
from ...units import size
from ..host import ComfyHost
from ..prompt.model_files import dynamic_vram
from ..seams import functions as seams

log = logging.getLogger("residency")

MAX_MODELS = 40
MAX_PACKS = 60


class Doctor:
    """Of one host."""

    def __init__(self, host: ComfyHost) -> None:
        self._host = host
        self.failures = 0  # of probes; the first was logged, and each is a finding

    def look(self) -> list[Fact]:
        """Everything that can be told, in the order in which it is shown. May read folders: not for the event loop."""
        host = self._host
        probes = (
            lambda: _pack(host),
            _comfyui,
            lambda: findings.options(vars(args)),
            findings.memory,
            _pins,
            _drives,
            lambda: _features(host),
            lambda: _models(host),
            _others,
        )
        return list(chain.from_iterable(findings.safely(probe, self._failed) for probe in probes))

    def _failed(self, error: Exception) -> None:
        if not self.failures:
            log.error("residency: a probe of the doctor failed: more of the same is only counted", exc_info=error)
        self.failures += 1


def _pack(host: ComfyHost) -> Iterator[Fact]:
    yield Fact("Residency", "version", __version__)
    yield Fact("Residency", "works here", host.works())
    yield Fact("Residency", "memory mode", f"{host.user.mode.value} ({host.user.source})")
    yield Fact("Residency", "failures", str(host.guard.failures))
    for name, count in host.contained().items():
        yield Fact("Residency", "contained failures", f"{name}: {count}")
    traces = host.runtime.traces
    if traces:
        trace = traces[-1].as_dict()
        yield Fact("Residency", "last prompt", line(trace).removeprefix("Residency: "))
        yield Fact("Residency", "waiting", waiting(trace))


def _comfyui() -> Iterator[Fact]:
    device = model_management.get_torch_device()
    yield Fact("ComfyUI", "version", comfyui_version)
    yield Fact("ComfyUI", "Python", f"{platform.python_version()} on {platform.platform()}")
    yield Fact("ComfyUI", "torch", torch.__version__)
    yield Fact("ComfyUI", "device", model_management.get_torch_device_name(device))
    if device.type != "cpu":
        free_bytes = model_management.get_free_memory(device)
        yield Fact("ComfyUI", "device memory", f"{size(free_bytes)} free of {size(model_management.get_total_memory(device))}")
    yield Fact("ComfyUI", "patcher", _patcher())


def _patcher() -> str:
    if dynamic_vram():
        return "dynamic VRAM: weights are read at their first use"
    return "legacy: loader nodes read the weights, and models move as a whole"


def _pins() -> Iterator[Fact]:
    limit = getattr(model_management, "MAX_PINNED_MEMORY", 0)
    held = getattr(model_management, "TOTAL_PINNED_MEMORY", 0)
    yield Fact("memory", "pinned by ComfyUI", f"{size(held)} of {size(limit)} allowed" if limit > 0 else "nothing: pinning is off here")


def _drives() -> Iterator[Fact]:
    folders = dict.fromkeys(folder for name in folder_paths.folder_names_and_paths for folder in folder_paths.get_folder_paths(name))
    yield from findings.drives(folder for folder in folders if os.path.isdir(folder))


def _features(host: ComfyHost) -> Iterator[Fact]:
    for fit in host.features():
        yield Fact("features", fit.name, ("on" if fit.fits else "off") + (f": {fit.reason}" if fit.reason else ""))


def _models(host: ComfyHost) -> Iterator[Fact]:
    """Of the last prompt: how each model was placed, and who asked for it."""
    traces = host.runtime.traces
    trace: dict[str, Any] = traces[-1].as_dict() if traces else {"components": [], "mode": ""}
    for part in trace["components"][:MAX_MODELS]:
        yield Fact(
            "models of the last prompt",
            part["name"],
            f"{part['kind']}, {size(part['size_bytes'])}: {placed(part['policy'], trace['mode'])}",
        )
    if not trace["components"]:
        yield Fact("models of the last prompt", "none", "run the workflow first, then ask again")


def _others() -> Iterator[Fact]:
    for seam in seams.ALL:
        if others := seam.others():
            yield Fact("other packs", seam.name, f"also changed by {others}")
    own = os.path.dirname(os.path.abspath(__file__))
    names = sorted(
        name
        for name, folder in core_nodes.LOADED_MODULE_DIRS.items()
        if "custom_nodes" in folder.split(os.sep) and not own.startswith(os.path.join(os.path.realpath(folder), ""))
    )
    yield Fact("other packs", "installed", ", ".join(names[:MAX_PACKS]) if names else "none")
    held = [loaded.model for loaded in model_management.current_loaded_models]
    unknown = [type(one.model).__name__ for one in held if one is not None and not _is_comfyuis(one)]
    if unknown:
        yield Fact("other packs", "hold models", ", ".join(sorted(set(unknown))))


def _is_comfyuis(patcher: Any) -> bool:
    return type(patcher).__module__.split(".")[0] in ("comfy", "comfy_extras")
