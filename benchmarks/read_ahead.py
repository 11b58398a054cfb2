"""How fast files are read ahead, and how long whoever else waits for the drive meanwhile has to wait.

    python benchmarks/read_ahead.py [--gib 6] [--tries 3] [--json]

A file of random bytes is read ahead cold: alone, beside a thread that keeps the interpreter busy, and beside somebody who touches 1,500
pages here and there of another cold file that is mapped, as libraries are at a first start. Each in turns inside the kernel and through a
buffer, with 4 threads and, through a buffer, 8. Needs the disk space, and half as much RAM again.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from residency.core.component import Component, Extent, Tier
from residency.core.instructions import Prefetch
from residency.transfers import ReadAhead, _system
from residency.transfers.pagecache import drop_files

MIB = 2**20
LIBRARY_MIB, TOUCHES = 414, 1500  # as large as torch's largest for the CPU
WAYS = (("in the kernel", 4, False), ("through a buffer", 4, True), ("through a buffer", 8, True))


@dataclass(frozen=True, slots=True)
class Told:
    """Medians. Rates in bytes per second; `library_s`: the touches, beside the reading."""

    way: str
    threads: int
    alone: float
    busy: float
    library_s: float


def made(path: Path, size_mib: int) -> Path:
    block = os.urandom(64 * MIB)
    with path.open("wb") as file:
        for _ in range(0, size_mib, 64):
            file.write(block)
        os.fsync(file.fileno())
    return path


def touched_s(library: Path) -> float:
    draw, begun_s = random.Random(1), time.perf_counter()
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
        for _ in range(TOUCHES):
            pages[draw.randrange(len(pages))]
    return time.perf_counter() - begun_s


def read_s(weights: Path, threads: int, beside: Callable[[threading.Event], object]) -> float:
    size_bytes = weights.stat().st_size
    component = Component("w", "w", "MODEL", size_bytes, (Extent(str(weights), 0, size_bytes),))
    mover, over = ReadAhead(lambda event: None, threads_per_drive=threads), threading.Event()
    begun_s = time.perf_counter()
    future = mover.prefetch(Prefetch(component, Tier.HOST, size_bytes, "next"))
    future.add_done_callback(lambda _: over.set())
    beside(over)
    future.result()
    mover.close()
    return time.perf_counter() - begun_s


def compute(over: threading.Event) -> None:
    while not over.is_set():
        sum(range(1000))


def told(weights: Path, library: Path, way: str, threads: int, copies: bool) -> Told:
    _system.current._copies = copies  # type: ignore[attr-defined]
    found: dict[str, float] = {}

    def touch(over: threading.Event) -> None:
        time.sleep(0.3)  # until the readers are at work
        found["library_s"] = touched_s(library)

    seconds = []
    for beside in (lambda over: None, compute, touch):
        drop_files([weights, library])
        seconds.append(read_s(weights, threads, beside))
    size_bytes = weights.stat().st_size
    return Told(way, threads, size_bytes / seconds[0], size_bytes / seconds[1], found["library_s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=int, default=6)
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if _system.current.name != "Linux":
        sys.exit("the two ways are Linux's")
    with tempfile.TemporaryDirectory(dir=Path.home()) as folder:
        weights, library = made(Path(folder) / "weights", options.gib * 1024), made(Path(folder) / "library", LIBRARY_MIB)
        tries = [[told(weights, library, *way) for way in WAYS] for _ in range(options.tries)]
        drop_files([library])
        alone_s = touched_s(library)
    rows = []
    for turns in zip(*tries, strict=True):
        middle = [statistics.median(getattr(one, name) for one in turns) for name in ("alone", "busy", "library_s")]
        rows.append(Told(turns[0].way, turns[0].threads, *middle))
    if options.json:
        print(json.dumps({"library_alone_s": alone_s, "ways": [asdict(row) for row in rows]}, indent=1))
        return
    print(f"the library alone: {alone_s:.2f} s")
    for row in rows:
        rates = f"{row.alone / 1e9:.2f} GB/s alone, {row.busy / 1e9:.2f} beside a busy interpreter"
        print(f"{row.way}, {row.threads} threads: {rates}; the library {row.library_s:.2f} s")


if __name__ == "__main__":
    main()
