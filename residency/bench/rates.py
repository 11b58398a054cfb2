"""The machine's rates, measured in the same run: the drive by threads and kind of read, the link to the device."""

from __future__ import annotations

import json
import mmap
import os
import platform
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from .. import __version__
from ..core.component import Extent
from ..installation.locate import PACK, ComfyUI
from ..installation.server_process import ServerError
from ..transfers import _system, measure_read_rate, pagecache
from ..transfers.drive import drive_of
from ..transfers.memory import host_memory

THREADS = (1, 4, 8, 16)
KINDS = (*((kind, threads) for kind in ("direct", "buffered") for threads in THREADS), ("as the pack reads", 1), ("as the pack reads", 4))
BLOCK_BYTES = 8 << 20
BUDGET_S = 1.0
PART_BYTES = 3 * 2**29  # what is read here leaves the page cache, and the next prompt pays for it


def machine(comfyui: ComfyUI, models: Path) -> dict[str, Any]:
    """Names and sizes for the head of the results; with the link's rates where there is a device."""
    memory = host_memory()
    told = {
        "system": f"{platform.system()} {platform.release()}",
        "boot": _boot(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "ram_bytes": memory.total_bytes,
        "ram_available_bytes": memory.available_bytes,
        "drive": drive_of(str(models)),
        "python": platform.python_version(),
        "comfyui": comfyui.version,
        "pack": __version__,
    }
    return told | link(comfyui)


def _boot() -> str:
    """Another one for every machine, and for each of its starts where the system tells them apart."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return platform.node()  # not Linux


def link(comfyui: ComfyUI) -> dict[str, Any]:
    """The JSON that transfers/link.py prints, run by ComfyUI's Python; {} without a CUDA device. Raises ServerError when it fails."""
    command = [str(comfyui.python), "-m", "residency.transfers.link"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PACK)
    if answer.returncode:
        raise ServerError(f"{comfyui.python} cannot measure the link to the device:\n{answer.stderr[-800:]}")
    measured: dict[str, Any] = json.loads(answer.stdout.strip().splitlines()[-1])
    return measured


def drive(path: Path) -> dict[str, float]:
    """Bytes per second of reading the file, by kind and threads; each measurement reads a part of its own, for a second at most."""
    if not hasattr(os, "O_DIRECT"):
        return {"buffered, 1 thread": measure_read_rate(str(path))}
    part = min(PART_BYTES, path.stat().st_size // len(KINDS) // BLOCK_BYTES * BLOCK_BYTES)
    rates = {}
    for index, (kind, threads) in enumerate(KINDS):
        try:
            rate = _rate(path, part * index, part, threads, kind)
        except OSError:  # a file system without O_DIRECT
            continue
        if rate:
            rates[f"{kind}, {threads} thread{'s' if threads > 1 else ''}"] = rate
    return rates


def _rate(path: Path, start: int, size_bytes: int, threads: int, kind: str) -> float:
    """0.0 for a part too small to measure. Raises OSError."""
    offsets = iter(range(start, start + size_bytes - BLOCK_BYTES + 1, BLOCK_BYTES))
    lock, failed, read = threading.Lock(), [], [0]
    pagecache.drop(Extent(str(path), start, size_bytes))
    fd = os.open(path, os.O_RDONLY | (os.O_DIRECT if kind == "direct" else 0))
    began = time.perf_counter()

    def work() -> None:
        buffer = mmap.mmap(-1, BLOCK_BYTES)  # O_DIRECT wants whole pages
        while time.perf_counter() - began < BUDGET_S:
            with lock:
                offset = next(offsets, None)
            if offset is None:
                return
            try:
                if kind == "as the pack reads":
                    got = _system.current.bring_in(fd, memoryview(buffer), offset, BLOCK_BYTES)
                else:
                    got = os.preadv(fd, [buffer], offset)
            except OSError as error:
                failed.append(error)
                return
            with lock:
                read[0] += got

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - began
    os.close(fd)
    if failed:
        raise failed[0]
    return read[0] / seconds
