"""Reading ahead on real files: what is answered, in which order, and what never happens."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from mmap import PAGESIZE
from pathlib import Path

import pytest
from cache_story import nearly
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from residency.core.component import Component, Extent, Tier
from residency.core.events import Evicted, TransferDone, TransferStopped
from residency.core.instructions import Cancel, Evict, Prefetch
from residency.transfers import ReadAhead, cached_bytes, drive_of
from residency.transfers.pagecache import drop
from residency.weights.identity import identity

MIB, GIB = 1024**2, 1024**3
ROOT = Path(__file__).parents[2]
MakeFile = Callable[..., Path]
MakeComponent = Callable[..., Component]


class Gate:
    """An `available` that lets `open_after` chunks pass and holds the next one until it is opened: it stops the disk in mid-transfer."""

    def __init__(self, open_after: int) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()
        self._left = open_after
        self._lock = threading.Lock()

    def __call__(self) -> int:
        with self._lock:
            self._left -= 1
            held = self._left < 0
        if held:
            self.reached.set()
            self.open.wait(60)
        return 100 * GIB


def plenty() -> int:
    return 100 * GIB


@pytest.fixture
def events() -> list[object]:
    return []


@pytest.fixture
def make(events: list[object]) -> Iterator[Callable[..., ReadAhead]]:
    """make(**options) -> a ReadAhead that posts into `events`, with 1 MiB chunks; closed at the end."""
    made: list[ReadAhead] = []

    def build(**options: object) -> ReadAhead:
        chosen = {"available": plenty, "pressure": lambda: 0.0, "chunk_bytes": MIB, "look_s": 0.0} | options
        made.append(ReadAhead(events.append, **chosen))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for mover in made:
        mover.close()
        assert threads() == []


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("residency-")]


def prefetch(component: Component, size_bytes: int | None = None) -> Prefetch:
    return Prefetch(component, Tier.HOST, component.size_bytes if size_bytes is None else size_bytes, "needed next")


def in_cache(component: Component) -> int:
    return sum(cached_bytes(extent) or 0 for extent in component.extents)


def test_a_cold_component_is_read_and_a_cached_one_only_probed(
    make: Callable[..., ReadAhead], cold_file: MakeFile, component: MakeComponent
) -> None:
    flux = component("flux", cold_file("a", 64 * MIB), cold_file("b", 10 * MIB + 5))
    mover = make()
    mover.prefetch(prefetch(flux)).result()
    first = mover.wait("flux")
    assert isinstance(first, TransferDone)
    assert (first.component, first.tier) == ("flux", Tier.HOST)
    assert first.moved_bytes == first.present_bytes == flux.size_bytes == mover.progress("flux")
    assert mover.so_far("flux") is None  # it has been answered
    assert in_cache(flux) == nearly(flux.size_bytes)
    rates = mover.rates()
    assert list(rates) == [drive_of(flux.extents[0].path)] and rates.popitem()[1] > 0
    mover.prefetch(prefetch(flux)).result()
    again = mover.wait("flux")
    assert isinstance(again, TransferDone)
    assert again.moved_bytes < 0.05 * flux.size_bytes
    assert again.present_bytes == flux.size_bytes


def test_what_is_told_to_stop_when_all_of_it_is_there_is_done(
    make: Callable[..., ReadAhead], cold_file: MakeFile, component: MakeComponent
) -> None:
    flux, times = component("flux", cold_file("a", MIB)), iter(range(100))

    def clock() -> float:
        now = next(times)
        if now == 2:  # begun, the read's start, its end
            mover.stop("flux", "its node has read the rest itself")
        return float(now)

    mover = make(clock=clock)
    mover.prefetch(prefetch(flux)).result()
    done = mover.wait("flux")
    assert isinstance(done, TransferDone) and done.present_bytes == MIB


def test_what_is_cached_already_is_present_but_not_moved(
    make: Callable[..., ReadAhead], cold_file: MakeFile, component: MakeComponent
) -> None:
    flux = component("flux", cold_file("a", 32 * MIB))
    fd = os.open(flux.extents[0].path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    os.pread(fd, 4 * MIB, 8 * MIB)
    os.pread(fd, PAGESIZE, 20 * MIB)
    os.close(fd)
    mover = make()
    mover.prefetch(prefetch(flux)).result()
    done = mover.wait("flux")
    assert isinstance(done, TransferDone)
    assert (done.moved_bytes, done.present_bytes) == (28 * MIB - PAGESIZE, 32 * MIB)


def test_what_is_cached_around_a_gap_is_not_copied_again(
    make: Callable[..., ReadAhead], cold_file: MakeFile, component: MakeComponent
) -> None:
    flux = component("flux", cold_file("a", 64 * MIB))
    path = flux.extents[0].path
    mover = make(chunk_bytes=16 * MIB)
    mover.prefetch(prefetch(flux)).result()
    for start in (3 * MIB, 21 * MIB + 5 * PAGESIZE, 64 * MIB - PAGESIZE):
        drop(Extent(path, start, PAGESIZE))
    missing_bytes = flux.size_bytes - in_cache(flux)
    if not 0 < missing_bytes <= 8 * MIB:
        pytest.skip("single pages cannot be dropped here")
    mover.prefetch(prefetch(flux)).result()
    done = mover.wait("flux")
    assert isinstance(done, TransferDone) and in_cache(flux) == flux.size_bytes
    assert done.moved_bytes == missing_bytes <= done.read_bytes <= missing_bytes + 3 * 2 * 128 * 1024


def test_a_file_that_is_replaced_while_it_is_read_is_not_read_on(make: Callable[..., ReadAhead], cold_file: MakeFile) -> None:
    path = cold_file("a", 8 * MIB)
    flux = Component("flux", "flux", "MODEL", 8 * MIB, (Extent(str(path), 0, 8 * MIB),), (identity(str(path)),))
    gate = Gate(open_after=3)
    mover = make(available=gate, threads_per_drive=1)
    future = mover.prefetch(prefetch(flux))
    assert gate.reached.wait(60)
    os.replace(cold_file("b", 8 * MIB), path)
    gate.open.set()
    future.result()
    stopped = mover.wait("flux")
    assert isinstance(stopped, TransferStopped) and stopped.reason == "a was replaced since its reading was planned"
    assert stopped.moved_bytes == stopped.read_bytes == 3 * MIB and cached_bytes(flux.extents[0]) == 0


def test_the_pages_of_another_file_are_not_given_back(make: Callable[..., ReadAhead], cold_file: MakeFile, events: list[object]) -> None:
    path = cold_file("a", MIB)
    flux = Component("flux", "flux", "MODEL", MIB, (Extent(str(path), 0, MIB),), (identity(str(path)),))
    os.replace(cold_file("b", MIB), path)
    path.read_bytes()
    make().drop(flux).result()
    assert isinstance(events[-1], Evicted) and events[-1].reason == "refused: a was replaced since it was read"
    assert cached_bytes(flux.extents[0]) == MIB


def test_only_the_first_bytes_are_read(make: Callable[..., ReadAhead], cold_file: MakeFile, component: MakeComponent) -> None:
    flux = component("flux", cold_file("a", 8 * MIB), cold_file("b", 64 * MIB))
    mover = make()
    mover.prefetch(prefetch(flux, 10 * MIB)).result()
    done = mover.wait("flux")
    assert isinstance(done, TransferDone) and done.moved_bytes == done.present_bytes == 10 * MIB
    assert cached_bytes(flux.extents[0]) == nearly(8 * MIB)
    assert 2 * MIB <= (cached_bytes(flux.extents[1]) or 0) < 64 * MIB  # the kernel may read ahead by a window of its own


def test_nothing_to_read_is_done_at_once(make: Callable[..., ReadAhead], events: list[object], component: MakeComponent) -> None:
    mover = make()
    mover.prefetch(prefetch(component("empty"))).result()
    assert isinstance(events[0], TransferDone) and events[0].present_bytes == 0


def test_a_transfer_that_is_being_answered_is_told_by_its_answer_alone(cold_file: MakeFile, component: MakeComponent) -> None:
    told: list[object] = []
    mover = ReadAhead(lambda event: told.append(mover.so_far("flux")))
    mover.prefetch(prefetch(component("flux", cold_file("a", 4 * MIB)))).result()
    mover.close()
    assert told == [None]


def test_no_thread_lives_before_or_after_the_work(make: Callable[..., ReadAhead], cold_file: MakeFile, component: MakeComponent) -> None:
    flux = component("flux", cold_file("a", 4 * MIB))
    mover = make()
    assert threads() == []
    mover.prefetch(prefetch(flux)).result()
    mover.drop(flux).result()
    for thread in threads():  # they have nothing left to do: they end without being asked
        thread.join(60)
    assert threads() == []


def test_the_running_transfer_stops_within_a_chunk_and_the_next_one_goes_on(
    make: Callable[..., ReadAhead], events: list[object], cold_file: MakeFile, component: MakeComponent
) -> None:
    first, second = component("first", cold_file("a", 32 * MIB)), component("second", cold_file("b", 4 * MIB))
    gate = Gate(open_after=3)
    mover = make(available=gate, threads_per_drive=1)
    announced = [mover.prefetch(prefetch(first)), mover.prefetch(prefetch(second))]
    assert gate.reached.wait(60)
    assert mover.progress("first") == 3 * MIB
    so_far = mover.so_far("first")
    assert so_far is not None and (so_far.moved_bytes, so_far.present_bytes) == (3 * MIB, 3 * MIB) and so_far.duration_s > 0
    assert mover.so_far("second") is None  # it waits for its turn
    mover.cancel(Cancel(first, Tier.HOST, "the queue was cleared"))
    announced.append(mover.prefetch(prefetch(first, 3 * MIB)))
    so_far = mover.so_far("first")
    assert so_far is not None and so_far.moved_bytes == 3 * MIB  # of the one that will be answered next
    gate.open.set()
    futures.wait(announced)
    stopped, done, _ = events
    assert isinstance(stopped, TransferStopped) and isinstance(done, TransferDone)
    assert (stopped.component, stopped.reason, stopped.moved_bytes) == ("first", "the queue was cleared", 3 * MIB)
    assert (done.component, done.moved_bytes) == ("second", 4 * MIB)


def test_a_queued_transfer_that_is_cancelled_reads_nothing(
    make: Callable[..., ReadAhead], events: list[object], cold_file: MakeFile, component: MakeComponent
) -> None:
    first, second = component("first", cold_file("a", 8 * MIB)), component("second", cold_file("b", 8 * MIB))
    gate = Gate(open_after=0)
    mover = make(available=gate)
    announced = [mover.prefetch(prefetch(first)), mover.prefetch(prefetch(second))]
    assert gate.reached.wait(60)
    mover.stop("second", "not needed")
    gate.open.set()
    futures.wait(announced)
    assert {type(event): event.component for event in events} == {TransferDone: "first", TransferStopped: "second"}  # type: ignore[attr-defined]
    assert in_cache(second) == 0


def test_short_memory_stops_the_transfer_with_the_numbers(
    make: Callable[..., ReadAhead], cold_file: MakeFile, component: MakeComponent
) -> None:
    flux = component("flux", cold_file("a", 8 * MIB))
    left = iter([3 * GIB] * 5 + [2 * GIB] * 9)
    mover = make(available=lambda: next(left), headroom_bytes=2 * GIB, threads_per_drive=1)
    mover.prefetch(prefetch(flux)).result()
    stopped = mover.wait("flux")
    assert isinstance(stopped, TransferStopped)
    assert stopped.moved_bytes == stopped.present_bytes == 5 * MIB
    assert stopped.reason == "only 2.00 GiB of host memory are available and 2.00 GiB must stay so"


def test_a_cached_component_needs_no_memory(make: Callable[..., ReadAhead], cold_file: MakeFile, component: MakeComponent) -> None:
    flux = component("flux", cold_file("a", 4 * MIB))
    Path(flux.extents[0].path).read_bytes()
    mover = make(available=lambda: 0)
    mover.prefetch(prefetch(flux)).result()
    assert isinstance(mover.wait("flux"), TransferDone)


def test_pressure_slows_but_does_not_stop(make: Callable[..., ReadAhead], cold_file: MakeFile, component: MakeComponent) -> None:
    flux = component("flux", cold_file("a", 4 * MIB))
    asked: list[float] = []
    mover = make(pressure=lambda: asked.append(99.0) or 99.0, pause_s=0.001)
    mover.prefetch(prefetch(flux)).result()
    assert isinstance(mover.wait("flux"), TransferDone) and len(asked) == 4


def test_a_pause_ends_when_the_transfer_is_cancelled(make: Callable[..., ReadAhead], cold_file: MakeFile, component: MakeComponent) -> None:
    flux = component("flux", cold_file("a", 4 * MIB))
    paused = threading.Event()
    mover = make(pressure=lambda: paused.set() or 99.0, pause_s=3600.0)
    future = mover.prefetch(prefetch(flux))
    assert paused.wait(60)
    mover.stop("flux", "enough")
    future.result(60)
    stopped = mover.wait("flux")
    assert isinstance(stopped, TransferStopped) and stopped.moved_bytes == 0


def test_files_that_cannot_be_read_stop_the_transfer_by_name(
    make: Callable[..., ReadAhead], tmp_path: Path, cold_file: MakeFile, component: MakeComponent
) -> None:
    good = cold_file("good", 4 * MIB)
    short = Component("short", "short", "VAE", 8 * MIB, (Extent(str(good), 0, 8 * MIB),))
    gone = Component("gone", "gone", "VAE", 5 * MIB, (Extent(str(good), 0, 4 * MIB), Extent(str(tmp_path / "not here"), 0, MIB)))
    folder = Component("folder", "folder", "VAE", MIB, (Extent(str(tmp_path), 0, MIB),))
    nowhere = Component("nowhere", "nowhere", "VAE", MIB)
    mover = make()
    for broken, words in (
        (short, "good ends at"),
        (gone, "not here"),
        (folder, "not a regular file"),
        (nowhere, "no file is known for nowhere"),
    ):
        mover.prefetch(prefetch(broken)).result()
        stopped = mover.wait(broken.key)
        assert isinstance(stopped, TransferStopped) and words in stopped.reason
    fine = component("fine", good)  # the threads have survived it all
    mover.prefetch(prefetch(fine)).result()
    assert isinstance(mover.wait("fine"), TransferDone)


def test_a_broken_available_is_a_reason_not_a_dead_thread(
    make: Callable[..., ReadAhead], cold_file: MakeFile, component: MakeComponent
) -> None:
    flux = component("flux", cold_file("a", MIB))
    mover = make(available=lambda: 1 // 0)
    mover.prefetch(prefetch(flux)).result()
    stopped = mover.wait("flux")
    assert isinstance(stopped, TransferStopped) and "ZeroDivisionError" in stopped.reason


def test_a_host_that_fails_on_an_event_does_not_stop_the_reading(
    cold_file: MakeFile, component: MakeComponent, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: object) -> None:
        raise RuntimeError("host")

    flux = component("flux", cold_file("a", MIB))
    mover = ReadAhead(fail, available=plenty)
    with caplog.at_level(logging.CRITICAL):
        mover.prefetch(prefetch(flux)).result()
        mover.prefetch(prefetch(flux)).result()
    mover.close()
    assert isinstance(mover.wait("flux"), TransferDone) and mover.failures == 2


def test_another_tier_is_a_mistake_of_the_caller(make: Callable[..., ReadAhead], component: MakeComponent) -> None:
    with pytest.raises(ValueError, match="device"):
        make().prefetch(Prefetch(component("flux"), Tier.DEVICE, 0, ""))


def test_dropping_gives_back_what_was_cached(
    make: Callable[..., ReadAhead], events: list[object], cold_file: MakeFile, component: MakeComponent
) -> None:
    flux = component("flux", cold_file("a", 16 * MIB), cold_file("b", 16 * MIB))
    mover = make()
    mover.prefetch(prefetch(flux)).result()
    mover.drop(flux, upto_bytes=20 * MIB, reason="behind the consumer").result()
    assert [cached_bytes(extent) for extent in flux.extents] == [0, nearly(12 * MIB)]
    mover.evict(Evict(flux, Tier.HOST, flux.size_bytes, "needed last"))
    mover.close()
    _, behind, rest = events
    assert isinstance(behind, Evicted) and isinstance(rest, Evicted)
    assert (behind.freed_bytes, behind.reason) == (nearly(20 * MIB), "behind the consumer")
    assert (rest.freed_bytes, rest.reason, rest.tier) == (nearly(12 * MIB), "needed last", Tier.HOST)
    assert in_cache(flux) == 0


def test_an_eviction_of_a_part_keeps_the_beginning_and_says_what_it_freed(
    make: Callable[..., ReadAhead], events: list[object], cold_file: MakeFile, component: MakeComponent
) -> None:
    flux = component("flux", cold_file("a", 16 * MIB), cold_file("b", 16 * MIB))
    mover = make()
    mover.prefetch(prefetch(flux)).result()
    mover.evict(Evict(flux, Tier.HOST, 12 * MIB, "needed last", keep_bytes=20 * MIB))
    mover.close()
    assert [cached_bytes(extent) for extent in flux.extents] == [nearly(16 * MIB), nearly(4 * MIB)]
    assert isinstance(events[-1], Evicted) and events[-1].freed_bytes == nearly(12 * MIB)


def test_what_the_process_holds_already_is_not_read_and_not_counted(
    make: Callable[..., ReadAhead], events: list[object], cold_file: MakeFile, component: MakeComponent
) -> None:
    flux = component("flux", cold_file("a", 16 * MIB), cold_file("b", 16 * MIB))
    make().prefetch(Prefetch(flux, Tier.HOST, 24 * MIB, "next", start_bytes=4 * MIB)).result()
    assert cached_bytes(flux.extents[0]) == nearly(12 * MIB)
    (done,) = events
    assert isinstance(done, TransferDone) and (done.moved_bytes, done.present_bytes) == (20 * MIB, 20 * MIB)


def test_what_is_being_read_is_not_dropped_but_what_lies_behind_is(
    make: Callable[..., ReadAhead], events: list[object], cold_file: MakeFile, component: MakeComponent
) -> None:
    flux = component("flux", cold_file("a", 16 * MIB))
    twin = Component("twin", "the same file with other options", "MODEL", flux.size_bytes, flux.extents)
    gate = Gate(open_after=4)
    mover = make(available=gate, threads_per_drive=1)
    future = mover.prefetch(prefetch(flux))
    assert gate.reached.wait(60)
    mover.drop(flux).result()
    mover.drop(flux, upto_bytes=5 * MIB).result()
    mover.drop(twin, upto_bytes=MIB).result()
    mover.drop(flux, upto_bytes=4 * MIB).result()
    gate.open.set()
    future.result()
    freed = [event.freed_bytes for event in events if isinstance(event, Evicted)]
    assert freed == [0, 0, 0, nearly(4 * MIB)]
    assert [event.reason.startswith("refused") for event in events if isinstance(event, Evicted)] == [True, True, True, False]
    assert in_cache(flux) == nearly(12 * MIB)


def test_cancel_then_drop_leaves_nothing_and_is_answered_in_that_order(
    make: Callable[..., ReadAhead], events: list[object], cold_file: MakeFile, component: MakeComponent
) -> None:
    flux = component("flux", cold_file("a", 16 * MIB))
    gate = Gate(open_after=4)
    mover = make(available=gate)
    mover.prefetch(prefetch(flux))
    assert gate.reached.wait(60)
    mover.stop("flux", "not needed")
    dropped = mover.drop(flux)
    assert not futures.wait([dropped], timeout=0.2).done  # its time has not come while a chunk is being read
    gate.open.set()
    dropped.result()
    assert [type(event) for event in events] == [TransferStopped, Evicted]
    assert cached_bytes(Extent(flux.extents[0].path, 0, 3 * MIB)) == 0  # behind that the kernel's own read-ahead may still arrive


def test_a_prefetch_behind_a_drop_reads_what_was_dropped(
    make: Callable[..., ReadAhead], events: list[object], cold_file: MakeFile, component: MakeComponent
) -> None:
    flux = component("flux", cold_file("a", 32 * MIB))
    mover = make()
    mover.prefetch(prefetch(flux)).result()
    mover.drop(flux)
    mover.prefetch(prefetch(flux)).result()
    assert [type(event) for event in events] == [TransferDone, Evicted, TransferDone]
    assert in_cache(flux) == nearly(flux.size_bytes)


def test_waiting_knows_unknown_late_and_answered_transfers(
    make: Callable[..., ReadAhead], cold_file: MakeFile, component: MakeComponent
) -> None:
    flux = component("flux", cold_file("a", 4 * MIB))
    gate = Gate(open_after=0)
    mover = make(available=gate)
    assert mover.wait("flux") is None and mover.progress("flux") == 0 and mover.so_far("flux") is None
    mover.prefetch(prefetch(flux))
    assert mover.wait("flux", timeout_s=0.01) is None
    gate.open.set()
    assert isinstance(mover.wait("flux"), TransferDone)


def test_an_asyncio_host_awaits_the_future_and_a_cancelled_task_harms_nothing(
    make: Callable[..., ReadAhead], cold_file: MakeFile, component: MakeComponent
) -> None:
    flux = component("flux", cold_file("a", 4 * MIB))
    gate = Gate(open_after=0)
    mover = make(available=gate)

    async def host() -> None:
        future = mover.prefetch(prefetch(flux))
        impatient = asyncio.wrap_future(future)
        impatient.cancel()
        gate.open.set()
        await asyncio.wrap_future(future)

    with ThreadPoolExecutor(1) as away:  # from the browser tests' event loop, which lives in this thread
        away.submit(asyncio.run, host()).result()
    assert isinstance(mover.wait("flux"), TransferDone)


def test_closing_answers_everything_and_a_closed_mover_refuses(
    make: Callable[..., ReadAhead], events: list[object], cold_file: MakeFile, component: MakeComponent
) -> None:
    flux = component("flux", cold_file("a", 64 * MIB))
    mover = make()
    for _ in range(3):
        mover.prefetch(prefetch(flux))
    mover.close()
    assert len(events) == 3
    mover.prefetch(prefetch(flux)).result()
    assert isinstance(events[3], TransferStopped) and "closed" in events[3].reason


def test_a_transfer_in_progress_does_not_hold_up_the_interpreters_exit(cold_file: MakeFile) -> None:
    """`available` never returns: a thread that the interpreter waited for would never end."""
    path = cold_file("a", 4 * MIB)
    program = f"""
        import threading
        from residency.core.component import Component, Extent, Tier
        from residency.core.instructions import Prefetch
        from residency.transfers import ReadAhead
        reached = threading.Event()
        mover = ReadAhead(print, available=lambda: reached.set() or threading.Event().wait())
        mover.prefetch(Prefetch(Component("k", "k", "VAE", 4, (Extent({str(path)!r}, 0, 4),)), Tier.HOST, 4, ""))
        reached.wait()
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, timeout=60, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


# --- properties: three small components, any sequence of what a manager may ask for ---

CHUNK = 64 * 1024
SIZES = (5 * CHUNK + 17, 3 * CHUNK, 9 * CHUNK + PAGESIZE)
KEYS = st.integers(0, len(SIZES) - 1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("prefetch"), KEYS, st.integers(0, max(SIZES) + CHUNK)),
        st.tuples(st.just("cancel"), KEYS, st.just(0)),
        st.tuples(st.just("cancel all"), st.just(0), st.just(0)),
        st.tuples(st.just("drop"), KEYS, st.integers(0, max(SIZES))),
        st.tuples(st.just("wait"), KEYS, st.just(0)),
    ),
    max_size=25,
)
Steps = list[tuple[str, int, int]]
PROPERTY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def small() -> Iterator[list[Component]]:
    """One component a file; the last one also reads from the first one's file."""
    with tempfile.TemporaryDirectory() as folder:
        made = []
        for index, size in enumerate(SIZES):
            path = Path(folder, str(index))
            path.write_bytes(os.urandom(size))
            with path.open("rb+") as file:
                os.fsync(file.fileno())
            made.append(Component(str(index), str(index), "VAE", size, (Extent(str(path), 0, size),)))
        shared = (*made[2].extents, Extent(made[0].extents[0].path, 100, CHUNK))
        made[2] = Component("2", "2", "VAE", SIZES[2] + CHUNK, shared)
        yield made


def play(mover: ReadAhead, components: list[Component], steps: Steps) -> tuple[list[Prefetch], int]:
    """Give the steps to the mover. Returns the prefetches announced and the number of drops."""
    announced, drops = [], 0
    for verb, index, size in steps:
        component = components[index]
        if verb == "prefetch":
            announced.append(prefetch(component, min(size, component.size_bytes)))
            mover.prefetch(announced[-1])
        elif verb == "cancel":
            mover.cancel(Cancel(component, Tier.HOST, "property"))
        elif verb == "cancel all":
            for one in components:
                mover.stop(one.key, "property")
        elif verb == "drop":
            mover.drop(component, upto_bytes=size)
            drops += 1
        else:
            mover.wait(component.key)
    return announced, drops


@PROPERTY
@given(steps=STEPS, threads_per_drive=st.integers(1, 4), short=st.booleans())
def test_everything_is_answered_once_and_never_with_more_than_was_asked(
    small: list[Component], steps: Steps, threads_per_drive: int, short: bool
) -> None:
    events: list[object] = []
    calls = iter(range(10**9))
    available = (lambda: 0 if next(calls) % 7 == 6 else 100 * GIB) if short else plenty
    options = {"chunk_bytes": CHUNK, "threads_per_drive": threads_per_drive, "headroom_bytes": 0, "look_s": 0.0}
    mover = ReadAhead(events.append, available=available, pressure=lambda: 0.0, **options)
    announced, drops = play(mover, small, steps)
    mover.close()
    assert threads() == []
    assert sum(isinstance(event, Evicted) for event in events) == drops
    answers = [event for event in events if isinstance(event, TransferDone | TransferStopped)]
    assert len(answers) == len(announced)
    for key in {prefetched.component.key for prefetched in announced}:
        asked = sorted(prefetched.size_bytes for prefetched in announced if prefetched.component.key == key)
        present = sorted(answer.present_bytes for answer in answers if answer.component == key)
        assert len(present) == len(asked) and all(got <= most for got, most in zip(present, asked, strict=True))
    for answer in answers:
        assert 0 <= answer.moved_bytes <= answer.present_bytes and answer.duration_s >= 0


@PROPERTY
@given(order=st.lists(KEYS, min_size=1, max_size=8), threads_per_drive=st.integers(1, 4))
def test_one_drive_answers_in_order_and_reads_one_component_at_a_time(
    small: list[Component], order: list[int], threads_per_drive: int
) -> None:
    """`available` is asked before every chunk that is read: what is under way then is at most one component."""
    events: list[TransferDone | TransferStopped | Evicted] = []
    under_way: list[int] = []

    def available() -> int:
        answered = {event.component for event in events if isinstance(event, TransferDone)}
        under_way.append(sum(mover.progress(key) > 0 for key in keys if key not in answered))
        return 100 * GIB

    order = list(dict.fromkeys(order))
    keys = [small[index].key for index in order]
    options = {"chunk_bytes": CHUNK, "threads_per_drive": threads_per_drive, "look_s": 0.0}
    mover = ReadAhead(events.append, available=available, pressure=lambda: 0.0, **options)
    for index in order:
        mover.drop(small[index])
    for index in order:
        mover.prefetch(prefetch(small[index]))
    for key in keys:
        mover.wait(key)
    mover.close()
    assert [event.component for event in events if isinstance(event, TransferDone)] == keys
    assert max(under_way, default=0) <= 1


def test_two_drives_are_read_side_by_side(
    make: Callable[..., ReadAhead], events: list[object], cold_file: MakeFile, component: MakeComponent
) -> None:
    other = Path("/dev/shm")  # noqa: S108 (a second file system, where there is one)
    here = cold_file("a", 4 * MIB)
    if not other.is_dir() or drive_of(str(other)) == drive_of(str(here)):
        pytest.skip("no second drive to read from")
    with tempfile.NamedTemporaryFile(dir=other) as file:
        file.write(bytes(4 * MIB))
        file.flush()
        gate = Gate(open_after=0)
        mover = make(available=gate)
        held = mover.prefetch(prefetch(component("held", here)))
        assert gate.reached.wait(60)
        mover.prefetch(prefetch(component("free", Path(file.name)))).result(60)
        assert not held.done()
        both = mover.prefetch(prefetch(component("both", Path(file.name), here)))
        gate.open.set()
        both.result()
        done = mover.wait("both")
        assert isinstance(done, TransferDone) and done.present_bytes == 8 * MIB
        assert [event.component for event in events] == ["free", "held", "both"]  # type: ignore[attr-defined]
