"""Waiting for weights inside a forward pass, on a device whose time is counted: what the meter says is what the device stood still."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from residency.comfyui.device.weight_waits import FOLDED, WeightWaits, is_missing
from residency.core.events import Stepped, Waited


class Event:
    """`record` keeps the moment at which its stream gets there; `query` asks whether the host's clock is past that."""

    def __init__(self, machine):
        self.machine, self.at_s = machine, None

    def record(self, stream):
        self.at_s = stream.free_s = max(stream.free_s, self.machine.now_s)

    def query(self):
        return self.at_s <= self.machine.now_s

    def elapsed_time(self, other):
        assert self.query() and other.query(), "an event that was not passed has no time"
        return (other.at_s - self.at_s) * 1e3


class Stream:
    free_s = 0.0


class Machine:
    """One thread, one device with a computing stream and one for copies; `stood_s` is how long computing stood still for weights."""

    def __init__(self):
        self.now_s, self.stood_s, self.marks = 0.0, 0.0, 0
        self.compute, self.copies = Stream(), Stream()

    def clock(self):
        return self.now_s

    def computing(self):
        return self.compute

    def capturing(self):
        return False

    def timed_event(self):
        self.marks += 1
        return Event(self)

    def forward(self, waits, module, read_s, copy_s, compute_s, *, launch_s=0.0, ahead_s=0.0):
        """One module as comfy.ops treats it: read on this thread, announce the copy, let computing wait for it, compute.
        `ahead_s`: an earlier copy of it arrives only so long from now."""
        asked = waits.asks([module], copies_under_way=ahead_s > 0)
        idle_from_s = max(self.compute.free_s, self.now_s)
        arrives_s = self.now_s + ahead_s
        if ahead_s:
            self.compute.free_s = max(self.compute.free_s, arrives_s)
        module._prefetch = {"resident": not (read_s or copy_s)}
        self.now_s += read_s
        if read_s or copy_s:
            self.copies.free_s = max(self.copies.free_s, self.now_s) + copy_s
            arrives_s = max(arrives_s, self.copies.free_s)
        waits.given(asked, [module], self.copies, ahead_s > 0)
        if read_s or copy_s or ahead_s:
            self.stood_s += max(0.0, arrives_s - idle_from_s)
            self.compute.free_s = max(self.compute.free_s, arrives_s)
        self.now_s += launch_s
        self.compute.free_s = max(self.compute.free_s, self.now_s) + compute_s

    def synchronise(self):
        self.now_s = max(self.now_s, self.compute.free_s)


class Module:
    """The last byte of 100 of a model of which the last bytes are missing."""

    base_addr, offset = 1000, 100

    def __init__(self, missing_bytes=1, place=99):
        self._v = (self, self.base_addr + place, 1)
        self.missing_bytes = missing_bytes

    def loaded_size(self):
        return self.offset - self.missing_bytes


def told(events):
    return sum(event.seconds for event in events if isinstance(event, Waited))


seconds = st.sampled_from([0.0, 0.01, 0.25, 1.0])


@given(st.lists(st.lists(st.tuples(seconds, seconds, seconds, seconds, seconds), max_size=6), max_size=5))
def test_the_device_has_stood_still_for_weights_as_long_as_the_trace_says(steps):
    """Whatever is read, copied, launched and computed: reading behind which the device was busy is no stall."""
    machine = Machine()
    waits = WeightWaits(machine.clock, machine)
    waits.begin()
    events = []
    for step in steps:
        for read_s, copy_s, compute_s, launch_s, ahead_s in step:
            machine.forward(waits, Module(), read_s, copy_s, compute_s, launch_s=launch_s, ahead_s=ahead_s)
        events += waits.steps_end(1)
    machine.synchronise()
    machine.now_s = max(machine.now_s, machine.copies.free_s)
    events += waits.node_ends()
    assert told(events) == pytest.approx(machine.stood_s) and not waits.fails
    assert sum(isinstance(event, Stepped) for event in events) == len(steps)


def test_a_step_is_told_when_the_device_has_got_there_and_in_its_place():
    machine = Machine()
    waits = WeightWaits(machine.clock, machine)
    waits.begin()
    machine.forward(waits, Module(), 0.0, 2.0, 1.0)
    assert waits.steps_end(1) == []  # announced at once; the device is two seconds behind
    machine.synchronise()
    machine.forward(waits, Module(), 0.5, 0.0, 1.0)
    assert waits.steps_end(1) == [Waited(0.0, 0.0, 2.0), Stepped(0.0, 1), Waited(3.5, 3.0, 0.5), Stepped(3.5)]


def test_weights_that_are_all_there_cost_no_event_and_events_are_used_again():
    machine = Machine()
    waits = WeightWaits(machine.clock, machine)
    waits.begin()
    for _ in range(100):
        machine.forward(waits, Module(missing_bytes=0), 0.0, 0.0, 0.01)
        machine.forward(waits, Module(missing_bytes=9, place=90), 0.0, 0.0, 0.01)  # in front of what is missing
    machine.synchronise()
    assert (machine.marks, [type(event) for event in waits.steps_end(1)]) == (0, [Stepped])
    for _ in range(50):
        machine.forward(waits, Module(), 0.0, 0.0, 0.01)  # pages are missing, this module's are not
        machine.forward(waits, Module(), 0.1, 0.0, 0.01)
        machine.synchronise()
        waits.steps_end(1)
    assert machine.marks == 2


def test_a_node_that_reports_no_steps_keeps_no_more_events_than_the_device_is_behind():
    machine = Machine()
    waits = WeightWaits(machine.clock, machine)
    waits.begin()
    for _ in range(20 * FOLDED):
        machine.forward(waits, Module(), 0.25, 0.0, 0.01)
        machine.synchronise()
    assert machine.marks <= 4 * FOLDED
    assert told(waits.node_ends()) == pytest.approx(machine.stood_s) == 20 * FOLDED * 0.25


def test_of_modules_that_are_asked_for_together_any_may_be_the_one_that_is_missing():
    there, missing = Module(missing_bytes=9, place=90), Module()
    assert is_missing([there, missing]) and is_missing([missing, there]) and not is_missing([there, there])
    for modules in ([there, missing], [missing, there]):
        machine = Machine()
        waits = WeightWaits(machine.clock)
        waits.begin()
        asked = waits.asks(modules, copies_under_way=False)
        there._prefetch, missing._prefetch = {"resident": True}, {"resident": False}
        machine.now_s += 0.5
        waits.given(asked, modules, None, False)
        assert told(waits.steps_end(1)) == 0.5


def test_a_device_without_events_is_measured_by_the_hosts_clock():
    machine = Machine()
    waits = WeightWaits(machine.clock)
    waits.begin()
    machine.forward(waits, Module(), 0.5, 0.0, 1.0)
    machine.forward(waits, Module(), 0.0, 0.0, 1.0, launch_s=3.0)
    assert waits.steps_end(1) == [Waited(3.5, 0.0, 0.5), Stepped(3.5)]


def test_a_comfyui_whose_modules_say_something_else_goes_on_and_is_told_once(caplog):
    machine = Machine()
    waits = WeightWaits(machine.clock, machine)
    waits.begin()
    for _ in range(3):
        waits.given(waits.asks([object()], copies_under_way=False), [object()], None, False)
    assert [record.levelname for record in caplog.records] == ["WARNING"] and "not measured" in caplog.text
    assert waits.node_ends() == []
