"""The policies side by side: on demand (stock ComfyUI, and the plain least- and most-recently-used caches), and the pack's manager."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from ..core.component import Mode, Tier
from ..core.device_placement import Copies
from ..core.events import DeviceObserved, HostObserved, RatesMeasured, Stalled
from ..core.events import Outcome as Ended
from ..core.timeline import Timeline, Use, UseKind, Visit
from ..record.trace import Trace
from ..runtime import Hold, Runtime
from ..session import Limits, Looks, NodeBegins, NodeEnds, PromptBegins, PromptEnds, Sight
from .comfyui_model import Consumer
from .run import Pack, Recorder
from .tiers import Victim
from .workload import Program
from .world import World

QUEUE_DEPTH = 3  # as in comfyui/prompt/queued.py


@dataclass(frozen=True, slots=True)
class OnDemand:
    """Nothing is read before a node needs it."""

    name: str
    victim: Victim = Victim.LEAST_RECENT
    exchanges: bool = False

    def pack(self, world: World, consumer: Consumer, program: Program, recorder: Recorder | None) -> Pack | None:
        return None


STOCK = OnDemand("stock")
LRU = OnDemand("lru")
MRU = OnDemand("mru", Victim.MOST_RECENT)


@dataclass(frozen=True, slots=True)
class Managed:
    """The pack: the manager of this tree behind its own runtime.

    `start_share` makes every node wait for that share of the bytes being read ahead for it; None leaves waiting to the manager.
    `informed`: the host knows rates and compute times, as after a few runs. `device_prefetch`: its device mover can prefetch. `exchanges`:
    it can exchange as well, so that weights may have one copy over two tiers. `sees_host` false: it does not tell the contents of RAM.
    `first_share`: the part of nodes' working sets that the first prompt goes by; 0: nothing is known of them then.
    """

    start_share: float | None = None
    mode: Mode = Mode.BALANCED
    victim: Victim = Victim.LEAST_RECENT
    informed: bool = True
    device_prefetch: bool = False
    exchanges: bool = False
    sees_host: bool = True
    first_share: float = 1.0

    @property
    def name(self) -> str:
        own = "ours, exchanging" if self.exchanges else "ours, device ahead" if self.device_prefetch else "ours"
        return own if self.start_share is None else f"ours, start at {self.start_share:g}"

    def pack(self, world: World, consumer: Consumer, program: Program, recorder: Recorder | None) -> Pack | None:
        return _ManagedPack(self, world, consumer, program, recorder)


OURS = Managed()
OURS_DEVICE = Managed(device_prefetch=True)
OURS_EXCHANGING = Managed(device_prefetch=True, exchanges=True)


class _ManagedPack:
    """Tells the session the facts that a host of the real ComfyUI would."""

    def __init__(self, policy: Managed, world: World, consumer: Consumer, program: Program, recorder: Recorder | None) -> None:
        self._policy, self._world, self._consumer, self._program = policy, world, consumer, program
        self._runtime = Runtime(
            clock=lambda: world.time_s,
            unix_clock=lambda: 0.0,
            at_safe_points=(Tier.DEVICE,),
        )
        self._runtime.recorder = recorder
        self._runtime.movers = {Tier.HOST: world.mover, Tier.DEVICE: world.link}
        world.mover.tell = world.link.tell = self._runtime.tell
        world.link.can_prefetch = policy.device_prefetch
        self._traces: list[Trace] = []
        consumer.after_first_pass = consumer.in_first_pass = self._look_again
        consumer.spreads = policy.device_prefetch
        if policy.informed:
            drives, drive_of = world.machine.drives, program.drive_of
            read = {key: drives[drive_of.get(key, 0)].read_bytes_per_s for key in program.components}
            machine = world.machine
            self._runtime.tell(RatesMeasured(0.0, read, machine.pinned_bytes_per_s))

    def prompt_starts(self, index: int) -> None:
        now_s, components, mode = self._world.time_s, self._program.components, self._policy.mode
        limits, sight = self._limits(), Sight(self._host_contents())
        begins = PromptBegins(now_s, f"p{index}", self._timeline(index), components, mode, {}, self._single_reader(), limits, sight)
        self._runtime.tell(begins)
        if self._runtime.trace is not None:
            self._traces.append(self._runtime.trace)
        self._world.settle()

    def node_starts(self, position: int) -> Sequence[Hold]:
        node_id = self._runtime.session.timeline.visits[position].node_id
        self._world.link.expect()
        sight = Sight(device=self._device_contents(0))
        holds = self._runtime.tell(NodeBegins(self._world.time_s, node_id, self._limits(), sight))
        self._runtime.safe_point()
        share = self._policy.start_share
        if share is None:
            return holds
        asked = {id(transfer.future): transfer.instruction.size_bytes for lane in self._world.mover.lanes for transfer in lane.queue}
        return [replace(hold, size_bytes=int(asked.get(id(hold.future), hold.size_bytes) * share)) for hold in holds]

    def node_stalled(self, seconds: float, *, waited: bool) -> None:
        self._runtime.tell(Stalled(self._world.time_s, seconds, waited))

    def node_finishes(self, position: int) -> None:
        self._runtime.tell(NodeEnds(self._world.time_s, self._limits(), Sight(self._host_contents())))

    def prompt_ends(self, index: int) -> None:
        self._runtime.tell(PromptEnds(self._world.time_s, Ended.SUCCESS))
        self._runtime.safe_point()

    def traces(self) -> list[Trace]:
        return self._traces

    def _single_reader(self) -> frozenset[str]:
        """Components whose nodes are held: those on drives that seek, or all when a start share is asked for."""
        drives, drive_of = self._world.machine.drives, self._program.drive_of
        keys = self._program.components
        return frozenset(key for key in keys if self._policy.start_share is not None or drives[drive_of.get(key, 0)].contended_share < 1)

    def _timeline(self, index: int) -> Timeline:
        visits: list[Visit] = []
        uses: list[Use] = []
        prompts, expected_from = self._program.prompts[index : index + QUEUE_DEPTH + 1], None
        if not self._program.queued:  # the same again is expected, as the ComfyUI host does
            prompts, expected_from = prompts[:1] * 2, len(prompts[0])
        for number, prompt in enumerate(prompts):
            for step in prompt:
                # what turns out to be loaded by then is told by what the host observes
                uses += [Use(len(visits), key, UseKind.COMPUTE, True) for key in step.components]
                compute_s = step.compute_s if self._policy.informed else 0.0
                known = compute_s, int(step.working_set_bytes * (self._policy.first_share if index == 0 else 1.0))
                visit = Visit(f"p{index + number}", step.node_id, step.class_type, *known, passes_once=step.passes == 1)
                visits.append(visit)
        return Timeline(tuple(visits), tuple(uses), expected_from)

    def _look_again(self) -> None:
        """In the middle of a node."""
        sight = Sight(self._host_contents(self._world.running), self._device_contents(self._world.device.working_set_bytes))
        self._runtime.tell(Looks(self._world.time_s, self._limits(), sight))
        self._runtime.safe_point()
        self._world.settle()

    def _limits(self) -> Limits:
        reserve_bytes = self._world.machine.budget_floor_bytes
        available_bytes, headroom_bytes = self._world.host.available_bytes, self._world.machine.idle_floor_bytes
        return Limits(available_bytes - reserve_bytes, reserve_bytes, self._world.device.limit_bytes, headroom_bytes)

    def _host_contents(self, in_use: Collection[str] = ()) -> HostObserved | None:
        """All that a host can find out at any time: its page cache and its pinned buffers."""
        if not self._policy.sees_host:
            return None
        world, components = self._world, self._program.components
        all_bytes = sum(component.size_bytes for component in components.values())
        # images stand from a prompt before, whose placement holds until the first node of this one starts
        one_copy = self._one_copy or bool(world.host.images)
        stays = all_bytes <= world.device.limit_bytes  # else others will push it off the device before its next use
        held: dict[str, int] = {}
        loaded: dict[str, int] = {}
        surplus: dict[str, int] = {}
        for key in components:
            if one_copy:  # what did not last until its last use will be read again before its next
                outside_bytes = self._runtime.manager.placement.outside.get(key, 0)
                loaded_bytes = self._consumer.resident_bytes(key)
                if not outside_bytes or key not in in_use:
                    loaded_bytes = min(loaded_bytes, world.link.lasting.get(key, 0), components[key].size_bytes - outside_bytes)
            else:
                loaded_bytes = self._consumer.resident_bytes(key) if stays else world.host.pins.get(key, 0)
            ranges = world.host.cached(key)
            if loaded_bytes:
                loaded[key] = loaded_bytes
            surplus_bytes = ranges.within(loaded_bytes)
            if surplus_bytes:
                surplus[key] = surplus_bytes
            if ranges.size_bytes > surplus_bytes:
                held[key] = ranges.size_bytes - surplus_bytes
        return HostObserved(world.time_s, held, loaded, surplus, world.machine.pins and not self._one_copy)

    @property
    def _one_copy(self) -> bool:
        return self._runtime.manager.placement.copies is Copies.ONE

    def _device_contents(self, working_set_bytes: int) -> DeviceObserved | None:
        if not self._policy.device_prefetch:
            return None
        world, held = self._world, dict(self._world.device.held)
        host = world.host
        copies = {key: host.pins.get(key, 0) + host.images.get(key, 0) + host.cached(key).size_bytes for key in self._program.components}
        room_bytes = world.device.limit_bytes - sum(held.values()) - working_set_bytes
        copies_bytes = host.available_bytes - world.machine.idle_floor_bytes + sum(host.pins.values()) + sum(host.images.values())
        return DeviceObserved(world.time_s, held, room_bytes, copies, copies_bytes, self._policy.exchanges)
