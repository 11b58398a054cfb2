"""The shipping runtime, session and core, with every event of the world around them drawn from one seed.

    python tests/shuffled.py --steps 1000000        # histories from one seed after another, until so many steps are done
    python tests/shuffled.py --seed 12345 --story   # one of them again, told step by step

A world has an executor with prompts, a disk mover and a device mover whose answers come late, partly, as refusals or not as asked,
memory that others take and give, files that vanish, a user who switches the pack off and on, edits the queue and asks for components,
hooks that raise and a core that fails. What other threads do while a mover works happens inside the mover's call. After each step all that
must hold is asserted; at the end of a history everything is answered and nothing may be left waiting.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from shuffled_movers import Bytes, DeviceMover, DiskMover, mask

from residency.core.component import Component, Mode, Policy, Strategy, Tier
from residency.core.events import (
    DeviceObserved,
    Event,
    Evicted,
    HostObserved,
    Outcome,
    PrefetchAsked,
    RatesMeasured,
    ReleaseAsked,
    Stalled,
    Stepped,
    Taken,
    TransferDone,
    TransferStopped,
)
from residency.core.instructions import Cancel, Evict, Exchange, Instruction, Prefetch, Wait
from residency.core.moves import State
from residency.core.timeline import Timeline, Use, UseKind, Visit
from residency.runtime import Hold, Mover, Runtime
from residency.session import (
    NO_LIMITS,
    Fact,
    Limits,
    Looks,
    NodeBegins,
    NodeEnds,
    OrderChanges,
    Phase,
    PromptBegins,
    PromptEnds,
    SessionError,
    Sight,
    StandsAside,
)

STEPS = 300  # of one history, at most
ROUNDS = 300  # in which everything must come to rest
DEEPEST = 3  # what other threads do inside a mover's call, inside one another


class InjectedError(OSError):
    """A fault of the world's, not of what is tested."""


class World:
    """One history. `tell_story(line)` hears of each step, fact and instruction."""

    def __init__(self, seed: int, tell_story: Callable[[str], object] | None = None) -> None:
        draw = self.draw = Random(seed)
        self.tell_story = tell_story
        self.time_s = 0.0
        self.steps = 0
        self.calm = False
        self.broken: BaseException | None = None
        self._depth = 0
        self._faults = draw.choice((0.0, 0.0, 0.02, 0.1))
        self._injected = 0
        self._core_has_failed = False
        count = draw.randint(1, 5)
        self.bytes = {key: Bytes(Component(key, key, "MODEL", draw.choice((0, 1, *range(2, 40, 3))))) for key in "abcde"[:count]}
        self._alone = frozenset(key for key in self.bytes if draw.random() < 0.2)
        self._observes = draw.random() < 0.75  # its system tells what the page cache holds
        self._copies = draw.random() < 0.3
        self._legacy = draw.random() < 0.4
        self._unknown_times = draw.random() < 0.3
        self._host_room = draw.randint(0, 120)
        self._device_room: int | None = draw.choice((None, draw.randint(0, 120)))
        self.untold: set[str] = set()
        self.runtime = Runtime(lambda: self.time_s, lambda: self.time_s, draw.choice(((), (Tier.DEVICE,), (Tier.DEVICE,))))
        self.runtime.recorder = self._decided
        self.runtime.on_update = self._updated
        self.device = DeviceMover(self, self.told, exchanges=draw.random() < 0.5)
        self.disks: list[DiskMover] = []  # the last one is in use
        self._leaving: list[Callable[[], None]] = []
        self._giving_up = False
        self._prompts = 0
        self._prompt = ""  # that the host follows
        self._known: set[str] = set()
        self._queue: list[Visit] = []
        self._uses: dict[tuple[str, str], list[tuple[str, UseKind, bool]]] = {}
        self._holds: list[Hold] = []
        self._loaded_node = self._foretold = self._wishes_are_plain = False
        self._remember()
        self.instructions = 0
        self._on()

    # --- one step ---

    def step(self) -> None:
        self.steps += 1
        self.time_s += self.draw.choice((0.0, 0.01, 0.5, 3.0))
        self._one_of([*self._executor(), *self._others()])
        self.check()

    def meanwhile(self) -> None:
        if self.calm or self._depth >= DEEPEST or self.draw.random() > 0.06:
            return
        self._depth += 1
        try:
            self._one_of(self._others())
        finally:
            self._depth -= 1

    def _one_of(self, actions: Sequence[tuple[int, Callable[[], object]]]) -> None:
        action = self.draw.choices([action for _, action in actions], [weight for weight, _ in actions])[0]
        self._say(f"{'  ' * self._depth}{getattr(action, '__name__', action)}")
        action()

    def _executor(self) -> list[tuple[int, Callable[[], object]]]:
        """Events that may come from ComfyUI's own thread now."""
        session = self.runtime.session
        if not self._prompt:
            return [(6, self._prompt_begins)]
        found: list[tuple[int, Callable[[], object]]] = [(1, self._prompt_breaks), (1, self._node_asks), (1, self._records)]
        if session.phase is Phase.BETWEEN:
            following = session.next_node()
            found.append((12, self._node_begins if following is not None else self._prompt_succeeds))
            found.append((1, self._tells_nonsense))
        elif session.phase is Phase.RUNNING and all(hold.over() for hold in self._holds):
            found += [(4, self._node_loads), (3, self._node_steps)]
            if self._loaded_node:
                found.append((8, self._node_ends))
        return found

    def _others(self) -> list[tuple[int, Callable[[], object]]]:
        """Events that may come from other threads and programs now."""
        found: list[tuple[int, Callable[[], object]]] = [
            (1, self._memory_changes), (1, self._cache_is_lost), (1, self._files_change), (1, self._rates), (1, self._panel_looks),
        ]  # fmt: skip
        if any(disk.live for disk in self.disks):
            found.append((8, self._disk_goes_on))
        if any(disk.drops for disk in self.disks):
            found.append((6, self._drop_ends))
        if self._prompt and self.runtime.session.phase is not Phase.IDLE:
            found.append((2, self._order_changes))
        if self._leaving:
            found.append((4, self._someone_leaves))
        if self._giving_up:
            found.append((4, self._device_gives_up))
        if self._faults:
            found.append((1, self._core_breaks))
            found.append((1, self._off if self.runtime.movers else self._on))
        elif not self.runtime.movers:
            found.append((4, self._on))
        return found

    # --- telling ---

    def tell(self, fact: Fact) -> list[Hold]:
        """As told by the executor's thread: what fails there is left to ComfyUI."""
        try:
            return self.told(fact)
        except (InjectedError, SessionError) as error:
            self._abandon(f"left to ComfyUI: {error}")
            return []

    def told(self, fact: Any) -> list[Hold]:
        self._say(f"{'  ' * self._depth}  > {fact}")
        try:
            return self.runtime.tell(fact)
        except (InjectedError, SessionError):
            self._remember()
            raise
        except BaseException as error:
            self.broken = self.broken or error
            raise

    def answer(self, event: Any) -> None:
        """As told by a mover's thread, which outlives whatever its host does."""
        try:
            self.told(event)
        except InjectedError:
            pass

    def _abandon(self, reason: str, prompt_id: str | None = None) -> None:
        if prompt_id is None:
            self._prompt = ""
        self.runtime.abandon(reason, prompt_id)

    def perhaps_fails(self, what: str) -> None:
        if not self.calm and self.draw.random() < self._faults:
            self._injected += 1
            raise InjectedError(f"{what} fails")

    def _updated(self, trace: object, ended: bool) -> None:
        if not self.calm and self.draw.random() < self._faults / 10:
            self._injected += 1
            raise InjectedError("whoever follows the trace fails")

    def _core_breaks(self) -> None:
        """Its next decision is lost."""
        manager = self.runtime.manager
        handle = manager.handle

        def lost(event: Event) -> list[Instruction]:
            del manager.handle  # type: ignore[method-assign]
            handle(event)
            self._core_has_failed = True
            raise InjectedError("a decision is lost")

        if "handle" not in vars(manager):
            manager.handle = lost  # type: ignore[method-assign]

    def changed_untold(self, key: str) -> None:
        self.untold.add(key)

    def _say(self, line: str) -> None:
        if self.tell_story is not None:
            self.tell_story(line)

    # --- the user and the queue ---

    def _on(self) -> None:
        self.disks.append(DiskMover(self, self.answer))
        movers: dict[Tier, Mover] = {Tier.HOST: self.disks[-1]}
        if self._device_room is not None:
            movers[Tier.DEVICE] = self.device
        self.runtime.open(movers)

    def _off(self) -> None:
        prompt, self._prompt = self._prompt, ""
        movers, self.runtime.movers = self.runtime.movers, {}
        self._giving_up = Tier.DEVICE in movers

        def leave() -> None:
            if prompt:
                self._abandon("switched off", prompt)
            movers[Tier.HOST].close(wait=False)

        self._leaving.append(leave)

    def _someone_leaves(self) -> None:
        self._leaving.pop(0)()

    def _device_gives_up(self) -> None:
        self._giving_up = False
        self._guarded(self.device.close)

    def _new_visits(self, prompt_id: str, most: int) -> list[Visit]:
        visits = []
        for number in range(self.draw.randint(1, most)):
            node_id = f"{prompt_id}.{number}.{self.draw.randint(0, 999)}"
            times = 0.0 if self._unknown_times else self.draw.choice((0.0, 0.1, 2.0))
            working_set = self.draw.choice((0, 0, 5, 20))
            visits.append(Visit(prompt_id, node_id, "Node", times, working_set, passes_once=self.draw.random() < 0.2))
            uses = []
            for key in self.draw.sample(sorted(self.bytes), self.draw.choice((0, 1, 1, 1, min(2, len(self.bytes))))):
                if self._legacy:
                    kind = self.draw.choice(list(UseKind))
                    uses.append((key, kind, kind is UseKind.LOAD))
                else:
                    uses.append((key, UseKind.COMPUTE, self.draw.random() < 0.9))
            self._uses[prompt_id, node_id] = uses
        return visits

    def _timeline(self, own: Sequence[Visit]) -> Timeline:
        visits = [*own, *self._queue]
        expected_from = len(own) if not self._queue and own and self.draw.random() < 0.4 else None
        if expected_from is not None:
            visits += own
        uses = [
            Use(position, key, kind, reads)
            for position, visit in enumerate(visits)
            for key, kind, reads in self._uses[visit.prompt_id, visit.node_id]
        ]
        self._known |= {use.component for use in uses}
        return Timeline(tuple(visits), tuple(uses), expected_from)

    def _parts(self) -> dict[str, Component]:
        return {key: self.bytes[key].component for key in sorted(self._known)}

    def _order_changes(self) -> None:
        session = self.runtime.session
        own = [visit for visit in session.timeline.visits[max(0, session.position) :] if visit.prompt_id == session.prompt_id]
        if session.position >= 0 and session.phase is Phase.BETWEEN:
            own = own[1:]
        running, rest = (own[:1], own[1:]) if session.phase is Phase.RUNNING else ([], own)
        happens = self.draw.randint(0, 3)
        if happens == 0:
            self.draw.shuffle(rest)
        elif happens == 1:
            rest = rest[: self.draw.randint(0, len(rest))] + self._new_visits(session.prompt_id, 2)
        elif happens == 2:
            self._queue = []
        else:
            self._prompts += 1
            self._queue = self._queue[self.draw.randint(0, 2) :] + self._new_visits(f"q{self._prompts}", 4)
        timeline = self._timeline([*running, *rest])
        self.tell(OrderChanges(self.time_s, timeline, self._parts(), self._alone))

    # --- the executor ---

    def _prompt_begins(self) -> None:
        if not self.runtime.movers:
            self._on()
        if self._giving_up:
            self._device_gives_up()
        self._prompts += 1
        prompt_id = f"p{self._prompts}"
        self._known = set(self.draw.sample(sorted(self.bytes), self.draw.randint(0, 1)))
        if self.draw.random() < 0.3:
            self._queue = []
        elif self.draw.random() < 0.5:
            self._queue = self._new_visits(f"q{self._prompts}", 6)
        timeline = self._timeline(self._new_visits(prompt_id, 7))
        policies = {
            key: Policy(
                self.draw.choice((None, None, *Mode)), self.draw.choice((None, None, *Strategy)), self.draw.randint(-1, 1),
                self.draw.random() < 0.8, self.draw.random() < 0.3, "a node",
            )
            for key in self.bytes
            if self.draw.random() < 0.2
        }  # fmt: skip
        mode = self.draw.choice((Mode.AUTO, Mode.AUTO, *Mode))
        self._wishes_are_plain = not policies and mode is not Mode.OFF
        self._prompt, self._holds, self._loaded_node = prompt_id, [], False
        sight = self._sight(device=False, must=True)
        limits = replace(self._limits(), device_bytes=self._device_room)
        self.tell(PromptBegins(self.time_s, prompt_id, timeline, self._parts(), mode, policies, self._alone, limits, sight))

    def _node_begins(self) -> None:
        session = self.runtime.session
        own = [visit.node_id for visit in session.timeline.visits[session.position + 1 :] if visit.prompt_id == session.prompt_id]
        node_id = own[0] if self.draw.random() < 0.85 else self.draw.choice(own)
        self._foretold = node_id == own[0]
        self._loaded_node = False
        self._holds = self.tell(NodeBegins(self.time_s, node_id, self._limits(), self._sight()))
        for hold in self._holds:
            assert not hold.future.done() or hold.over()
        self._safe_point()

    def _node_loads(self) -> None:
        session = self.runtime.session
        self._loaded_node = True
        for use in session.timeline.at(session.position):
            it = self.bytes[use.component]
            self.untold.add(use.component)
            if use.reads and not it.loaded:
                if it.unreadable:
                    self._prompt_breaks()
                    return
                it.cached |= mask(0, self.draw.choice((it.component.size_bytes, self.draw.randint(0, it.component.size_bytes))))
            it.pinned = self.draw.choice((it.component.size_bytes, self.draw.randint(0, it.component.size_bytes)))
            if use.kind is UseKind.COMPUTE and self._device_room is not None:
                self._guarded(self.device.load, use.component)
                for other in self.bytes.values():
                    if self.draw.random() < 0.2:
                        other.device = self.draw.randint(0, other.device)
                it.device = self.draw.choice((it.component.size_bytes, self.draw.randint(0, it.component.size_bytes)))
            if self.draw.random() < 0.8:
                it.loaded = max(it.pinned, it.device)

    def _node_steps(self) -> None:
        if self.draw.random() < 0.3:
            session = self.runtime.session
            own = {use.component for use in session.timeline.at(session.position)}
            taken = {key: self.bytes[key].loaded for key in sorted(own & self._known)}
            if any(taken.values()):
                self.untold |= own
                self.tell(Taken(self.time_s, taken))
        self.tell(Looks(self.time_s, self._limits(), self._sight()))
        self._safe_point()
        for key in [key for key, copy in self.device.pending.items() if copy.ahead]:
            if key in self.device.pending:
                self._guarded(self.device.carry_on, key, self.draw.choice((3, 10**9)))
        self._safe_point()

    def _node_ends(self) -> None:
        session = self.runtime.session
        own = {use.component for use in session.timeline.at(session.position)}
        self.tell(NodeEnds(self.time_s, sight=self._sight(device=False)))
        self.untold |= own & set(self.runtime.manager.placement.outside)  # this host tells that it keeps what is meant for neither tier
        self._safe_point()
        if not self._faults:
            own = [key for key, copy in self.device.pending.items() if not copy.ahead]
            assert not own, f"{own} go on coming for a node that has ended"

    def _prompt_succeeds(self) -> None:
        self._end(Outcome.SUCCESS)

    def _prompt_breaks(self) -> None:
        self._end(self.draw.choice((Outcome.ERROR, Outcome.INTERRUPTED)))

    def _end(self, outcome: Outcome) -> None:
        self._prompt = ""
        self._holds = []  # an interrupt lets go at once
        self.tell(PromptEnds(self.time_s, outcome))
        self._safe_point()
        for it in self.bytes.values():
            if self.draw.random() < 0.15:  # ComfyUI's cache has let go of the model
                it.loaded = it.pinned = it.device = 0
                self.untold.add(it.component.key)

    def _node_asks(self) -> None:
        key = self.draw.choice(sorted(self.bytes))
        if self.draw.random() < 0.5:
            self.tell(PrefetchAsked(self.time_s, key, "a node asks for it"))
        else:
            self.tell(ReleaseAsked(self.time_s, key, self.draw.random() < 0.6, "a node releases it"))
        self._safe_point()

    def _records(self) -> None:
        self.tell(self.draw.choice((Stalled(self.time_s, 0.1), Stepped(self.time_s))))
        self.runtime.spent(self.time_s, self.runtime.stalled_s, None)

    def _tells_nonsense(self) -> None:
        self.tell(self.draw.choice((NodeEnds(self.time_s), NodeBegins(self.time_s, "nobody"))))

    def _safe_point(self) -> None:
        self._guarded(self.runtime.safe_point)

    def _guarded(self, function: Callable[..., object], *args: object) -> None:
        try:
            function(*args)
        except InjectedError as error:
            self._abandon(f"left to ComfyUI: {error}")

    def _limits(self) -> Limits:
        if self.draw.random() < 0.5:
            return NO_LIMITS
        reserve = self.draw.choice((0, 0, 10))
        return Limits(self._host_room - reserve, reserve)

    def _sight(self, *, device: bool = True, must: bool = False) -> Sight:
        host = None
        if self.calm or must or self.draw.random() < 0.7:
            known = sorted(self._known)
            held = {key: self.bytes[key].held for key in known} if self._observes else None
            loaded = {key: self.bytes[key].loaded for key in known if self.bytes[key].loaded}
            surplus = {key: self.bytes[key].surplus for key in known} if self._observes else {}
            host = HostObserved(self.time_s, held, loaded, surplus, self._copies)
            if self._observes:
                records = [self.runtime.manager.host.of(key) for key in known]
                quiet = {one.key for one in records if not (one.coming_bytes or one.answers_due)}
                moved = {one.key for one in records if one.loaded_bytes != self.bytes[one.key].loaded}
                self.untold = (self.untold | moved | (set(self.bytes) - self._known)) - quiet
        if not device or self._device_room is None:
            return Sight(host)
        on_device = {key: it.device for key, it in self.bytes.items() if it.device}
        room = self._device_room - sum(on_device.values())
        pinned = {key: it.pinned for key, it in self.bytes.items() if it.pinned}
        copies = self.draw.choice((0, 1000)) if self.device.exchanges else None
        return Sight(host, DeviceObserved(self.time_s, on_device, room, pinned, copies, self.device.exchanges))

    # --- others ---

    def _disk_goes_on(self) -> None:
        disk = self.draw.choice([disk for disk in self.disks if disk.live])
        waiting = [one for one in disk.live if not one.ending]
        if not waiting:
            return
        transfer = waiting[0] if self.draw.random() < 0.7 else self.draw.choice(waiting)
        if self.draw.random() < 0.07:
            disk.answer(transfer, "a read error")
        else:
            disk.go_on(transfer, self.draw.choice((1, 5, 10**9)))

    def _drop_ends(self) -> None:
        disk = self.draw.choice([disk for disk in self.disks if disk.drops])
        disk.dropped(self.draw.choice(disk.drops))

    def _memory_changes(self) -> None:
        self._host_room = max(0, self._host_room + self.draw.randint(-40, 40))
        if self._device_room is not None:
            self._device_room = max(0, self._device_room + self.draw.randint(-30, 30))

    def _cache_is_lost(self) -> None:
        it = self.bytes[self.draw.choice(sorted(self.bytes))]
        it.cached &= self.draw.choice((0, self.draw.getrandbits(64)))
        self.untold.add(it.component.key)

    def _files_change(self) -> None:
        it = self.bytes[self.draw.choice(sorted(self.bytes))]
        it.unreadable = "" if it.unreadable else "no such file"

    def _rates(self) -> None:
        rates = {key: self.draw.choice((1.0, 20.0)) for key in self.bytes if self.draw.random() < 0.7}
        try:
            self.told(RatesMeasured(self.time_s, rates, self.draw.choice((None, 50.0))))
        except InjectedError:
            pass

    def _panel_looks(self) -> None:
        try:
            self.runtime.look(wait=False)
        except InjectedError:
            pass
        for trace in self.runtime.traces:
            trace.head()

    # --- what must hold ---

    def _remember(self) -> None:
        """What is on its way to the host and was not told to stop, for the next decision."""
        self._announced_by = self.runtime.manager
        self._announced = {key for key, one in self._announced_by.host.coming.items() if one.state is State.ANNOUNCED}

    def _decided(self, fact: Fact, instructions: Sequence[Instruction]) -> None:
        try:
            self._check_decision(fact, instructions)
        except BaseException as error:
            self.broken = self.broken or error
            raise
        finally:
            self._remember()

    def _check_decision(self, fact: Fact, instructions: Sequence[Instruction]) -> None:
        for one in instructions:
            self._say(f"{'  ' * self._depth}  < {one}")
        self.instructions += len(instructions)
        manager, session = self.runtime.manager, self.runtime.session
        manager.validate()
        if isinstance(fact, Evicted) and not fact.freed_bytes:
            self.untold.add(fact.component)  # what could not be given back is counted on no longer
        if isinstance(fact, TransferStopped) and fact.present_bytes != self.bytes[fact.component].held:
            self.untold.add(fact.component)
        announced, host = self._announced if self._announced_by is manager else set(), manager.host
        looked = isinstance(fact, PromptBegins | NodeBegins | NodeEnds | Looks) and fact.sight.host is not None
        if not looked and any(isinstance(one, Prefetch) and one.tier is Tier.HOST for one in instructions):
            assert host.used_bytes <= host.limit_bytes, f"{host.used_bytes} bytes of {host.limit_bytes}"
        if isinstance(fact, TransferDone | TransferStopped) and fact.tier is Tier.HOST:
            announced = announced - {fact.component}
        last = self.runtime.traces[-1].outcome if self.runtime.traces else None
        if isinstance(fact, PromptEnds | StandsAside) and last not in (None, Outcome.SUCCESS):
            going_on = [one.key for one in host.coming.values() if one.state is State.ANNOUNCED]
            assert not going_on, f"{going_on} goes on being read for nobody"
        if looked:  # limits were decided first, with what an earlier look had told
            self.untold |= {one.component.key for one in instructions if one.tier is Tier.HOST}
        uses = session.timeline.at(session.position) if session.phase is Phase.RUNNING else ()
        running, computes = {use.component for use in uses}, {use.component for use in uses if use.kind is UseKind.COMPUTE}
        # what lies where is decided before the node is known, which nobody has foretold here
        asked_away = isinstance(fact, ReleaseAsked) or (isinstance(fact, NodeBegins) and not self._foretold)
        for one in instructions:
            key, size_bytes = one.component.key, one.component.size_bytes
            if isinstance(one, Prefetch):
                assert 0 <= one.start_bytes <= one.size_bytes <= size_bytes, one
                if one.tier is Tier.HOST:
                    assert one.start_bytes < one.size_bytes and key not in announced, one
                    announced = announced | {key}
            elif isinstance(one, Evict) and one.tier is Tier.HOST:
                assert 0 <= one.keep_bytes < (size_bytes if one.upto_bytes is None else one.upto_bytes) <= size_bytes, one
                assert one.upto_bytes is not None or key not in host.coming, one
                assert one.upto_bytes is not None or asked_away or key not in running, one
            elif isinstance(one, Evict):
                assert asked_away or key not in computes, one
            elif isinstance(one, Cancel) and one.tier is Tier.HOST:
                assert key in announced, one
                announced = announced - {key}
            elif isinstance(one, Wait):
                assert key in host.coming and key in running, one

    def check(self) -> None:
        """Between two steps: everything that is on its way is so because somebody brings it."""
        if self.broken is not None:
            raise self.broken
        runtime, manager = self.runtime, self.runtime.manager
        manager.validate()
        assert self._core_has_failed or sum(runtime.failures.values()) <= self._injected, runtime.failures
        deferred = list(runtime._deferred)
        assert not runtime._due
        self._check_answers("bring", (one.key for disk in self.disks for one in disk.live), list(manager.host.coming))
        owed = (one.key for one in manager.host.records.values() for _ in range(one.answers_due))
        self._check_answers("drop", (one.key for disk in self.disks for one in disk.drops), owed)
        told = {one.component.key for one in deferred if isinstance(one, Prefetch)} | set(self.device.pending)
        assert set(manager.device.coming) <= told, f"nobody brings {set(manager.device.coming) - told} to the device"
        owed = (one.key for one in manager.device.records.values() for _ in range(one.answers_due))
        self._check_answers("drop from the device", (one.component.key for one in deferred if isinstance(one, Evict)), owed)
        standing = {one.component.key for one in deferred if isinstance(one, Exchange)} | self.device.unanswered
        assert set(manager.placement.standing) <= standing, f"nobody exchanges {set(manager.placement.standing) - standing}"
        if self._observes and not self._core_has_failed:
            for key, record in manager.host.records.items():
                if not (record.coming_bytes or record.answers_due or key in self.untold):
                    assert record.held_bytes == self.bytes[key].held, f"{key}: {record.held_bytes}, there are {self.bytes[key].held}"
        running = [trace for trace in runtime.traces if trace.outcome is None]
        assert running == ([runtime.trace] if runtime.trace is not None else []), "a trace without an end"
        assert (runtime.trace is None) == (runtime.session.phase is Phase.IDLE)

    def _check_answers(self, what: str, told: Iterable[str], due: Iterable[str]) -> None:
        """What the core waits for is just what movers were told to do; a new core knows nothing of what the one before has told them."""
        asked, expected = Counter(told), Counter(due)
        assert expected <= asked if self._core_has_failed else expected == asked, f"told to {what}: {asked}, answers due: {expected}"

    def finish(self) -> None:
        """Nothing happens any more but what was begun: all is answered, no node waits, and another look changes nothing."""
        self.calm = True
        vars(self.runtime.manager).pop("handle", None)
        while self._leaving:
            self._someone_leaves()
        if self._giving_up:
            self._device_gives_up()
        for it in self.bytes.values():
            it.unreadable = ""
        self._come_to_rest()
        assert all(hold.over() for hold in self._holds), "a node waits for ever"
        session, manager = self.runtime.session, self.runtime.manager
        if session.phase is not Phase.IDLE and self._prompt:
            for _ in range(ROUNDS):
                before = self.instructions
                self.tell(Looks(self.time_s, Limits(self._host_room), self._sight()))
                self._come_to_rest()
                if self.instructions == before:
                    break
            else:
                raise AssertionError("looking at what does not change goes on to move things")
            if session.phase is Phase.BETWEEN and self._wishes_are_plain and self._observes and not self._copies:
                self._nothing_is_forgotten()
        if self._prompt:
            self._end(Outcome.SUCCESS)
        self._come_to_rest()
        self.check()
        assert not manager.host.in_flight or session.phase is Phase.IDLE
        for trace in self.runtime.traces:
            told = trace.as_dict()
            assert told["outcome"] != "running" and all(node["end_s"] is not None for node in told["nodes"])

    def _nothing_is_forgotten(self) -> None:
        """Where all weights fit into host memory, what is read next is there."""
        session, host = self.runtime.session, self.runtime.manager.host
        if sum(it.component.size_bytes + it.surplus for it in self.bytes.values()) > self._host_room:
            return
        for read in session.timeline.reads[session.timeline.first_read_number(session.position + 1) :]:
            record, size_bytes = host.of(read.component), self.bytes[read.component].component.size_bytes
            there = record.held_bytes + record.loaded_bytes >= size_bytes
            assert there or record.state is State.REFUSED, f"{read.component} is not read ahead: {record}"

    def _come_to_rest(self) -> None:
        for _ in range(ROUNDS):
            busy = False
            for disk in self.disks:
                for transfer in list(disk.live):
                    busy = True
                    disk.go_on(transfer, 10**9)
                for drop in list(disk.drops):
                    busy = True
                    disk.dropped(drop)
            self._safe_point()
            for key, copy in list(self.device.pending.items()):
                if copy.ahead and key in self.device.pending:
                    busy = True
                    self.device.carry_on(key, 10**9)
            self.check()
            if not busy:
                return
        raise AssertionError("it does not come to rest")


def run(seed: int, tell_story: Callable[[str], object] | None = None) -> int:
    """One history. Returns its steps; raises what has failed."""
    world = World(seed, tell_story)
    for _ in range(world.draw.randint(1, STEPS)):
        world.step()
    world.finish()
    return world.steps


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=100_000, help="until so many steps are done (100000)")
    parser.add_argument("--first-seed", type=int, default=0, help="the first history's (0)")
    parser.add_argument("--seed", type=int, help="one history alone")
    parser.add_argument("--story", action="store_true", help="tell every step, fact and instruction")
    parser.add_argument("--record", action="store_true", help="write the totals where docs/reliability.md takes them from")
    chosen = parser.parse_args(arguments)
    seeds = itertools.count(chosen.first_seed) if chosen.seed is None else [chosen.seed]
    steps, histories, started_s = 0, 0, time.monotonic()
    logging.disable(logging.CRITICAL)  # faults are told by the hundred
    try:
        for seed in seeds:
            try:
                steps += run(seed, print if chosen.story else None)
            except BaseException:
                print(f"seed {seed} fails; to see it again: python tests/shuffled.py --seed {seed} --story", flush=True)
                raise
            histories += 1
            if steps >= chosen.steps:
                break
    finally:
        logging.disable(logging.NOTSET)
    print(f"{steps:,} steps in {histories:,} histories held, {time.monotonic() - started_s:.0f} s")
    if chosen.record:
        sys.path.insert(0, str(Path(__file__).parent / "comfyui"))
        from totals import record

        record("shuffled", {"steps": steps, "histories": histories, "first_seed": chosen.first_seed})
    return 0


if __name__ == "__main__":
    sys.exit(main())
