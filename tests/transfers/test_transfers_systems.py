"""What holds for every system, and the modules of macOS and of a system of which nothing is known: as far as they run on this one."""

from __future__ import annotations

import errno
import os
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from residency.core.component import Component, Extent, Tier
from residency.core.events import TransferDone
from residency.core.instructions import Prefetch
from residency.transfers import ReadAhead, _system, drive, memory, pagecache
from residency.transfers._portable import Portable

MIB, GIB = 1024**2, 1024**3


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(MIB) * 20)
    return path


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """use(system): this process is on that system, as far as the room of transfers can tell."""

    def put(system: object) -> None:
        monkeypatch.setattr(_system, "current", system)
        monkeypatch.setattr(memory, "_last", {})
        monkeypatch.setattr(drive, "_drives", {})
        drive.is_rotational.cache_clear()

    yield put
    drive.is_rotational.cache_clear()


def read_ahead(path: Path) -> TransferDone:
    size_bytes = path.stat().st_size
    mover = ReadAhead(lambda event: None, available=lambda: 100 * GIB)
    mover.prefetch(
        Prefetch(Component("w", "w", "MODEL", size_bytes, (Extent(str(path), 0, size_bytes),)), Tier.HOST, size_bytes, "next")
    ).result(60)
    mover.close()
    done = mover.wait("w")
    assert isinstance(done, TransferDone)
    return done


@pytest.mark.parametrize("gathers", [True, False])
def test_a_system_of_which_nothing_is_known_reads_and_claims_nothing(weights: Path, use, gathers: bool):
    if gathers and not hasattr(os, "preadv"):
        pytest.skip("no preadv here")
    use(Portable(gathers=gathers))
    assert read_ahead(weights).present_bytes == 20 * MIB
    extent = Extent(str(weights), 0, 20 * MIB)
    pagecache.drop(extent)
    assert pagecache.cached_bytes(extent) is None and pagecache.not_cached_bytes([weights]) is None
    assert drive.drive_of(str(weights)) == f"device {weights.stat().st_dev}" and drive.drive_of(str(weights) + "x") == drive.UNKNOWN
    assert drive.is_rotational("sda") is None and memory.pressure() == 0.0
    found = memory.host_memory()
    assert found.limit == "psutil" and 0 < found.available_bytes <= found.total_bytes and memory.holdable_bytes() <= found.total_bytes


@pytest.mark.parametrize("gathers", [True, False])
def test_what_is_read_is_the_same_in_one_call_and_in_many(weights: Path, gathers: bool):
    if gathers and not hasattr(os, "preadv"):
        pytest.skip("no preadv here")
    system = Portable(gathers=gathers)
    handle, buffer = system.open(str(weights)), bytearray(3000)
    try:
        count = system.read_at(handle, memoryview(buffer), 5, 3000)
        assert bytes(buffer[:count]) == weights.read_bytes()[5 : 5 + count] and count == 3000
        assert (system.buffer_bytes > 4 * MIB) is not gathers
        assert system.read_at(handle, memoryview(buffer), 20 * MIB, 10) == 0
    finally:
        system.close(handle)


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="sendfile from a file into nowhere is Linux's")


@pytest.fixture
def linux(cold_file: Callable[[str, int], Path]) -> Iterator[Any]:
    from residency.transfers._linux import Linux

    system = Linux()
    handle = system.open(str(cold_file("cold", 20 * MIB)))
    yield lambda offset, size_bytes: system.bring_in(handle, memoryview(bytearray(MIB)), offset, size_bytes)
    system.close(handle)


@linux_only
def test_linux_brings_a_range_into_the_page_cache_in_one_call_and_copies_nothing(linux, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Portable, "read_at", lambda *_: pytest.fail("it was copied"))

    assert linux(8 * MIB, 12 * MIB) == 12 * MIB
    assert pagecache.cached_bytes(Extent(str(tmp_path / "cold"), 8 * MIB, 12 * MIB)) == 12 * MIB
    assert linux(19 * MIB, 4 * MIB) == MIB and linux(20 * MIB, MIB) == 0  # the file's end


@linux_only
@pytest.mark.parametrize("says", [errno.EINVAL, errno.ENOSYS, errno.EPERM])
def test_where_the_kernel_or_a_file_system_cannot_it_is_copied_from_then_on(linux, says: int, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def refuses(*_: int) -> int:
        asked.append(says)
        raise OSError(says, os.strerror(says))

    monkeypatch.setattr(os, "sendfile", refuses)
    assert linux(0, 3 * MIB) == linux(MIB, 3 * MIB) == 3 * MIB
    assert asked == [says]


@linux_only
def test_a_drive_that_fails_is_not_asked_twice(linux, monkeypatch: pytest.MonkeyPatch):
    def fails(*_: int) -> int:
        raise OSError(errno.EIO, "the drive")

    monkeypatch.setattr(os, "sendfile", fails)
    monkeypatch.setattr(Portable, "read_at", lambda *_: pytest.fail("it was read again"))
    with pytest.raises(OSError, match="the drive"):
        linux(0, MIB)


@pytest.mark.parametrize(
    ("platform", "name"),
    [("linux", "Linux"), ("darwin", "macOS"), ("win32", "Windows"), ("freebsd14", "this system"), ("emscripten", "this system")],
)
def test_each_platform_has_its_system(platform: str, name: str):
    if os.name == "nt" and platform in ("linux", "darwin"):
        pytest.skip("their modules need libc's mincore")
    assert _system.of(platform).name == name


if os.name == "posix":
    from residency.transfers._darwin import _F_RDADVISE, _LEVEL, Darwin, sysctl

    class Mac:
        """fcntl and sysctl of macOS, as documented."""

        def __init__(self, level: int | None = 1, refuses: bool = False) -> None:
            self.level, self.refuses = level, refuses
            self.advised: list[tuple[int, int]] = []

        def fcntl(self, handle: int, command: int, argument: bytes) -> object:
            assert command == _F_RDADVISE and len(argument) == 16  # struct radvisory, with its padding
            self.advised.append(struct.unpack("=qi", argument[:12]))
            if self.refuses:
                raise OSError(errno.ENOTSUP, "no advice")
            return argument

        def sysctl(self, name: bytes) -> int:
            assert name == _LEVEL
            if self.level is None:
                raise OSError(errno.ENOENT, "no such number")
            return self.level

    @pytest.mark.parametrize("refuses", [False, True])
    def test_macos_advises_what_it_reads_and_asks_mincore(weights: Path, use, refuses: bool):
        mac = Mac(refuses=refuses)
        use(Darwin(mac.fcntl, mac.sysctl))
        done = read_ahead(weights)
        assert done.present_bytes == 20 * MIB
        assert pagecache.cached_bytes(Extent(str(weights), 0, 20 * MIB)) == 20 * MIB
        system = _system.current
        handle, buffer = system.open(str(weights)), bytearray(MIB)
        assert system.read_at(handle, memoryview(buffer), 7, 10) == 10 and mac.advised[-1] == (7, 10)
        system.drop_in(handle, 0, 16 * MIB)  # Linux takes the same flag and keeps the pages
        system.close(handle)

    def test_a_range_beyond_2_gib_is_advised_as_far_as_the_field_goes(weights: Path):
        mac = Mac()
        handle = os.open(weights, os.O_RDONLY)
        Darwin(mac.fcntl, mac.sysctl).read_at(handle, memoryview(bytearray(MIB)), 0, 5 * GIB)
        os.close(handle)
        assert mac.advised == [(0, 2**31 - 1)]

    @pytest.mark.parametrize(("level", "percent"), [(1, 0.0), (2, 100.0), (4, 100.0), (None, 0.0)])
    def test_macos_tells_a_level_of_pressure(use, level: int | None, percent: float):
        use(Darwin(Mac().fcntl, Mac(level).sysctl))
        assert memory.pressure() == percent

    def test_a_number_that_the_kernel_lacks_is_an_error_and_no_crash():
        with pytest.raises(OSError, match=r"sysctl no\.such\.number"):
            sysctl(b"no.such.number")

    def test_the_real_fcntl_of_another_system_takes_no_advice_and_reading_goes_on(weights: Path, use):
        use(Darwin())
        assert read_ahead(weights).present_bytes == 20 * MIB and memory.pressure() in (0.0, 100.0)
