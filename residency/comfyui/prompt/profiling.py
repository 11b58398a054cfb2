"""The profiles beside the running host: taught by each prompt that ends, asked before each that begins.

One way: a prompt starts -> `foretell` (durations and peaks by node, rates by component) -> it ends well -> `learn`. Keys cost 45 µs a
node and the file some milliseconds, so the host calls all of this from its errands' thread, never from the executor's.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import comfy.model_management as model_management
import comfyui_version
import folder_paths
from PIL import Image

from ...core.component import Component
from ...core.events import Foretold, Outcome
from ...graph.traits import links
from ...profiles import LEAST_S, Level, NodeKey, Profiles, computed_s, database_in, node_keys
from ...record.trace import Trace
from ...transfers import drive_of
from .live_graph import Expected
from .model_files import dynamic_vram

SAME_WORK = (Level.EXACT, Level.SHAPE)
MOST_KNOWN = 10_000


@dataclass(frozen=True, slots=True)
class Foresight:
    """The knowledge of one prompt's nodes: their keys, and by node id the expectation with the margin of its seconds. `same_work`: nodes
    whose same work has run before; of the others other sizes have, or only the class."""

    keys: Mapping[str, NodeKey]
    expected: Mapping[str, Expected]
    margins_s: Mapping[str, float]
    same_work: frozenset[str] = frozenset()

    def same_margins_s(self) -> dict[str, float]:
        """Seconds by node of `same_work`; 0 of a node that was over before it could be timed."""
        return {node_id: self.margins_s.get(node_id, 0.0) for node_id in self.same_work}

    def total(self, node_ids: Iterable[str], now_s: float) -> Foretold | None:
        """The sum over the nodes that will run; None when nothing is known of any. Margins add up: a cause that slows one node slows
        all."""
        known = [node_id for node_id in node_ids if node_id in self.margins_s]
        if not known:
            return None
        seconds = sum(self.expected[node_id].compute_s for node_id in known)
        return Foretold(now_s, seconds, sum(self.margins_s[node_id] for node_id in known), len(known))


class Teacher:
    """The profiles of this user directory, from their first use to `close`. Making one costs nothing; all else belongs to one thread that
    may wait: for the drive, and a second for another program that has locked the file."""

    def __init__(self) -> None:
        self._brief: set[str] = set()  # the work of nodes that were over before they could be timed, in this session
        self._ran: set[str] = set()  # work of nodes that has been done in this session

    @cached_property
    def profiles(self) -> Profiles:
        return Profiles.open(database_in(folder_paths.get_user_directory()))

    @cached_property
    def _environment(self) -> str:
        return environment()

    def close(self) -> None:
        if "profiles" in self.__dict__:
            self.profiles.close()

    def foretell(self, prompt: Mapping[str, Any], components: Mapping[str, Iterable[str]]) -> Foresight:
        """`components` are the keys that each node loads or computes with; without any there is nothing to foretell it for."""
        self.profiles.retry()
        if not any(components.values()) or self.profiles.is_empty():
            return Foresight({}, {}, {})
        return self.foresight(prompt, self.keys(prompt, components))

    def foresight(self, prompt: Mapping[str, Any], keys: Mapping[str, NodeKey]) -> Foresight:
        """The expectations of earlier runs for the prompt's nodes with these keys."""
        expected: dict[str, Expected] = {}
        margins_s: dict[str, float] = {}
        same_work: set[str] = set()
        self.profiles.recall(keys.values())
        for node_id, key in keys.items():
            duration, peak = self.profiles.duration(key), self.profiles.peak(key)
            if duration is not None or peak is not None:
                # a peak has to be enough: its margin belongs to it
                working_set_bytes = 0 if peak is None else int(peak.high)
                expected[node_id] = Expected(0.0 if duration is None else duration.value, working_set_bytes)
            if duration is not None:
                margins_s[node_id] = duration.margin
                if duration.source in SAME_WORK:
                    same_work.add(node_id)
            elif key.ids[1] in self._brief:
                same_work.add(node_id)
        return Foresight(keys, expected, margins_s, frozenset(_with_what_led_to_them(prompt, same_work, margins_s)))

    def read_rates(self, components: Iterable[Component], measured: Mapping[str, float]) -> dict[str, float]:
        """Bytes per second by component key, as `measured` by drive in this session, else as earlier sessions did."""
        drives: dict[str, float | None] = {}
        rates: dict[str, float] = {}
        for component in components:
            sizes: dict[str, int] = {}
            for extent in component.extents:
                drive = drive_of(extent.path)
                sizes[drive] = sizes.get(drive, 0) + extent.size_bytes
            for drive in sizes:
                if drive not in drives:
                    drives[drive] = measured.get(drive) or self._rate(drive)
            slowest_s = [size_bytes / rate for drive, size_bytes in sizes.items() if (rate := drives[drive])]
            if sizes and len(slowest_s) == len(sizes) and max(slowest_s) > 0:  # drives are read side by side
                rates[component.key] = sum(sizes.values()) / max(slowest_s)
        return rates

    def learn(
        self, trace: Trace, keys: Mapping[str, NodeKey], cached: Collection[str], peaks: Mapping[str, int], rates: Mapping[str, float]
    ) -> int:
        """Learn from a prompt that has ended; anything but a success teaches nothing. Returns how many values that were."""
        self.profiles.retry()
        for known in (self._brief, self._ran):
            if len(known) > MOST_KNOWN:
                known.clear()
        told = trace.as_dict()
        spent_s = {node_id: seconds for node_id, seconds in computed_s(told).items() if node_id in keys and node_id not in cached}
        work = {node_id: keys[node_id].ids[1] for node_id in spent_s}
        if told["outcome"] == Outcome.SUCCESS.value:
            self._brief.update(work[node_id] for node_id, seconds in spent_s.items() if seconds < LEAST_S)
        first = {node_id for node_id, done in work.items() if done not in self._ran}
        self._ran.update(work.values())
        return self.profiles.observe(told, keys, cached=frozenset(cached), first=first, peaks=dict(peaks), rates=rates)

    def failures(self) -> int:
        """Prompts that could not be learned from."""
        return self.profiles.failures if "profiles" in self.__dict__ else 0

    def keys(self, prompt: Mapping[str, Any], components: Mapping[str, Iterable[str]]) -> dict[str, NodeKey]:
        """The key of each node, by the size of the pictures that it names and not by their names."""
        return node_keys(prompt, self._environment, components, picture_sizes(prompt))

    def _rate(self, drive: str) -> float | None:
        found = self.profiles.rate(drive)
        return None if found is None else found.value


def _with_what_led_to_them(prompt: Mapping[str, Any], same_work: Iterable[str], timed: Container[str]) -> set[str]:
    """The nodes, and those above them of which no time was ever kept: they have run when these did, and were over before they could be
    timed."""
    found = set(same_work)
    waiting = list(found)
    while waiting:
        node = prompt.get(waiting.pop())
        above = {source for _, source, _ in links(node)} if node is not None else set()
        brief = {source for source in above if source in prompt and source not in timed} - found
        found |= brief
        waiting += brief
    return found


def picture_sizes(prompt: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Width and height of the picture in ComfyUI's input folder that a node's `image` names, by node id. Reads headers only."""
    sizes: dict[str, tuple[int, int]] = {}
    for node_id, node in prompt.items():
        name = node["inputs"].get("image")
        if isinstance(name, str):
            # no picture, or one that the node itself will complain of
            with suppress(OSError, ValueError, Image.DecompressionBombError):
                if folder_paths.exists_annotated_filepath(name):
                    with Image.open(folder_paths.get_annotated_filepath(name)) as picture:
                        sizes[node_id] = picture.size
    return sizes


def environment() -> str:
    """The conditions under which old numbers hold: ComfyUI's version, the device, who loads weights."""
    device = model_management.get_torch_device_name(model_management.get_torch_device())
    return f"ComfyUI {comfyui_version.__version__}, {device}, {'dynamic' if dynamic_vram() else 'legacy'} patcher"
