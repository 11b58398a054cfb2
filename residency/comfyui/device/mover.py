"""The device mover of the ComfyUI host: enacts the core's decisions about the device, and nothing else.

Everything happens on the executor thread at safe points: where a node starts, around ComfyUI's own load of a model, between the steps of a
sampler (`advance`). Which of ComfyUI's two patchers a model uses is asked of the model, each time:

- dynamic (comfy-aimdo): pinned bytes are copied into the model's device pages on a stream of its own (`prefetches.py`); evicting frees
  pages; an Exchange is carried out when ComfyUI loads the model (`exchanges.py`).
- legacy: a model leaves as a whole, without being copied back, because the host copy stays (`snapshot.py`). It is not prefetched.

Room is made for a whole model at once. ComfyUI frees 32 MiB at a time when a page is missing, and waits for the device each time:
two experts of 23.8 GB in 24 GB of an H100 took 12.3 s that way and 10.4 s with the room made at the node's start.

A copy that fails is answered with the reason (`answers.py`), and ComfyUI loads what it misses. Whether ComfyUI behaves as a feature needs
it is seen at work (`evidence.py`); where it does not, the feature is left out.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

import comfy.model_management as model_management

from ...core.device_placement import Placement
from ...core.events import Event, TransferMoved
from ...core.instructions import Cancel, Evict, Exchange, Prefetch
from ...transfers import memory
from ..language_models import WholePatcher
from ..prompt.background import Errands
from .answers import Answers
from .contents import Contents
from .context import Context
from .copy_streams import CopyStreams
from .cuda import Cuda
from .evidence import Evidence
from .exchanges import Exchanges
from .headroom import Headroom
from .kinds import RECORDED, Blocks, allocates_beside_torch
from .memory_usage import SNAPSHOT_HEADROOM_BYTES, device_bytes, shares_host_memory
from .models import Models
from .prefetches import Prefetches
from .proofs import Feature
from .small_weights import SmallWeights
from .snapshot import Snapshots
from .storage_policy import StoragePolicy

try:
    from .page_exchange import PageStore, Turn
except ImportError:  # a ComfyUI without comfy-aimdo has no dynamic models either
    PageStore = None  # type: ignore[assignment, misc]

log = logging.getLogger("residency")

# Copies announced per step: at the pinned rate of PCIe 5 (43 GB/s) one step of 0.2 s hides 8 GB; half of it leaves the link to the model.
STEP_BYTES = 4 * 10**9
BESIDE_TORCH = "ComfyUI's compiler allocates beside torch, which cannot tell how much; 1 GiB stays free instead of what a node needs"
CLOSING = "the device mover is being closed"
PATIENCE_S = 30.0  # far more than copies under way, and giving tens of GB of pinned memory back, take


class DeviceHangsError(Exception):
    """A copy that was made for the pack does not arrive."""

    def __init__(self) -> None:
        super().__init__(f"the device has not answered for {PATIENCE_S:g} s")


def _calls(function: Callable[..., object], *arguments: Any) -> object:
    return function(*arguments)


class _Working:
    """Work with device memory. A driver that hangs holds the close that waits for it, and nobody else: raises DeviceHangsError."""

    __slots__ = ("busy",)

    def __init__(self, busy: Any) -> None:
        self.busy = busy

    def __enter__(self) -> None:
        if not self.busy.acquire(timeout=PATIENCE_S):
            raise DeviceHangsError

    def __exit__(self, *raised: object) -> None:
        self.busy.release()


class DeviceMover:
    """Enacts Prefetch, Exchange, Cancel and Evict on the device tier. On the executor's thread; `close` may come from another one.

    `cuda` None: ComfyUI computes on a device whose memory nothing is copied to. `plan()`: where the running prompt's weights lie.
    `spare()`: bytes of host memory that copies may still take. `look()`: host memory is about to be taken in the middle of a pass; the
    pass's fetched bytes may leave the page cache before. `guard(function, *arguments)` calls it, and answers for its errors: nothing
    but a missing copy may stop a pass. `_busy` is held while device memory is worked on, and by `close`; the executor's thread waits
    PATIENCE_S for it.
    """

    def __init__(
        self,
        tell: Callable[[Event], Any],
        clock: Callable[[], float],
        cuda: Cuda | None,
        plan: Callable[[], Placement],
        spare: Callable[[], int],
        look: Callable[[], object] = bool,
        guard: Callable[..., object] = _calls,
    ) -> None:
        self._clock, self._cuda = clock, cuda
        self._look, self._guard = look, guard
        copied_to = None if PageStore is None else cuda
        self.models = Models()
        self.snapshots = Snapshots()
        self.pages = None if copied_to is None else PageStore(spare, copied_to, clock)
        self.contents = Contents(self.models, self.pages, cuda, spare, plan)
        self.storage = StoragePolicy(plan)
        self._small = SmallWeights()
        self.streams = CopyStreams(copied_to, clock)
        self.evidence = Evidence(self.streams.gate)
        self.headroom = Headroom(copied_to, self.contents)
        self._blocks = Blocks()
        self._answers = Answers(tell, clock, self.contents.present_bytes, self.evidence)
        context = Context(clock, self.models, self.contents, self._answers, self.evidence, self.streams, self.headroom, self._blocks)
        self._prefetches = Prefetches(context)
        self.exchanges = Exchanges(context, self.pages)
        self._waits = False  # for the node's steps: nothing follows its own weights at once
        self._busy = threading.RLock()
        self._working = _Working(self._busy)
        self._closer = Errands("residency device")
        self._closed: Future[None] | None = None  # the last close that was asked for

    # --- instructions ---

    def prefetch(self, instruction: Prefetch) -> Future[None]:
        """Announce the copy. Weights of the running node cross at once; those that find no room, when ComfyUI has loaded the model. Weights
        needed later follow step by step (`advance`). One that is announced already becomes longer."""
        with self._working:  # else a close could answer it between being remembered and being brought
            return self._prefetches.announce(instruction).future

    def exchange(self, instruction: Exchange) -> None:
        """Remember it until ComfyUI loads the model."""
        with self._working:
            self._answers.place(instruction)

    def cancel(self, instruction: Cancel) -> None:
        with self._working:
            self._answers.cancel(instruction.component.key, instruction.reason)

    def evict(self, instruction: Evict) -> None:
        """Give `size_bytes` of the component back, the end of it first; a legacy model leaves as a whole."""
        key, started_s = instruction.component.key, self._clock()
        freed_bytes, refusal = 0, self.evidence.off(Feature.EVICT)
        with self._working:
            for loaded in self.models.loaded(key) if not refusal else ():
                patcher = loaded.model
                if patcher.load_device == patcher.offload_device and not patcher.is_dynamic():
                    refusal = "its device shares the host's memory: leaving it would free nothing"
                    continue
                if patcher.is_dynamic() and self._blocks.is_recorded(patcher):
                    refusal = RECORDED
                    continue
                before_bytes = device_bytes(patcher)
                try:
                    self._leave(loaded, min(before_bytes, instruction.size_bytes - freed_bytes))
                except Exception as error:
                    refusal = self.evidence.failed(key, Feature.EVICT, error)
                freed_bytes += max(0, before_bytes - device_bytes(patcher))
                if freed_bytes >= instruction.size_bytes:
                    break
        if freed_bytes:
            model_management.soft_empty_cache()
        log.debug("residency: %s: %.0f MB given back in %.1f ms", key, freed_bytes / 1e6, 1e3 * (self._clock() - started_s))
        self._answers.evicted(key, freed_bytes, instruction.reason if freed_bytes else refusal or "nothing of it is on the device")

    def _leave(self, loaded: Any, size_bytes: int) -> None:
        patcher = loaded.model
        if patcher.is_dynamic():
            # its host copy stays where it has one: unloading the model whole would drop that as well, and its next use read the file
            self.streams.wait_for_copies()
            patcher.partially_unload(patcher.offload_device, size_bytes)
        elif loaded.model_unload():
            model_management.current_loaded_models.remove(loaded)
        self.evidence.proofs.went_well(Feature.EVICT)

    def progress(self, key: str) -> int:
        return self.contents.present_bytes(key)

    def so_far(self, key: str) -> TransferMoved | None:
        """None: moved bytes are told after each copy."""
        return None

    # --- safe points ---

    def expect(self, working_set_bytes: int) -> None:
        """A node is about to start for which torch will hold so many bytes beside its weights; 0: nobody knows."""
        self.headroom.expect(working_set_bytes)
        with self._working:
            self._answers.node_starts()
            self.exchanges.clear()
        self.evidence.node_ends()

    @property
    def is_ahead(self) -> bool:
        """Whether copies for later nodes are announced that have not been made."""
        return any(pending.ahead for pending in self._answers.pending.values())

    def carry_on(self, *, waits: bool) -> None:
        """A node starts: copies announced for later ones follow its own weights; where it `waits`, between two of the node's steps, or
        behind the prompt's end: announcing 10 GB takes this thread 0.15 s, and the node does not hide it."""
        self._waits = waits
        self._follow()

    def _follow(self) -> None:
        if not self._waits and all(pending.ahead for pending in self._answers.pending.values()):
            self._advance(None)

    def prompt_ends(self) -> None:
        """Nobody waits for the prompt any more: copies that its last nodes were not to wait for follow."""
        if self._waits:
            self._advance(None)

    def advance(self) -> None:
        """Between two steps of a node: carry announced copies on as far as there is room, and no more than a step hides."""
        self.evidence.pass_ends()
        self._advance(STEP_BYTES)

    def _advance(self, limit_bytes: int | None) -> None:
        if self._answers.pending:
            with self._working:
                self._prefetches.advance(limit_bytes)

    # --- around ComfyUI's own load ---

    def before_load(self, patchers: Iterable[Any], working_set_bytes: int = 0) -> None:
        """ComfyUI is about to load these: pages exchanged for them leave now, and host copies are held on to."""
        with self._working:
            if self.streams.gate.open:
                self.streams.wait_for_copies()
            for patcher in patchers:
                key = self._key_of(patcher)
                self.exchanges.forget_turns_with(patcher)
                self._prefetches.before_load(key, patcher)
                if self.streams.reaches(patcher):
                    self._small.announce(patcher)
                    self.storage.before_load(patcher)
                    with self._answers.answering(key, Feature.EXCHANGE, patcher):
                        self.exchanges.before_load(key, patcher, working_set_bytes)
                self._keep_host_copy(key, patcher)

    def _keep_host_copy(self, key: str, patcher: Any) -> None:
        if shares_host_memory(patcher.load_device) or patcher.is_dynamic() or self.evidence.off(Feature.HOST_COPIES):
            return
        if isinstance(patcher, WholePatcher):
            return  # its host copy is the mapped file, which it keeps itself
        try:
            if memory.holdable_bytes() > SNAPSHOT_HEADROOM_BYTES:
                self.snapshots.keep(patcher)
            else:
                self.snapshots.clear()  # what is on the device will be copied back, as stock would
            self.evidence.proofs.went_well(Feature.HOST_COPIES)
        except Exception as error:
            self.evidence.failed(key, Feature.HOST_COPIES, error)

    def after_load(self, patchers: Iterable[Any], working_set_bytes: int) -> None:
        """ComfyUI has made room for these and gives each layer its bytes when it computes: their pending copies are carried out."""
        if self.pages is None:
            return
        ours = [patcher for patcher in patchers if self.streams.reaches(patcher)]
        with self._working:
            for patcher in ours:
                key = self._key_of(patcher)
                with self._answers.answering(key, Feature.ONLOAD):
                    self._prefetches.after_load(key, working_set_bytes)
                    self.exchanges.after_load(key, patcher)
                self._blocks.loaded(patcher)
                self.storage.loaded(key, patcher, self.evidence.kind(patcher))
                self.evidence.watch(patcher)
            if self.streams.gate.open or any(self.evidence.why_not(Feature.BEHIND, patcher) for patcher in ours):
                self.streams.wait_for_copies()
        self._follow()

    def before_fault(self, buffer: Any, address: int, size_bytes: int) -> None:
        """ComfyUI is about to ask for pages that it computes with: the rest of the model's exchange makes room for them, and copies to them
        have arrived. Raises as waiting for those does."""
        turn = self.exchanges.turn_at(buffer)
        if turn is not None and not turn.is_over(size_bytes):
            if turn.is_seen_again():
                self._look()
            if turn.is_short(address, size_bytes) or turn.waits_at(address, size_bytes):
                self._go_on(turn, address, size_bytes)
        self.streams.gate.wait_for_range(buffer, address, size_bytes)

    def _go_on(self, turn: Turn, address: int, size_bytes: int) -> None:
        assert self._cuda is not None
        if self._cuda.capturing():
            return
        with self._working, self._answers.answering(self._key_of(turn.patcher), Feature.EXCHANGE, turn.patcher):
            self.exchanges.go_on(turn, address, size_bytes)
        self._guard(self.exchanges.tell_left, turn)

    def before_unload(self, patcher: Any, device: Any) -> None:
        """ComfyUI is about to take the model off the device: the host copies that were kept take the place of copying it back."""
        with self._working:
            if device is not None and device.type == "cpu":
                self.snapshots.restore(patcher)

    # --- life ---

    def settle_proofs(self) -> None:
        """A prompt begins: settings and functions may be others by now."""
        self.evidence.settle()

    def states(self) -> list[tuple[str, bool, str]]:
        """(name, on, why) of every feature, and of the models that ComfyUI streams from their files; none where there is no device to copy
        to. On any thread."""
        if self._cuda is None:
            return []
        found = [(state.feature.value, state.on, state.why) for state in self.evidence.proofs.states()]
        if allocates_beside_torch(self._cuda.device):
            found.append(("working sets of nodes", False, BESIDE_TORCH))
        return found + self.storage.states()

    def close(self, *, wait: bool = True) -> None:
        """Give every copy up once those under way have arrived; nothing is announced any more. Only `wait` waits for the device."""
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

    def _give_up(self) -> None:
        with self._busy:
            pending, unanswered = self._answers.take_all()
            self.exchanges.clear()
            self.streams.give_up()  # first: what is given back below must not be written to any more
            self.storage.give_back()
            self.snapshots.clear()
            if self.pages is not None:
                self.pages.clear()
            self.models.clear()
        for one in pending:
            self._answers.finish(one, CLOSING)
        for key in unanswered:
            self._answers.stop(key, CLOSING)

    def _key_of(self, patcher: Any) -> str:
        return self.models.key_of_model(patcher.model) or ""
