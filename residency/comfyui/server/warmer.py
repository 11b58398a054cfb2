"""Reads weights into the page cache while no prompt runs: those that POST /residency/warm and RESIDENCY_WARM ask for.

One request at a time, a newer one takes the place of an older. A prompt that is queued ends it: its own files come first, and no drive
has two readers. All of it fits into the memory that reading ahead may fill; nothing is evicted for it.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web
from server import PromptServer

from ...core.component import Component, Tier
from ...core.events import TransferStopped
from ...core.instructions import Prefetch
from ...graph import AllowanceError
from ...transfers import ReadAhead, memory
from ...transfers.pagecache import cached_around
from ...units import without_folders
from ..prompt.background import Errands
from ..prompt.outlined import outlined
from ..prompt.queued import whole_nodes

if TYPE_CHECKING:
    from ..host import ComfyHost

log = logging.getLogger("residency")

REASON = "asked to be warm"


class State(Enum):
    """The state of the last request."""

    IDLE = "idle"  # there was none
    WAITING = "waiting"  # its files are not known yet
    READING = "reading"
    DONE = "done"
    STOPPED = "stopped"


class RefusedError(Exception):
    """Why nothing is read now, and the way out."""


class Warmer:
    """Thread-safe. No method waits for a drive but `start`, which asks for the cached bytes."""

    def __init__(self, host: ComfyHost) -> None:
        self._host = host
        self._lock = threading.Lock()
        self._mover: ReadAhead | None = None
        self._components: tuple[Component, ...] = ()
        self._asked: dict[str, int] = {}  # bytes by key of what is to be there
        self._left: set[str] = set()
        self._state, self._reason, self._left_out_bytes = State.IDLE, "", 0

    @property
    def ready(self) -> bool:
        """Whether nothing is waited for: the weights asked for are there, or will not come."""
        return self._state not in (State.WAITING, State.READING)

    @property
    def components(self) -> tuple[Component, ...]:
        """Those of the last request."""
        return self._components

    def wait(self) -> None:
        """A request will come: `ready` waits for it."""
        self._state = State.WAITING

    def give_up(self, reason: str) -> None:
        """It will not come."""
        with self._lock:
            self._state, self._reason = State.STOPPED, reason

    def start(self, components: Sequence[Component]) -> None:
        """Read these, the first first, as far as there is room. Raises RefusedError."""
        host = self._host
        if not host.installed:
            raise RefusedError(f"nothing is read ahead: {host.works()}; choose a mode")
        if host.execution.executing or PromptServer.instance.prompt_queue.get_tasks_remaining():
            raise RefusedError("a prompt runs or is queued: its own files come first; queue this one, and they are read behind it")
        self.stop("another request took its place")
        room_bytes = self._room_bytes()
        asked: dict[str, int] = {}
        left_out_bytes = 0
        for component in components:
            around = cached_around(component.extents, 0)
            cached_bytes = 0 if around is None else sum(around)
            take_bytes = min(component.size_bytes, cached_bytes + max(0, room_bytes))
            left_out_bytes += component.size_bytes - take_bytes
            room_bytes -= take_bytes - cached_bytes
            if take_bytes > 0:
                asked[component.key] = take_bytes
        mover = ReadAhead(self._answered, time.monotonic, threads_per_drive=host.read_threads)
        with self._lock:
            self._mover, self._components, self._asked, self._left = mover, tuple(components), asked, set(asked)
            self._left_out_bytes, self._reason = left_out_bytes, ""
            self._state = State.READING if asked else State.DONE
        for component in components:
            if component.key in asked:
                mover.prefetch(Prefetch(component, Tier.HOST, asked[component.key], REASON))

    def stop(self, reason: str) -> None:
        """Stop reading; bytes read so far stay. On any thread."""
        with self._lock:
            mover, self._mover = self._mover, None
            if self._state in (State.READING, State.WAITING):
                self._state, self._reason = State.STOPPED, reason
        if mover is not None:
            mover.close(wait=False)

    def _answered(self, answer: Any) -> None:
        with self._lock:
            if isinstance(answer, TransferStopped) and self._state is State.READING:
                paths = (extent.path for one in self._components if one.key == answer.component for extent in one.extents)
                self._reason = without_folders(answer.reason, paths)
            self._left.discard(answer.component)
            if not self._left and self._state is State.READING:
                self._state = State.STOPPED if self._reason else State.DONE

    def _room_bytes(self) -> int:
        room_bytes = memory.share(memory.available_bytes() - self._host.limits.reserve_bytes)
        budget_bytes = self._host.user.host_budget_bytes
        return max(0, room_bytes if budget_bytes is None else min(room_bytes, budget_bytes))

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: docs/http.md describes it."""
        with self._lock:
            mover, asked = self._mover, self._asked
            told = {"state": self._state.value, "reason": self._reason, "left_out_bytes": self._left_out_bytes}
        present_bytes = sum(min(size_bytes, mover.progress(key)) for key, size_bytes in asked.items()) if mover is not None else None
        return {**told, "asked_bytes": sum(asked.values()), "present_bytes": present_bytes}


def warm_at_start(warmer: Warmer, path: str | None) -> None:
    """Once the server is about to answer, read the weights that the workflow of this file needs. Nothing without a path."""
    if not path:
        return
    warmer.wait()

    async def begin(_: web.Application) -> None:
        Errands("residency warming").submit(partial(_warm_file, warmer, path))

    # the packs are loaded by then: which classes there are, and which folders
    PromptServer.instance.app.on_startup.append(begin)


def _warm_file(warmer: Warmer, path: str) -> None:
    try:
        found = outlined(_read(Path(path)))
        if not found.used():
            raise RefusedError(found.why_nothing())
        warmer.start(found.used())
    except (OSError, ValueError, AllowanceError, RefusedError) as error:
        warmer.give_up(without_folders(f"RESIDENCY_WARM={path}: {error}", [path]))
        log.warning("residency: RESIDENCY_WARM is %s, and nothing is read for it: %s", path, error)
    except Exception as error:
        warmer.give_up(without_folders(f"RESIDENCY_WARM={path}: {type(error).__name__}: {error}", [path]))
        raise


def _read(path: Path) -> dict[str, Any]:
    """The prompt of a file in API format. Raises OSError, ValueError and RefusedError."""
    told = json.loads(path.read_text(encoding="utf-8-sig"))
    nodes = whole_nodes(told)
    if not nodes:
        raise RefusedError("it is no workflow in API format; in ComfyUI choose File > Export (API)")
    return nodes
