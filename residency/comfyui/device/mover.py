"""The device mover of the ComfyUI host: enacts what the core has decided of the device, and nothing else.

Everything happens on the executor thread at safe points: where a node starts, around ComfyUI's own load of a model, between the steps of a
sampler (`advance`). Which of ComfyUI's two patchers a model uses is asked of the model, each time:

- dynamic (comfy-aimdo): onload copies pinned bytes into the model's device pages on a stream of its own; evicting frees pages; an Exchange
  is carried out when ComfyUI loads the model.
- legacy: a model leaves as a whole, without being copied back, because the host copy stays (`snapshot.py`). It is not prefetched.

Room is made for a whole model at once. ComfyUI frees 32 MiB at a time when a page is missing, and waits for the device each time:
two experts of 23.8 GB in 24 GB of an H100 took 12.3 s that way and 10.4 s with the room made at the node's start.

A copy that fails is answered with the reason, and ComfyUI loads what it misses. What a feature needs of ComfyUI is seen here while it is at
work (`proofs.py`), and what is not to be relied on is left out.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management as model_management

from ...core.component import Component, Tier
from ...core.device_placement import Placement
from ...core.events import Cancel, Event, Evict, Evicted, Exchange, Prefetch, TransferDone, TransferMoved, TransferStopped
from ...transfers import memory
from ...units import size
from ..language_models import WholePatcher
from ..prompt.background import Errands
from .contents import Contents
from .copy_fence import Gate
from .coverage import MOST_NODES, MOST_PASSES, Coverage
from .cuda import Cuda
from .kinds import Blocks, allocates_beside_torch, is_streamed, kind_of, surroundings
from .link import Link
from .memory_usage import SNAPSHOT_HEADROOM_BYTES, device_bytes, shares_host_memory, spare_bytes
from .models import Models
from .proofs import Behaviour, DisprovedError, Feature, Kind, Proofs
from .snapshot import Snapshots
from .storage_policy import StoragePolicy

try:
    from . import onload
    from .page_exchange import PageStore, Streams, Turn
except ImportError:  # a ComfyUI without comfy-aimdo has no dynamic models either
    onload = None  # type: ignore[assignment]

log = logging.getLogger("residency")

# Free device memory that copies leave: the allocator's own margin is 0.25 GiB, and what it needs beside is taken back page by page. Less
# where it is known what the node computes with beside its weights: that is left free as well.
HEADROOM_BYTES = 1024**3
KNOWN_HEADROOM_BYTES = 512 * 1024**2
# Copies announced per step: at the pinned rate of PCIe 5 (43 GB/s) one step of 0.2 s hides 8 GB; half of it leaves the link to the model.
STEP_BYTES = 4 * 10**9
PINNED = 2  # of a page's state, as comfy-aimdo tells it
BESIDE_TORCH = "ComfyUI's compiler allocates beside torch, which cannot tell how much; 1 GiB stays free instead of what a node needs"
CLOSING = "the device mover is being closed"
RETRY_BYTES = 128 * 1024**2  # more than that has to come free before a copy that found no room is tried again


PATIENCE_S = 30.0  # far more than copies under way, and giving tens of GB of pinned memory back, take


class DeviceHangsError(Exception):
    """What was copied for the pack does not arrive."""

    def __init__(self) -> None:
        super().__init__(f"the device has not answered for {PATIENCE_S:g} s")


@dataclass(slots=True)
class _Pending:
    """A Prefetch that has not been answered. Not `ahead`: the node that runs computes with it."""

    component: Component
    size_bytes: int
    ahead: bool
    started_s: float | None = None  # when the first bytes were announced
    future: Future[None] = field(default_factory=Future)
    moved_bytes: int = 0
    present_bytes: int = 0
    retry_bytes: int = 0  # room at which it is worth another look: each one goes through every module of the model


def _calls(function: Callable[..., object], *arguments: Any) -> object:
    return function(*arguments)


class DeviceMover:
    """Enacts Prefetch, Exchange, Cancel and Evict on the device tier. On the executor's thread; `close` may come from another one.

    `cuda` None: ComfyUI computes on a device whose memory nothing is copied to. `plan()`: where the running prompt's weights lie.
    `spare()`: bytes of host memory that copies may still take. `look()`: host memory is about to be taken in the middle of a pass; what
    the pass has fetched may leave the page cache before. `guard(function, *arguments)` calls it, and answers for what it raises: nothing
    but a missing copy may stop a pass. `headroom_bytes`: device memory that copies leave while the node runs. `_busy` is held while device
    memory is worked on, and by `close`; the executor's thread waits PATIENCE_S for it.
    """

    def __init__(
        self,
        tell: Callable[[Event], Any],
        clock: Callable[[], float],
        cuda: Cuda | None,
        plan: Callable[[], Placement],
        spare: Callable[[], int] = spare_bytes,
        look: Callable[[], object] = bool,
        guard: Callable[..., object] = _calls,
    ) -> None:
        self.models = Models()
        self.snapshots = Snapshots()
        self._tell = tell
        self._clock = clock
        self._cuda = cuda
        self.pages = None if onload is None or cuda is None else PageStore(spare, cuda)
        self.contents = Contents(self.models, self.pages, cuda, spare, plan)
        self._pending: dict[str, _Pending] = {}
        self._placed: dict[str, Exchange] = {}  # of the node that runs: they hold for each of its loads
        self._unanswered: set[str] = set()  # of those
        self._turns: list[Turn] = []  # of the node that runs
        self._look, self._guard = look, guard
        self._streams: Streams | None = None
        self.gate = Gate()
        self.proofs = Proofs()
        self.blocks = Blocks()
        self._around = surroundings()
        self._looked_at: set[Kind] = set()  # of which enough has been watched
        self._nodes_watched: Counter[Kind] = Counter()
        self._watched: dict[Kind, tuple[weakref.ReferenceType[Any], Coverage]] = {}
        self.storage = StoragePolicy(plan)
        self._stored: dict[str, tuple[bool, str]] = {}  # of models that are streamed or would be: whether it is kept, and why
        self.link = Link(clock, None if cuda is None else cuda.timed_event)
        self.headroom_bytes = HEADROOM_BYTES  # of the node that runs
        self._working_set_bytes = 0
        self._waits = False
        self._busy = threading.RLock()
        self._closer = Errands("residency device")
        self._closed: Future[None] | None = None  # the last close that was asked for

    # --- instructions ---

    def prefetch(self, instruction: Prefetch) -> Future[None]:
        """Announce the copy. What the running node computes with crosses at once; what finds no room, when ComfyUI has loaded the model.
        What is needed later follows step by step (`advance`). One that is announced already becomes longer."""
        key = instruction.component.key
        with self._working():  # else a close could answer it between being remembered and being brought
            pending = self._pending.get(key)
            if pending is not None:
                pending.size_bytes = max(pending.size_bytes, instruction.size_bytes)
                pending.ahead = pending.ahead and instruction.ahead
            else:
                pending = _Pending(instruction.component, instruction.size_bytes, instruction.ahead)
                pending.future.set_running_or_notify_cancel()
                refusal = self._refusal(key)
                if refusal:
                    self._finish(pending, refusal)
                    return pending.future
                self._pending[key] = pending
            if not pending.ahead:
                with self._answering(key, Feature.ONLOAD):
                    self._settle()
                    self._bring(key, pending, at_load=False)
        return pending.future

    def exchange(self, instruction: Exchange) -> None:
        """Remember it until ComfyUI loads the model."""
        with self._working():
            self._placed[instruction.component.key] = instruction
            self._unanswered.add(instruction.component.key)

    def cancel(self, instruction: Cancel) -> None:
        key = instruction.component.key
        with self._working():
            pending = self._pending.pop(key, None)
            if pending is not None:
                self._finish(pending, instruction.reason)
            if key in self._unanswered:
                self._stopped(key, instruction.reason)

    def evict(self, instruction: Evict) -> None:
        """Give `size_bytes` of the component back, the end of it first; a legacy model leaves as a whole."""
        key, started_s = instruction.component.key, self._clock()
        freed_bytes, refusal = 0, self._off(Feature.EVICT)
        with self._working():
            for loaded in self.models.loaded(key) if not refusal else ():
                patcher = loaded.model
                if patcher.load_device == patcher.offload_device and not patcher.is_dynamic():
                    refusal = "its device shares the host's memory: leaving it would free nothing"
                    continue
                if patcher.is_dynamic() and self.blocks.is_recorded(patcher):
                    refusal = onload.Stop.RECORDED.value
                    continue
                before_bytes = device_bytes(patcher)
                try:
                    self._leave(loaded, min(before_bytes, instruction.size_bytes - freed_bytes))
                except Exception as error:
                    refusal = self._count(key, Feature.EVICT, error)
                freed_bytes += max(0, before_bytes - device_bytes(patcher))
                if freed_bytes >= instruction.size_bytes:
                    break
        if freed_bytes:
            model_management.soft_empty_cache()
        log.debug("residency: %s: %.0f MB given back in %.1f ms", key, freed_bytes / 1e6, 1e3 * (self._clock() - started_s))
        reason = instruction.reason if freed_bytes else refusal or "nothing of it is on the device"
        self._tell(Evicted(self._clock(), key, Tier.DEVICE, freed_bytes, reason))

    def _leave(self, loaded: Any, size_bytes: int) -> None:
        patcher = loaded.model
        if patcher.is_dynamic():
            # its host copy stays where it has one: unloading the model whole would drop that as well, and its next use read the file
            self.wait_for_copies()
            patcher.partially_unload(patcher.offload_device, size_bytes)
        elif loaded.model_unload():
            model_management.current_loaded_models.remove(loaded)
        self.proofs.went_well(Feature.EVICT)

    def progress(self, key: str) -> int:
        return self.contents.present_bytes(key)

    def so_far(self, key: str) -> TransferMoved | None:
        """It posts what has moved after each copy."""
        return None

    # --- safe points ---

    def expect(self, working_set_bytes: int) -> None:
        """A node is about to start for which torch will hold so many bytes beside its weights; 0: nobody knows."""
        self._working_set_bytes = working_set_bytes
        self.headroom_bytes = KNOWN_HEADROOM_BYTES if working_set_bytes else HEADROOM_BYTES
        with self._working():
            if self._placed:
                self._placed = {key: one for key, one in self._placed.items() if key in self._unanswered}
            self._turns.clear()
        if self._watched or self.gate.watches:
            self._end_of_passes()

    @property
    def is_ahead(self) -> bool:
        """Whether copies for later nodes are announced that have not been made."""
        return bool(self._pending) and any(pending.ahead for pending in self._pending.values())

    def carry_on(self, *, waits: bool) -> None:
        """A node starts: what was announced for later ones follows its own weights; where it `waits`, between two of the node's steps, or
        behind the prompt's end: announcing 10 GB takes this thread 0.15 s, and the node does not hide it."""
        self._waits = waits
        self._follow()

    def _follow(self) -> None:
        if self._pending and not self._waits and all(pending.ahead for pending in self._pending.values()):
            self._advance(None)

    def prompt_ends(self) -> None:
        """Nobody waits for the prompt any more: what its last nodes were not to wait for follows."""
        if self._waits:
            self._advance(None)

    def advance(self) -> None:
        """Between two steps of a node: carry announced copies on as far as there is room, and no more than a step hides."""
        self._end_of_pass()
        self._advance(STEP_BYTES)

    def _advance(self, limit_bytes: int | None) -> None:
        if not self._pending:
            return
        with self._working():
            ahead = [(key, pending) for key, pending in self._pending.items() if pending.ahead]
            if not ahead:
                return
            self._settle()
            left_bytes = limit_bytes
            for key, pending in ahead:
                loaded = next(self.models.loaded(key), None)
                if loaded is None:
                    self._finish(self._pending.pop(key), onload.Stop.UNKNOWN.value)
                    continue
                room_bytes = self._room_for_copies()
                if left_bytes is not None:
                    room_bytes = min(left_bytes, room_bytes)
                if room_bytes <= pending.retry_bytes:
                    break
                with self._answering(key, Feature.ONLOAD):
                    done = self._copy(loaded.model, pending, room_bytes)
                    if left_bytes is not None:
                        left_bytes -= done.moved_bytes
                    pending.present_bytes = done.resident_bytes
                    pending.retry_bytes = 0 if done.moved_bytes else room_bytes + RETRY_BYTES
                    self._after_copy(key, pending, done)

    def _bring(self, key: str, pending: _Pending, *, at_load: bool, asked_bytes: int = 0) -> None:
        """Announce the copies of what is computed with now. What finds no room waits for ComfyUI's load, which makes some."""
        done = None
        for loaded in self.models.loaded(key):
            if not self._is_ours(loaded.model) or onload.is_complete(loaded.model):
                continue
            done = self._copy(loaded.model, pending, max(0, self._room_for_copies(asked_bytes)))
            if done.stop is onload.Stop.ROOM:
                break
        pending.present_bytes = self.contents.present_bytes(key)
        if done is None or at_load:
            self._finish(self._pending.pop(key), "" if done is None or done.stop is onload.Stop.END else done.stop.value)
        else:
            self._after_copy(key, pending, done)

    def _after_copy(self, key: str, pending: _Pending, done: onload.Progress) -> None:
        if done.stop is not onload.Stop.ROOM:
            self._finish(self._pending.pop(key), "" if done.stop is onload.Stop.END else done.stop.value)
        elif done.moved_bytes:
            now_s, moved = self._clock(), (pending.moved_bytes, pending.present_bytes)
            self._tell(TransferMoved(now_s, key, Tier.DEVICE, *moved, now_s - (pending.started_s or now_s)))

    def _copy(self, patcher: Any, pending: _Pending, room_bytes: int) -> onload.Progress:
        assert self._cuda is not None
        started_s, stream, key = self._clock(), self._copies().into, pending.component.key
        kind = kind_of(patcher, self._around)
        if kind in self._watched and (watched := self._watched[kind][0]()) is not None and watched.model is patcher.model:
            del self._watched[kind]  # what is filled from here on is filled by us
        if self.blocks.is_recorded(patcher):
            return onload.Progress(0, device_bytes(patcher), int(patcher.model_size()), onload.Stop.RECORDED)
        begun = self.link.begin(stream)
        size_bytes = pending.size_bytes if pending.ahead else patcher.model_size()
        with self.gate.aside(), self._cuda.outside_graphs(), self._seeing_unpinned(patcher, kind):
            done = onload.onload(patcher, self._cuda, stream, self.gate, room_bytes, size_bytes)
        self.proofs.went_well(Feature.ONLOAD)
        self.link.end(begun, stream, key, done.moved_bytes, done.resident_bytes, ahead=pending.ahead)
        if done.moved_bytes and pending.started_s is None:
            pending.started_s = started_s
        pending.moved_bytes += done.moved_bytes
        told = done.moved_bytes / 1e6, 1e3 * (self._clock() - started_s), done.stop.value
        log.debug("residency: %s: %.0f MB announced in %.1f ms; %s", key, *told)
        return done

    def _room_for_copies(self, asked_bytes: int = 0) -> int:
        """Device memory that copies may take beside what the node that runs has yet to allocate: what is known of it, else what ComfyUI has
        asked for."""
        assert self._cuda is not None
        coming_bytes = self._working_set_bytes - self._cuda.reserved_bytes() if self._working_set_bytes else asked_bytes
        return self._cuda.free_bytes() - max(0, coming_bytes) - self.headroom_bytes - self.contents.spared_bytes

    def _settle(self) -> None:
        """Nobody needs to wait for copies that have arrived."""
        if self._streams is not None and self._streams.into.query():
            self.gate.forget()

    # --- around ComfyUI's own load ---

    def before_load(self, patchers: Iterable[Any], working_set_bytes: int = 0) -> None:
        """ComfyUI is about to load these: what is exchanged for them leaves now, and host copies are held on to."""
        with self._working():
            if self.gate.open:
                self.wait_for_copies()
            for patcher in patchers:
                self._turns = [turn for turn in self._turns if not turn.takes(patcher)]
                key = self._key_of(patcher)
                pending = self._pending.get(key)
                if pending is not None and pending.ahead:  # of a node that nobody knew to compute with it
                    pending.present_bytes = device_bytes(patcher)
                    self._finish(self._pending.pop(key), "its node has started and loads the rest itself")
                if self._is_ours(patcher):
                    self.storage.before_load(patcher)
                    with self._answering(key, Feature.EXCHANGE, patcher):
                        self._exchange(key, patcher, working_set_bytes)
                if shares_host_memory(patcher.load_device) or patcher.is_dynamic() or self._off(Feature.HOST_COPIES):
                    continue
                if isinstance(patcher, WholePatcher):
                    continue  # its host copy is the mapped file, which it keeps itself
                try:
                    if memory.holdable_bytes() > SNAPSHOT_HEADROOM_BYTES:
                        self.snapshots.keep(patcher)
                    else:
                        self.snapshots.clear()  # what is on the device will be copied back, as stock would
                    self.proofs.went_well(Feature.HOST_COPIES)
                except Exception as error:
                    self._count(key, Feature.HOST_COPIES, error)

    def after_load(self, patchers: Iterable[Any], working_set_bytes: int) -> None:
        """ComfyUI has made room for these and gives each layer its bytes when it computes: what stands of their copies is carried out."""
        if self.pages is None:
            return
        patchers = list(patchers)
        with self._working():
            for patcher in patchers:
                key = self._key_of(patcher)
                with self._answering(key, Feature.ONLOAD):
                    pending, placed = self._pending.get(key), self._placed.get(key)
                    if pending is not None and self._is_ours(patcher):
                        self._bring(key, pending, at_load=True, asked_bytes=working_set_bytes)
                    if placed is not None and placed.left_out and self._is_ours(patcher):
                        self.pages.leave_out(patcher)
                if self._is_ours(patcher):
                    self.blocks.loaded(patcher)
                    self._watch(patcher)
            if self.gate.open or any(self._why_not(Feature.BEHIND, patcher) for patcher in patchers if self._is_ours(patcher)):
                self.wait_for_copies()
        self._follow()

    def before_pin(self) -> None:
        """ComfyUI is about to pin a module's bytes, and may take another module's pinned memory for it: copies from there must be over."""
        if self._streams is not None and not self._streams.into.query():
            self._streams.into.synchronize()

    def may_pin(self, subset: str) -> bool:
        """Whether ComfyUI may make a host copy of weights. Where there is one copy, none of what lies on the device, nor of what is read
        once; what is streamed at each step needs one in any case."""
        return not any(placed.left_out or subset.endswith("-loaded") for placed in self._placed.values())

    def _exchange(self, key: str, patcher: Any, working_set_bytes: int) -> None:
        """What was written back of the model comes back: as it is placed, or, where host memory holds copies again, into free room."""
        placed, own = self._placed.get(key), self._pending.get(key)
        if self.pages is None or self._cuda is None or (placed is None and (own is None or not self.contents.images_bytes(patcher))):
            return
        why_not = self._why_not(Feature.EXCHANGE, patcher) or (onload.Stop.RECORDED.value if self.blocks.is_recorded(patcher) else "")
        if why_not:
            if key in self._unanswered:
                self._stopped(key, why_not)
            return
        leaving = {} if placed is None else {other: placed.outside.get(victim, 0) for victim, other in self._victims(placed, patcher)}
        kind = kind_of(patcher, self._around)
        started_s, cuda = self._clock(), self._cuda
        # No more, also where more is known to come: with all of it C2 read 3.4 GB in each prompt, with this 0 to 1 (H100, 8 GiB of it).
        headroom_bytes = max(HEADROOM_BYTES, min(working_set_bytes, 2 * HEADROOM_BYTES)) + self.contents.spared_bytes
        passed_once = placed is not None and placed.left_out
        with self.gate.aside(), self._seeing_unpinned(patcher, kind):
            turn = self.pages.exchange(
                patcher,
                leaving,
                self._copies(),
                lambda: cuda.free_bytes() - headroom_bytes,
                passed_once=passed_once,
                compares=self.proofs.is_open(Behaviour.WRITTEN_BACK_EQUAL, kind),
            )
        self._turns.append(turn)
        self.proofs.went_well(Feature.EXCHANGE)
        if self.pages.compared[True]:
            self.proofs.prove(Behaviour.WRITTEN_BACK_EQUAL, kind)
        now_s, brought_bytes = self._clock(), turn.brought_bytes
        self._tell_left(turn)
        if own is not None:
            own.moved_bytes += brought_bytes
            own.started_s = started_s if own.started_s is None else own.started_s
        elif brought_bytes or key in self._unanswered:
            self._unanswered.discard(key)
            self._tell(TransferDone(now_s, key, Tier.DEVICE, brought_bytes, self.contents.present_bytes(key), now_s - started_s))

    def before_fault(self, buffer: Any, address: int, size_bytes: int) -> None:
        """ComfyUI is about to ask for pages that it computes with: what stands of the model's exchange makes room for them, and copies to
        them have arrived. Raises what waiting for those does."""
        if self._turns and not self.gate.is_aside:
            turn = next((turn for turn in self._turns if turn.buffer is buffer), None)
            if turn is not None and not turn.is_over(size_bytes):
                if turn.is_seen_again():
                    self._look()
                if turn.is_short(address, size_bytes) or turn.waits_at(address, size_bytes):
                    self._go_on(turn, address, size_bytes)
        self.gate.wait_for_range(buffer, address, size_bytes)

    def _go_on(self, turn: Turn, address: int, size_bytes: int) -> None:
        assert self._cuda is not None
        if self._cuda.capturing():
            return
        with self._working(), self._answering(self._key_of(turn.patcher), Feature.EXCHANGE, turn.patcher):
            self._turns.remove(turn)  # one that fails is over
            kind = kind_of(turn.patcher, self._around)
            with self.gate.aside(), self._cuda.outside_graphs(), self._seeing_unpinned(turn.patcher, kind):
                turn.go_on(address, size_bytes)
                turn.bring(address, size_bytes)
            self._turns.append(turn)
        self._guard(self._tell_left, turn)

    def _tell_left(self, turn: Turn) -> None:
        now_s, reason = self._clock(), "written back: host memory is too short for copies in both"
        for other, size_bytes in turn.take_left():
            self._tell(Evicted(now_s, self._key_of(other), Tier.DEVICE, size_bytes, reason))

    def _victims(self, placed: Exchange, patcher: Any) -> Iterator[tuple[str, Any]]:
        """(component, model) of those that may leave for it."""
        for component in placed.leaving:
            for loaded in self.models.loaded(component.key):
                other = loaded.model
                if self._is_ours(other) and other.model is not patcher.model and not self.blocks.is_recorded(other):
                    yield component.key, other

    def before_unload(self, patcher: Any, device: Any) -> None:
        """ComfyUI is about to take the model off the device: the host copies that were kept stand in for what would be copied back."""
        with self._working():
            if device is not None and device.type == "cpu":
                self.snapshots.restore(patcher)

    def wait_for_copies(self) -> None:
        """What is computed from here on finds every copy announced so far."""
        if self._streams is not None and self._cuda is not None:
            self._cuda.computing().wait_stream(self._streams.into)

    def close(self, *, wait: bool = True) -> None:
        """Give every copy up once what is being moved has arrived; nothing is announced any more. Only `wait` waits for the device."""
        self._closed = self._closer.submit(self._give_up)
        if wait:
            self.settle()

    def settle(self) -> None:
        """Wait for the end of a close that was asked for: before anything new, on the executor's thread. Raises DeviceHangsError."""
        try:
            if self._closed is not None:
                self._closed.result(PATIENCE_S)
        except FutureTimeoutError:
            raise DeviceHangsError from None

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Work with device memory. A driver that hangs holds the close that waits for it, and nobody else: raises DeviceHangsError."""
        if not self._busy.acquire(timeout=PATIENCE_S):
            raise DeviceHangsError
        try:
            yield
        finally:
            self._busy.release()

    def _give_up(self) -> None:
        with self._busy:
            unanswered, self._pending = list(self._pending.values()), {}
            standing, self._unanswered, self._placed = sorted(self._unanswered), set(), {}
            self._turns.clear()
            if self._streams is not None:
                self._streams.into.synchronize()
            self.gate.forget()
            self.storage.give_back()
            self.snapshots.clear()
            if self.pages is not None:
                self.pages.clear()
            self.models.clear()
        for pending in unanswered:
            self._finish(pending, CLOSING)
        for key in standing:
            self._stopped(key, CLOSING)

    # --- answers ---

    @contextmanager
    def _answering(self, key: str, feature: Feature, patcher: Any = None) -> Iterator[None]:
        """What fails in here costs time: the instruction is answered with the reason, and ComfyUI loads the rest itself."""
        try:
            yield
        except Exception as error:
            if patcher is not None and isinstance(error, DisprovedError):
                self.proofs.disprove(error.behaviour, kind_of(patcher, self._around), str(error))
                reason = str(error)
            else:
                reason = self._count(key, feature, error)
            pending = self._pending.pop(key, None)
            if pending is not None:
                pending.present_bytes = self.contents.present_bytes(key)
                self._finish(pending, reason)
            if key in self._unanswered:
                self._stopped(key, reason)

    def _count(self, key: str, feature: Feature, error: Exception) -> str:
        """The feature has failed for the component. Returns the reason."""
        log.error("residency: %s failed for %s; ComfyUI goes on without it", feature.value, key or "a model of no loader", exc_info=error)
        self.proofs.failed(feature, error)
        return f"{type(error).__name__}: {error}"

    def _finish(self, pending: _Pending, reason: str) -> None:
        now_s, key = self._clock(), pending.component.key
        duration_s = now_s - (pending.started_s or now_s)
        if reason:
            self._tell(TransferStopped(now_s, key, Tier.DEVICE, pending.moved_bytes, pending.present_bytes, duration_s, reason))
        else:
            self._tell(TransferDone(now_s, key, Tier.DEVICE, pending.moved_bytes, pending.present_bytes, duration_s))
        pending.future.set_result(None)

    def _stopped(self, key: str, reason: str) -> None:
        """An Exchange does not take place."""
        self._unanswered.discard(key)
        self._placed.pop(key, None)
        self._tell(TransferStopped(self._clock(), key, Tier.DEVICE, 0, self.contents.present_bytes(key), 0.0, reason))

    def _copies(self) -> Streams:
        if self._streams is None:
            assert self._cuda is not None
            self._streams = Streams(self._cuda.stream(), self._cuda.stream())
        return self._streams

    def _is_ours(self, patcher: Any) -> bool:
        """Whether pages of the model can be filled here: a dynamic one on the device that the stream of copies belongs to."""
        return self.pages is not None and self._cuda is not None and bool(patcher.is_dynamic()) and patcher.load_device == self._cuda.device

    def _key_of(self, patcher: Any) -> str:
        return self.models.key_of_model(patcher.model) or ""

    def _refusal(self, key: str) -> str:
        loaded = next(self.models.loaded(key), None)
        if loaded is None:
            return "ComfyUI has not loaded it yet"
        if not loaded.model.is_dynamic():
            return "its patcher moves weights only when it loads the model"
        if not self._is_ours(loaded.model):
            return "it lies on another device than the first, or on one that shares the host's memory"
        return self._why_not(Feature.ONLOAD, loaded.model)

    # --- what the features rest on ---

    def settle_proofs(self) -> None:
        """A prompt begins: settings and functions may be others by now."""
        self._around = surroundings()
        self.proofs.settle(self._around)

    def states(self) -> list[tuple[str, bool, str]]:
        """(name, on, why) of every feature, and of the models that ComfyUI streams from their files; none where there is no device to copy
        to. On any thread."""
        if self._cuda is None:
            return []
        found = [(state.feature.value, state.on, state.why) for state in self.proofs.states()]
        if allocates_beside_torch(self._cuda.device):
            found.append(("working sets of nodes", False, BESIDE_TORCH))
        stored = sorted(self._stored.items())
        if stored:
            told = "; ".join(f"{key}: {why}" for key, (_, why) in stored)
            found.append(("weights kept in host memory", all(kept for _, (kept, _) in stored), told))
        return found

    def _off(self, feature: Feature) -> str:
        return self.proofs.off.get(feature, "")

    def _why_not(self, feature: Feature, patcher: Any) -> str:
        return self.proofs.why_not(feature, kind_of(patcher, self._around))

    def _watch(self, patcher: Any) -> None:
        """Its passes begin. What is still to be seen of them costs one look at each module and pass, of MOST_PASSES of a kind's nodes."""
        kind = kind_of(patcher, self._around)
        key = self._key_of(patcher)
        self._tell_storage(key, patcher, kind)
        if self.gate.open or kind in self._watched or kind in self._looked_at:
            return
        if not self._watched:
            self.gate.watch(on=True)
        self._watched[kind] = (weakref.ref(patcher), Coverage(onload.weight_modules(patcher)))

    def _tell_storage(self, key: str, patcher: Any, kind: Kind) -> None:
        """A model that ComfyUI streams from its drive, or would, has been loaded."""
        kept, why_not = self.storage.kept(patcher), self.storage.why_not(patcher) if is_streamed(patcher) else ""
        before = self._stored.pop(key, None)
        if not key or not (kept or why_not):
            return
        self._stored[key] = bool(kept), kept or why_not
        if before is None or before[0] is not bool(kept):
            log.info("residency: %s: %s; %s of RAM are available", kind, kept or why_not, size(memory.available_bytes()))

    def _end_of_pass(self) -> None:
        """Of what has been computed since the last time."""
        if not self._watched:
            return
        for kind, (patcher_of, coverage) in list(self._watched.items()):
            patcher = patcher_of()
            against = "" if patcher is None else coverage.pass_ends(self.gate)
            if against:
                self.proofs.disprove(Behaviour.GATED, kind, against)
            elif coverage.passes:
                self.proofs.prove(Behaviour.GATED, kind)
            if patcher is None or against or coverage.passes >= MOST_PASSES:
                self._end_of_watch(kind)
        self.gate.watch(on=bool(self._watched))

    def _end_of_passes(self) -> None:
        """Another node starts."""
        self._end_of_pass()
        for kind in list(self._watched):
            self._end_of_watch(kind)
        if self.gate.watches:
            self.gate.watch(on=False)

    def _end_of_watch(self, kind: Kind) -> None:
        _, coverage = self._watched.pop(kind)
        against = coverage.ends()
        if against:
            self.proofs.disprove(Behaviour.GATED, kind, against)
        self._nodes_watched[kind] += bool(coverage.passes)
        if coverage.passes >= MOST_PASSES or self._nodes_watched[kind] >= MOST_NODES:
            self._looked_at.add(kind)

    @contextmanager
    def _seeing_unpinned(self, patcher: Any, kind: Kind) -> Iterator[None]:
        """Every page is pinned as little afterwards as it was before."""
        buffer = patcher._vbar_get()
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
