"""Machines on which less is done: /proc laid out in a folder, and what is said of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from residency.core.component import Component, Extent, Tier
from residency.core.events import TransferStopped
from residency.core.instructions import Prefetch
from residency.transfers import ReadAhead, disk, machine
from residency.transfers.machine import headroom_share, in_wsl, lacks, not_kept

GIB = 1024**3
DRVFS = "70 60 0:50 / /mnt/c rw,noatime - 9p C:\\134 rw,dirsync,aname=drvfs;path=C:\\;uid=1000,{cache},access=client,msize=65536,trans=fd"


def root_of(tmp_path: Path, gib: int = 64, release: str = "6.8.0-45-generic", mounts: str = "", limit: int | None = None) -> str:
    group = "\n31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw" if limit else ""
    files = {
        "proc/meminfo": f"MemTotal: {gib * GIB // 1024} kB\nMemAvailable: {gib * GIB // 2048} kB\n",
        "proc/sys/kernel/osrelease": release + "\n",
        "proc/self/mountinfo": f"29 1 0:27 / / rw - overlay overlay rw,lowerdir=/a\n{mounts}{group}\n",
        "proc/self/cgroup": "0::/\n",
    }
    if limit:
        files |= {"sys/fs/cgroup/memory.max": f"{limit}\n", "sys/fs/cgroup/memory.current": "0\n", "sys/fs/cgroup/memory.stat": "anon 0\n"}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return str(tmp_path)


def test_a_large_machine_lacks_nothing_in_a_docker_overlay_too(tmp_path: Path):
    root = root_of(tmp_path)
    assert lacks(root) == [] and not in_wsl(root) and not_kept("/models/flux", root) is None
    assert headroom_share(64 * GIB) == 0.1


@pytest.mark.parametrize(
    ("options", "name", "said"),
    [
        ({"gib": 16}, "little memory", "20% of it stay free instead of 10%"),
        ({"limit": 8 * GIB, "gib": 64}, "memory of a container", "memory.max allows 8.00 GiB"),
        ({"release": "5.15.153.1-microsoft-standard-WSL2"}, "WSL", "/mnt/c"),
    ],
)
def test_each_lack_is_said_in_a_sentence(tmp_path: Path, options: dict[str, object], name: str, said: str):
    found = {lack.name: lack.why for lack in lacks(root_of(tmp_path, **options))}  # type: ignore[arg-type]
    assert said in found[name]


def test_a_small_machine_keeps_more_free():
    assert headroom_share(16 * GIB) == 2 * headroom_share(24 * GIB)


@pytest.mark.parametrize(("cache", "kept"), [("mmap", False), ("cache=none", False), ("cache=loose", True), ("cache=fscache", True)])
def test_files_that_linux_keeps_nothing_of_are_not_read_ahead(tmp_path: Path, cache: str, kept: bool):
    root = root_of(tmp_path, release="5.15-microsoft-standard-WSL2", mounts=DRVFS.format(cache=cache))
    why = not_kept("/mnt/c/models/flux", root)
    assert (why is None) is kept and not_kept("/home/u/flux", root) is None and not_kept("/mnt/cd/flux", root) is None
    assert kept or "Windows drive seen from WSL" in str(why)


def test_a_share_of_another_machine_is_named_so(tmp_path: Path):
    root = root_of(tmp_path, mounts=DRVFS.format(cache="none"))
    assert "another machine's folder" in str(not_kept("/mnt/c/flux", root))


def test_the_mover_refuses_such_a_file_with_its_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = root_of(tmp_path, release="5.15-microsoft-standard-WSL2", mounts=DRVFS.format(cache="mmap"))
    monkeypatch.setattr(disk, "not_kept", lambda path: not_kept(path, root))
    events: list[object] = []
    mover = ReadAhead(events.append)
    flux = Component("flux", "flux", "MODEL", 10, (Extent("/mnt/c/flux", 0, 10),))
    mover.prefetch(Prefetch(flux, Tier.HOST, 10, "needed next")).result(60)
    mover.close()
    (stopped,) = events
    assert isinstance(stopped, TransferStopped) and "keep models on Linux's own drive" in stopped.reason


def test_where_nobody_tells_nothing_is_left_undone(tmp_path: Path):
    assert not_kept("/mnt/c/flux", str(tmp_path)) is None and not in_wsl(str(tmp_path))
    assert machine.lacks() is not None
