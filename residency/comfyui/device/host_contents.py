"""The facts that the host tells of host memory: the bytes of each component that the process holds, and those of the rest in the page
cache."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from ...core.component import Component
from ...core.events import HostObserved, Taken
from ...transfers.pagecache import cached_around
from .contents import Contents

# A look goes through every module of the loaded models and asks the page cache, 1 to 3 ms for 30 GB (benchmarks/looks.py): it may take so
# much of the time. With twice that share, and looks that took twice as long, they were 0.2 s of 11.4 s on an H100's host. In a
# first pass with 12 to 20 GB in the page cache one took 37 to 94 ms on another, which left 9 s between two.
MOST_SHARE = 0.01
REFRESH_S = 0.25  # others change the page cache as well
# Less of a second copy is no room that anybody could have: at the edges of a model's ranges large folios stay, 20 MB of 12 GB, and
# each look would ask for them again.
LEAST_SURPLUS_BYTES = 64 * 2**20


class HostContents:
    """On the executor's thread."""

    def __init__(self, contents: Contents, clock: Callable[[], float]) -> None:
        self._contents, self._clock = contents, clock
        self._told: dict[str, Component] = {}  # of the last look: the core forgets what a prompt does not know
        self._loaded: dict[str, int] = {}  # by then
        self._last_s = self._cost_s = float("-inf")
        self._last_taken_s = self._cost_of_taken_s = float("-inf")

    def look(
        self, components: Mapping[str, Component], in_use: Collection[str] = (), *, changed: bool = False, must: bool = False
    ) -> HostObserved | None:
        """Look where the bytes of these lie; None when it is too soon for it. `in_use`: those that the running node uses. `changed`:
        weights have been used since the last look. `must`: however soon that is."""
        now_s = self._clock()
        if not must and now_s < self._last_s + max(0.0 if changed else REFRESH_S, self._cost_s / MOST_SHARE):
            return None
        seen = self._look(components, in_use, now_s)
        self._last_s = now_s
        self._cost_s = self._clock() - now_s
        return seen

    def taken(self, components: Mapping[str, Component], in_use: Collection[str]) -> Taken | None:
        """Look at what the process has taken of the running node's components, without asking the page cache; None when it is too soon for
        that as well, or nothing has been taken."""
        now_s = self._clock()
        if now_s < max(self._last_s, self._last_taken_s) + max(REFRESH_S, self._cost_of_taken_s / MOST_SHARE):
            return None
        loaded: dict[str, int] = {}
        laid_out: dict[str, Component] = {}
        for key in in_use:
            if key in components:
                found, loaded_bytes = self._contents.held_first(components[key], in_use=True)
                if loaded_bytes > self._loaded.get(key, 0):
                    loaded[key], laid_out[key] = loaded_bytes, found
        self._loaded.update(loaded)
        self._told.update(laid_out)
        self._last_taken_s = now_s
        self._cost_of_taken_s = self._clock() - now_s
        return Taken(now_s, loaded, laid_out) if loaded else None

    def _look(self, components: Mapping[str, Component], in_use: Collection[str], now_s: float) -> HostObserved:
        held: dict[str, int] | None = {}
        loaded: dict[str, int] = {}
        surplus: dict[str, int] = {}
        laid_out: dict[str, Component] = {}
        told: dict[str, Component] = {}
        for key, component in components.items():
            found, loaded_bytes = self._contents.held_first(component, in_use=key in in_use)
            if loaded_bytes:
                loaded[key] = loaded_bytes
            before = self._told.get(key)
            if before is None or found.extents != before.extents:
                laid_out[key] = found
            told[key] = found
            around = None if held is None else cached_around(found.extents, loaded_bytes)
            if held is None or around is None:
                held = None  # what nobody tells of one is not known of all
            else:
                surplus_bytes, held[key] = around
                if surplus_bytes >= LEAST_SURPLUS_BYTES:
                    surplus[key] = surplus_bytes
        self._told, self._loaded = told, loaded
        return HostObserved(now_s, held, loaded, {} if held is None else surplus, laid_out=laid_out)
