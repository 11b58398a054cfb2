"""Each Prefetch of the device tier, carried out: pinned bytes of dynamic models are copied into their pages as far as there is room.

Weights of the node that runs cross at once, or when ComfyUI has loaded the model and made room; those needed later follow step by step. A
legacy model is not prefetched: its patcher moves weights only when it loads them.
"""

from __future__ import annotations

import logging
from typing import Any

from ...core.instructions import Prefetch
from .answers import Pending
from .context import Context
from .memory_usage import device_bytes
from .proofs import Feature

try:
    from . import onload
except ImportError:  # a ComfyUI without comfy-aimdo has no dynamic models either
    onload = None  # type: ignore[assignment]

log = logging.getLogger("residency")

RETRY_BYTES = 128 * 1024**2  # more than that has to come free before a copy that found no room is tried again


class Prefetches:
    """With the mover's lock held."""

    def __init__(self, context: Context) -> None:
        self._clock, self._models, self._contents = context.clock, context.models, context.contents
        self._answers, self._evidence = context.answers, context.evidence
        self._streams, self._headroom, self._blocks = context.streams, context.headroom, context.blocks

    def announce(self, instruction: Prefetch) -> Pending:
        """Take it on, or refuse it. Weights of the node that runs cross at once. One that is pending already becomes longer."""
        key = instruction.component.key
        pending = self._answers.pending.get(key)
        if pending is not None:
            pending.size_bytes = max(pending.size_bytes, instruction.size_bytes)
            pending.ahead = pending.ahead and instruction.ahead
        else:
            pending = self._answers.begin(instruction)
            refusal = self._refusal(key)
            if refusal:
                self._answers.finish(pending, refusal)
                return pending
            self._answers.pending[key] = pending
        if not pending.ahead:
            with self._answers.answering(key, Feature.ONLOAD):
                self._streams.settle()
                self._bring(key, pending, at_load=False)
        return pending

    def advance(self, limit_bytes: int | None) -> None:
        """Carry on the copies needed later, as far as there is room, and no more than `limit_bytes` in all."""
        ahead = [(key, pending) for key, pending in self._answers.pending.items() if pending.ahead]
        if not ahead:
            return
        self._streams.settle()
        left_bytes = limit_bytes
        for key, pending in ahead:
            loaded = next(self._models.loaded(key), None)
            if loaded is None:
                self._end(key, onload.Stop.UNKNOWN.value)
                continue
            room_bytes = self._headroom.room_for_copies()
            if left_bytes is not None:
                room_bytes = min(left_bytes, room_bytes)
            if room_bytes <= pending.retry_bytes:
                break
            with self._answers.answering(key, Feature.ONLOAD):
                done = self._copy(loaded.model, pending, room_bytes)
                if left_bytes is not None:
                    left_bytes -= done.moved_bytes
                pending.present_bytes = done.resident_bytes
                pending.retry_bytes = 0 if done.moved_bytes else room_bytes + RETRY_BYTES
                self._after_copy(key, pending, done)

    def before_load(self, key: str, patcher: Any) -> None:
        """ComfyUI is about to load the model, for a node that nobody knew to compute with it: a copy meant for later ends."""
        pending = self._answers.pending.get(key)
        if pending is not None and pending.ahead:
            pending.present_bytes = device_bytes(patcher)
            self._end(key, "its node has started and loads the rest itself")

    def after_load(self, key: str, asked_bytes: int) -> None:
        """ComfyUI has loaded the model and made room, beside `asked_bytes` of its own: a pending copy crosses now or not at all."""
        pending = self._answers.pending.get(key)
        if pending is not None:
            self._bring(key, pending, at_load=True, asked_bytes=asked_bytes)

    def _bring(self, key: str, pending: Pending, *, at_load: bool, asked_bytes: int = 0) -> None:
        """Announce the copies for the node that runs now. Those without room wait for ComfyUI's load, which makes some."""
        done = None
        for loaded in self._models.loaded(key):
            if not self._streams.reaches(loaded.model) or onload.is_complete(loaded.model):
                continue
            done = self._copy(loaded.model, pending, max(0, self._headroom.room_for_copies(asked_bytes)))
            if done.stop is onload.Stop.ROOM:
                break
        pending.present_bytes = self._contents.present_bytes(key)
        if done is None or at_load:
            self._end(key, "" if done is None or done.stop is onload.Stop.END else done.stop.value)
        else:
            self._after_copy(key, pending, done)

    def _after_copy(self, key: str, pending: Pending, done: onload.Progress) -> None:
        if done.stop is not onload.Stop.ROOM:
            self._end(key, "" if done.stop is onload.Stop.END else done.stop.value)
        elif done.moved_bytes:
            self._answers.moved(pending)

    def _end(self, key: str, reason: str) -> None:
        self._answers.finish(self._answers.pending.pop(key), reason)

    def _copy(self, patcher: Any, pending: Pending, room_bytes: int) -> onload.Progress:
        streams = self._streams
        assert streams.cuda is not None
        started_s, stream, key = self._clock(), streams.both().into, pending.component.key
        self._evidence.fills(patcher)
        if self._blocks.is_recorded(patcher):
            return onload.Progress(0, device_bytes(patcher), int(patcher.model_size()), onload.Stop.RECORDED)
        begun = streams.link.begin(stream)
        size_bytes = pending.size_bytes if pending.ahead else patcher.model_size()
        with streams.gate.aside(), streams.cuda.outside_graphs(), self._evidence.seeing_unpinned(patcher):
            done = onload.onload(patcher, streams.cuda, stream, streams.gate, room_bytes, size_bytes)
        self._evidence.proofs.went_well(Feature.ONLOAD)
        streams.link.end(begun, stream, key, done.moved_bytes, done.resident_bytes, ahead=pending.ahead)
        if done.moved_bytes and pending.started_s is None:
            pending.started_s = started_s
        pending.moved_bytes += done.moved_bytes
        told = done.moved_bytes / 1e6, 1e3 * (self._clock() - started_s), done.stop.value
        log.debug("residency: %s: %.0f MB announced in %.1f ms; %s", key, *told)
        return done

    def _refusal(self, key: str) -> str:
        loaded = next(self._models.loaded(key), None)
        if loaded is None:
            return "ComfyUI has not loaded it yet"
        if not loaded.model.is_dynamic():
            return "its patcher moves weights only when it loads the model"
        if not self._streams.reaches(loaded.model):
            return "it lies on another device than the first, or on one that shares the host's memory"
        return self._evidence.why_not(Feature.ONLOAD, loaded.model)
