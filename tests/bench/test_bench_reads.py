"""What the kernel counts as read from the drive for another process: every way to read a file that is not cached, and nothing that is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from residency.bench.reads import Reads, drive_bytes
from residency.core.component import Extent
from residency.transfers import pagecache

SIZE = 24 << 20

# Prints a line when it has started and one when it has read the file in the given way.
READER = """
import mmap, os, sys, threading
path, way = sys.argv[1:]
fd = os.open(path, os.O_RDONLY)
def faults():
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as whole:
        sum(whole[place] for place in range(0, len(whole), mmap.PAGESIZE))
def reads():
    while os.read(fd, 1 << 20):
        pass
print("up", flush=True)
sys.stdin.readline()
work = threading.Thread(target=reads if way == "read" else faults)
work.start() if way == "fault in a thread" else work.run()
if work.ident:
    work.join()
print("read", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(SIZE))
    pagecache.drop_files([path])
    if sys.platform != "linux" or pagecache.cached_bytes(Extent(str(path), 0, SIZE)):
        pytest.skip("wants Linux and a file system whose pages can be dropped")
    return path


@contextmanager
def reader(path: Path, way: str) -> Iterator[tuple[Reads, subprocess.Popen[str]]]:
    with subprocess.Popen([sys.executable, "-c", READER, path, way], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        reads = Reads(process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        yield reads, process
        process.stdin.write("\n")


@pytest.mark.parametrize("way", ["read", "fault", "fault in a thread"])
def test_what_was_not_cached_is_counted_once_with_its_read_ahead_and_what_is_cached_not_at_all(file: Path, way: str):
    with reader(file, way) as (cold, _):
        read = cold.since()
        assert read is not None and SIZE <= read <= 1.1 * SIZE
        assert cold.since() == 0
    with reader(file, way) as (warm, _):
        assert warm.since() == 0


def test_of_a_process_that_is_gone_nothing_is_known():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert drive_bytes(process.pid) is None and Reads(process.pid).since() is None
