"""What a thread has waited for bytes: nothing where the file lay in RAM, and more than nothing where it came from the drive."""

import mmap
import os
import sys
import threading

import pytest

from residency.transfers import thread_waits
from residency.transfers.thread_waits import Reading, reading, waited_s

SIZE_BYTES = 64 * 2**20
told = pytest.mark.skipif(sys.platform != "linux" or reading() is None, reason="this system tells nothing of a thread")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(os.urandom(2**20) * 64)
    with path.open("rb") as opened:
        os.fsync(opened.fileno())
    return path


def drop(path):
    with path.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def load(path):
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return sum(mapped[::4096])


@told
def test_a_file_in_ram_was_not_waited_for_and_one_from_the_drive_was(file):
    found = {}
    for where in ("RAM", "drive", "RAM again"):
        if where == "drive":
            drop(file)
        before = reading()
        load(file)
        after = reading()
        found[where] = waited_s(before, after, SIZE_BYTES, behind_reader=False)
        if where == "drive" and after.fetched_bytes == before.fetched_bytes:
            pytest.skip("NOT TESTED: this file system does not tell what it fetched, or dropped nothing")
    assert found["drive"] > 0 and found["RAM"] == found["RAM again"] == 0


@told
def test_a_reading_is_of_the_calling_thread_alone(file):
    drop(file)
    before = reading()
    other = threading.Thread(target=load, args=(file,))
    other.start()
    other.join()
    assert reading().fetched_bytes == before.fetched_bytes


def at(wall_s, running_s=0.0, system_s=0.0, delayed_s=0.0, fetched_bytes=0, major_faults=0):
    return Reading(wall_s, running_s, system_s, delayed_s, fetched_bytes, major_faults)


@pytest.mark.parametrize(
    ("after", "behind_reader", "expected_s"),
    [
        (at(10.0, 4.0, 1.0, 1.0), False, 0.0),  # blocked, on something that is no file
        (at(10.0, 4.0, 1.0, 1.0), True, 5.0),  # on what another thread was reading
        (at(10.0, 4.0, 1.0, 1.0, major_faults=1), False, 5.0),
        (at(10.0, 4.0, 1.0, 1.0, fetched_bytes=100), False, 6.0),  # the kernel's time as well: all bytes came from the drive
        (at(10.0, 4.0, 1.0, 1.0, fetched_bytes=25), False, 5.25),
        (at(10.0, 11.0, 2.0, 0.0, fetched_bytes=100), False, 2.0),  # clocks that differ by a moment
    ],
)
def test_blocked_time_counts_where_bytes_came_and_the_kernels_by_their_share(after, behind_reader, expected_s):
    assert waited_s(at(0.0), after, 100, behind_reader=behind_reader) == pytest.approx(expected_s)


def test_a_system_that_does_not_tell_says_so_and_not_zero(monkeypatch):
    monkeypatch.setattr(thread_waits, "resource", None)
    assert reading() is None
    assert waited_s(None, None, 100, behind_reader=True) is None
