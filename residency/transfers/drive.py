"""The drive that a file lies on: whether it turns, and how fast it reads."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

from ..core.component import Component, Extent
from . import _system, pagecache
from ._chunks import Reader, cut
from ._sampling import Found, sampled
from .memory import unescape_mount

# Hypervisors present every disk as rotational: virtio_blk and Xen by name, the emulated SCSI ones by vendor; loop devices inherit it.
_VIRTUAL_NAMES = ("vd", "xvd", "loop", "nbd")
_VIRTUAL_VENDORS = ("QEMU", "VMware", "Msft", "VBOX", "Google", "Amazon")

_READ_BYTES = 8 * 1024**2

UNKNOWN = "unknown"


def drive_of(path: str, root: str = "/") -> str:
    """A stable name of the drive that holds the file, equal for all files of one drive; "unknown" when the file cannot be asked for.

    On Linux the kernel's name of the whole disk ("nvme0n1"), with partitions, LUKS and linear LVM looked through; on Windows the disk's
    number; elsewhere, and for a file system without a disk (network, overlay), the device number.
    """
    try:
        if _system.current.name != "Linux":
            return _system.current.drive_of(path)
        device = os.stat(path).st_dev
    except OSError:
        return UNKNOWN
    number = f"{os.major(device)}:{os.minor(device)}"
    if os.major(device) == 0:  # btrfs gives each subvolume a number of its own: the mount knows the disk
        number = _mounted_device(os.path.realpath(path), root) or number
    return disk_name(number, root) or f"device {number}"


_drives: dict[str, str] = {}


def remembered_drive(path: str) -> str:
    """`drive_of`, asked once for each file: the question may hang with its drive, and movers are called with locks held. A file that has
    moved to another drive since is read with the threads of the old one."""
    drive = _drives.get(path)
    if drive is None:
        drive = drive_of(path)
        if drive != UNKNOWN:
            _drives[path] = drive
    return drive


@lru_cache(maxsize=256)
def disk_name(number: str, root: str = "/") -> str | None:
    """The disk of a "major:minor" from sysfs; None when sysfs does not know it."""
    device = Path(root, "sys/dev/block", number).resolve()
    if not device.is_dir():
        return None
    if (device / "partition").exists():
        device = device.parent
    for _ in range(8):  # mappings on mappings; a cycle would be a broken sysfs
        slaves = list((device / "slaves").glob("*"))
        if len(slaves) != 1:  # none: a disk; several: a stripe or a mirror, which reads like one drive of its own
            break
        device = slaves[0].resolve()
        if (device / "partition").exists():
            device = device.parent
    return device.name


@lru_cache(maxsize=256)
def is_rotational(drive: str, root: str = "/") -> bool | None:
    """True for a disk that seeks; None when nobody knows: a system that is not asked, a network, a virtual machine."""
    if _system.current.name != "Linux":
        return _system.current.is_rotational(drive)
    device = Path(root, "sys/block", drive)
    try:
        turns = (device / "queue/rotational").read_text().strip() == "1"
    except OSError:
        return None
    if turns and (drive.startswith(_VIRTUAL_NAMES) or _vendor(device).startswith(_VIRTUAL_VENDORS)):
        return None
    return turns


def single_reader(components: Iterable[Component]) -> frozenset[str]:
    """The keys of components that lie, in part or whole, on a disk that seeks: a second reader slows both down."""
    return frozenset(
        component.key
        for component in components
        if any(is_rotational(remembered_drive(path)) for path in {extent.path: None for extent in component.extents})
    )


def measure_read_rate(
    path: str, budget_bytes: int = 512 * 1024**2, budget_s: float = 3.0, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Bytes per second of one cold sequential read of the file's beginning, until one of the budgets is spent.

    The pages are dropped first and left cached afterwards. Only chunks that were not cached count, so a file that cannot be dropped (in
    use, or a system without a way to) gives 0.0, as an empty file does. Where the system does not tell which bytes are cached, samples must
    have shown that none are. OSError when the file cannot be read.
    """
    fd = pagecache.open_file(path)
    try:
        end = min(budget_bytes, pagecache.file_bytes(fd))
        pagecache.drop(Extent(path, 0, end))
        buffer = bytearray(_READ_BYTES)
        if pagecache.cached_in(fd, 0, end) is None and not _looks_cold(path, end, clock):
            return 0.0
        cold_bytes, cold_s = 0, 0.0
        begun = clock()
        for start in range(0, end, _READ_BYTES):
            if clock() - begun >= budget_s:
                break
            size = min(_READ_BYTES, end - start)
            if pagecache.cached_in(fd, start, size) == size and cold_bytes == 0:
                continue  # behind the first cold chunk a cached one is the kernel's read-ahead, and part of the rate
            before = clock()
            cold_bytes += pagecache.read_into_cache(fd, start, size, buffer)
            cold_s += clock() - before
    finally:
        pagecache.close_file(fd)
    return cold_bytes / cold_s if cold_s > 0 else 0.0


def _looks_cold(path: str, size_bytes: int, clock: Callable[[], float]) -> bool:
    """Whether samples tell that nothing of the file's beginning is cached."""
    reader = Reader()
    try:
        found = sampled(
            list(cut(Component(path, path, "", size_bytes, (Extent(path, 0, size_bytes),)), size_bytes, _READ_BYTES)), reader, clock
        )
    finally:
        reader.close()
    return bool(found) and set(found) == {Found.COLD}


def _mounted_device(path: str, root: str) -> str | None:
    """major:minor of the device that is mounted where the path is; None when the mount has no device of its own."""
    best, source = "", ""
    try:
        lines = Path(root, "proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        left, _, right = line.partition(" - ")
        point, device = unescape_mount(left.split(" ")[4]), unescape_mount(right.split(" ")[1])
        if len(point) >= len(best) and (path == point or path.startswith(point.rstrip("/") + "/")):
            best, source = point, device
    if not source.startswith("/dev/"):
        return None
    try:
        number = os.stat(source).st_rdev
    except OSError:
        return None
    return f"{os.major(number)}:{os.minor(number)}" if number else None


def _vendor(device: Path) -> str:
    try:
        return (device / "device/vendor").read_text().strip()
    except OSError:
        return ""
