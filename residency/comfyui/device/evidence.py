"""The evidence for the behaviours that features rest on, seen while the mover is at work and written into its ledger (`proofs.py`).

The passes of a kind of models are watched, on the safe path, until it is known whether all of their weights pass the gate (`coverage.py`).
Around each filling or freeing of pages here, they are looked at for any that stays pinned.
"""

from __future__ import annotations

import logging
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .copy_fence import Gate
from .coverage import MOST_NODES, MOST_PASSES, Coverage
from .kinds import kind_of, surroundings
from .proofs import Behaviour, DisprovedError, Feature, Kind, Proofs

try:
    from .onload import weight_modules
except ImportError:  # a ComfyUI without comfy-aimdo has no dynamic models either, and no pass is watched
    weight_modules = None  # type: ignore[assignment]

log = logging.getLogger("residency")

PINNED = 2  # of a page's state, as comfy-aimdo tells it


class Evidence:
    """Of one mover, with its ledger. On the executor's thread."""

    def __init__(self, gate: Gate) -> None:
        self.proofs = Proofs()
        self._gate = gate
        self._around = surroundings()
        self._looked_at: set[Kind] = set()  # of which enough has been watched
        self._nodes_watched: Counter[Kind] = Counter()
        self._watched: dict[Kind, tuple[weakref.ReferenceType[Any], Coverage]] = {}

    def settle(self) -> None:
        """A prompt begins: settings and functions may be others by now."""
        self._around = surroundings()
        self.proofs.settle(self._around)

    def kind(self, patcher: Any) -> Kind:
        return kind_of(patcher, self._around)

    def why_not(self, feature: Feature, patcher: Any) -> str:
        """Why the feature is not to be used for the model now; empty where it is."""
        return self.proofs.why_not(feature, self.kind(patcher))

    def off(self, feature: Feature) -> str:
        """Why the feature is off after failures, whatever the model; empty where it is not."""
        return self.proofs.off.get(feature, "")

    def failed(self, key: str, feature: Feature, error: Exception) -> str:
        """The feature has failed for the component. Returns the reason."""
        log.error("residency: %s failed for %s; ComfyUI goes on without it", feature.value, key or "a model of no loader", exc_info=error)
        self.proofs.failed(feature, error)
        return f"{type(error).__name__}: {error}"

    def disproved(self, patcher: Any, error: DisprovedError) -> str:
        """A behaviour was not there for the model. Returns the reason."""
        self.proofs.disprove(error.behaviour, self.kind(patcher), str(error))
        return str(error)

    # --- passes ---

    def watch(self, patcher: Any) -> None:
        """Its passes begin. Watching them costs one look at each module and pass, of MOST_PASSES of a kind's nodes."""
        kind = self.kind(patcher)
        if self._gate.open or kind in self._watched or kind in self._looked_at:
            return
        if not self._watched:
            self._gate.watch(on=True)
        self._watched[kind] = (weakref.ref(patcher), Coverage(weight_modules(patcher)))

    def fills(self, patcher: Any) -> None:
        """The mover is about to fill the model's pages: pages filled from here on say nothing of ComfyUI's passes."""
        kind = self.kind(patcher)
        if kind in self._watched and (watched := self._watched[kind][0]()) is not None and watched.model is patcher.model:
            del self._watched[kind]

    def pass_ends(self) -> None:
        """Look at the passes since the last time."""
        if not self._watched:
            return
        for kind, (patcher_of, coverage) in list(self._watched.items()):
            patcher = patcher_of()
            against = "" if patcher is None else coverage.pass_ends(self._gate)
            if against:
                self.proofs.disprove(Behaviour.GATED, kind, against)
            elif coverage.passes:
                self.proofs.prove(Behaviour.GATED, kind)
            if patcher is None or against or coverage.passes >= MOST_PASSES:
                self._end(kind)
        self._gate.watch(on=bool(self._watched))

    def node_ends(self) -> None:
        """Another node starts: the passes of the last one are over."""
        if not (self._watched or self._gate.watches):
            return
        self.pass_ends()
        for kind in list(self._watched):
            self._end(kind)
        if self._gate.watches:
            self._gate.watch(on=False)

    def _end(self, kind: Kind) -> None:
        _, coverage = self._watched.pop(kind)
        against = coverage.ends()
        if against:
            self.proofs.disprove(Behaviour.GATED, kind, against)
        self._nodes_watched[kind] += bool(coverage.passes)
        if coverage.passes >= MOST_PASSES or self._nodes_watched[kind] >= MOST_NODES:
            self._looked_at.add(kind)

    # --- pages ---

    @contextmanager
    def seeing_unpinned(self, patcher: Any) -> Iterator[None]:
        """Every page is pinned as little afterwards as it was before."""
        buffer, kind = patcher._vbar_get(), self.kind(patcher)
        if buffer is None or not self.proofs.is_open(Behaviour.UNPINNED, kind):
            yield
            return
        before = buffer.get_residency()
        yield
        after = buffer.get_residency()
        pinned = sum(bool(now & ~then & PINNED) for then, now in zip(before, after, strict=False))
        if pinned:
            self.proofs.disprove(Behaviour.UNPINNED, kind, f"{pinned} pages stay pinned after they were unpinned")
        elif any(state & 1 for state in after):
            self.proofs.prove(Behaviour.UNPINNED, kind)
