"""macOS: mincore to ask, msync(MS_INVALIDATE) on a shared mapping to drop, as vmtouch does; F_RDADVISE before a read, so that the drive
works while the first bytes are copied. Not run on a Mac yet."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable

from . import _mincore
from ._portable import Portable

_MS_INVALIDATE = 2  # <sys/mman.h>
_F_RDADVISE = 44  # <sys/fcntl.h>; its argument is struct radvisory {off_t ra_offset; int ra_count}
_LEVEL = b"kern.memorystatus_vm_pressure_level"  # 1 normal, 2 warning, 4 critical
_NORMAL = 1

Control = Callable[[int, int, bytes], object]
"""fcntl.fcntl, or a stand-in for it"""
Number = Callable[[bytes], int]
"""A number that the kernel tells by name. OSError where it has none of that name."""


class Darwin(Portable):
    name = "macOS"

    def __init__(self, control: Control | None = None, number: Number | None = None) -> None:
        super().__init__()
        self._control, self._number = control or _fcntl, number or sysctl

    def read_at(self, handle: int, view: memoryview, offset: int, size_bytes: int) -> int:
        try:
            self._control(handle, _F_RDADVISE, struct.pack("=qi", offset, min(size_bytes, 2**31 - 1)) + bytes(4))
        except OSError:  # a file system that takes no advice
            pass
        return super().read_at(handle, view, offset, size_bytes)

    def cached_in(self, handle: int, start: int, size_bytes: int) -> int | None:
        return _mincore.resident_bytes(handle, start, size_bytes)

    def drop_in(self, handle: int, start: int, size_bytes: int) -> None:
        _mincore.invalidate(handle, start, size_bytes, _MS_INVALIDATE)

    def pressure(self) -> float:
        """All or nothing: the kernel tells a level, not a share of the time."""
        try:
            return 100.0 if self._number(_LEVEL) > _NORMAL else 0.0
        except OSError:
            return 0.0


def _fcntl(handle: int, command: int, argument: bytes) -> object:
    import fcntl  # no such module on Windows, where this one is imported by tests

    return fcntl.fcntl(handle, command, argument)


def sysctl(name: bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    value, size = ctypes.c_int(), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
    if not hasattr(libc, "sysctlbyname") or libc.sysctlbyname(name, ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        raise OSError(ctypes.get_errno(), f"sysctl {name.decode()}")
    return value.value
