"""The Windows module over a kernel32 that answers as documented, on real files: every branch, on any system. It has not run on Windows."""

from __future__ import annotations

import ntpath
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from windows_story import ACCESS_DENIED, IO_DEVICE, NO_MORE_HANDLES, SHARING_VIOLATION, Kernel32, Open

from residency.core.component import Component, Extent, Tier
from residency.core.events import Evicted, TransferDone, TransferStopped
from residency.core.instructions import Evict, Prefetch
from residency.transfers import HostMemory, ReadAhead, _system, drive, memory, pagecache
from residency.transfers import _windows as windows
from residency.transfers._windows import Windows, extended

MIB, GIB = 1024**2, 1024**3
MODEL = "C:\\models\\unet\\flux.safetensors"
SHARED = "\\\\nas\\models\\flux.safetensors"


@pytest.fixture
def kernel32(tmp_path: Path) -> Kernel32:
    folders = {"C:": tmp_path / "c", "D:": tmp_path / "d", "E:": tmp_path / "e", "\\\\nas\\models": tmp_path / "nas"}
    for folder in folders.values():
        (folder / "models" / "unet").mkdir(parents=True)
    (tmp_path / "c/models/unet/flux.safetensors").write_bytes(bytes(range(256)) * (40 * MIB // 256))
    (tmp_path / "nas/flux.safetensors").write_bytes(b"n" * MIB)
    return Kernel32(
        folders, {"C": 0, "C:": 0, "D:": 0, "E:": 1}, {0: False, 1: True, 2: None}, status=(32 * GIB, 20 * GIB, 40 * GIB, 12 * GIB)
    )


@pytest.fixture
def system(kernel32: Kernel32, monkeypatch: pytest.MonkeyPatch) -> Iterator[Windows]:
    """This process is on Windows, as far as the room of transfers can tell."""
    made = Windows(kernel32)
    monkeypatch.setattr(_system, "current", made)
    monkeypatch.setattr(memory, "_last", {})
    monkeypatch.setattr(drive, "_drives", {})
    drive.is_rotational.cache_clear()
    yield made
    drive.is_rotational.cache_clear()
    assert kernel32.handles == {}, "a handle was left open"


def component(*paths: str, size_bytes: int = 40 * MIB) -> Component:
    return Component("flux", "flux", "MODEL", size_bytes * len(paths), tuple(Extent(path, 0, size_bytes) for path in paths))


def read_ahead(one: Component) -> list[object]:
    events: list[object] = []
    mover = ReadAhead(events.append, threads_per_drive=2)
    mover.prefetch(Prefetch(one, Tier.HOST, one.size_bytes, "needed next")).result(60)
    mover.close()
    return events


def test_a_component_is_read_through_shared_buffered_handles_at_low_priority(system: Windows, kernel32: Kernel32):
    (done,) = read_ahead(component(MODEL))
    assert isinstance(done, TransferDone) and done.present_bytes == 40 * MIB
    files = [one for one in kernel32.seen if one.real is not None]
    share = windows.SHARE_READ | windows.SHARE_WRITE | windows.SHARE_DELETE
    assert files and {(one.access, one.share, one.flags, one.hint) for one in files} == {
        (windows.GENERIC_READ, share, windows.ATTRIBUTE_NORMAL, windows.PRIORITY_LOW)
    }
    assert {one.size_of_hint for one in files} == {8}  # aligned: ERROR_BAD_LENGTH otherwise
    assert max(kernel32.read_sizes) == 8 * MIB


def test_what_is_read_is_what_the_file_holds(system: Windows):
    handle, buffer = system.open(MODEL), bytearray(MIB)
    assert system.read_at(handle, memoryview(buffer), 3, 1000) == 1000
    assert buffer[:1000] == (bytes(range(256)) * 5)[3:1003] and not any(buffer[1000:])
    assert system.read_at(handle, memoryview(buffer), 40 * MIB - 10, MIB) == 10
    assert system.read_at(handle, memoryview(buffer), 40 * MIB, MIB) == 0
    assert system.file_bytes(handle) == 40 * MIB
    assert pagecache.read_into_cache(handle, 39 * MIB, 5 * MIB, buffer) == MIB
    system.close(handle)


def test_an_offset_beyond_4_gib_reaches_both_halves_of_the_overlapped(system: Windows, kernel32: Kernel32):
    with (kernel32.roots["C:"] / "big").open("wb") as file:
        file.seek(5 * GIB)
        file.write(b"end")
    handle, buffer = system.open("C:\\big"), bytearray(8)
    assert system.read_at(handle, memoryview(buffer), 5 * GIB, 8) == 3 and buffer[:3] == b"end"
    system.close(handle)


def test_a_model_can_be_replaced_while_it_is_read_ahead(system: Windows, kernel32: Kernel32):
    handle = system.open(MODEL)
    assert kernel32.replace(MODEL, b"new") == 0
    assert system.file_bytes(handle) == 40 * MIB  # the old one, to its end
    system.close(handle)


def test_what_another_program_has_for_itself_is_refused_by_name_and_read_later(system: Windows, kernel32: Kernel32):
    real = kernel32.roots["C:"] / "models/unet/flux.safetensors"
    kernel32.handles[8] = Open(MODEL, real, -1, windows.GENERIC_READ, 0, 0)  # a download that shares nothing
    (stopped,) = read_ahead(component(MODEL))
    assert isinstance(stopped, TransferStopped) and MODEL in stopped.reason and str(SHARING_VIOLATION) in stopped.reason
    del kernel32.handles[8]
    assert isinstance(read_ahead(component(MODEL))[0], TransferDone)


@pytest.mark.parametrize(
    ("path", "error", "said"),
    [
        ("C:\\models\\gone", FileNotFoundError, "2"),
        ("C:\\gone\\flux", FileNotFoundError, "3"),
        ("Q:\\flux", FileNotFoundError, "3"),
        ("C:\\models", PermissionError, str(ACCESS_DENIED)),
        ("\\\\.\\pipe\\model", OSError, "not a regular file"),
    ],
)
def test_what_cannot_be_opened_is_an_error_of_the_usual_kind(system: Windows, kernel32: Kernel32, path: str, error: type, said: str):
    kernel32.pipes.add("\\\\.\\pipe\\model")
    with pytest.raises(error, match=said) as told:
        pagecache.open_file(path)
    assert path in str(told.value)
    assert pagecache.cached_bytes(Extent(path, 0, 1)) == (0 if error is FileNotFoundError else None)


@pytest.mark.parametrize(("function", "code"), [("ReadFile", IO_DEVICE), ("GetFileSizeEx", IO_DEVICE), ("CreateFileW", NO_MORE_HANDLES)])
def test_a_function_that_fails_stops_the_transfer_and_names_file_and_error(system: Windows, kernel32: Kernel32, function: str, code: int):
    kernel32.fails[function] = code
    (stopped,) = read_ahead(component(MODEL))
    assert isinstance(stopped, TransferStopped) and MODEL in stopped.reason and f"error {code}" in stopped.reason
    del kernel32.fails[function]
    assert isinstance(read_ahead(component(MODEL))[0], TransferDone)


def test_a_drive_that_takes_no_priority_is_read_at_the_usual_one(system: Windows, kernel32: Kernel32):
    kernel32.fails["SetFileInformationByHandle"] = 50
    (done,) = read_ahead(component(SHARED, size_bytes=MIB))
    assert isinstance(done, TransferDone) and done.present_bytes == MIB


def test_nothing_is_dropped_and_that_is_said(system: Windows):
    events: list[object] = []
    mover = ReadAhead(events.append)
    mover.evict(Evict(component(MODEL), Tier.HOST, 40 * MIB, "needed last", 40 * MIB))
    mover.close()
    (evicted,) = events
    assert isinstance(evicted, Evicted) and evicted.freed_bytes == 0


LONG = "C:\\" + "\\".join(["models"] * 60) + "\\flux"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (MODEL, MODEL),
        (LONG, "\\\\?\\" + LONG),
        (LONG.replace("\\", "/"), "\\\\?\\" + LONG),
        (LONG + "\\..\\flux", "\\\\?\\" + LONG),
        ("\\\\nas\\models" + LONG[2:], "\\\\?\\UNC\\nas\\models" + LONG[2:]),
        ("\\\\?\\" + LONG, "\\\\?\\" + LONG),
        ("\\\\.\\PhysicalDrive0", "\\\\.\\PhysicalDrive0"),
        ("models\\" * 60, "models\\" * 60),
    ],
)
def test_long_paths_and_shares_are_asked_for_in_the_form_that_has_no_limit(path: str, expected: str):
    assert extended(path) == expected


@given(st.lists(st.text("abc. ", min_size=1, max_size=60), max_size=20), st.sampled_from(["C:", "\\\\nas\\models"]), st.booleans())
def test_an_extended_path_names_the_same_file_and_has_nothing_left_to_resolve(parts: list[str], root: str, slashes: bool):
    path = "\\".join([root, *parts])
    found = extended(path.replace("\\", "/") if slashes else path)
    if found.startswith("\\\\?\\"):
        plain = "\\\\" + found[8:] if found.startswith("\\\\?\\UNC\\") else found[4:]
        assert plain == ntpath.normpath(path) and "/" not in found and extended(found) == found
    else:
        assert len(found) < windows.LONGEST_PLAIN


def test_a_file_deep_down_is_read(system: Windows, kernel32: Kernel32):
    folder = kernel32.roots["C:"].joinpath(*["models"] * 45)
    folder.mkdir(parents=True)
    (folder / "flux").write_bytes(b"deep" * 1000)
    path = "C:\\" + "models\\" * 45 + "flux"
    assert len(path) > 260
    (done,) = read_ahead(component(path, size_bytes=4000))
    assert isinstance(done, TransferDone) and done.present_bytes == 4000


def test_partitions_of_one_disk_are_one_drive_and_only_a_disk_that_says_so_seeks(system: Windows, kernel32: Kernel32):
    assert drive.drive_of(MODEL) == drive.drive_of("D:\\models") == "disk 0"
    assert drive.drive_of("E:\\models") == "disk 1"
    assert drive.drive_of(SHARED) == "share \\\\nas\\models"
    del kernel32.disk_of["D:"]  # spans two disks
    assert drive.drive_of("D:\\models") == "volume \\\\?\\Volume{D}"
    kernel32.fails["CreateFileW"] = ACCESS_DENIED
    assert drive.drive_of("E:\\models") == "volume \\\\?\\Volume{E}"
    kernel32.fails = {"GetVolumePathNameW": 3}
    assert drive.drive_of("E:\\models") == drive.UNKNOWN
    kernel32.fails.clear()
    found = {name: drive.is_rotational(name) for name in ("disk 0", "disk 1", "disk 2", "disk 9", "share \\\\nas\\models", drive.UNKNOWN)}
    assert found == {"disk 0": False, "disk 1": True, "disk 2": None, "disk 9": None, "share \\\\nas\\models": None, drive.UNKNOWN: None}


def test_a_hard_disk_is_read_by_one_thread(system: Windows, kernel32: Kernel32):
    (kernel32.roots["E:"] / "weights").write_bytes(bytes(40 * MIB))
    on_disk = component("E:\\weights")
    assert drive.single_reader([on_disk]) == {"flux"} and drive.single_reader([component(MODEL)]) == frozenset()
    (done,) = read_ahead(on_disk)
    assert isinstance(done, TransferDone)
    assert len([one for one in kernel32.seen if one.real is not None]) == 1  # one thread, one handle


def test_memory_is_what_is_free_and_copies_get_no_more_than_may_be_committed(system: Windows, kernel32: Kernel32):
    assert memory.host_memory() == HostMemory(32 * GIB, 20 * GIB, "GlobalMemoryStatusEx", 12 * GIB, int(0.45 * 32 * GIB))
    assert memory.available_bytes() == 20 * GIB  # the system cache is not charged
    assert memory.holdable_bytes() == 12 * GIB
    kernel32.fails["GlobalMemoryStatusEx"] = 87
    assert memory.available_bytes() == 20 * GIB  # the last answer again


def test_memory_that_is_low_slows_reading_ahead_down(system: Windows, kernel32: Kernel32):
    assert memory.pressure() == 0.0
    kernel32.low = True
    assert memory.pressure() == 100.0
    kernel32.fails["QueryMemoryResourceNotification"] = 6
    assert memory.pressure() == 0.0
    assert kernel32.calls.count("CreateMemoryResourceNotification") == 1
    kernel32.fails = {"CreateMemoryResourceNotification": 8}
    assert Windows(kernel32).pressure() == 0.0


def test_choosing_windows_touches_no_library_before_something_is_asked():
    code = (
        "import ctypes; from residency.transfers import _system; made = _system.of('win32'); assert made.name == 'Windows'\n"
        "ctypes.WinDLL = lambda name, use_last_error: (_ for _ in ()).throw(OSError(f'{name} {use_last_error}'))\n"
        "try: made.pressure()\nexcept OSError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "kernel32 True"


def test_every_function_that_is_used_has_its_types(monkeypatch: pytest.MonkeyPatch):
    import ctypes

    class Function:
        restype = argtypes = None

    class Library:
        def __getattr__(self, name: str) -> Function:
            self.__dict__[name] = Function()
            return self.__dict__[name]

    monkeypatch.setattr(ctypes, "WinDLL", lambda name, use_last_error: Library(), raising=False)
    monkeypatch.setattr(ctypes, "get_last_error", lambda: 5, raising=False)
    made = windows.Kernel32()
    used = {name for name in vars(Kernel32) if name[0].isupper()}
    assert used == set(windows._FUNCTIONS) == set(vars(made))
    assert all(function.argtypes is not None for function in vars(made).values())
    assert made.last_error() == 5


def test_sizes_of_the_structures_are_those_of_the_headers():
    from ctypes import sizeof

    sizes = {one.__name__: sizeof(one) for one in (windows.Overlapped, windows.PriorityHint, windows.MemoryStatus, windows.DeviceNumber)}
    assert sizes == {"Overlapped": 32, "PriorityHint": 8, "MemoryStatus": 64, "DeviceNumber": 12}
    assert sizeof(windows.PropertyQuery) == sizeof(windows.SeekPenalty) == 12
