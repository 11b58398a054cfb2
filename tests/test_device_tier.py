"""The device tier as stories, and what must hold whatever arrives when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from story import MB, components

from residency.component import Mode, Tier
from residency.events import (
    Cancel,
    Event,
    Evict,
    Evicted,
    Instruction,
    NodeFinished,
    NodeStarted,
    Observed,
    Outcome,
    Prefetch,
    PromptEnded,
    PromptStarted,
    TransferDone,
    TransferStopped,
)
from residency.manager import Manager
from residency.simulate import GB, OURS, OURS_DEVICE, Machine, Program, Step, run
from residency.simulate.baseline import scenarios
from residency.timeline import Timeline, Use, UseKind, Visit

Told = list[tuple[str, str, int]]


def computing(order: str, working_set_mb: int = 10) -> Timeline:
    visits = tuple(Visit("p", str(position), "Node", 1.0, working_set_mb * MB) for position in range(len(order)))
    return Timeline(visits, tuple(Use(position, key, UseKind.COMPUTE, True) for position, key in enumerate(order) if key != "-"))


class DeviceHost:
    """All components are in the host tier; what goes to the device waits in `flight`, what leaves it leaves at once."""

    def __init__(
        self, order: str, device_mb: int, mode: Mode = Mode.BALANCED, *, can: bool = True, working_set_mb: int = 10, **sizes: int
    ) -> None:
        parts = components(**sizes)
        self.manager = Manager(1000 * MB, device_mb * MB, device_prefetch=can)
        self.flight: list[Prefetch] = []
        self.present: dict[str, int] = {}
        self.log: list[Instruction] = []
        self.give(PromptStarted(0.0, "o", Timeline((), ()), parts, mode))
        self.give(Observed(0.0, Tier.HOST, {key: part.size_bytes for key, part in parts.items()}))
        self.give(PromptStarted(0.0, "p", computing(order, working_set_mb), parts, mode))

    def give(self, event: Event) -> list[Instruction]:
        instructions = [one for one in self.manager.handle(event) if one.tier is Tier.DEVICE]
        self.log += instructions
        for one in instructions:
            key = one.component.key
            if isinstance(one, Prefetch):
                self.flight.append(one)
            elif isinstance(one, Evict):
                freed = self.present.pop(key, 0) - one.keep_bytes
                if one.keep_bytes:
                    self.present[key] = one.keep_bytes
                self.give(Evicted(0.0, key, Tier.DEVICE, freed, one.reason))
            elif isinstance(one, Cancel):
                self.flight = [prefetch for prefetch in self.flight if prefetch.component.key != key]
                self.give(TransferStopped(0.0, key, Tier.DEVICE, 0, self.present.get(key, 0), 0.0, one.reason))
        return instructions

    def node(self, position: int, key: str, size_mb: int) -> list[Instruction]:
        """It starts; what it computes with is on the device by its end."""
        instructions = self.give(NodeStarted(float(position), position))
        if key != "-":
            self.present[key] = size_mb * MB
        return instructions

    def end(self, position: int) -> None:
        self.give(Observed(position + 1.0, Tier.DEVICE, dict(self.present)))
        self.give(NodeFinished(position + 1.0, position))

    def land(self) -> None:
        prefetch = self.flight.pop(0)
        self.present[prefetch.component.key] = prefetch.size_bytes
        self.give(TransferDone(0.0, prefetch.component.key, Tier.DEVICE, 0, prefetch.size_bytes, 0.0))


def told(instructions: list[Instruction]) -> Told:
    return [(type(i).__name__, i.component.key, 0 if isinstance(i, Cancel) else i.size_bytes // MB) for i in instructions]


def test_while_a_node_computes_the_next_components_come_as_far_as_there_is_room():
    host = DeviceHost("abc", 100, a=40, b=30, c=30)
    assert told(host.node(0, "a", 40)) == [("Prefetch", "b", 30), ("Prefetch", "c", 20)]  # 10 are the running node's own


def test_a_host_that_cannot_is_not_asked():
    assert told(DeviceHost("abc", 100, can=False, a=40, b=30, c=30).node(0, "a", 40)) == []


def test_nothing_comes_while_it_is_not_known_what_the_running_node_needs_itself():
    assert told(DeviceHost("ab", 100, working_set_mb=0, a=40, b=30).node(0, "a", 40)) == []


def test_what_is_used_later_or_never_again_makes_room_and_what_is_used_sooner_does_not():
    host = DeviceHost("xabx", 100, x=30, a=40, b=40)
    assert told(host.node(0, "x", 30)) == [("Prefetch", "a", 40), ("Prefetch", "b", 20)]
    host.land()
    host.land()
    host.end(0)
    mark = len(host.log)
    host.node(1, "a", 40)
    assert told(host.log[mark:]) == [("Evict", "x", 20), ("Prefetch", "b", 40)]  # x is used after b


def test_what_the_host_holds_no_copy_of_does_not_leave_the_device():
    host = DeviceHost("xabx", 100, x=30, a=40, b=40)
    host.node(0, "x", 30)
    host.land()
    host.land()
    host.end(0)
    host.give(Observed(1.0, Tier.HOST, {"a": 40 * MB, "b": 40 * MB}))
    mark = len(host.log)
    host.node(1, "a", 40)
    assert told(host.log[mark:]) == []


def test_high_vram_evicts_nothing():
    host = DeviceHost("-ab", 60, Mode.HIGH_VRAM, old=40, a=40, b=10)
    host.present = {"old": 40 * MB}
    host.give(Observed(0.0, Tier.DEVICE, dict(host.present)))
    assert "Evict" not in [kind for kind, _, _ in told(host.node(0, "-", 0))]


def test_a_node_that_starts_ends_the_copy_of_its_own_component():
    host = DeviceHost("ab", 100, a=40, b=30)
    host.node(0, "a", 40)
    host.end(0)
    assert ("Cancel", "b", 0) in told(host.node(1, "b", 30))


def test_a_refusal_holds_for_the_rest_of_the_prompt():
    host = DeviceHost("abc", 100, a=40, b=30, c=30)
    host.node(0, "a", 40)
    refused = host.flight.pop(0)
    host.give(TransferStopped(0.0, refused.component.key, Tier.DEVICE, 0, 0, 0.0, "cannot"))
    host.end(0)
    assert told(host.node(1, "b", 30)) == []


orders = st.text("abc", min_size=1, max_size=8)
sizes = st.fixed_dictionaries({key: st.integers(1, 50) for key in "abc"})


@given(orders, sizes, st.integers(60, 160), st.integers(1, 10), st.data())
def test_the_device_never_holds_more_than_it_may_and_gives_up_nothing_that_runs(
    order: str, size_mb: dict[str, int], limit_mb: int, working_mb: int, data: st.DataObject
):
    host = DeviceHost(order, limit_mb, working_set_mb=working_mb, **size_mb)
    for position, key in enumerate(order):
        mark = len(host.log)
        resident_before = dict(host.present)
        # the device mover of the host makes room for the node itself, least recently used first
        for other in list(host.present):
            if sum(host.present.values()) - host.present.get(key, 0) + size_mb[key] * MB > (limit_mb - working_mb) * MB and other != key:
                del host.present[other]
        host.give(Observed(float(position), Tier.DEVICE, dict(host.present)))
        host.node(position, key, size_mb[key])
        for _ in range(data.draw(st.integers(0, 2))):
            if host.flight:
                host.land()
        assert sum(host.present.values()) + working_mb * MB <= limit_mb * MB
        assert not [i for i in host.log[mark:] if isinstance(i, Evict) and i.component.key == key], resident_before
        host.end(position)
    host.give(PromptEnded(9.0, "p", Outcome.SUCCESS))
    assert not host.flight and not host.manager._device.budget.in_flight


@given(orders, sizes)
def test_when_all_fits_each_component_comes_once_and_nothing_leaves(order: str, size_mb: dict[str, int]):
    host = DeviceHost(order, 400, **size_mb)
    for position, key in enumerate(order):
        host.node(position, key, size_mb[key])
        while host.flight:
            host.land()
        host.end(position)
    asked = [key for kind, key, _ in told(host.log) if kind == "Prefetch"]
    assert len(asked) == len(set(asked)) and set(asked) == set(order) - {order[0]}
    assert not [i for i in host.log if isinstance(i, Evict | Cancel)]


def test_the_simulated_device_hides_what_crosses_the_link_behind_the_node_before():
    machine = Machine("bench", scenarios()[0].machine.drives, 14 * GB, 100 * GB, 10 * GB, 5 * GB, 10 * GB, 5 * GB, 8 * GB, 4 * GB)
    parts = components(a=6_000, b=6_000, c=6_000)
    steps = tuple(Step(key, "Node", 1.0, (key,), 4, GB // 2) for key in "abc")
    warm = Program("warm", parts, (steps, steps, steps), queued=False)
    plain, ahead = (run(warm, machine, policy).prompts_s[-1] for policy in (OURS, OURS_DEVICE))
    assert ahead < plain - 0.05


def test_it_is_never_slower_on_the_measured_scenarios():
    for scenario in scenarios():
        plain, ahead = (run(scenario.program, scenario.machine, policy).prompts_s[-1] for policy in (OURS, OURS_DEVICE))
        assert ahead <= plain + 0.01
