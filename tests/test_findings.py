"""What a bug report is told of options, memory, drives, and how much of the pack works."""

from __future__ import annotations

from pathlib import Path

import pytest

from residency.findings import options, swap, works
from residency.transfers.storage import storage_of


def laid_out(root: Path, files: dict[str, str]) -> str:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return str(root)


def test_only_options_that_are_set_and_cost_something_are_told():
    told = {fact.name: fact.value for fact in options({"cache_none": True, "highvram": False, "port": 8188, "cache_ram": [4.0, 8.0]})}
    assert list(told) == ["--cache-none", "--cache-ram"]
    assert "reads its models again" in told["--cache-none"] and "less than 4 GB" in told["--cache-ram"]


@pytest.mark.parametrize(
    ("system", "kind", "way_out"),
    [
        ("nfs4", "network (nfs4)", "a copy on a drive of this machine"),
        ("fuseblk", "NTFS through FUSE (ntfs-3g)", "mount it with ntfs3"),
        ("9p", "another machine's folder (9p)", "keep models on Linux's own drive"),
    ],
)
def test_a_drive_that_is_slow_by_its_kind_is_told_with_the_way_out(tmp_path: Path, system: str, kind: str, way_out: str):
    mounts = f"29 1 0:27 / / rw - overlay overlay rw\n70 29 0:50 / /models rw - {system} there rw\n"
    root = laid_out(tmp_path, {"proc/self/mountinfo": mounts, "proc/sys/kernel/osrelease": "6.8.0\n"})
    found = storage_of("/models", root)
    assert found.kind == kind and way_out in found.costs


def test_a_drive_of_which_nobody_knows_anything_is_told_so(tmp_path: Path):
    assert storage_of("/models", str(tmp_path)).kind == "of unknown kind"


def test_swap_is_told_where_the_system_tells_it(tmp_path: Path):
    (fact,) = swap(laid_out(tmp_path / "some", {"proc/meminfo": "SwapTotal: 2097152 kB\nSwapFree: 1048576 kB\n"}))
    assert fact.value == "1.00 GiB used of 2.00 GiB"
    assert list(swap(str(tmp_path / "none"))) == []


def test_one_line_says_how_much_works_and_why_not_the_rest():
    assert works("mode off", "whatever") == "off: mode off"
    assert works("", "ComfyUI computes on the CPU") == "reads ahead only, because ComfyUI computes on the CPU"
    assert works("", "", [("queue put", "replaced by a pack")]) == "in part, without queue put: replaced by a pack"
    assert works("", "").startswith("full: ")
