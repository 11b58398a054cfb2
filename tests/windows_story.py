"""A kernel32 over real files, that answers as the documented functions do: handles, sizes, share modes, error codes. Runs on any system."""

from __future__ import annotations

import ntpath
import os
import threading
from ctypes import memset, sizeof
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from residency.transfers import _windows as windows

FILE_NOT_FOUND, PATH_NOT_FOUND, ACCESS_DENIED, INVALID_HANDLE, INVALID_FUNCTION, SHARING_VIOLATION = 2, 3, 5, 6, 1, 32
INVALID_PARAMETER, INVALID_NAME, NOT_A_REPARSE_POINT, IO_DEVICE, NO_MORE_HANDLES = 87, 123, 4390, 1117, 4
MAX_PATH = 260
DELETE = 0x10000
TYPE_PIPE = 3


@dataclass
class Open:
    path: str  # as it was asked for
    real: Path | None
    fd: int
    access: int
    share: int
    flags: int
    hint: int | None = None
    size_of_hint: int = 0


@dataclass
class Kernel32:
    """`roots`: folders that stand for "C:" or a share, with what is known of each. `disks`: by number, whether it seeks; None: the driver
    does not say."""

    roots: dict[str, Path]
    disk_of: dict[str, int] = field(default_factory=dict)  # of "C:", where it lies on one
    disks: dict[int, bool | None] = field(default_factory=dict)
    pipes: set[str] = field(default_factory=set)
    fails: dict[str, int] = field(default_factory=dict)  # the error that a function ends with
    status: tuple[int, int, int, int] = (0, 0, 0, 0)  # all and available bytes of memory, and of what may be committed
    low: bool = False
    most_handles: int = 1000

    def __post_init__(self) -> None:
        self.handles: dict[int, Open] = {}
        self.seen: list[Open] = []
        self.calls: list[str] = []
        self.read_sizes: list[int] = []
        self._next, self._errors, self._lock = 100, threading.local(), threading.Lock()

    def last_error(self) -> int:
        return getattr(self._errors, "code", 0)

    def _fail(self, code: int, result: Any = 0) -> Any:
        self._errors.code = code
        return result

    def _meets(self, name: str) -> bool:
        """Whether this call is to fail."""
        self.calls.append(name)
        if name in self.fails:
            self._errors.code = self.fails[name]
        return name in self.fails

    def real(self, path: str) -> Path | int:
        """The file behind a path, or the error that looking for it ends with."""
        if path.startswith("\\\\?\\"):
            path = "\\\\" + path[8:] if path.startswith("\\\\?\\UNC\\") else path[4:]
            if "/" in path or "\\.\\" in path or "\\..\\" in path:
                return INVALID_NAME  # taken as it stands
        elif len(path) >= MAX_PATH:
            return PATH_NOT_FOUND
        root, rest = ntpath.splitdrive(ntpath.normpath(path))
        folder = next((self.roots[name] for name in self.roots if name.lower() == root.lower()), None)
        if folder is None:
            return PATH_NOT_FOUND
        real = folder.joinpath(*filter(None, rest.split("\\")))
        return real if real.exists() else FILE_NOT_FOUND if real.parent.is_dir() else PATH_NOT_FOUND

    def CreateFileW(self, path: str, access: int, share: int, security: None, disposition: int, flags: int, template: None) -> int:  # noqa: N802
        invalid = windows.INVALID_HANDLE
        if self._meets("CreateFileW"):
            return self._fail(self.last_error(), invalid)
        assert disposition == windows.OPEN_EXISTING and security is template is None
        with self._lock:
            if len(self.handles) >= self.most_handles:
                return self._fail(NO_MORE_HANDLES, invalid)
            if path.startswith(("\\\\.\\", "\\\\?\\Volume{")) or path in self.pipes:
                return self._device(path, access, share, flags)
            real = self.real(path)
            if isinstance(real, int):
                return self._fail(real, invalid)
            if real.is_dir():  # only FILE_FLAG_BACKUP_SEMANTICS opens it
                return self._fail(ACCESS_DENIED, invalid)
            if not _agree(access, share, [one for one in self.handles.values() if one.real == real]):
                return self._fail(SHARING_VIOLATION, invalid)
            return self._opened(Open(path, real, os.open(real, os.O_RDONLY | getattr(os, "O_BINARY", 0)), access, share, flags))

    def _device(self, path: str, access: int, share: int, flags: int) -> int:
        if path.endswith("\\"):
            return self._fail(ACCESS_DENIED, windows.INVALID_HANDLE)  # the root folder of the volume
        if access and path not in self.pipes:
            return self._fail(ACCESS_DENIED, windows.INVALID_HANDLE)  # reading a raw disk takes an administrator
        if path.startswith("\\\\.\\PhysicalDrive") and int(path.removeprefix("\\\\.\\PhysicalDrive")) not in self.disks:
            return self._fail(FILE_NOT_FOUND, windows.INVALID_HANDLE)
        return self._opened(Open(path, None, -1, access, share, flags))

    def _opened(self, one: Open) -> int:
        self._next += 4
        self.handles[self._next] = one
        self.seen.append(one)
        return self._next

    def CloseHandle(self, handle: int) -> int:  # noqa: N802
        with self._lock:
            one = self.handles.pop(handle, None)
        if one is None:
            return self._fail(INVALID_HANDLE)
        if one.fd >= 0:
            os.close(one.fd)
        return 1

    def GetFileType(self, handle: int) -> int:  # noqa: N802
        one = self.handles[handle]
        return TYPE_PIPE if one.path in self.pipes else windows.TYPE_DISK

    def GetFileSizeEx(self, handle: int, size: Any) -> int:  # noqa: N802
        if self._meets("GetFileSizeEx"):
            return 0
        size._obj.value = os.fstat(self.handles[handle].fd).st_size
        return 1

    def SetFileInformationByHandle(self, handle: int, kind: int, information: Any, size_bytes: int) -> int:  # noqa: N802
        if self._meets("SetFileInformationByHandle"):
            return 0
        assert kind == windows.PRIORITY_HINT_INFO
        one = self.handles[handle]
        one.hint, one.size_of_hint = information._obj.hint, size_bytes
        return 1

    def ReadFile(self, handle: int, target: Any, size_bytes: int, count: Any, overlapped: Any) -> int:  # noqa: N802
        if self._meets("ReadFile"):
            return 0
        buffer, at = target._obj, overlapped._obj.offset + (overlapped._obj.offset_high << 32)
        assert size_bytes <= sizeof(buffer)
        self.read_sizes.append(size_bytes)
        one = self.handles.get(handle)
        if one is None:
            return self._fail(INVALID_HANDLE)
        with self._lock:  # Windows has no call that reads at a place
            os.lseek(one.fd, at, os.SEEK_SET)
            read = os.read(one.fd, size_bytes)
        got = count._obj.value = len(read)
        memoryview(buffer).cast("B")[:got] = read
        return 1 if got else self._fail(windows.HANDLE_EOF)  # with an OVERLAPPED the end of the file is an error

    def GetVolumePathNameW(self, path: str, target: Any, size: int) -> int:  # noqa: N802
        if self._meets("GetVolumePathNameW"):
            return 0
        root = ntpath.splitdrive(path.removeprefix("\\\\?\\"))[0]
        target.value = (root or "C:") + "\\"  # a relative path lies on the current drive
        return 1

    def GetVolumeNameForVolumeMountPointW(self, mount: str, target: Any, size: int) -> int:  # noqa: N802
        assert mount.endswith("\\") and size >= 50
        name = mount.rstrip("\\").upper()
        if name.startswith("\\\\"):
            return self._fail(INVALID_NAME)
        target.value = f"\\\\?\\Volume{{{name[0]}}}\\"
        return 1

    def DeviceIoControl(  # noqa: N802
        self, handle: int, code: int, question: Any, question_bytes: int, answer: Any, answer_bytes: int, count: Any, overlapped: None
    ) -> int:
        one, told = self.handles[handle], answer._obj
        memset(answer, 0, answer_bytes)
        if code == windows.IOCTL_GET_DEVICE_NUMBER and one.path.startswith("\\\\?\\Volume{"):
            number = self.disk_of.get(one.path[len("\\\\?\\Volume{")] + ":")
            if number is None:
                return self._fail(INVALID_FUNCTION)  # it spans several disks
            told.kind, told.number, told.partition = 7, number, 1
            return 1
        assert code == windows.IOCTL_QUERY_PROPERTY and question._obj.property == windows.SEEK_PENALTY_PROPERTY
        assert question_bytes == 12 and answer_bytes == 12
        seeks = self.disks[int(one.path.removeprefix("\\\\.\\PhysicalDrive"))]
        if seeks is None:
            return self._fail(INVALID_FUNCTION)
        told.version = told.size = answer_bytes
        told.incurs = int(seeks)
        return 1

    def GlobalMemoryStatusEx(self, status: Any) -> int:  # noqa: N802
        if self._meets("GlobalMemoryStatusEx"):
            return 0
        if status._obj.length != 64:
            return self._fail(INVALID_PARAMETER)
        told = status._obj
        told.total_phys, told.avail_phys, told.total_page_file, told.avail_page_file = self.status
        return 1

    def CreateMemoryResourceNotification(self, kind: int) -> int | None:  # noqa: N802
        assert kind == windows.LOW_MEMORY
        return None if self._meets("CreateMemoryResourceNotification") else 4

    def QueryMemoryResourceNotification(self, handle: int, low: Any) -> int:  # noqa: N802
        if self._meets("QueryMemoryResourceNotification"):
            return 0
        low._obj.value = int(self.low)
        return 1

    def replace(self, path: str, content: bytes) -> int:
        """Another program puts a new file in its place, as MoveFileEx does: the error, 0 where it could."""
        real = self.real(path)
        assert isinstance(real, Path)
        if not all(one.share & windows.SHARE_DELETE for one in self.handles.values() if one.real == real):
            return SHARING_VIOLATION
        fresh = real.with_name(real.name + ".new")
        fresh.write_bytes(content)
        fresh.replace(real)
        return 0


def _agree(access: int, share: int, others: list[Open]) -> bool:
    """Each opener's access must be within what every other one shares (CreateFileW, dwShareMode)."""
    needs = {windows.GENERIC_READ: windows.SHARE_READ, 0x40000000: windows.SHARE_WRITE, DELETE: windows.SHARE_DELETE}

    def within(one: int, shared: int) -> bool:
        return all(shared & mode for right, mode in needs.items() if one & right)

    return all(within(access, other.share) and within(other.access, share) for other in others)
