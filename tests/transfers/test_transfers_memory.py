"""What host memory is available: real files, laid out like /proc and /sys/fs/cgroup."""

from __future__ import annotations

from pathlib import Path

import pytest

from residency.transfers import HostMemory, memory

GIB = 1024**3
UNLIMITED_V1 = 9223372036854771712


def write(root: Path, files: dict[str, object]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


def machine(root: Path, available_gib: int = 20) -> str:
    meminfo = f"MemTotal:       {24 * GIB // 1024} kB\nMemFree:        1 kB\nMemAvailable:   {available_gib * GIB // 1024} kB"
    write(root, {"proc/meminfo": meminfo})
    return str(root)


def v2(root: Path, own: str, mount_root: str = "/") -> None:
    write(root, {"proc/self/cgroup": f"0::{own}"})
    write(root, {"proc/self/mountinfo": f"31 23 0:28 {mount_root} /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate"})


def v2_group(root: Path, at: str, limit: object, current: int, cache: tuple[int, int] = (0, 0), high: object = "max") -> None:
    stat = f"anon 5\nfile 7\ninactive_anon 99999\ninactive_file {cache[0]}\nactive_file {cache[1]}\nworkingset_refault_file 3"
    files = {"memory.max": limit, "memory.high": high, "memory.current": current, "memory.stat": stat}
    write(root, {f"sys/fs/cgroup/{at}/{name}": content for name, content in files.items()})


def v1_group(root: Path, at: str, limit: int, usage: int, cache: tuple[int, int]) -> None:
    stat = f"inactive_file 1\nactive_file 1\ntotal_inactive_file {cache[0]}\ntotal_active_file {cache[1]}"
    files = {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": usage, "memory.stat": stat}
    write(root, {f"sys/fs/cgroup/memory/{at}/{name}": content for name, content in files.items()})


def v1(root: Path, own: str, mount_root: str = "/") -> None:
    write(root, {"proc/self/cgroup": f"5:cpu,cpuacct:/elsewhere\n4:memory:{own}\n1:name=systemd:/elsewhere"})
    line = f"35 31 0:32 {mount_root} /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory"
    write(root, {"proc/self/mountinfo": f"34 31 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n{line}"})


def test_without_cgroups_the_machine_decides(tmp_path: Path) -> None:
    assert memory.host_memory(machine(tmp_path)) == HostMemory(24 * GIB, 20 * GIB, "MemAvailable")


def test_a_limit_counts_reclaimable_cache_as_available(tmp_path: Path) -> None:
    root = machine(tmp_path)
    v2(tmp_path, "/job")
    v2_group(tmp_path, "job", 8 * GIB, 7 * GIB, cache=(2 * GIB, 1 * GIB))
    found = memory.host_memory(root)
    assert (found.total_bytes, found.available_bytes) == (8 * GIB, 4 * GIB)
    assert found.limit == str(tmp_path / "sys/fs/cgroup/job/memory.max")


def test_the_ancestor_with_the_least_room_wins(tmp_path: Path) -> None:
    root = machine(tmp_path)
    v2(tmp_path, "/slice/user/job")
    v2_group(tmp_path, "slice/user/job", 10 * GIB, 1 * GIB)
    v2_group(tmp_path, "slice/user", "max", 1 * GIB)
    v2_group(tmp_path, "slice", 12 * GIB, 9 * GIB)
    assert memory.host_memory(root) == HostMemory(10 * GIB, 3 * GIB, str(tmp_path / "sys/fs/cgroup/slice/memory.max"))


def test_memory_high_limits_too(tmp_path: Path) -> None:
    root = machine(tmp_path)
    v2(tmp_path, "/job")
    v2_group(tmp_path, "job", "max", 1 * GIB, high=2 * GIB)
    assert memory.host_memory(root) == HostMemory(2 * GIB, 1 * GIB, str(tmp_path / "sys/fs/cgroup/job/memory.high"))


def test_a_generous_limit_leaves_the_word_to_the_machine(tmp_path: Path) -> None:
    root = machine(tmp_path, available_gib=2)
    v2(tmp_path, "/job")
    v2_group(tmp_path, "job", 100 * GIB, 1 * GIB)
    assert memory.host_memory(root) == HostMemory(24 * GIB, 2 * GIB, "MemAvailable")


def test_a_group_over_its_limit_has_nothing(tmp_path: Path) -> None:
    root = machine(tmp_path)
    v2(tmp_path, "/job")
    v2_group(tmp_path, "job", 1 * GIB, 2 * GIB)
    assert memory.available_bytes(root) == 0


def test_v1_counts_the_children_and_knows_no_limit(tmp_path: Path) -> None:
    root = machine(tmp_path)
    v1(tmp_path, "/docker/abc")
    v1_group(tmp_path, "docker/abc", 6 * GIB, 5 * GIB, (1 * GIB, 1 * GIB))
    v1_group(tmp_path, "docker", UNLIMITED_V1, 23 * GIB, (0, 0))
    limit = str(tmp_path / "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes")
    assert memory.host_memory(root) == HostMemory(6 * GIB, 3 * GIB, limit)


@pytest.mark.parametrize(
    ("own", "mount_root"), [("/docker/abc", "/docker/abc"), ("/", "/"), ("/../other", "/"), ("/host/path", "/docker/abc")]
)
def test_a_container_sees_its_group_at_the_mount(tmp_path: Path, own: str, mount_root: str) -> None:
    root = machine(tmp_path)
    v1(tmp_path, own, mount_root)
    v1_group(tmp_path, "", 4 * GIB, 1 * GIB, (0, 0))
    assert memory.available_bytes(root) == 3 * GIB


def test_below_the_mounts_root_the_path_goes_on(tmp_path: Path) -> None:
    root = machine(tmp_path)
    v2(tmp_path, "/pod/abc/job", mount_root="/pod/abc")
    v2_group(tmp_path, "job", 2 * GIB, 1 * GIB)
    v2_group(tmp_path, "pod/abc/job", 4 * GIB, 4 * GIB)  # a path that only looks right
    assert memory.available_bytes(root) == 1 * GIB


def test_hybrid_limits_come_from_v1(tmp_path: Path) -> None:
    root = machine(tmp_path)
    write(tmp_path, {"proc/self/cgroup": "4:memory:/job\n0::/"})
    unified = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
    legacy = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
    write(tmp_path, {"proc/self/mountinfo": f"{unified}\n{legacy}", "sys/fs/cgroup/unified/cgroup.procs": ""})
    v1_group(tmp_path, "job", 4 * GIB, 1 * GIB, (0, 0))
    assert memory.available_bytes(root) == 3 * GIB


def test_numbers_are_read_again_and_a_move_to_another_group_is_noticed(tmp_path: Path) -> None:
    root = machine(tmp_path)
    v2(tmp_path, "/job")
    v2_group(tmp_path, "job", 4 * GIB, 1 * GIB)
    assert memory.available_bytes(root) == 3 * GIB
    v2_group(tmp_path, "job", 4 * GIB, 2 * GIB)
    assert memory.available_bytes(root) == 2 * GIB
    for file in (tmp_path / "sys/fs/cgroup/job").iterdir():
        file.unlink()
    v2(tmp_path, "/moved")
    v2_group(tmp_path, "moved", 4 * GIB, 3 * GIB)
    assert memory.available_bytes(root) == 1 * GIB


def test_without_proc_the_library_answers(tmp_path: Path) -> None:
    found = memory.host_memory(str(tmp_path))
    assert found.limit == "psutil" and 0 < found.available_bytes <= found.total_bytes


def test_mount_points_may_hold_blanks() -> None:
    assert memory.unescape_mount(r"/mnt/a\040b\134c") == r"/mnt/a b\c"


def test_pressure_is_the_larger_of_machine_and_group(tmp_path: Path) -> None:
    root = machine(tmp_path)
    assert memory.pressure(root) == 0.0
    full = "full avg10=80.00 avg60=0.00 avg300=0.00 total=0"
    write(tmp_path, {"proc/pressure/memory": f"some avg10=1.50 avg60=9.00 avg300=0.00 total=4\n{full}"})
    assert memory.pressure(root) == 1.5
    v2(tmp_path, "/job")
    v2_group(tmp_path, "job", "max", 0)
    write(tmp_path, {"sys/fs/cgroup/job/memory.pressure": f"some avg10=12.25 avg60=0.00 avg300=0.00 total=4\n{full}"})
    memory.memory_groups.cache_clear()
    assert memory.pressure(root) == 12.25
    write(tmp_path, {"proc/pressure/memory": "another format", "sys/fs/cgroup/job/memory.pressure": ""})
    assert memory.pressure(root) == 0.0


def test_this_machine_answers() -> None:
    found = memory.host_memory()
    assert 0 < found.available_bytes <= found.total_bytes
