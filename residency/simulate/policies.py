"""The policies side by side: on demand (stock ComfyUI, and the plain least- and most-recently-used caches), and the pack's manager."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..core.component import Mode, Tier
from ..core.events import (
    BudgetChanged,
    DeviceObserved,
    NodeFinished,
    NodeStarted,
    Observed,
    Outcome,
    PromptEnded,
    PromptStarted,
    RatesMeasured,
)
from ..core.timeline import Timeline, Use, UseKind, Visit
from ..record.trace import Trace
from ..runtime import Hold, Runtime
from .comfyui_model import Consumer
from .run import Pack
from .tiers import Victim
from .workload import Program
from .world import World

QUEUE_DEPTH = 3  # as in comfyui/live.py


@dataclass(frozen=True, slots=True)
class OnDemand:
    """Nothing is read before a node needs it."""

    name: str
    victim: Victim = Victim.LEAST_RECENT

    def pack(self, world: World, consumer: Consumer, program: Program) -> Pack | None:
        return None


STOCK = OnDemand("stock")
LRU = OnDemand("lru")
MRU = OnDemand("mru", Victim.MOST_RECENT)


@dataclass(frozen=True, slots=True)
class Managed:
    """The pack: the manager of this tree behind its own runtime.

    `start_share` makes every node wait for that share of what is being read ahead for it; None leaves waiting to the manager.
    `informed`: the host knows rates and compute times, as after a few runs. `device_prefetch`: its device mover can prefetch.
    """

    start_share: float | None = None
    mode: Mode = Mode.BALANCED
    victim: Victim = Victim.LEAST_RECENT
    informed: bool = True
    device_prefetch: bool = False

    @property
    def name(self) -> str:
        own = "ours, device ahead" if self.device_prefetch else "ours"
        return own if self.start_share is None else f"ours, start at {self.start_share:g}"

    def pack(self, world: World, consumer: Consumer, program: Program) -> Pack | None:
        return _ManagedPack(self, world, consumer, program)


OURS = Managed()
OURS_DEVICE = Managed(device_prefetch=True)


class _ManagedPack:
    """Hands the manager the events that comfyui/host.py would."""

    def __init__(self, policy: Managed, world: World, consumer: Consumer, program: Program) -> None:
        self._policy, self._world, self._consumer, self._program = policy, world, consumer, program
        self._runtime = Runtime(
            clock=lambda: world.time_s,
            unix_clock=lambda: 0.0,
            device_limit_bytes=world.device.limit_bytes,
        )
        self._runtime.movers = {Tier.HOST: world.mover, Tier.DEVICE: world.link}
        world.mover.post = world.link.post = self._runtime.post
        world.link.can_prefetch = policy.device_prefetch
        self._limit_bytes: int | None = None
        self._traces: list[Trace] = []
        consumer.after_first_pass = self._look_again
        if policy.informed:
            drives, drive_of = world.machine.drives, program.drive_of
            read = {key: drives[drive_of.get(key, 0)].read_bytes_per_s for key in program.components}
            machine = world.machine
            self._runtime.post(RatesMeasured(0.0, read, machine.pinned_bytes_per_s, machine.pinned_back_bytes_per_s))

    def prompt_starts(self, index: int) -> None:
        self._look()
        timeline = self._timeline(index)
        components, mode = self._program.components, self._policy.mode
        self._runtime.post(PromptStarted(self._world.time_s, f"p{index}", timeline, components, mode, exclusive=self._exclusive()))
        if self._runtime.trace is not None:
            self._traces.append(self._runtime.trace)
        self._world.settle()

    def node_starts(self, position: int) -> Sequence[Hold]:
        self._refresh_budget()
        self._look_at_device(0)
        holds = self._runtime.post(NodeStarted(self._world.time_s, position))
        share = self._policy.start_share
        if share is None:
            return holds
        asked = {id(transfer.future): transfer.instruction.size_bytes for lane in self._world.mover.lanes for transfer in lane.queue}
        return [replace(hold, size_bytes=int(asked.get(id(hold.future), hold.size_bytes) * share)) for hold in holds]

    def node_stalled(self, seconds: float, *, waited: bool) -> None:
        self._runtime.stalled(seconds, waited=waited)

    def node_finishes(self, position: int) -> None:
        self._look()
        self._runtime.post(NodeFinished(self._world.time_s, position))

    def prompt_ends(self, index: int) -> None:
        self._runtime.post(PromptEnded(self._world.time_s, f"p{index}", Outcome.SUCCESS))

    def traces(self) -> list[Trace]:
        return self._traces

    def _refresh_budget(self) -> None:
        world = self._world
        reserve_bytes = world.machine.budget_floor_bytes
        limit_bytes = world.host.available_bytes - reserve_bytes
        if limit_bytes != self._limit_bytes:
            self._limit_bytes = limit_bytes
            self._runtime.post(BudgetChanged(world.time_s, Tier.HOST, limit_bytes, reserve_bytes))

    def _exclusive(self) -> frozenset[str]:
        """Components whose nodes are held: those on drives that seek, or all when a start share is asked for."""
        drives, drive_of = self._world.machine.drives, self._program.drive_of
        keys = self._program.components
        return frozenset(key for key in keys if self._policy.start_share is not None or drives[drive_of.get(key, 0)].contended_share < 1)

    def _timeline(self, index: int) -> Timeline:
        visits: list[Visit] = []
        uses: list[Use] = []
        depth = QUEUE_DEPTH if self._program.queued else 0
        for number, prompt in enumerate(self._program.prompts[index : index + depth + 1]):
            for step in prompt:
                # what turns out to be loaded by then is told by what the host observes
                uses += [Use(len(visits), key, UseKind.COMPUTE, True) for key in step.components]
                compute_s = step.compute_s if self._policy.informed else 0.0
                visits.append(Visit(f"p{index + number}", step.node_id, step.class_type, compute_s, step.working_set_bytes))
        return Timeline(tuple(visits), tuple(uses))

    def _look_again(self) -> None:
        """In the middle of a node."""
        self._look()
        self._look_at_device(self._world.device.working_set_bytes)
        self._world.settle()

    def _look(self) -> None:
        """What a host can find out at any time: its page cache, its pinned buffers and its device."""
        self._refresh_budget()
        world, components = self._world, self._program.components
        all_bytes = sum(component.size_bytes for component in components.values())
        stays = all_bytes <= world.device.limit_bytes  # else others will push it off the device before its next use
        held: dict[str, int] = {}
        loaded: dict[str, int] = {}
        surplus: dict[str, int] = {}
        for key in components:
            loaded_bytes = self._consumer.resident_bytes(key) if stays else world.host.pins.get(key, 0)
            ranges = world.host.cached(key)
            if loaded_bytes:
                loaded[key] = loaded_bytes
            surplus_bytes = ranges.within(loaded_bytes)
            if surplus_bytes:
                surplus[key] = surplus_bytes
            if ranges.size_bytes > surplus_bytes:
                held[key] = ranges.size_bytes - surplus_bytes
        self._runtime.post(Observed(world.time_s, Tier.HOST, held, loaded, surplus, world.machine.pins))

    def _look_at_device(self, working_set_bytes: int) -> None:
        if self._policy.device_prefetch:
            world, held = self._world, dict(self._world.device.held)
            copies = {key: world.host.pins.get(key, 0) + world.host.cached(key).size_bytes for key in self._program.components}
            room_bytes = world.device.limit_bytes - sum(held.values()) - working_set_bytes
            self._runtime.post(DeviceObserved(world.time_s, held, room_bytes, copies))
