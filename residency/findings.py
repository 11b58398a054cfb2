"""The facts that a bug report needs, in words: ComfyUI's options that cost something, memory, swap, drives, and how much of the pack works.

Looks at the machine through transfers/ only; the facts of a running ComfyUI and an installed one stand in comfyui/server/doctor.py and
installation/doctor.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .transfers import host_memory, machine, pressure
from .transfers.storage import storage_of
from .units import size

WHOLE = "without dynamic VRAM: a model moves as a whole, and its first layers cannot compute while the last ones arrive"

# ComfyUI's options, as comfy/cli_args.py names them, and what each costs.
OPTIONS = {
    "cache_none": "nothing stays loaded from prompt to prompt: each prompt reads its models again",
    "disable_pinned_memory": "weights cross to the device from pageable memory: slower, and not while another node computes",
    "disable_async_offload": "weights cross on the stream that computes: nothing is copied meanwhile",
    "disable_smart_memory": "each model leaves the device after its use, and is copied again for the next one",
    "disable_mmap": "a file is copied into the process as a whole when it is loaded: RAM holds it twice for a while",
    "fast_disk": "models are streamed from their drive at each use instead of being kept in pinned RAM",
    "disable_dynamic_vram": WHOLE,
    "highvram": WHOLE,
    "gpu_only": f"text encoders stay on the device too; {WHOLE}",
    "novram": WHOLE,
    "lowvram": "does nothing with dynamic VRAM; without it text encoders run on the CPU",
    "cpu": "everything computes on the CPU: files are read ahead, and there is no device to bring weights to",
}


@dataclass(frozen=True, slots=True)
class Fact:
    topic: str
    name: str
    value: str


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


def safely(probe: Callable[[], Iterator[Fact]], failed: Callable[[Exception], object] = lambda error: None) -> list[Fact]:
    """The probe's facts; one that fails is a finding itself, told to `failed`, and the diagnosis goes on."""
    facts: list[Fact] = []
    try:
        facts.extend(probe())
    except Exception as error:
        failed(error)
        facts.append(Fact("doctor", "a probe failed", f"{type(error).__name__}: {error}"))
    return facts


def options(arguments: Mapping[str, Any]) -> Iterator[Fact]:
    """Of ComfyUI's options those that are set and cost something."""
    found = [(name, told) for name, told in OPTIONS.items() if arguments.get(name)]
    for name, told in found:
        yield Fact("options that cost", f"--{name.replace('_', '-')}", told)
    for name, what in (("reserve_vram", "of VRAM are left to other programs"), ("vram_headroom", "more of VRAM are kept free")):
        if arguments.get(name):
            yield Fact("options that cost", f"--{name.replace('_', '-')}", f"{arguments[name]:g} GB {what}")
    if arguments.get("cache_ram"):
        told = f"ComfyUI drops results, models among them, while less than {arguments['cache_ram'][0]:g} GB of RAM are free"
        yield Fact("options that cost", "--cache-ram", told)


def memory() -> Iterator[Fact]:
    found = host_memory()
    yield Fact("memory", "host", f"{size(found.available_bytes)} available of {size(found.total_bytes)}, by {found.limit}")
    yield from swap()
    yield Fact("memory", "waiting for memory", f"{pressure():.1f} % of the last ten seconds")
    if found.commit_bytes is not None:
        yield Fact("memory", "may be asked for", size(found.commit_bytes))
    if found.pinnable_bytes is not None:
        yield Fact("memory", "may be pinned", size(found.pinnable_bytes))
    for lack in machine.lacks():
        yield Fact("memory", lack.name, lack.why)


def swap(root: str = "/") -> Iterator[Fact]:
    """Linux tells; elsewhere nothing is said."""
    try:
        lines = Path(root, "proc/meminfo").read_text(encoding="ascii", errors="replace").splitlines()
        told = {name: int(value.split()[0]) * 1024 for name, _, value in (line.partition(":") for line in lines) if value.split()}
        total_bytes, free_bytes = told["SwapTotal"], told["SwapFree"]
    except (OSError, KeyError, ValueError):
        return
    used_bytes = total_bytes - free_bytes
    yield Fact("memory", "swap", f"{size(used_bytes)} used of {size(total_bytes)}" if total_bytes else "none")


def drives(folders: Iterable[str]) -> Iterator[Fact]:
    """One line for each kind of drive, with the first folder that lies on it."""
    seen = set()
    for folder in folders:
        storage = storage_of(folder)
        if storage not in seen:
            seen.add(storage)
            yield Fact("drives", storage.kind, folder + (f": {storage.costs}" if storage.costs else ""))


def works(off: str, read_ahead_only: str, missing: Iterable[tuple[str, str]] = ()) -> str:
    """How much of the pack works, in one line: why it is off, why it only reads ahead, and (name, reason) of each other part that is
    missing; empty where it is not so."""
    if off:
        return f"off: {off}"
    if read_ahead_only:
        return f"reads ahead only, because {read_ahead_only}"
    lost = "; ".join(f"{name}: {reason}" for name, reason in missing)
    return (
        f"in part, without {lost}" if lost else "full: files are read ahead, and weights are brought to the device before they are needed"
    )
