"""The lessons of earlier runs: asked while a prompt is planned, taught once when it has ended well."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import Any

from ..core.events import Outcome
from . import _rows
from ._estimate import Accuracy, Estimate, Quantity, Track, answered, estimate, is_sample, learned
from ._keys import LEVELS, Level, NodeKey
from ._rows import TrackRow
from ._store import Store

log = logging.getLogger("residency")

LEAST_S = 1e-3
FRESH_S = 1.0  # how long another server's writing, or the user's clearing, may go unnoticed
MAX_CACHED = 4 * _rows.MAX_ROWS

# A peak is asked to be enough: what another shape needed says nothing.
PEAK_LEVELS = (Level.EXACT, Level.SHAPE)

FRESH_PIN_BYTES_PER_S = 2.3e9  # page cache -> newly registered host memory -> device: 2.3 and 3.1 GB/s on two hosts with an H100


@dataclass(frozen=True, slots=True)
class _Sample:
    """One measured value and the tracks it belongs to, most specific first."""

    quantity: Quantity
    value: float
    label: str
    environment: str
    ids: tuple[tuple[Level, str], ...]


class Profiles:
    """Thread-safe. No method raises for a fault of the file: it is logged once, and `off` says it."""

    def __init__(self, store: Store, unix_clock: Callable[[], float], max_rows: int) -> None:
        self._store = store
        self._unix_clock = unix_clock
        self._max_rows = max_rows
        self._cache: dict[tuple[Quantity, str], Track | None] = {}
        self._loads: dict[str, tuple[str, ...] | None] = {}
        self._version = store.version()
        self._look_s = 0.0
        self._is_empty: bool | None = None
        self.failures = 0  # prompts that taught nothing because learning failed; each was logged

    @staticmethod
    def open(path: Path | str, unix_clock: Callable[[], float] = time.time, max_rows: int = _rows.MAX_ROWS) -> Profiles:
        """The profiles in the file at `path`, which is made when there is none. 3 ms for a new file, 6 for a full one."""
        return Profiles(Store(Path(path)), unix_clock, max_rows)

    @property
    def off(self) -> str:
        """Why nothing is kept beyond this session; empty when it is."""
        return self._store.off

    def retry(self) -> None:
        """Open the file again where something stood in the way that may have passed; a second when it is locked still."""
        self._store.retry()

    def close(self) -> None:
        """Close the file; later calls find nothing and keep nothing."""
        self._store.close()
        self._cache, self._loads = {}, {}

    # --- asked ---

    def is_empty(self) -> bool:
        """Whether nothing was ever learned: there is no use in asking. From memory, looked up anew once in FRESH_S."""
        self._refresh()
        if self._is_empty is None:
            self._is_empty = not self._store.read(_rows.track_count)
        return self._is_empty

    def recall(self, keys: Iterable[NodeKey]) -> None:
        """Bring these nodes' rows to memory: 2.6 ms for 100 nodes, which cost 12.6 asked one by one (a busy machine)."""
        self._refresh()
        known = list(keys)
        for quantity, ids in ((Quantity.DURATION, [id_ for key in known for id_ in key.ids]), (Quantity.PEAK, _all_peak_ids(known))):
            self._fetch(quantity, ids)

    def duration(self, key: NodeKey) -> Estimate | None:
        """Seconds that the node computes, stall left out; None when nothing like it ran. From memory 5 to 10 µs, else 40."""
        return self._answer(Quantity.DURATION, tuple(zip(LEVELS, key.ids, strict=True)))

    def peak(self, key: NodeKey) -> Estimate | None:
        """Bytes on the device beside the weights at the node's peak; None when nothing of the same shape ran."""
        return self._answer(Quantity.PEAK, _peak_ids(key))

    def loaded_bytes(self, component: str) -> Estimate | None:
        """Bytes of a component as loaded, which a cast or padding makes another number than its file's."""
        return self._answer(Quantity.LOADED, ((Level.EXACT, component),))

    def rate(self, name: str) -> Estimate | None:
        """Bytes per second of a drive or a link, under the name that it was measured under."""
        return self._answer(Quantity.RATE, ((Level.EXACT, name),))

    def loads(self, key: NodeKey) -> tuple[str, ...] | None:
        """Keys of the components that exactly this node loaded or computed with; None when it has not run."""
        self._refresh()
        id_ = key.ids[0]
        if id_ not in self._loads:
            self._loads[id_] = (self._store.read(lambda connection: _rows.loads(connection, (id_,))) or {}).get(id_)
        return self._loads[id_]

    # --- taught ---

    def observe(
        self,
        trace: Mapping[str, Any],
        keys: Mapping[str, NodeKey],
        *,
        cached: Collection[str] = (),
        first: Collection[str] = (),
        peaks: Mapping[str, float] | None = None,
        loaded_bytes: Mapping[str, float] | None = None,
        rates: Mapping[str, float] | None = None,
        loads: Mapping[str, Iterable[str]] | None = None,
    ) -> int:
        """Learn from a version 1 trace that has ended; returns how many values that were. Anything but a success teaches nothing.

        `cached` are the nodes whose results the executor had already: their time is nobody's. `first`: those that have not run before in
        this process. `peaks` are device bytes beside the
        weights by node, `loaded_bytes` by component, `rates` bytes per second by drive or link, `loads` component keys by node
        (default: the trace's).
        One transaction: 3 ms for 100 timed nodes that are new, 6 for known ones, 20 once in a while (a checkpoint, a trim).
        """
        try:
            if trace["outcome"] != Outcome.SUCCESS.value:
                return 0
            measured = {node_id: key for node_id, key in keys.items() if node_id not in cached}
            samples = [
                *_durations(trace, measured, first),
                *_of_nodes(Quantity.PEAK, peaks or {}, measured),
                *_named(Quantity.LOADED, loaded_bytes or {}, {one["key"]: one["name"] for one in trace["components"]}),
                *_named(Quantity.RATE, rates or {}, {}),
            ]
            used = {node_id: (*node["loads"], *node["computes"]) for node_id, node in _by_node(trace) if node_id in measured}
            used.update((node_id, tuple(components)) for node_id, components in (loads or {}).items() if node_id in measured)
            seen = {
                measured[node_id].ids[0]: (measured[node_id].class_type, tuple(dict.fromkeys(components)))
                for node_id, components in used.items()
                if components
            }
            return self._learn(samples, seen)
        except Exception:
            log.exception("residency: the profiles learned nothing from prompt %s", trace.get("prompt_id"))
            self.failures += 1
            return 0

    def clear(self) -> int:
        """Forget everything, on disk too; returns how many rows that were."""
        dropped = self._store.change(_rows.clear) or 0
        self._store.compact()
        self._cache, self._loads, self._is_empty = {}, {}, None
        return dropped

    def summary(self) -> dict[str, Any]:
        """All that is known, as JSON-ready data for people: newest first; how well it predicted; where it is kept."""
        classes: dict[tuple[str, str], dict[str, Any]] = {}
        for row in self._listing((Quantity.DURATION, Quantity.PEAK), Level.CLASS):
            entry = {"class_type": row.label, "environment": row.environment}
            classes.setdefault((row.label, row.environment), entry)[row.quantity.value] = _as_json(row)
        accuracy = self._store.read(_rows.accuracies) or {}
        return {
            "path": str(self._store.path),
            "off": self.off,
            "size_bytes": self._store.size_bytes(),
            "tracks": self._store.read(_rows.track_count) or 0,
            "max_tracks": self._max_rows,
            "accuracy": [
                {"quantity": quantity, "level": level, "predictions": one.count, "error": one.error, "inside_share": one.inside / one.count}
                for (quantity, level), one in sorted(accuracy.items())
                if one.count
            ],
            "classes": list(classes.values()),
            "components": [{"key": row.id, "name": row.label, **_as_json(row)} for row in self._listing((Quantity.LOADED,), Level.EXACT)],
            "rates": [{"name": row.id, **_as_json(row)} for row in self._listing((Quantity.RATE,), Level.EXACT)],
            "loads": [
                {"class_type": label, "components": list(components)}
                for label, components in self._store.read(lambda connection: list(_rows.load_listing(connection))) or []
            ],
        }

    # --- inside ---

    def _answer(self, quantity: Quantity, ids: tuple[tuple[Level, str], ...]) -> Estimate | None:
        self._refresh()
        self._fetch(quantity, [id_ for _, id_ in ids])
        return _first(quantity, ids, self._cache)

    def _fetch(self, quantity: Quantity, ids: Iterable[str]) -> None:
        missing = [id_ for id_ in ids if (quantity, id_) not in self._cache]
        if missing:
            found = self._store.read(lambda connection: _rows.tracks(connection, quantity, missing)) or {}
            self._cache.update(((quantity, id_), found.get(id_)) for id_ in missing)

    def _refresh(self) -> None:
        """Forget cached rows when somebody else has written to the file."""
        now_s = time.monotonic()
        if now_s < self._look_s:
            return
        self._look_s = now_s + FRESH_S
        version = self._store.version()
        if version != self._version or len(self._cache) > MAX_CACHED or len(self._loads) > MAX_CACHED:
            self._version, self._cache, self._loads = version, {}, {}
            self._is_empty = None

    def _learn(self, samples: list[_Sample], seen: dict[str, tuple[str, tuple[str, ...]]]) -> int:
        if not samples and not seen:
            return 0

        def work(connection: sqlite3.Connection) -> dict[tuple[Quantity, str], Track | None]:
            # read inside the transaction: what another server has learned meanwhile is built on, not overwritten
            before: dict[tuple[Quantity, str], Track | None] = {}
            for quantity in Quantity:
                ids = [id_ for sample in samples if sample.quantity is quantity for _, id_ in sample.ids]
                before.update(((quantity, id_), track) for id_, track in _rows.tracks(connection, quantity, ids).items())
            accuracy = _rows.accuracies(connection)
            rows: dict[tuple[Quantity, str], TrackRow] = {}
            after = dict(before)
            for sample in samples:
                said = _first(sample.quantity, sample.ids, before)
                if said is not None:
                    key = (sample.quantity.value, said.source.value)
                    accuracy[key] = answered(accuracy.get(key, Accuracy()), sample.quantity, said, sample.value)
                for level, id_ in sample.ids:
                    place = (sample.quantity, id_)
                    track = after[place] = learned(after.get(place), sample.quantity, level, sample.value)
                    rows[place] = TrackRow(sample.quantity, id_, level, sample.label, sample.environment, track)
            _rows.write(connection, self._unix_clock(), rows.values(), seen, accuracy)
            return {} if _rows.trim(connection, self._max_rows) else after

        after = self._store.change(work)
        if after is None:  # locked, or given up on
            return 0
        self._is_empty = None
        if after:
            self._cache.update(after)
            self._loads.update((id_, components) for id_, (_, components) in seen.items())
        else:
            self._cache, self._loads = {}, {}
        return len(samples)

    def _listing(self, quantities: Iterable[Quantity], level: Level) -> list[TrackRow]:
        return self._store.read(lambda connection: list(_rows.listing(connection, quantities, level))) or []


def _first(quantity: Quantity, ids: Iterable[tuple[Level, str]], known: Mapping[tuple[Quantity, str], Track | None]) -> Estimate | None:
    """The most specific level that knows anything answers."""
    for level, id_ in ids:
        track = known.get((quantity, id_))
        if track is not None:
            return estimate(track, quantity, level)
    return None


def _peak_ids(key: NodeKey) -> tuple[tuple[Level, str], ...]:
    return tuple((level, id_) for level, id_ in zip(LEVELS, key.ids, strict=True) if level in PEAK_LEVELS)


def _all_peak_ids(keys: Iterable[NodeKey]) -> list[str]:
    return [id_ for key in keys for _, id_ in _peak_ids(key)]


def _by_node(trace: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((node["node_id"], node) for node in trace["nodes"])


def computed_s(trace: Mapping[str, Any], first: Collection[str] = ()) -> dict[str, float]:
    """Compute seconds by node: one that went back for a lazy input has several records. Empty where some of them were dropped. Of a node
    that runs for the `first` time in its process the first step counts as one of the later ones: kernels are loaded and tuned once. Of one
    without steps to compare what it takes to pin its weights is left out: 4.1 s of a text encoder of 9.8 GB that computes for 0.1 s."""
    seconds: dict[str, float] = {}
    if trace["dropped_records"]:
        return seconds
    sizes = {one["key"]: one["size_bytes"] for one in trace["components"]} if first else {}
    for node_id, node in _by_node(trace):
        if node["end_s"] is not None:
            other_s = node["stall_s"] + node.get("own_s", 0.0) + node.get("unsplit_s", 0.0)
            once_s = _once_s(trace, node, sizes) if node_id in first else 0.0
            seconds[node_id] = seconds.get(node_id, 0.0) + max(0.0, node["end_s"] - node["start_s"] - other_s - once_s)
    return seconds


def _once_s(trace: Mapping[str, Any], node: Mapping[str, Any], sizes: Mapping[str, int]) -> float:
    """Seconds by which the first step, waiting left out, took longer than the median of the others; of a node with one those in which the
    weights that it reads itself are pinned, as far as the process did not hold them before the prompt."""
    each_s: list[float] = [max(0.0, taken_s - stall_s) / together for taken_s, stall_s, together in node.get("steps", ()) if together > 0]
    if len(each_s) > 1:
        return max(0.0, each_s[0] - median_low(each_s[1:]))
    held = (trace.get("began") or {}).get("loaded_bytes", {})
    own = set(node.get("reads", ())) & set(node.get("computes", ()))
    fresh_bytes: int = sum(max(0, sizes.get(key, 0) - held.get(key, 0)) for key in own)
    return fresh_bytes / FRESH_PIN_BYTES_PER_S


def _durations(trace: Mapping[str, Any], keys: Mapping[str, NodeKey], first: Collection[str]) -> Iterator[_Sample]:
    """Nodes below LEAST_S are left out: nothing can be hidden behind them. On the example workflow they are 5 of 11 (EmptyLatent 0.6 ms,
    loaders 0 beside their stall), and a result from the cache is told apart by `cached` alone: a SaveImage from it takes 0.9 ms.
    """
    timed = {node_id: spent_s for node_id, spent_s in computed_s(trace, first).items() if spent_s >= LEAST_S}
    yield from _of_nodes(Quantity.DURATION, timed, keys)


def _of_nodes(quantity: Quantity, values: Mapping[str, float], keys: Mapping[str, NodeKey]) -> Iterator[_Sample]:
    for node_id, value in values.items():
        key = keys.get(node_id)
        if key is not None and is_sample(value):
            yield _Sample(quantity, float(value), key.class_type, key.environment, tuple(zip(LEVELS, key.ids, strict=True)))


def _named(quantity: Quantity, values: Mapping[str, float], names: Mapping[str, str]) -> Iterator[_Sample]:
    for name, value in values.items():
        if is_sample(value):
            yield _Sample(quantity, float(value), names.get(name, name), "", ((Level.EXACT, name),))


def _as_json(row: TrackRow) -> dict[str, Any]:
    one = estimate(row.track, row.quantity, row.level)
    return {"value": one.value, "margin": one.margin, "samples": one.samples, "spread": one.spread, "error": one.error}
