"""What is read ahead while the page cache is full of models that nobody needs any more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transfers.conftest import MakeFile

from residency.core.component import Component, Tier
from residency.core.events import TransferDone
from residency.core.instructions import Prefetch
from residency.transfers import ReadAhead, _system, memory

MIB = 1024**2
GROUPS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))  # versions 1 and 2


@pytest.fixture
def group() -> Iterator[Path]:
    """A memory group of 512 MiB."""
    for root in GROUPS:
        made, limit = root / f"residency-test-{os.getpid()}", "memory.limit_in_bytes" if root.name == "memory" else "memory.max"
        try:
            made.mkdir()
        except OSError:
            continue
        try:
            (made / limit).write_text(str(512 * MIB))
            yield made
            return
        except OSError:
            continue
        finally:
            made.rmdir()
    pytest.skip("WHAT THE KERNEL DROPS FIRST WAS NOT TRIED: no memory group can be made here (not root, or no such controller)")


READS = """
import json, os, sys
group, old, *new = sys.argv[1:]
open(os.path.join(group, "cgroup.procs"), "w").write(str(os.getpid()))
from pathlib import Path
from residency.core.component import Component, Extent, Tier
from residency.core.instructions import Prefetch
from residency.transfers import ReadAhead
from residency.transfers.pagecache import cached_bytes
for _ in range(2):
    with open(old, "rb", buffering=0) as file:
        while file.read(1 << 20):
            pass
extents = [Extent(path, 0, os.stat(path).st_size) for path in new]
mover = ReadAhead(lambda event: None, headroom_bytes=0, pressure=lambda: 0.0)
for path, extent in zip(new, extents):
    mover.prefetch(Prefetch(Component(path, path, "MODEL", extent.size_bytes, (extent,)), Tier.HOST, extent.size_bytes, "test"))
for path in new:
    mover.wait(path, 60)
print(json.dumps([cached_bytes(extent) for extent in extents]))
"""


def test_models_that_were_read_more_often_long_ago_leave_before_what_is_read_ahead(group: Path, cold_file: MakeFile):
    old, *new = [str(cold_file(name, size * MIB)) for name, size in (("old", 260), ("a", 150), ("b", 150))]
    done = subprocess.run([sys.executable, "-c", READS, str(group), old, *new], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout)
    assert first >= 140 * MIB and second >= 140 * MIB


@pytest.mark.parametrize(("crowded", "first"), [(False, 0), (True, 16 * MIB)])
def test_pages_are_used_again_once_where_others_are_dropped_for_them(
    monkeypatch: pytest.MonkeyPatch, cold_file: MakeFile, component: Callable[..., Component], crowded: bool, first: int
):
    paths = [cold_file("cold", 8 * MIB), cold_file("warm", 8 * MIB)]
    paths[1].read_bytes()
    used: list[int] = []
    monkeypatch.setattr(type(_system.current), "use_again", lambda self, handle, view, offset, size_bytes: used.append(size_bytes))
    events: list[object] = []
    mover = ReadAhead(events.append, available=lambda: 1 << 40, crowded=lambda: crowded, pressure=lambda: 0.0)
    rounds = []
    try:
        for _ in range(2):
            used.clear()
            for path in paths:
                one = component(path.name, path)
                mover.prefetch(Prefetch(one, Tier.HOST, one.size_bytes, "test")).result(60)
            rounds.append(sum(used))
    finally:
        mover.close()
    assert rounds == [first, 0]  # cached, and used before
    assert all(isinstance(event, TransferDone) and event.present_bytes == 8 * MIB for event in events)


def test_memory_that_nobody_holds_is_what_the_group_leaves(group: Path):
    asks = "import os, sys; open(sys.argv[1] + '/cgroup.procs', 'w').write(str(os.getpid())); "
    asks += "from residency.transfers import memory; print(memory.free_bytes(), memory.available_bytes())"
    told = subprocess.run([sys.executable, "-c", asks, str(group)], capture_output=True, text=True, timeout=60, check=True).stdout.split()
    free, available = map(int, told)
    assert 64 * MIB < free <= available <= 512 * MIB


@pytest.mark.parametrize(("free", "crowded"), [(None, False), (49, True), (50, False), (99, False)])
def test_memory_is_crowded_when_most_of_what_is_available_holds_pages(monkeypatch: pytest.MonkeyPatch, free: int | None, crowded: bool):
    monkeypatch.setattr(memory, "free_bytes", lambda: free)
    monkeypatch.setattr(memory, "available_bytes", lambda: 100)
    assert memory.is_crowded() is crowded
