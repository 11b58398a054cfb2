"""Where the figures come from: the machines and the runs behind the scenarios of one table, which need not be the same for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..units import size

OWN = ("machine", "drive", "command", "started")  # what each scenario keeps of the run that it comes from

Data = Mapping[str, Any]

_LINK = (("pinned_bytes_per_s", "pinned"), ("pageable_bytes_per_s", "pageable"), ("pinned_back_bytes_per_s", "back to pinned"))


def runs(results: Data) -> list[str]:
    """Command, start and size: one line, or one for each run with the names of its scenarios."""
    found = _grouped(results, lambda one: f"`{one['command']}`, {one['started']}, models of size {results['size']}")
    return [f"{text}." for text in found] if len(found) == 1 else [f"- {names}: {text}." for text, names in found.items()]


def machines(results: Data) -> list[str]:
    """One paragraph, or one for each machine with the names of its scenarios. Anything that they do not tell makes no two machines of
    one."""
    return _told("Machine", "of", _grouped(results, machine))


def measured(results: Data) -> list[str]:
    """The measured rates of drive and link: one line, or one for each run; none where nothing was."""
    found = _grouped(results, rates)
    return _told("Measured", "with", {text: names for text, names in found.items() if text})


def _told(what: str, link: str, found: Mapping[str, str]) -> list[str]:
    return [f"{what}: {text}." if len(found) == 1 else f"{what} {link} {names}: {text}." for text, names in found.items()]


def _grouped(results: Data, tell: Callable[[Data], str]) -> dict[str, str]:
    """The words on the scenarios' runs, each text once, with the names of those it is told of; of the whole when none has run."""
    names: dict[str, list[str]] = {}
    for name, raw in results["scenarios"].items():
        names.setdefault(tell(raw), []).append(name)
    return {text: ", ".join(found) for text, found in names.items()} or {tell(results): ""}


def machine(one: Data) -> str:
    """Device, processor, memory, software."""
    told = one["machine"]
    parts = [f"{told.get('device', 'no CUDA device')}"]
    if "device_bytes" in told:
        parts[0] += f" ({size(told['device_bytes'])}), torch {told['torch']}"
    parts.append(f"{told['cpus']} cores, {size(told['ram_bytes'])} of RAM, {told['system']}")
    parts.append(f"ComfyUI {told['comfyui']}, pack {told['pack']}")
    return "; ".join(parts)


def rates(one: Data) -> str:
    """The drive at its best, and the link."""
    told, parts = one["machine"], []
    if one["drive"]:
        kind, best = max(one["drive"].items(), key=lambda item: float(item[1]))
        parts.append(f"drive {best / 1e9:.2f} GB/s at best ({kind})")
    if told.get("pinned_bytes_per_s"):
        parts.append(f"link {', '.join(f'{told[key] / 1e9:.1f} GB/s {name}' for key, name in _LINK)}")
    return "; ".join(parts)
