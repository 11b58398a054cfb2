"""Which drive a file is on: sysfs laid out in a temporary directory. How fast it reads: a real file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from residency.core.component import Component, Extent
from residency.transfers import drive, drive_of, is_rotational, measure_read_rate
from residency.transfers.drive import disk_name

MIB = 1024**2
MakeFile = Callable[..., Path]


def block_device(root: Path, number: str, at: str, rotational: int | None = None, partition: bool = False, vendor: str = "") -> Path:
    device = root / "sys/devices" / at
    device.mkdir(parents=True, exist_ok=True)
    for folder in ("sys/dev/block", "sys/block"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "sys/dev/block" / number).symlink_to(device)
    if partition:
        (device / "partition").write_text("1\n")
        return device
    (root / "sys/block" / device.name).symlink_to(device)
    if rotational is not None:
        (device / "queue").mkdir()
        (device / "queue/rotational").write_text(f"{rotational}\n")
    if vendor:
        (device / "device").mkdir()
        (device / "device/vendor").write_text(f"{vendor}   \n")
    return device


def below(upper: Path, *lower: Path) -> None:
    (upper / "slaves").mkdir()
    for device in lower:
        (upper / "slaves" / device.name).symlink_to(device)


def test_partitions_of_one_disk_are_one_drive(tmp_path: Path) -> None:
    block_device(tmp_path, "259:0", "pci/nvme0n1")
    for minor in (1, 2):
        block_device(tmp_path, f"259:{minor}", f"pci/nvme0n1/nvme0n1p{minor}", partition=True)
    assert [disk_name(f"259:{minor}", str(tmp_path)) for minor in (0, 1, 2)] == ["nvme0n1"] * 3


def test_an_encrypted_volume_is_the_disk_below_and_a_mirror_is_itself(tmp_path: Path) -> None:
    for name, number in (("sda", "8:0"), ("sdb", "8:16")):
        block_device(tmp_path, number, f"pci/{name}")
    partition = block_device(tmp_path, "8:1", "pci/sda/sda1", partition=True)
    crypt = block_device(tmp_path, "252:0", "virtual/dm-0")
    below(crypt, partition)
    volume = block_device(tmp_path, "252:1", "virtual/dm-1")
    below(volume, crypt)
    mirror = block_device(tmp_path, "9:0", "virtual/md0")
    below(mirror, partition, tmp_path / "sys/devices/pci/sdb")
    assert disk_name("252:1", str(tmp_path)) == "sda"
    assert disk_name("9:0", str(tmp_path)) == "md0"
    assert disk_name("7:7", str(tmp_path)) is None


def test_only_a_disk_that_is_known_to_turn_turns(tmp_path: Path) -> None:
    block_device(tmp_path, "8:0", "pci/sda", rotational=1, vendor="ATA")
    block_device(tmp_path, "8:16", "pci/sdb", rotational=0)
    block_device(tmp_path, "8:32", "pci/sdc", rotational=1, vendor="VMware,")
    block_device(tmp_path, "254:0", "virtio/vda", rotational=1)
    found = {name: is_rotational(name, str(tmp_path)) for name in ("sda", "sdb", "sdc", "vda", "nfs")}
    assert found == {"sda": True, "sdb": False, "sdc": None, "vda": None, "nfs": None}


def test_files_of_one_folder_are_on_one_drive(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    assert drive_of(str(tmp_path / "a")) == drive_of(str(tmp_path / "b")) != "unknown"
    assert drive_of(str(tmp_path / "gone")) == "unknown"


def test_the_rate_of_a_cold_file_is_its_bytes_over_the_seconds(cold_file: MakeFile) -> None:
    path = cold_file("a", 64 * MIB)
    ticks = iter(float(tick) for tick in range(1000))  # a clock that moves by one second each time it is asked
    # begun; then for each of two 8 MiB reads: the budget is looked at, before, after
    rate = measure_read_rate(str(path), budget_bytes=16 * MIB, budget_s=100.0, clock=lambda: next(ticks))
    assert rate == 8 * MIB


def test_the_time_budget_ends_the_measurement(cold_file: MakeFile) -> None:
    path = cold_file("a", 64 * MIB)
    ticks = iter(float(tick) for tick in range(1000))
    assert measure_read_rate(str(path), budget_s=1.5, clock=lambda: next(ticks)) == 8 * MIB
    assert next(ticks) == 5.0  # one read, not eight


def test_an_empty_file_has_no_rate_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert measure_read_rate(str(tmp_path / "empty")) == 0.0
    with pytest.raises(FileNotFoundError, match="gone"):
        measure_read_rate(str(tmp_path / "gone"))


def test_a_disk_that_seeks_serves_a_single_reader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """There is no hard disk to test on: what the system says of one is put in the place of the question."""
    part = tmp_path / "weights"
    part.write_bytes(b"0" * 10)
    weights = Component("w", "w", "MODEL", 10, (Extent(str(part), 0, 10),))
    monkeypatch.setattr(drive, "is_rotational", lambda name: True)
    assert drive.single_reader([weights]) == {"w"}
    monkeypatch.setattr(drive, "is_rotational", lambda name: None)
    assert drive.single_reader([weights]) == frozenset()
