"""The path of a device instruction with one rule broken: a check must fail. The mover's own rules are broken in comfyui/test_mover.py."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest
from story import MB, components
from test_simulate_exchange import BENCH, drawn, prompts

from residency.core.component import Mode, Tier
from residency.core.device_tier import DeviceTier
from residency.core.events import DeviceObserved, Evicted, RatesMeasured, TransferDone
from residency.core.instructions import Cancel, Evict, Exchange, Instruction, Prefetch
from residency.core.timeline import Timeline, Use, UseKind, Visit
from residency.runtime import Runtime
from residency.session import Fact, Limits, NodeBegins, NodeEnds, PromptBegins, Sight
from residency.simulate import GB, OURS_EXCHANGING, run
from residency.simulate.tiers import Host

SIZES = {"a": 12, "b": 12, "t": 10}


class Device:
    """Enacts at once and remembers on which thread. `broken`: it fails on everything."""

    def __init__(self, tell: Callable[[Any], object], *, broken: bool = False) -> None:
        self.tell, self.broken = tell, broken
        self.enacted: list[tuple[Instruction, int]] = []

    def prefetch(self, instruction: Prefetch) -> Future[None]:
        self.note(instruction)
        done: Future[None] = Future()
        done.set_result(None)
        self.tell(TransferDone(0.0, instruction.component.key, Tier.DEVICE, 0, instruction.size_bytes, 0.0))
        return done

    def evict(self, instruction: Evict) -> None:
        self.note(instruction)
        self.tell(Evicted(0.0, instruction.component.key, Tier.DEVICE, instruction.size_bytes, ""))

    def cancel(self, instruction: Cancel) -> None:
        self.note(instruction)

    def note(self, instruction: Instruction) -> None:
        if self.broken:
            raise RuntimeError("a mover that is broken")
        self.enacted.append((instruction, threading.get_ident()))

    def progress(self, key: str) -> int:
        return 0

    def so_far(self, key: str) -> None:
        return None

    def close(self) -> None: ...


def begun(*, broken: bool = False) -> tuple[Runtime, Device, list[tuple[Fact, list[Instruction]]]]:
    """A prompt whose first node has started on a device that is nearly full; its instructions wait for a safe point."""
    runtime = Runtime(clock=lambda: 0.0, at_safe_points=[Tier.DEVICE])
    device = Device(runtime.tell, broken=broken)
    runtime.movers = {Tier.DEVICE: device}
    told: list[tuple[Fact, list[Instruction]]] = []
    runtime.recorder = lambda fact, instructions: told.append((fact, list(instructions)))
    visits = [Visit("p", str(index), "Node", 1.0, MB) for index in range(3)]
    timeline = Timeline.of(visits, [Use(index, key, UseKind.COMPUTE, False) for index, key in enumerate("abt")])
    runtime.tell(RatesMeasured(0.0, {}, 1000 * MB))
    runtime.tell(PromptBegins(0.0, "p", timeline, components(**SIZES), Mode.BALANCED, limits=Limits(device_bytes=16 * MB)))
    copies = {key: size * MB for key, size in SIZES.items()}
    look = DeviceObserved(0.0, {"a": 6 * MB, "t": 8 * MB}, 2 * MB, copies)
    runtime.tell(NodeBegins(0.0, "0", sight=Sight(device=look)))
    return runtime, device, told


def what_runs_stays() -> bool:
    _, _, told = begun()
    leaving = {one.component.key for _, instructions in told for one in instructions if isinstance(one, Evict)}
    exchanges: list[Instruction] = []
    for seed in range(5):
        run(*drawn(random.Random(seed)), OURS_EXCHANGING, lambda fact, given: exchanges.extend(given))
    return "a" not in leaving and all(one.component not in one.leaving for one in exchanges if isinstance(one, Exchange))


def what_leaves_is_kept() -> bool:
    """Two models of which the device holds one and RAM the other are read once."""
    outcome = run(prompts({"a": 18, "b": 18}, "ab", 3), BENCH, OURS_EXCHANGING)
    return outcome.consumer_bytes + outcome.read_ahead_bytes <= 36 * GB


def only_the_executor_touches_the_device() -> bool:
    runtime, device, _ = begun()
    before = len(device.enacted)
    other = threading.Thread(target=lambda: runtime.tell(NodeEnds(0.0)))
    other.start()
    other.join()
    runtime.safe_point()
    return before == 0 and len(device.enacted) > 0 and {thread for _, thread in device.enacted} == {threading.get_ident()}


def what_comes_ahead_has_room() -> bool:
    """2 MB are free and what leaves is told; the working set and the node's own come first."""
    _, _, told = begun()
    instructions = [one for _, given in told for one in given]
    freed = sum(one.size_bytes for one in instructions if isinstance(one, Evict))
    ahead = sum(one.size_bytes for one in instructions if isinstance(one, Prefetch) and one.ahead)
    return ahead <= max(0, 2 * MB + freed - 6 * MB - MB)


def a_refusal_is_told() -> bool:
    runtime, _, _ = begun(broken=True)
    runtime.safe_point()
    runtime.manager.validate()
    return not runtime.manager.device.coming and not runtime.manager.device.leaving


def evicts_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    victims = DeviceTier._victims
    monkeypatch.setattr(DeviceTier, "_victims", lambda self, view: victims(self, replace(view, running=frozenset())))


def forgets_a_write_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Host, "write_back", lambda self, key, size_bytes: None)


def enacts_where_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Runtime.__init__
    monkeypatch.setattr(Runtime, "__init__", lambda self, clock, at_safe_points: made(self, clock))


def brings_without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeviceTier, "_room_bytes", lambda self: 10**15)


def loses_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runtime, "_refuse", lambda self, instruction, reason: None)


MUTATIONS = [
    (evicts_what_runs, what_runs_stays),
    (forgets_a_write_back, what_leaves_is_kept),
    (enacts_where_it_is_told, only_the_executor_touches_the_device),
    (brings_without_room, what_comes_ahead_has_room),
    (loses_a_refusal, a_refusal_is_told),
]


@pytest.mark.parametrize(("mutation", "rule"), MUTATIONS, ids=lambda one: one.__name__)
def test_a_rule_of_the_device_holds_and_its_breach_is_caught(
    mutation: Callable[[pytest.MonkeyPatch], None], rule: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
):
    assert rule()
    mutation(monkeypatch)
    assert not rule()
