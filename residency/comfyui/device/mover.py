"""The device mover of the ComfyUI host: brings weights to the device ahead of their use, and gives their room back.

Everything happens on the executor thread at safe points: node boundaries (`node_starts`), ComfyUI's own load of a model, the steps of a
sampler (`advance`). Which of ComfyUI's two patchers a model uses is asked of the model, each time:

- dynamic (comfy-aimdo): onload copies pinned bytes into the model's device pages on a stream of its own; evicting frees pages.
- legacy: a model leaves as a whole, without being copied back, because the host copy stays (`snapshot.py`). It is not prefetched.

Room is made for a whole model at once. ComfyUI frees 32 MiB at a time when a page is missing, and waits for the device each time:
two experts of 23.8 GB in 24 GB of an H100 took 12.3 s that way and 10.4 s with the room made at the node's start.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management as model_management
import torch

from ...core.component import Component, Tier
from ...core.events import Cancel, Event, Evict, Evicted, Prefetch, TransferDone, TransferMoved, TransferStopped
from ...transfers import memory
from ..language_models import WholePatcher
from ..prompt.background import Errands
from .copy_fence import Gate
from .link import Link
from .memory_usage import SNAPSHOT_HEADROOM_BYTES, copied_bytes, device_bytes, free_bytes, pinned_in_all, resident_bytes, spare_bytes
from .models import Models
from .snapshot import Snapshots

try:
    from . import onload
    from .page_exchange import PageStore, Streams
except ImportError:  # a ComfyUI without comfy-aimdo has no dynamic models either
    onload = None  # type: ignore[assignment]

log = logging.getLogger("residency")

# Free device memory that copies leave: the allocator's own margin is 0.25 GiB, and what it needs beside is taken back page by page. Less
# where it is known what the node computes with beside its weights: that is left free as well.
HEADROOM_BYTES = 1024**3
KNOWN_HEADROOM_BYTES = 512 * 1024**2
# Copies announced per step: at the pinned rate of PCIe 5 (43 GB/s) one step of 0.2 s hides 8 GB; half of it leaves the link to the model.
STEP_BYTES = 4 * 10**9
RETRY_BYTES = 128 * 1024**2  # more than that has to come free before a copy that found no room is tried again


@dataclass(slots=True)
class _Pending:
    """A Prefetch that has not been answered."""

    component: Component
    size_bytes: int
    started_s: float | None = None  # when the first bytes were announced
    future: Future[None] = field(default_factory=Future)
    moved_bytes: int = 0
    present_bytes: int = 0
    retry_bytes: int = 0  # room at which it is worth another look: each one goes through every module of the model


class DeviceMover:
    """Answers Prefetch and Evict on the device tier. On the executor's thread; `close` may come from another one.

    `_busy` is held while device memory is worked on, and by `close`.
    """

    def __init__(self, tell: Callable[[Event], Any], clock: Callable[[], float]) -> None:
        self.models = Models()
        self.snapshots = Snapshots()
        self._tell = tell
        self._clock = clock
        self.spared_bytes = 0  # device memory that the user wants left free
        self.one_copy = False  # weights lie on the device or in host memory, not in both
        self.victims: Callable[[], list[str]] = list  # components that may leave the device, best first
        self.pages = None if onload is None else PageStore(spare_bytes)
        self._pending: dict[str, _Pending] = {}
        device = model_management.get_torch_device()
        self._device = device if device.type == "cuda" else None  # asked once: this is looked at before every node
        self._stream: torch.cuda.Stream | None = None  # into the device
        self._out: torch.cuda.Stream | None = None
        self.gate = Gate()
        self.link = Link(clock)
        # what lay on the device and in pins of a model when all that could come was there: a decoder never uses its encoder, and looking at
        # each module takes 20 ms
        self._in_vain: weakref.WeakKeyDictionary[Any, tuple[int, int]] = weakref.WeakKeyDictionary()
        self._headroom_bytes = HEADROOM_BYTES  # of the node that runs
        self._working_set_bytes = 0
        self._has_steps = self._single_pass = False
        self._busy = threading.RLock()
        self._closer = Errands("residency device")
        self._closed: Future[None] | None = None  # the last close that was asked for

    # --- what is there ---

    def resident_bytes(self, key: str) -> int:
        """Bytes of the component that need no reading."""
        found = (resident_bytes(loaded.model, self._images_bytes(loaded.model)) for loaded in self.models.loaded(key))
        return max(found, default=0)

    def _images_bytes(self, patcher: Any) -> int:
        return self.pages.held_bytes(patcher) if self.pages else 0

    def held(self) -> dict[str, int]:
        """Bytes on the device by component."""
        found = {key: sum(device_bytes(loaded.model) for loaded in self.models.loaded(key)) for key in self.models.alive()}
        return {key: size_bytes for key, size_bytes in found.items() if size_bytes > 0}

    def in_host(self) -> dict[str, int]:
        """Bytes by component that have a copy in host memory which can cross the link at its full rate, or stands in for the device's."""
        found: dict[str, int] = {}
        for key in self.models.alive() if not self.one_copy else ():
            for loaded in self.models.loaded(key):
                found[key] = found.get(key, 0) + copied_bytes(loaded.model)
        return found

    def host_capacity_bytes(self) -> int:
        """What host copies of weights could take in all: what is left for them, and what ComfyUI's and our pinned copies hold already."""
        return spare_bytes() + pinned_in_all() + (self.pages.slots.total_bytes if self.pages else 0)

    def room_bytes(self) -> int | None:
        """What weights may take beside all that is on the device now; None where it has no memory of its own."""
        if self._device is None:
            return None
        return int(model_management.get_free_memory(self._device)) - self._headroom_bytes - self.spared_bytes

    def limit_bytes(self) -> int | None:
        """What weights may take in all, beside what other programs hold by now; None where the device has no memory of its own."""
        if self._device is None:
            return None
        there_bytes = int(model_management.get_free_memory(self._device)) + sum(self.held().values())
        return max(0, there_bytes - int(model_management.minimum_inference_memory()) - self.spared_bytes)

    # --- instructions ---

    def prefetch(self, instruction: Prefetch) -> Future[None]:
        """Announce the copy; `advance` carries it out, step by step. One that is announced already becomes longer."""
        known = self._pending.get(instruction.component.key)
        if known is not None:
            known.size_bytes = max(known.size_bytes, instruction.size_bytes)
            return known.future
        pending = _Pending(instruction.component, instruction.size_bytes)
        pending.future.set_running_or_notify_cancel()
        refusal = self._refusal(instruction.component.key)
        if refusal:
            self._finish(pending, refusal)
        else:
            self._pending[instruction.component.key] = pending
        return pending.future

    def cancel(self, instruction: Cancel) -> None:
        pending = self._pending.pop(instruction.component.key, None)
        if pending is not None:
            self._finish(pending, instruction.reason)

    def evict(self, instruction: Evict) -> None:
        """Give `size_bytes` of the component back, the end of it first; a legacy model leaves as a whole."""
        key, started_s = instruction.component.key, self._clock()
        freed_bytes, refusal = 0, ""
        for loaded in self.models.loaded(key):
            patcher = loaded.model
            if patcher.load_device == patcher.offload_device and not patcher.is_dynamic():
                refusal = "its device shares the host's memory: leaving it would free nothing"
                continue
            before_bytes = device_bytes(patcher)
            if patcher.is_dynamic() and self.one_copy:
                refusal = "its room is exchanged page by page when the next model loads"
            elif patcher.is_dynamic():
                # its pinned host copy stays: unloading the model whole would drop that as well, and the next use would read the file
                self.wait_for_copies()
                patcher.partially_unload(patcher.offload_device, min(before_bytes, instruction.size_bytes - freed_bytes))
            elif loaded.model_unload():
                model_management.current_loaded_models.remove(loaded)
            freed_bytes += max(0, before_bytes - device_bytes(patcher))
            if freed_bytes >= instruction.size_bytes:
                break
        if freed_bytes:
            model_management.soft_empty_cache()
        log.debug("residency: %s: %.0f MB given back in %.1f ms", key, freed_bytes / 1e6, 1e3 * (self._clock() - started_s))
        reason = instruction.reason if freed_bytes else refusal or "nothing of it is on the device"
        self._tell(Evicted(self._clock(), key, Tier.DEVICE, freed_bytes, reason))

    def progress(self, key: str) -> int:
        return self.held().get(key, 0)

    def so_far(self, key: str) -> TransferMoved | None:
        """It posts what has moved after each copy."""
        return None

    # --- safe points ---

    def expect(self, working_set_bytes: int) -> None:
        """A node is about to start for which torch will hold so many bytes beside its weights; 0: nobody knows."""
        self._working_set_bytes = working_set_bytes
        self._headroom_bytes = KNOWN_HEADROOM_BYTES if working_set_bytes else HEADROOM_BYTES

    def node_starts(self, keys: Iterable[str], *, has_steps: bool, single_pass: bool) -> None:
        """The node that starts computes with these: what is pinned of them crosses at once, beside ComfyUI's own preparations. What was
        announced for later nodes follows; where the node `has_steps`, between two of them, which hides the announcing as well.
        `single_pass`: it goes through its models once."""
        if self._device is None or onload is None:
            return
        self._has_steps, self._single_pass = has_steps, single_pass
        complete = True
        with self._busy:
            self._settle()
            for key in keys:
                for loaded in self.models.loaded(key):
                    if self._is_ours(loaded.model) and not self.one_copy:
                        complete = self._bring(loaded.model) and complete
        if complete and not has_steps:
            self._advance(None)

    def advance(self) -> None:
        """Between two steps of a node: carry announced copies on as far as there is room, and no more than a step hides."""
        self._advance(STEP_BYTES)

    def _advance(self, limit_bytes: int | None) -> None:
        if not self._pending:
            return
        with self._busy:
            self._settle()
            left_bytes = limit_bytes
            for key, pending in list(self._pending.items()):
                loaded = next(self.models.loaded(key), None)
                if loaded is None:
                    self._finish(self._pending.pop(key), onload.Stop.UNKNOWN.value)
                    continue
                room_bytes = self._room_for_copies(loaded.model.load_device)
                if left_bytes is not None:
                    room_bytes = min(left_bytes, room_bytes)
                if room_bytes <= pending.retry_bytes:
                    break
                started_s = self._clock()
                done = self._copy(loaded.model, room_bytes, pending.size_bytes, ahead=True)
                if left_bytes is not None:
                    left_bytes -= done.moved_bytes
                if done.moved_bytes and pending.started_s is None:
                    pending.started_s = started_s
                pending.moved_bytes += done.moved_bytes
                pending.present_bytes = done.resident_bytes
                pending.retry_bytes = 0 if done.moved_bytes else room_bytes + RETRY_BYTES
                if done.stop is not onload.Stop.ROOM:
                    reason = "" if done.stop is onload.Stop.END else done.stop.value
                    self._finish(self._pending.pop(key), reason)
                elif done.moved_bytes:
                    now_s, moved = self._clock(), (pending.moved_bytes, pending.present_bytes)
                    self._tell(TransferMoved(now_s, key, Tier.DEVICE, *moved, now_s - (pending.started_s or now_s)))

    def _bring(self, patcher: Any, asked_bytes: int = 0) -> bool:
        """Announce the copies of a model that is computed with now. Whether that was all: nothing of it is left that could cross."""
        if onload.is_complete(patcher):
            return True
        there = (device_bytes(patcher), copied_bytes(patcher))
        if self._in_vain.get(patcher.model) == there:
            return True
        room_bytes = self._room_for_copies(patcher.load_device, asked_bytes)
        if room_bytes <= 0:
            return False
        done = self._copy(patcher, room_bytes, patcher.model_size(), ahead=False)
        if not done.moved_bytes and done.stop is onload.Stop.UNPINNED:
            self._in_vain[patcher.model] = there
        return done.stop is not onload.Stop.ROOM

    def _copy(self, patcher: Any, room_bytes: int, size_bytes: int, *, ahead: bool) -> onload.Progress:
        started_s, stream, key = self._clock(), self._copies(patcher.load_device), self._key_of(patcher)
        begun = self.link.begin(stream)
        done = onload.onload(patcher, stream, self.gate, room_bytes, size_bytes)
        self.link.end(begun, stream, key, done.moved_bytes, done.resident_bytes, ahead=ahead)
        told = done.moved_bytes / 1e6, 1e3 * (self._clock() - started_s), done.stop.value
        log.debug("residency: %s: %.0f MB announced in %.1f ms; %s", key, *told)
        return done

    def _room_for_copies(self, device: torch.device, asked_bytes: int = 0) -> int:
        """Device memory that copies may take beside what the node that runs has yet to allocate: what is known of it, else what ComfyUI has
        asked for."""
        coming_bytes = self._working_set_bytes - torch.cuda.memory_reserved(device) if self._working_set_bytes else asked_bytes
        return free_bytes(device) - max(0, coming_bytes) - self._headroom_bytes - self.spared_bytes

    def _settle(self) -> None:
        """Nobody needs to wait for copies that have arrived."""
        if self._stream is not None and self._stream.query():
            self.gate.forget()

    def before_load(self, patchers: Iterable[Any], working_set_bytes: int = 0) -> None:
        """ComfyUI is about to load these: what is on its way to them is theirs now, and host copies are held on to."""
        with self._busy:
            if self.gate.open:
                self.wait_for_copies()
            for patcher in patchers:
                pending = self._pending.pop(self._key_of(patcher), None)
                if pending is not None:
                    pending.present_bytes = device_bytes(patcher)
                    self._finish(pending, "its node has started and loads the rest itself")
                if self._is_ours(patcher):
                    self._exchange(patcher, working_set_bytes)
                if patcher.load_device.type != "cuda" or patcher.is_dynamic():
                    continue
                if isinstance(patcher, WholePatcher):
                    continue  # its host copy is the mapped file, which it keeps itself
                if memory.available_bytes() > SNAPSHOT_HEADROOM_BYTES:
                    self.snapshots.keep(patcher)
                else:
                    self.snapshots.clear()  # what is on the device will be copied back, as stock would

    def after_load(self, patchers: Iterable[Any], working_set_bytes: int) -> None:
        """ComfyUI has made room for these and gives each layer its bytes when it computes: bring what is pinned over at the full rate."""
        if onload is None:
            return
        complete = True
        with self._busy:
            for patcher in patchers:
                if self._is_ours(patcher):
                    complete = self._bring(patcher, working_set_bytes) and complete
                    if self.pages is not None and self.one_copy and self._single_pass:
                        self.pages.leave_out(patcher)
            if self.gate.open:
                self.wait_for_copies()
        if complete and not self._has_steps:
            self._advance(None)

    def before_pin(self) -> None:
        """ComfyUI is about to pin a module's bytes, and may take another module's pinned memory for it: copies from there must be over."""
        if self._stream is not None and not self._stream.query():
            self._stream.synchronize()

    def may_pin(self, subset: str) -> bool:
        """Whether ComfyUI may make a host copy of weights; what is streamed at each step needs one in any case."""
        return not (self.one_copy and (self._single_pass or subset.endswith("-loaded")))

    def _exchange(self, patcher: Any, working_set_bytes: int) -> None:
        """Bring back what of the model was written back, in exchange for what is needed later."""
        if self.pages is None or not (self.one_copy or self._images_bytes(patcher)):
            return
        leaving = [entry.model for key in self.victims() for entry in self.models.loaded(key)] if self.one_copy else []
        leaving = [other for other in leaving if self._is_ours(other) and other.model is not patcher.model]
        headroom_bytes = max(HEADROOM_BYTES, min(working_set_bytes, 2 * HEADROOM_BYTES)) + self.spared_bytes
        if self._out is None:
            self._out = torch.cuda.Stream(patcher.load_device)  # type: ignore[no-untyped-call]
        started_s, streams = self._clock(), Streams(self._copies(patcher.load_device), self._out)
        brought_bytes, gone = self.pages.exchange(
            patcher, leaving, streams, lambda: free_bytes(patcher.load_device) - headroom_bytes, passed_once=self._single_pass
        )
        now_s = self._clock()
        for other, size_bytes in gone:
            reason = "written back: host memory is too short for copies in both"
            self._tell(Evicted(now_s, self._key_of(other), Tier.DEVICE, size_bytes, reason))
        if brought_bytes:
            present_bytes, key = device_bytes(patcher), self._key_of(patcher)
            self._tell(TransferDone(now_s, key, Tier.DEVICE, brought_bytes, present_bytes, now_s - started_s))

    def _is_ours(self, patcher: Any) -> bool:
        """Whether pages of the model can be filled here: a dynamic one on the device that the stream of copies belongs to."""
        return onload is not None and self._device is not None and bool(patcher.is_dynamic()) and patcher.load_device == self._device

    def _key_of(self, patcher: Any) -> str:
        return self.models.key_of_model(patcher.model) or ""

    def before_unload(self, patcher: Any, device: Any) -> None:
        """ComfyUI is about to take the model off the device: the host copies that were kept stand in for what would be copied back."""
        with self._busy:
            if device is not None and device.type == "cpu":
                self.snapshots.restore(patcher)

    def wait_for_copies(self) -> None:
        """What is computed from here on finds every copy announced so far."""
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)

    def close(self, *, wait: bool = True) -> None:
        """Give every copy up once what is being moved has arrived; nothing is announced any more. Only `wait` waits for the device."""
        self._closed = self._closer.submit(self._give_up)
        if wait:
            self.settle()

    def settle(self) -> None:
        """Wait for the end of a close that was asked for: before anything new, on the executor's thread."""
        if self._closed is not None:
            self._closed.result()

    def _give_up(self) -> None:
        with self._busy:
            unanswered, self._pending = list(self._pending.values()), {}
            if self._stream is not None:
                self._stream.synchronize()
            self.gate.forget()
            self.snapshots.clear()
            if self.pages is not None:
                self.pages.clear()
            self.models.clear()
        for pending in unanswered:
            self._finish(pending, "the device mover is being closed")

    def _copies(self, device: torch.device) -> torch.cuda.Stream:
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        return self._stream

    def _refusal(self, key: str) -> str:
        loaded = next(self.models.loaded(key), None)
        if loaded is None:
            return "ComfyUI has not loaded it yet"
        if not loaded.model.is_dynamic():
            return "its patcher moves weights only when it loads the model"
        if not self._is_ours(loaded.model):
            return "it lies on another device than the first, or on one that shares the host's memory"
        return ""

    def _finish(self, pending: _Pending, reason: str) -> None:
        now_s, key = self._clock(), pending.component.key
        duration_s = now_s - (pending.started_s or now_s)
        if reason:
            self._tell(TransferStopped(now_s, key, Tier.DEVICE, pending.moved_bytes, pending.present_bytes, duration_s, reason))
        else:
            self._tell(TransferDone(now_s, key, Tier.DEVICE, pending.moved_bytes, pending.present_bytes, duration_s))
        pending.future.set_result(None)
