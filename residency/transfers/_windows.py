"""Windows by its documented functions: buffered reads of 8 MiB that leave their pages in the system cache. Not run on Windows yet.

Files are shared for writing and deleting, so that nobody is kept from replacing a model. FILE_FLAG_SEQUENTIAL_SCAN would have the cache
drop the bytes read, FILE_FLAG_NO_BUFFERING would go past it. The priority is a hint on the handle: a thread in background mode would give
its pages a low memory priority too, and the cache would lose first those read ahead. The cache's contents cannot be asked, and nothing can
be dropped.
"""

from __future__ import annotations

import ctypes
import errno
import ntpath
import os
from collections.abc import Sequence
from ctypes import POINTER, Structure, byref, c_int32, c_int64, c_uint8, c_uint32, c_uint64, c_void_p, c_wchar_p, sizeof
from functools import cached_property
from typing import Any

from ._interface import HostMemory

MIB = 1024**2

GENERIC_READ, OPEN_EXISTING, ATTRIBUTE_NORMAL = 0x80000000, 3, 0x80
SHARE_READ, SHARE_WRITE, SHARE_DELETE = 1, 2, 4
INVALID_HANDLE = c_void_p(-1).value
TYPE_DISK = 1  # GetFileType: a file, no pipe, no console
PRIORITY_HINT_INFO, PRIORITY_LOW = 12, 1  # FILE_INFO_BY_HANDLE_CLASS, PRIORITY_HINT
HANDLE_EOF = 38
IOCTL_GET_DEVICE_NUMBER, IOCTL_QUERY_PROPERTY = 0x2D1080, 0x2D1400
SEEK_PENALTY_PROPERTY = 7
LOW_MEMORY = 0  # CreateMemoryResourceNotification
LONGEST_PLAIN = 240  # characters of a path; MAX_PATH is 260, and what a system appends needs room
# Pinned memory that Windows gives a process, of all memory. Half of it is the limit; ComfyUI stops at 40 %.
PINNABLE_SHARE = 0.45

_ERRNO = {2: errno.ENOENT, 3: errno.ENOENT, 4: errno.EMFILE, 5: errno.EACCES, 21: errno.EIO, 32: errno.EACCES, 53: errno.ENOENT}
_ERRNO |= {67: errno.ENOENT, 123: errno.ENOENT, 161: errno.ENOENT}


class Overlapped(Structure):
    _fields_ = (("internal", c_uint64), ("internal_high", c_uint64), ("offset", c_uint32), ("offset_high", c_uint32), ("event", c_void_p))


class PriorityHint(Structure):
    _fields_ = (("hint", c_int32), ("pad", c_int32))  # aligned to 8 bytes


class MemoryStatus(Structure):  # MEMORYSTATUSEX
    _fields_ = (
        ("length", c_uint32),
        ("load", c_uint32),
        ("total_phys", c_uint64),
        ("avail_phys", c_uint64),
        ("total_page_file", c_uint64),
        ("avail_page_file", c_uint64),
        ("total_virtual", c_uint64),
        ("avail_virtual", c_uint64),
        ("avail_extended_virtual", c_uint64),
    )


class DeviceNumber(Structure):  # STORAGE_DEVICE_NUMBER
    _fields_ = (("kind", c_uint32), ("number", c_uint32), ("partition", c_uint32))


class PropertyQuery(Structure):  # STORAGE_PROPERTY_QUERY
    _fields_ = (("property", c_uint32), ("query", c_uint32), ("more", c_uint8 * 4))


class SeekPenalty(Structure):  # DEVICE_SEEK_PENALTY_DESCRIPTOR
    _fields_ = (("version", c_uint32), ("size", c_uint32), ("incurs", c_uint8))


_HANDLE, _OUT = c_void_p, c_void_p
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "CreateFileW": (_HANDLE, (c_wchar_p, c_uint32, c_uint32, c_void_p, c_uint32, c_uint32, _HANDLE)),
    "ReadFile": (c_int32, (_HANDLE, c_void_p, c_uint32, POINTER(c_uint32), POINTER(Overlapped))),
    "CloseHandle": (c_int32, (_HANDLE,)),
    "GetFileSizeEx": (c_int32, (_HANDLE, POINTER(c_int64))),
    "GetFileType": (c_uint32, (_HANDLE,)),
    "SetFileInformationByHandle": (c_int32, (_HANDLE, c_int32, c_void_p, c_uint32)),
    "GetVolumePathNameW": (c_int32, (c_wchar_p, c_wchar_p, c_uint32)),
    "GetVolumeNameForVolumeMountPointW": (c_int32, (c_wchar_p, c_wchar_p, c_uint32)),
    "DeviceIoControl": (c_int32, (_HANDLE, c_uint32, c_void_p, c_uint32, c_void_p, c_uint32, POINTER(c_uint32), c_void_p)),
    "GlobalMemoryStatusEx": (c_int32, (POINTER(MemoryStatus),)),
    "CreateMemoryResourceNotification": (_HANDLE, (c_int32,)),
    "QueryMemoryResourceNotification": (c_int32, (_HANDLE, POINTER(c_int32))),
}


class Kernel32:
    """The functions of kernel32 that are used here, with their types, and the error of this thread's last call."""

    def __init__(self) -> None:
        library = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined,unused-ignore]
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)

    def last_error(self) -> int:
        return int(ctypes.get_last_error())  # type: ignore[attr-defined,unused-ignore]


class Windows:
    name = "Windows"
    buffer_bytes = 8 * MIB
    threads = 8 if (os.cpu_count() or 1) >= 8 else 4  # as where Python tells no more

    def __init__(self, kernel32: Any = None) -> None:
        if kernel32 is not None:
            self._kernel32 = kernel32
        self._low_memory: int | None = None

    @cached_property
    def _kernel32(self) -> Any:
        return Kernel32()

    def open(self, path: str) -> int:
        handle = self._create(extended(path), GENERIC_READ, SHARE_READ | SHARE_WRITE | SHARE_DELETE, path)
        if self._kernel32.GetFileType(handle) != TYPE_DISK:
            self.close(handle)
            raise OSError(f"{path} is not a regular file")
        hint = PriorityHint(PRIORITY_LOW)  # a network drive refuses it: then it is read at normal priority
        self._kernel32.SetFileInformationByHandle(handle, PRIORITY_HINT_INFO, byref(hint), sizeof(hint))
        return handle

    def close(self, handle: int) -> None:
        self._kernel32.CloseHandle(handle)

    def file_bytes(self, handle: int) -> int:
        size = c_int64()
        if not self._kernel32.GetFileSizeEx(handle, byref(size)):
            raise self._error("its size cannot be asked for")
        return size.value

    def read_at(self, handle: int, view: memoryview, offset: int, size_bytes: int) -> int:
        size_bytes = min(size_bytes, len(view))
        target, count = (c_uint8 * len(view)).from_buffer(view), c_uint32()
        at = Overlapped(offset=offset & 0xFFFFFFFF, offset_high=offset >> 32)
        if not self._kernel32.ReadFile(handle, byref(target), size_bytes, byref(count), byref(at)):
            if self._kernel32.last_error() == HANDLE_EOF:
                return 0
            raise self._error("reading failed")
        return count.value

    def bring_in(self, handle: int, view: memoryview, offset: int, size_bytes: int) -> int:
        return self.read_at(handle, view, offset, size_bytes)

    def use_again(self, handle: int, view: memoryview, offset: int, size_bytes: int) -> None:
        return None

    def cached_in(self, handle: int, start: int, size_bytes: int) -> int | None:
        return None

    def counted_in(self, handle: int, ranges: Sequence[tuple[int, int]]) -> list[int]:
        raise OSError("Windows does not tell what is cached")

    def announce_reads(self, handle: int, ranges: Sequence[tuple[int, int]]) -> None:
        return None

    def drop_in(self, handle: int, start: int, size_bytes: int) -> None:
        return None

    def drive_of(self, path: str) -> str:
        """The number of the disk, the same for all of its partitions; the volume where it spans several or none; a share by its name."""
        mount, volume = ctypes.create_unicode_buffer(32768), ctypes.create_unicode_buffer(64)
        if not self._kernel32.GetVolumePathNameW(path, mount, len(mount)):
            raise self._error(f"{path} lies on no volume")
        if not self._kernel32.GetVolumeNameForVolumeMountPointW(mount.value, volume, len(volume)):
            return f"share {mount.value.rstrip(chr(92)).lower()}"
        name, number = volume.value.rstrip("\\"), DeviceNumber()
        if not self._ask(name, IOCTL_GET_DEVICE_NUMBER, None, number):
            return f"volume {name}"
        return f"disk {number.number}"

    def is_rotational(self, drive: str) -> bool | None:
        kind, _, number = drive.partition(" ")
        question, penalty = PropertyQuery(SEEK_PENALTY_PROPERTY), SeekPenalty()
        if kind != "disk" or not self._ask(rf"\\.\PhysicalDrive{number}", IOCTL_QUERY_PROPERTY, question, penalty):
            return None
        return bool(penalty.incurs)

    def memory(self) -> HostMemory:
        """Available bytes hold the system cache's standby pages; those that may be committed do not, and pinned memory counts there."""
        status = MemoryStatus(length=sizeof(MemoryStatus))
        if not self._kernel32.GlobalMemoryStatusEx(byref(status)):
            raise self._error("GlobalMemoryStatusEx failed")
        total_bytes, available_bytes = int(status.total_phys), int(status.avail_phys)
        pinnable_bytes = int(PINNABLE_SHARE * total_bytes)
        return HostMemory(total_bytes, available_bytes, "GlobalMemoryStatusEx", int(status.avail_page_file), pinnable_bytes)

    def pressure(self) -> float:
        """All or nothing: Windows tells that memory is low, not for how long."""
        if self._low_memory is None:
            self._low_memory = self._kernel32.CreateMemoryResourceNotification(LOW_MEMORY) or 0
        low = c_int32()
        if not self._low_memory or not self._kernel32.QueryMemoryResourceNotification(self._low_memory, byref(low)):
            return 0.0
        return 100.0 if low.value else 0.0

    def _create(self, name: str, access: int, share: int, path: str) -> int:
        handle = self._kernel32.CreateFileW(name, access, share, None, OPEN_EXISTING, ATTRIBUTE_NORMAL, None)
        if handle is None or handle == INVALID_HANDLE:
            raise self._error(f"{path} cannot be opened")
        return int(handle)

    def _ask(self, device: str, code: int, question: Structure | None, answer: Structure) -> bool:
        """Whether the device answered. No right to read it is asked for: a user who is no administrator may ask too."""
        try:
            handle = self._create(device, 0, SHARE_READ | SHARE_WRITE, device)
        except OSError:
            return False
        asked = (None, 0) if question is None else (byref(question), sizeof(question))
        count = c_uint32()
        try:
            told = self._kernel32.DeviceIoControl(handle, code, *asked, byref(answer), sizeof(answer), byref(count), None)
        finally:
            self.close(handle)
        return bool(told)

    def _error(self, what: str) -> OSError:
        """Of the usual subclass. The path stands in the text: as the error's file name its backslashes would be doubled for people."""
        code = self._kernel32.last_error()
        return OSError(_ERRNO.get(code, errno.EIO), f"{what} (Windows error {code})")


def extended(path: str) -> str:
    r"""The path as functions take it beyond 260 characters: \\?\C:\… and \\?\UNC\server\share\…. Short and relative ones stay."""
    if len(path) < LONGEST_PLAIN or path.startswith(("\\\\?\\", "\\\\.\\")):
        return path
    plain = ntpath.normpath(path)
    if plain.startswith("\\\\"):
        return "\\\\?\\UNC\\" + plain[2:]
    return "\\\\?\\" + plain if ntpath.splitdrive(plain)[0] and ntpath.isabs(plain) else path
