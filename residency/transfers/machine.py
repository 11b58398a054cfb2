"""Machines on which less is done, and why in one sentence each, for the doctor, the log and the panel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..units import size
from . import _system
from .memory import host_memory, unescape_mount

SMALL_BYTES = 17 * 1024**3  # sold as 16 GB; firmware leaves less of it
HEADROOM_SHARE, SMALL_HEADROOM_SHARE = 0.1, 0.2  # of the host's memory, left to activations, caches and other programs
# Of 9p's modes those that keep the pages that read() has read (Documentation/filesystems/9p.rst); WSL mounts Windows drives with "mmap".
KEEPING = ("loose", "fscache", "readahead")


@dataclass(frozen=True, slots=True)
class Lack:
    """One thing that this machine lacks, and the work left undone for it."""

    name: str
    why: str


def headroom_share(total_bytes: int) -> float:
    return SMALL_HEADROOM_SHARE if total_bytes <= SMALL_BYTES else HEADROOM_SHARE


def lacks(root: str = "/") -> list[Lack]:
    """The lacks of this machine; files have their own (`not_kept`). `root` is where /proc is looked for."""
    return list(_lacks(root))


def _lacks(root: str) -> Iterator[Lack]:
    memory = host_memory(root)
    if memory.total_bytes <= SMALL_BYTES:
        left = f"{SMALL_HEADROOM_SHARE:.0%} of it stay free instead of {HEADROOM_SHARE:.0%}: less is read ahead"
        yield Lack("little memory", f"{size(memory.total_bytes)} in all; {left}")
    if memory.limit.startswith(os.path.join(root, "sys")):
        yield Lack(
            "memory of a container", f"{memory.limit} allows {size(memory.total_bytes)}: no more is read ahead, whatever the machine has"
        )
    if in_wsl(root):
        yield Lack(
            "WSL",
            "files on Windows drives (/mnt/c) are not read ahead, since Linux keeps nothing of them; keep models on Linux's own drive",
        )
    if _system.current.name == "Windows":
        yield Lack(
            "what is cached", "Windows does not tell: it is inferred from samples, and nothing is given back to the system before it asks"
        )


def in_wsl(root: str = "/") -> bool:
    try:
        return "microsoft" in Path(root, "proc/sys/kernel/osrelease").read_text().lower()
    except OSError:
        return False


@lru_cache(maxsize=1024)
def not_kept(path: str, root: str = "/") -> str | None:
    """Why reading this file ahead gains nothing; None where it does. Asked once for each file."""
    kind, options = mount_of(os.path.realpath(path), root)
    if kind != "9p":
        return None
    modes = [option.removeprefix("cache=") for option in options.split(",")]
    if any(mode in KEEPING for mode in modes):
        return None
    where = "a Windows drive seen from WSL" if in_wsl(root) else "another machine's folder"
    return f"{path} lies on {where} (9p), of which Linux keeps nothing that is read; keep models on Linux's own drive"


def mount_of(path: str, root: str) -> tuple[str, str]:
    """(kind of file system, its options) where the path is mounted; empty where nobody tells."""
    best, found = "", ("", "")
    try:
        lines = Path(root, "proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        left, _, right = line.partition(" - ")
        fields, told = left.split(" "), right.split(" ")
        if len(fields) < 5 or len(told) < 3:
            continue
        point = unescape_mount(fields[4])
        if len(point) >= len(best) and (path == point or path.startswith(point.rstrip("/") + "/")):
            best, found = point, (told[0], told[2])
    return found
