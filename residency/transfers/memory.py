"""Host memory that is really available: the least that the machine and every cgroup above this process allow.

Reclaimable page cache counts as available, as it does in MemAvailable. So reading a file into the cache lowers nothing here:
the number bounds all that can be held, prefetched files included, and is no room beside them.

Cost on Linux (2 cores, Python 3.11, three cgroup v1 levels without a limit): 34 us for `available_bytes`, 14 us for `pressure`;
every level that has a limit adds about 25 us.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from . import _system
from ._interface import HostMemory

SERVERS_VARIABLE = "RESIDENCY_SERVERS"
_NO_LIMIT = 1 << 62  # cgroup v1 writes "no limit" as LONG_MAX rounded down to a page


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """The files of one memory cgroup. `limits` are those that exist; a v1 `usage` counts the children too, as v2 does."""

    limits: tuple[str, ...]
    usage: str
    stat: str
    cache_fields: tuple[bytes, bytes]
    pressure: str


def available_bytes(root: str = "/") -> int:
    """Bytes that this process can still hold before the machine or one of its cgroups has to swap or kill."""
    return host_memory(root).available_bytes


def share(size_bytes: int) -> int:
    """The bytes of this machine that this server may plan with: several servers of one machine, as many as RESIDENCY_SERVERS says, must not
    plan with the same ones."""
    servers = os.environ.get(SERVERS_VARIABLE, "")
    return size_bytes // max(1, int(servers) if servers.isdigit() else 1)


def holdable_bytes() -> int:
    """Bytes that copies of weights may take: the available ones, and no more than the system lets this process ask for."""
    memory = host_memory()
    return memory.available_bytes if memory.commit_bytes is None else min(memory.available_bytes, memory.commit_bytes)


def host_memory(root: str = "/") -> HostMemory:
    """Total and available bytes, and the authority that left the least. `root` is where /proc and /sys are looked for.

    The last answer again where the system cannot be asked now (no file handle left); OSError when there is none.
    """
    try:
        _last[root] = _asked(root)
    except OSError:
        if root not in _last:
            raise
    return _last[root]


def free_bytes(root: str = "/") -> int | None:
    """Bytes that nobody holds, not even the page cache: beyond them the system takes from it. None where that is not told."""
    if _system.current.name != "Linux":
        return None
    try:
        free = _field(_read(os.path.join(root, "proc/meminfo")), b"MemFree:") * 1024
        for group in memory_groups(root):
            limits = (_limit(_read(path)) for path in group.limits)
            free = min([free, *(limit - int(_read(group.usage)) for limit in limits if limit is not None)])
        return max(0, free)
    except OSError:
        return None


def is_crowded() -> bool:
    """Whether most of the available bytes hold pages of files already, whosever they are: some will be dropped for those read next."""
    free = free_bytes()
    return free is not None and 2 * free < available_bytes()


def pressure(root: str = "/") -> float:
    """Percent of the last ten seconds in which some task waited for memory (PSI "some avg10"); 0.0 where it is not told. macOS and
    Windows tell only whether memory is short: 0.0 or 100.0.

    Source: Documentation/accounting/psi.rst. The larger of the machine's and the own cgroup's number.
    """
    if _system.current.name != "Linux":
        return _system.current.pressure()
    own = [group.pressure for group in memory_groups(root)[:1]]
    return max((_some_avg10(path) for path in (os.path.join(root, "proc/pressure/memory"), *own)), default=0.0)


@lru_cache(maxsize=8)
def memory_groups(root: str = "/") -> tuple[MemoryGroup, ...]:
    """The memory cgroups of this process that can carry a limit, its own first, then its ancestors. Empty where there are none.

    A container may see its own path (cgroup namespace), the host's path under a mount of only its own subtree, or a path
    that is not mounted at all: the mount's root decides how much of the path is left.
    """
    own = dict(_own_paths(root))
    groups: list[MemoryGroup] = []
    for version, mount_root, mount_point in _mounts(root):
        if version not in own:
            continue
        top = Path(root, mount_point.lstrip("/"))
        here = top / _below(own[version], mount_root)
        for directory in (here, *here.parents):
            group = _group(directory, version)
            if group is not None and group not in groups:
                groups.append(group)
            if directory == top:
                break
    return tuple(groups)


_last: dict[str, HostMemory] = {}


def _asked(root: str) -> HostMemory:
    if _system.current.name != "Linux":
        return _system.current.memory()
    try:
        return _linux_memory(root)
    except FileNotFoundError:
        memory_groups.cache_clear()  # the process was moved to another cgroup, or its old one is gone
    try:
        return _linux_memory(root)
    except FileNotFoundError:
        return _system.current.memory()


def _linux_memory(root: str) -> HostMemory:
    meminfo = _read(os.path.join(root, "proc/meminfo"))
    total = _field(meminfo, b"MemTotal:") * 1024
    least, limit_name = _field(meminfo, b"MemAvailable:") * 1024, "MemAvailable"
    for group in memory_groups(root):
        for path in group.limits:
            limit = _limit(_read(path))
            if limit is None:
                continue
            total = min(total, limit)
            stat = _read(group.stat)
            cache = sum(_field(stat, name) for name in group.cache_fields)
            room = max(0, limit - int(_read(group.usage)) + cache)
            if room < least:
                least, limit_name = room, path
    return HostMemory(total, least, limit_name)


def _own_paths(root: str) -> Iterator[tuple[int, str]]:
    """(cgroup version, path) of this process from /proc/self/cgroup: lines `id:controllers:path`."""
    for line in _lines(os.path.join(root, "proc/self/cgroup")):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield 2, path
        elif "memory" in controllers.split(","):
            yield 1, path


def _mounts(root: str) -> Iterator[tuple[int, str, str]]:
    """(cgroup version, root inside the hierarchy, mount point) from /proc/self/mountinfo (proc_pid_mountinfo(5))."""
    for line in _lines(os.path.join(root, "proc/self/mountinfo")):
        fields, _, tail = line.partition(" - ")
        kind, _, options = tail.partition(" ")
        left = fields.split(" ")
        if len(left) < 5:
            continue
        mount_root, mount_point = unescape_mount(left[3]), unescape_mount(left[4])
        if kind == "cgroup2":
            yield 2, mount_root, mount_point
        elif kind == "cgroup" and "memory" in options.rpartition(" ")[2].split(","):
            yield 1, mount_root, mount_point


def unescape_mount(field: str) -> str:
    r"""A path as mountinfo writes it: blank, tab, newline and backslash as \040, \011, \012 and \134."""
    for code in ("\\040", "\\011", "\\012", "\\134"):
        field = field.replace(code, chr(int(code[1:], 8)))
    return field


def _below(own: str, mount_root: str) -> str:
    """The part of the process's cgroup path below the mount; "" (the mount itself) when the path lies outside of it."""
    if ".." in own.split("/"):
        return ""
    if mount_root != "/":
        if own != mount_root and not own.startswith(mount_root + "/"):
            return ""
        own = own[len(mount_root) :]
    return own.strip("/")


def _group(directory: Path, version: int) -> MemoryGroup | None:
    names = ("memory.max", "memory.high") if version == 2 else ("memory.limit_in_bytes",)
    limits = tuple(str(directory / name) for name in names if (directory / name).exists())
    if not limits:
        return None  # the v2 root, a hybrid hierarchy without the memory controller, or a path that is not visible here
    usage = "memory.current" if version == 2 else "memory.usage_in_bytes"
    prefix = b"" if version == 2 else b"total_"  # v1: the plain fields leave the children out
    fields = (prefix + b"inactive_file", prefix + b"active_file")
    return MemoryGroup(limits, str(directory / usage), str(directory / "memory.stat"), fields, str(directory / "memory.pressure"))


def _limit(text: bytes) -> int | None:
    if text.strip() == b"max":
        return None
    limit = int(text)
    return limit if limit < _NO_LIMIT else None


def _field(text: bytes, name: bytes) -> int:
    """The number behind `name` at the start of a line; 0 when there is no such line."""
    at = 0 if text.startswith(name + b" ") else text.find(b"\n" + name + b" ") + 1
    if at == 0 and not text.startswith(name + b" "):
        return 0
    return int(text[at + len(name) : at + len(name) + 40].split(None, 1)[0])


def _some_avg10(path: str) -> float:
    try:
        text = _read(path)
        return float(text.split(b"avg10=", 1)[1].split(None, 1)[0]) if text.startswith(b"some") else 0.0
    except (OSError, ValueError, IndexError):  # no PSI in this kernel, switched off (EOPNOTSUPP), or another format
        return 0.0


def _read(path: str) -> bytes:
    """A small kernel file in one read: os.read costs a third of open().read() here, and this runs before every chunk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 16384)
    finally:
        os.close(fd)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return []
