"""A drive that hangs, a thread that dies, a process without file handles: each instruction is answered once, and nobody waits."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

import pytest

from residency.core.component import Component, Tier
from residency.core.events import Evicted, TransferDone, TransferStopped
from residency.core.instructions import Cancel, Prefetch
from residency.transfers import ReadAhead, _chunks, _dropper, drive, pagecache

MIB, GIB = 1024**2, 1024**3
MakeFile = Callable[..., Path]
MakeComponent = Callable[..., Component]


def plenty() -> int:
    return 100 * GIB


def prefetch(component: Component) -> Prefetch:
    return Prefetch(component, Tier.HOST, component.size_bytes, "needed next")


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("residency-")]


class Drive:
    """Its calls wait from `hang` to `go_on`, those of the test's own thread fail; `waiting` is set when one waits."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._test = threading.current_thread()
        self.waiting, self._on = threading.Event(), threading.Event()
        self._on.set()

    def hang(self) -> None:
        self._on.clear()

    def go_on(self) -> None:
        self._on.set()

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def held(*args: Any, **kwargs: Any) -> Any:
            if not self._on.is_set() and (isinstance(args[0], int) or str(args[0]).startswith(self._folder)):
                assert threading.current_thread() is not self._test, f"{call.__name__} would wait for the drive"
                self.waiting.set()
                self._on.wait(60)
            return call(*args, **kwargs)

        return held


@pytest.fixture
def a_drive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Drive]:
    """All files of the test lie on it. In the end it goes on, and every thread ends."""
    if not hasattr(os, "posix_fadvise"):
        pytest.skip("NOT TESTED: the drive that hangs stands under Linux's calls")
    found = Drive(tmp_path)
    for name in ("open", "preadv", "sendfile", "posix_fadvise", "stat"):
        monkeypatch.setattr(os, name, found.around(getattr(os, name)))
    yield found
    found.go_on()
    for thread in threads():
        thread.join(60)
    assert threads() == []


def a_mover(events: list[object], **options: Any) -> ReadAhead:
    return ReadAhead(events.append, available=plenty, pressure=lambda: 0.0, chunk_bytes=MIB, look_s=0.0, **options)


def test_closing_answers_everything_at_once_whatever_the_drive_does(a_drive: Drive, cold_file: MakeFile, component: MakeComponent):
    events: list[object] = []
    running, queued = component("running", cold_file("a", 8 * MIB)), component("queued", cold_file("b", MIB))
    other = component("other", cold_file("c", MIB))
    mover = a_mover(events)
    drive.remembered_drive(running.extents[0].path)  # its host has asked, holding no lock
    drive.remembered_drive(queued.extents[0].path)
    a_drive.hang()
    futures = [mover.prefetch(prefetch(running)), mover.prefetch(prefetch(queued))]
    futures.append(mover.drop(other))
    assert a_drive.waiting.wait(60)
    mover.close(wait=False)
    assert all(future.done() for future in futures)
    later = mover.prefetch(prefetch(queued)), mover.drop(running)
    assert all(future.done() for future in later) and threads()
    told = list(events)
    a_drive.go_on()
    mover.close()
    assert threads() == [] and events == told  # each was answered once
    assert sorted(type(event).__name__ for event in events) == ["Evicted", "Evicted"] + 3 * ["TransferStopped"]
    assert all("clos" in event.reason for event in events if isinstance(event, TransferStopped | Evicted))


def test_asking_showing_and_stopping_wait_for_no_drive(a_drive: Drive, cold_file: MakeFile, component: MakeComponent):
    flux = component("flux", cold_file("a", 8 * MIB))
    mover = a_mover([])
    drive.remembered_drive(flux.extents[0].path)
    a_drive.hang()
    mover.prefetch(prefetch(flux))
    assert a_drive.waiting.wait(60)
    mover.cancel(Cancel(flux, Tier.HOST, "no longer needed"))
    mover.set_threads(1)
    assert mover.progress("flux") == 0 and mover.rates() == {} and mover.so_far("flux") is not None
    mover.close(wait=False)
    assert mover.so_far("flux") is None


@pytest.mark.parametrize("error", [SystemExit("stop"), KeyboardInterrupt(), MemoryError(), GeneratorExit()], ids=repr)
@pytest.mark.parametrize("place", ["read", "cached_bytes"])
def test_whatever_a_read_thread_meets_is_a_refusal_and_the_next_read_goes_on(
    cold_file: MakeFile, component: MakeComponent, monkeypatch: pytest.MonkeyPatch, error: BaseException, place: str
):
    events: list[object] = []
    bad, good = component("bad", cold_file("bad", 4 * MIB)), component("good", cold_file("good", 4 * MIB))
    call = getattr(_chunks.Reader, place)

    def broken(reader: _chunks.Reader, chunk: _chunks.Chunk) -> Any:
        if chunk.path.endswith("bad"):
            raise error
        return call(reader, chunk)

    monkeypatch.setattr(_chunks.Reader, place, broken)
    mover = a_mover(events)
    mover.prefetch(prefetch(bad)).result(60)
    mover.prefetch(prefetch(good)).result(60)
    mover.close()
    stopped, done = events
    assert isinstance(stopped, TransferStopped) and type(error).__name__ in stopped.reason and "bad" in stopped.reason
    assert isinstance(done, TransferDone) and done.present_bytes == 4 * MIB


def test_whatever_the_dropping_thread_meets_is_told_and_the_next_drop_goes_on(
    cold_file: MakeFile, component: MakeComponent, monkeypatch: pytest.MonkeyPatch
):
    events: list[object] = []
    bad, good = component("bad", cold_file("bad", MIB)), component("good", cold_file("good", MIB))
    Path(bad.extents[0].path).read_bytes()  # nothing is asked of the kernel for what is not there
    drop = pagecache.drop

    def broken(extent: Any) -> None:
        if extent.path.endswith("bad"):
            raise SystemExit("stop")
        drop(extent)

    monkeypatch.setattr(pagecache, "drop", broken)
    mover = a_mover(events)
    for one in (bad, good):
        mover.drop(one).result(60)
    mover.close()
    assert [isinstance(event, Evicted) and "SystemExit" in event.reason for event in events] == [True, False]


def test_a_host_whose_answer_dies_takes_no_thread_with_it(cold_file: MakeFile, component: MakeComponent):
    def post(event: object) -> None:
        raise SystemExit

    mover = ReadAhead(post, available=plenty, pressure=lambda: 0.0)
    for key in "ab":
        mover.prefetch(prefetch(component(key, cold_file(key, MIB)))).result(60)
    mover.close()


def test_without_a_file_handle_left_a_read_is_refused_and_a_later_one_goes_on(
    cold_file: MakeFile, component: MakeComponent, monkeypatch: pytest.MonkeyPatch
):
    resource = pytest.importorskip("resource")
    events: list[object] = []
    flux = component("flux", cold_file("a", MIB))
    mover = a_mover(events)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        mover.prefetch(prefetch(flux)).result(60)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    mover.prefetch(prefetch(flux)).result(60)
    mover.close()
    stopped, done = events
    assert isinstance(stopped, TransferStopped) and "Too many open files" in stopped.reason and flux.extents[0].path in stopped.reason
    assert isinstance(done, TransferDone)


def test_another_number_of_threads_holds_while_a_transfer_is_read(cold_file: MakeFile, component: MakeComponent):
    """Counted in the reads that are under way at once."""
    events: list[object] = []
    at_once, most, lock, wanted = 0, 0, threading.Lock(), threading.Event()

    def available() -> int:  # asked before each chunk, with no lock held
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        wanted.wait(0.02)
        with lock:
            at_once -= 1
        return 100 * GIB

    flux = component("flux", cold_file("a", 24 * MIB))
    mover = ReadAhead(events.append, available=available, pressure=lambda: 0.0, chunk_bytes=MIB, look_s=0.0, threads_per_drive=4)
    mover.set_threads(1)
    mover.prefetch(prefetch(flux)).result(60)
    assert most == 1
    mover.set_threads(3)
    pagecache.drop(flux.extents[0])
    mover.prefetch(prefetch(flux)).result(60)
    assert 1 < most <= 3
    mover.close()
    assert all(isinstance(event, TransferDone) for event in events)


def test_what_stays_at_the_edges_of_many_ranges_is_waited_for_once(
    cold_file: MakeFile, component: MakeComponent, monkeypatch: pytest.MonkeyPatch
):
    """Half of a large folio stays at each end of a range: 300 ranges took 6.3 s, and what was to be read waited for the answer."""
    whole = component("edges", cold_file("edges", MIB))
    (extent,) = whole.extents
    Path(extent.path).read_bytes()
    ranges = tuple(replace(extent, start=index * 8 * PAGESIZE, size_bytes=4 * PAGESIZE) for index in range(8))
    edges = replace(whole, extents=ranges, size_bytes=sum(one.size_bytes for one in ranges))
    pauses: list[float] = []
    monkeypatch.setattr(_dropper.time, "sleep", pauses.append)
    monkeypatch.setattr(pagecache, "cached_bytes", lambda extent: 4 * PAGESIZE)
    mover = a_mover([])
    mover.drop(edges).result(60)
    mover.close()
    assert len(pauses) == 1
