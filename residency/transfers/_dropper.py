"""Gives page-cache bytes back, one drop at a time, beside the lanes: room that is asked for now must not queue behind reads."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from mmap import PAGESIZE

from ..core.component import Component, Extent
from ..weights.identity import first_change
from . import pagecache
from ._chunks import between
from ._lane import Transfer

_PAUSES_S = (0.02, 0.1)


@dataclass(eq=False)
class Drop:
    """One announced drop, of the component's bytes in [keep_bytes, upto_bytes).

    It waits for `ending`, transfers that were already stopping when it was announced; `refusal` drops nothing.
    """

    component: Component
    upto_bytes: int
    reason: str
    keep_bytes: int = 0
    ending: tuple[Transfer, ...] = ()
    refusal: str | None = None
    answered: bool = False
    future: Future[None] = field(default_factory=Future)

    def __post_init__(self) -> None:
        self.future.set_running_or_notify_cancel()


class Dropper:
    """`finish(drop, freed_bytes, reason)` is called once for each drop, outside the lock."""

    def __init__(self, condition: threading.Condition, finish: Callable[[Drop, int, str], None]) -> None:
        self.threads: list[threading.Thread] = []
        self.pending: list[Drop] = []
        self._queue: deque[Drop] = deque()
        self._condition = condition
        self._finish = finish
        self._running = False

    def add(self, drop: Drop) -> None:
        """Queue a drop and see that a thread is there. The condition must be held."""
        self._queue.append(drop)
        self.pending.append(drop)
        if self._running:
            return
        thread = threading.Thread(target=self._work, name="residency-drop", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the interpreter is shutting down, or the system has no thread left
            drop.refusal = f"no thread to drop with: {error}"
            return
        self.threads = [thread]  # the one before has said that it ends: nothing of it is waited for
        self._running = True

    def give_up(self) -> list[Drop]:
        """The drops that nobody has answered yet, now the caller's to answer. The condition must be held."""
        self._queue.clear()
        left = [drop for drop in self.pending if not drop.answered]
        for drop in left:
            drop.answered = True
        self._condition.notify_all()
        return left

    def work_off_without_threads(self) -> None:
        """Answer the queued drops on the caller's thread when none could be started. The condition must not be held."""
        with self._condition:
            if self._running or not self._queue:
                return
            for drop in self._queue:
                drop.refusal = drop.refusal or "no thread to drop with"
            self._running = True
        self._work()

    def _work(self) -> None:
        while True:
            with self._condition:
                if not self._queue:
                    self._running = False
                    return
                drop = self._queue.popleft()
                if drop.refusal is None:
                    self._condition.wait_for(lambda: all(transfer.answered for transfer in drop.ending))  # noqa: B023 (called right here)
            freed_bytes, reason = (0, f"refused: {drop.refusal}") if drop.refusal is not None else _drop(drop)
            with self._condition:
                mine, drop.answered = not drop.answered, True
            if mine:
                self._finish(drop, freed_bytes, reason)
            with self._condition:
                self.pending.remove(drop)
            if mine:
                drop.future.set_result(None)
            with self._condition:
                self._condition.notify_all()


def _drop(drop: Drop) -> tuple[int, str]:
    """The bytes that left the cache, and the reason with the obstacles in the way."""
    changed = first_change(drop.component.files)
    if changed is not None:
        return 0, f"refused: {changed} since it was read"
    extents = [extent for _, extent, _ in between(drop.component, drop.keep_bytes, drop.upto_bytes)]
    notes: dict[str, None] = {}
    freed_bytes, left = _drop_all(drop, extents, notes)
    # The kernel skips pages whose read is still under way (its own read-ahead behind a cancelled transfer: 11 MiB were seen);
    # they arrive within milliseconds. The rest after that is mapped, dirty, or half of a page or large folio at an edge: of a model whose
    # bytes lie in hundreds of ranges there are many edges, so nobody waits for one alone.
    for pause_s in _PAUSES_S:
        if not left or drop.answered:
            break
        time.sleep(pause_s)
        more_bytes, left = _drop_all(drop, left, notes)
        freed_bytes += more_bytes
        if not more_bytes:
            break
    return freed_bytes, "; ".join([drop.reason, *notes])


def _drop_all(drop: Drop, extents: Iterable[Extent], notes: dict[str, None]) -> tuple[int, list[Extent]]:
    """The bytes that left the cache, and the extents of which more than an edge stayed."""
    freed_bytes, left = 0, []
    for extent in extents:
        if drop.answered:  # given up on while it went on
            break
        try:
            before = pagecache.cached_bytes(extent)
            if before == 0:
                continue
            pagecache.drop(extent)
            after = pagecache.cached_bytes(extent)
        except BaseException as error:  # a thread that died of it would leave every later drop unanswered
            notes[str(error) if isinstance(error, OSError) else f"{extent.path}: {type(error).__name__}: {error}"] = None
            continue
        if before is None or after is None:
            notes["this process may not ask what was freed"] = None
            continue
        freed_bytes += max(0, before - after)
        if after >= 2 * PAGESIZE:
            left.append(extent)
    return freed_bytes, left
