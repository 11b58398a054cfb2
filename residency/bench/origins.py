"""Where the figures come from: the machines and the runs behind the scenarios of one table, which need not be the same for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

OWN = ("machine", "drive", "command", "started")  # what each scenario keeps of the run that it comes from

Data = Mapping[str, Any]

_LINK = (("pinned_bytes_per_s", "pinned"), ("pageable_bytes_per_s", "pageable"), ("pinned_back_bytes_per_s", "back to pinned"))


def runs(results: Data) -> list[str]:
    """Command, start and size: one line, or one for each run with the names of its scenarios."""
    found = _grouped(results, lambda one: f"`{one['command']}`, {one['started']}, models of size {results['size']}")
    return [f"{text}." for text in found] if len(found) == 1 else [f"- {names}: {text}." for text, names in found.items()]


def machines(results: Data) -> list[str]:
    """One paragraph, or one for each machine with the names of its scenarios. What they do not tell makes no two machines of one."""
    found = _grouped(results, paragraph)
    return [f"Machine: {text}." for text in found] if len(found) == 1 else [f"Machine of {names}: {text}." for text, names in found.items()]


def _grouped(results: Data, tell: Callable[[Data], str]) -> dict[str, str]:
    """What is told of the scenarios' runs, each text once, with the names of those it is told of; of the whole when none has run."""
    names: dict[str, list[str]] = {}
    for name, raw in results["scenarios"].items():
        names.setdefault(tell(raw), []).append(name)
    return {text: ", ".join(found) for text, found in names.items()} or {tell(results): ""}


def paragraph(one: Data) -> str:
    """Device, processor, memory, drive and link."""
    told = one["machine"]
    parts = [f"{told.get('device', 'no CUDA device')}"]
    if "device_bytes" in told:
        parts[0] += f" ({told['device_bytes'] / 2**30:.0f} GiB), torch {told['torch']}"
    parts.append(f"{told['cpus']} cores, {told['ram_bytes'] / 2**30:.0f} GiB of RAM, {told['system']}")
    parts.append(f"ComfyUI {told['comfyui']}, pack {told['pack']}")
    if one["drive"]:
        parts.append(_drive(one["drive"].items()))
    if told.get("pinned_bytes_per_s"):
        rates = [f"{told[key] / 1e9:.1f} GB/s {name}" for key, name in _LINK]
        parts.append(f"link {', '.join(rates)}")
    return "; ".join(parts)


def _drive(rates: Iterable[tuple[str, float]]) -> str:
    measured = list(rates)
    kind, rate = max(measured, key=lambda item: item[1])
    every = ", ".join(f"{name} {value / 1e9:.2f}" for name, value in measured)
    return f"drive {rate / 1e9:.2f} GB/s at best ({kind}; all in GB/s: {every})"
