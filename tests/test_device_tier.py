"""What the device tier decides: room in one go, the next weights while this node computes, nothing where all fits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from story import MB, components

from residency.core.component import Mode, Policy, Tier
from residency.core.device_placement import SPARE_BYTES, Copies, Placement
from residency.core.device_tier import DeviceTier, View
from residency.core.events import (
    DeviceObserved,
    Evicted,
    NodeFinished,
    NodeStarted,
    PrefetchAsked,
    PromptStarted,
    ReleaseAsked,
    TransferDone,
    TransferStopped,
)
from residency.core.instructions import Cancel, Evict, Exchange, Prefetch
from residency.core.manager import Manager
from residency.core.timeline import Timeline, Use, UseKind, Visit
from residency.simulate import GB, OURS, OURS_DEVICE, Machine, Program, Step, run
from residency.simulate.scenarios import scenarios


def computing(order: str) -> Timeline:
    """One visit per letter, computing with the component of that name."""
    visits = [Visit("p", str(index), "KSampler") for index in range(len(order))]
    return Timeline.of(visits, [Use(index, key, UseKind.COMPUTE, False) for index, key in enumerate(order)])


def at(position, order, parts, working_set_mb=0, **more):
    timeline = computing(order)
    visits = [replace(visit, working_set_bytes=working_set_mb * MB) for visit in timeline.visits]
    return View(replace(timeline, visits=tuple(visits)), position, parts, frozenset(order[position]) - {"-"}, **more)


def seen(room_mb, **held_mb):
    tier = DeviceTier()
    tier.observe(DeviceObserved(0.0, {key: size * MB for key, size in held_mb.items()}, room_mb * MB))
    return tier


def arrives(tier, key, present_bytes, refusal=None, moved_bytes=0):
    told = (0.0, key, Tier.DEVICE, moved_bytes, present_bytes, 0.0)
    tier.arrived(TransferDone(*told) if refusal is None else TransferStopped(*told, refusal), refusal)


def said(instructions):
    return [(type(one).__name__, one.component.key, one.size_bytes // MB) for one in instructions]


def test_a_node_gets_all_its_room_at_once_from_what_is_needed_last():
    tier = seen(2, t=10, b=12)
    decided = tier.node_starts(at(1, "tabt", components(t=10, a=12, b=12)))
    assert said(decided) == [("Evict", "t", 10)]


def test_only_as_much_leaves_as_is_short_and_the_end_of_it_first():
    tier = seen(8, t=10)
    decided = tier.node_starts(at(1, "ta", components(t=10, a=12)))
    assert said(decided) == [("Evict", "t", 4)]
    assert "nothing needs it any more" in decided[0].reason


def test_while_a_node_computes_the_next_ones_weights_come_over():
    tier = seen(10, a=12)
    decided = tier.node_steps(at(0, "ab", components(a=12, b=12)))
    assert said(decided) == [("Prefetch", "b", 10)]


def test_what_is_needed_later_leaves_for_what_is_needed_sooner():
    tier = seen(2, a=12, t=10)
    decided = tier.node_steps(at(0, "abt", components(t=10, a=12, b=12)))
    assert said(decided) == [("Evict", "t", 10), ("Prefetch", "b", 12)]


def test_what_is_needed_sooner_never_leaves_for_what_is_needed_later():
    tier = seen(0, a=12, b=12)
    assert tier.node_steps(at(0, "abc", components(a=12, b=12, c=12))) == []


def test_a_node_whose_working_set_is_known_brings_the_next_one_over_from_its_start():
    tier = seen(4, a=12, t=10)
    decided = tier.node_starts(at(0, "abt", components(t=10, a=12, b=12), working_set_mb=3, comes_bytes=99 * MB))
    assert said(decided) == [("Evict", "t", 10), ("Prefetch", "b", 11)]


def test_no_more_is_brought_over_than_arrives_before_the_node_ends():
    """ComfyUI waits for every copy at a node's end. Three quarters of the time that the node is expected to take are counted on."""
    parts, known = components(t=10, a=12, b=12), {"working_set_mb": 3}
    assert said(seen(20, a=12, t=10).node_starts(at(0, "abt", parts, comes_bytes=16 * MB, **known))) == [("Prefetch", "b", 12)]
    assert said(seen(20, a=12, t=10).node_starts(at(0, "abt", parts, comes_bytes=8 * MB, **known))) == [("Prefetch", "b", 6)]
    assert said(seen(24, a=8, t=10).node_starts(at(0, "abt", parts, comes_bytes=8 * MB, **known))) == [
        ("Prefetch", "b", 2)
    ]  # its own first


def test_what_is_not_worth_a_look_at_each_module_is_not_begun():
    view = at(0, "abt", components(t=10, a=12, b=48), working_set_mb=3, comes_bytes=3 * MB)
    assert said(seen(60, a=12, t=10).node_starts(view)) == []


def test_a_node_that_nothing_is_known_of_gets_its_own_room_and_no_more():
    tier = seen(4, a=8, t=10)
    assert said(tier.node_starts(at(0, "abt", components(t=10, a=12, b=12)))) == []
    assert said(tier.node_steps(at(0, "abt", components(t=10, a=8, b=12)))) == [("Evict", "t", 8), ("Prefetch", "b", 12)]


def test_a_node_without_weights_brings_the_next_ones_over():
    tier = seen(1, b=12)
    decided = tier.node_starts(at(0, "-tab", components(t=10, a=12, b=12), comes_bytes=99 * MB))
    assert said(decided) == [("Evict", "b", 9), ("Prefetch", "t", 10), ("Evict", "b", 3), ("Prefetch", "a", 3)]


def test_its_own_weights_and_working_set_come_before_what_is_next():
    tier = seen(20)
    decided = tier.node_starts(at(0, "ab", components(a=12, b=12), working_set_mb=3, comes_bytes=99 * MB))
    assert said(decided) == [("Prefetch", "b", 5)]


def test_nothing_leaves_in_the_middle_of_a_node_that_has_looked_ahead():
    """Giving room back waits for the device."""
    tier = seen(2, a=12, t=10)
    view = at(0, "abt", components(t=10, a=12, b=12), working_set_mb=3, comes_bytes=99 * MB)
    assert said(tier.node_steps(view)) == [("Prefetch", "b", 2)]


def test_what_was_told_to_stop_may_be_asked_for_again():
    tier = seen(10, a=12)
    view = at(0, "ab", components(a=12, b=12))
    tier.node_steps(view)
    tier.cancel(["b"], view.components, "its node has started")
    arrives(tier, "b", 0, "a test")
    assert said(tier.node_steps(view)) == [("Prefetch", "b", 10)]


def test_a_lower_priority_leaves_before_a_later_use():
    tier = seen(0, b=10, c=10)
    decided = tier.node_starts(at(0, "abc", components(a=10, b=10, c=10), priority={"a": 0, "b": -1, "c": 0}.get))
    assert said(decided) == [("Evict", "b", 10)]


def test_what_is_on_its_way_comes_further_when_there_is_more_room():
    tier = seen(2, a=12)
    view = at(0, "ab", components(a=12, b=12))
    assert said(tier.node_steps(view)) == [("Prefetch", "b", 2)]
    tier.observe(DeviceObserved(0.0, {"a": 12 * MB}, 7 * MB))
    assert said(tier.node_steps(view)) == [("Prefetch", "b", 7)]
    assert tier.node_steps(view) == []  # all the room is given away
    arrives(tier, "b", 7 * MB)
    assert tier.state.in_flight == {} and tier.state.held["b"] == 7 * MB


def test_a_refused_transfer_is_not_asked_for_again():
    tier = seen(10, a=12)
    view = at(0, "ab", components(a=12, b=12))
    tier.node_steps(view)
    arrives(tier, "b", 0, "a test")
    assert tier.node_steps(view) == []


def test_what_is_on_its_way_is_stopped_before_it_is_released():
    """Nothing in flight is evicted: the mover's answer comes first."""
    tier, parts = seen(10, a=12), components(a=12, b=12)
    tier.node_steps(at(0, "ab", parts))
    assert [type(one).__name__ for one in tier.release(parts["b"], "its last use")] == ["Cancel"]
    assert tier.release(parts["b"], "its last use") == []
    arrives(tier, "b", 3 * MB, "asked")
    assert said(tier.release(parts["b"], "its last use")) == [("Evict", "b", 12)]
    tier.state.validate()


def test_what_is_stopping_is_not_asked_for_further_before_its_mover_has_answered():
    tier, view = seen(2, a=12), at(0, "ab", components(a=12, b=12))
    tier.node_steps(view)
    tier.cancel(["b"], view.components, "the prompt has ended")
    tier.observe(DeviceObserved(0.0, {"a": 12 * MB}, 9 * MB))
    assert tier.node_steps(view) == []


def test_what_is_leaving_is_not_brought_back_before_its_mover_has_answered():
    tier, parts = seen(0, a=12, b=12), components(a=12, b=12, c=12)
    assert said(tier.node_starts(at(1, "acb", parts))) == [("Evict", "a", 12)]
    tier.observe(DeviceObserved(0.0, {"a": 12 * MB, "b": 12 * MB}, 20 * MB))
    assert tier.node_steps(at(0, "ba", parts)) == []


def test_what_was_released_on_its_way_leaves_when_its_mover_has_stopped():
    parts = components(a=12, b=12)
    manager = Manager(99 * MB)
    manager.handle(PromptStarted(0.0, "p", computing("ab"), parts, Mode.BALANCED))
    manager.handle(NodeStarted(1.0, 0))
    assert said(manager.handle(DeviceObserved(1.0, {"a": 12 * MB}, 20 * MB))) == [("Prefetch", "b", 12)]
    (cancel,) = manager.handle(ReleaseAsked(2.0, "b", False, "its last use"))
    assert isinstance(cancel, Cancel)
    assert said(manager.handle(TransferStopped(3.0, "b", Tier.DEVICE, 3 * MB, 3 * MB, 0.1, "asked"))) == [("Evict", "b", 12)]
    manager.handle(Evicted(4.0, "b", Tier.DEVICE, 3 * MB, "asked"))
    assert manager.device.held == {"a": 12 * MB}


@pytest.mark.parametrize(
    ("policy", "released", "comes"),
    [(Policy(), False, ["a"]), (Policy(), True, []), (Policy(Mode.LOW_VRAM), False, []), (Policy(Mode.BALANCED), False, ["a"])],
)
def test_what_somebody_wanted_out_does_not_come_back_for_what_nobody_has_queued(policy, released, comes):
    once = computing("abab")
    for expected_from, may_come in ((2, comes), (None, ["a"])):
        manager = Manager(99 * MB, 40 * MB)
        timeline = Timeline(once.visits, once.uses, expected_from)
        manager.handle(PromptStarted(0.0, "p", timeline, components(a=12, b=12), Mode.HIGH_VRAM, {"a": policy}))
        manager.handle(DeviceObserved(0.0, {"a": 12 * MB}, 28 * MB))
        manager.handle(NodeStarted(1.0, 0))
        told = manager.handle(NodeFinished(2.0, 0))
        if released:
            told += manager.handle(ReleaseAsked(2.0, "a", False, "node 7 releases it"))
        for one in told:
            if isinstance(one, Evict) and one.tier is Tier.DEVICE:
                manager.handle(Evicted(2.5, "a", Tier.DEVICE, 12 * MB, "asked"))
        manager.handle(NodeStarted(3.0, 1))
        told = manager.handle(DeviceObserved(3.0, {"b": 12 * MB}, 28 * MB))
        assert [one.component.key for one in told if isinstance(one, Prefetch)] == may_come


def test_what_was_released_comes_back_once_it_was_used_or_asked_for():
    once = computing("abab")
    asked = [
        [NodeStarted(3.0, 0), NodeFinished(4.0, 0), NodeStarted(5.0, 1)],
        [PrefetchAsked(3.0, "a", "a node asks"), NodeStarted(5.0, 1)],
    ]
    for events in asked:
        manager = Manager(99 * MB)
        manager.handle(PromptStarted(0.0, "p", Timeline(once.visits, once.uses, 2), components(a=12, b=12), Mode.HIGH_VRAM))
        manager.handle(DeviceObserved(0.0, {}, 40 * MB))
        manager.handle(ReleaseAsked(2.0, "a", False, "node 7 releases it"))
        for event in events:
            manager.handle(event)
        told = manager.handle(DeviceObserved(6.0, {"b": 12 * MB}, 28 * MB))
        assert [one.component.key for one in told if isinstance(one, Prefetch)] == ["a"]


def test_what_was_told_to_leave_makes_room_once_though_its_mover_has_not_answered():
    tier, view = seen(2, t=10, b=12), at(1, "tabt", components(t=10, a=12, b=12))
    assert said(tier.node_starts(view)) == [("Evict", "t", 10)]
    assert tier.node_starts(view) == []
    tier.left("t", 10 * MB, "asked")
    assert tier.node_starts(view) == [] and tier.state.held == {"b": 12 * MB}


def test_what_a_host_moves_untold_is_followed():
    tier = seen(4, a=12)
    tier.left("a", 5 * MB, "written back")
    arrives(tier, "b", 6 * MB)
    assert tier.state.held == {"a": 7 * MB, "b": 6 * MB} and tier.state.budget.available_bytes == 3 * MB


def test_nothing_is_done_before_the_device_was_seen():
    tier, view = DeviceTier(), at(0, "ab", components(a=12, b=12))
    assert tier.node_starts(view) == [] and tier.node_steps(view) == []


def test_what_the_node_that_starts_computes_with_comes_at_once_as_far_as_host_memory_has_it():
    tier, view = DeviceTier(), at(0, "ab", components(a=12, b=12))
    tier.observe(DeviceObserved(0.0, {}, 20 * MB, {"a": 9 * MB}))
    (told,) = tier.node_starts(view)
    assert (said([told]), told.ahead, told.reason) == ([("Prefetch", "a", 12)], False, "KSampler 0 computes with it")
    tier.observe(DeviceObserved(0.0, {}, 20 * MB, {"b": 9 * MB}))
    assert said(DeviceTier().node_starts(view)) == []


def test_of_which_nothing_came_is_asked_for_again_only_when_something_has_changed():
    tier, view = DeviceTier(), at(0, "aab", components(a=12, b=12))
    for copied_mb, told in ((9, 1), (9, 0), (10, 1)):
        tier.observe(DeviceObserved(0.0, {"a": 2 * MB}, 20 * MB, {"a": copied_mb * MB}))
        assert len(tier.node_starts(view)) == told
        arrives(tier, "a", 2 * MB, "a part of it is not in pinned memory")
        tier.state.validate()


def test_what_a_node_has_not_loaded_is_given_up_at_its_end():
    """Whether there was room for it in the plan or not."""
    for room_mb in (20, 0):
        tier, view = DeviceTier(), at(0, "ab", components(a=12, b=12))
        tier.observe(DeviceObserved(0.0, {}, room_mb * MB, {"a": 9 * MB}))
        tier.node_starts(view)
        assert [type(one) for one in tier.node_ends(view.components)] == [Cancel]
        arrives(tier, "a", 0, "its node has ended")
        assert tier.node_ends(view.components) == [] and tier.state.in_flight == {}


def test_what_came_ahead_is_extended_when_its_node_starts():
    tier, parts = DeviceTier(), components(a=12, b=12)
    tier.observe(DeviceObserved(0.0, {"a": 12 * MB}, 4 * MB, {"b": 12 * MB}))
    assert said(tier.node_steps(at(0, "ab", parts))) == [("Prefetch", "b", 4)]
    tier.observe(DeviceObserved(0.0, {"a": 12 * MB}, 9 * MB, {"b": 12 * MB}))
    evict, own = tier.node_starts(at(1, "ab", parts))
    assert said([evict, own]) == [("Evict", "a", 3), ("Prefetch", "b", 12)] and not own.ahead
    assert tier.state.in_flight == {"b": 12 * MB}


# --- one copy over two tiers ---


def one_copy(held_mb, capacity_mb=20, **parts_mb):
    tier, parts = DeviceTier(), components(**parts_mb)
    tier.placement.begin(parts.values())
    held = {key: size * MB for key, size in held_mb.items()}
    tier.observe(DeviceObserved(0.0, held, 2 * MB, {}, capacity_mb * MB, True))
    return tier, parts


def test_where_host_memory_holds_copies_of_all_there_are_copies_in_both():
    tier, parts = one_copy({"t": 10}, 34, t=10, a=12, b=12)
    assert said(tier.node_starts(at(1, "tab", parts))) == [("Evict", "t", 10)] and tier.placement.copies is Copies.BOTH


def test_else_a_model_comes_in_exchange_for_what_is_needed_last():
    tier, parts = one_copy({"t": 10, "b": 2}, 33, t=10, a=12, b=12)
    (told,) = tier.node_starts(at(1, "tabt", parts))
    assert isinstance(told, Exchange) and [one.key for one in told.leaving] == ["t", "b"] and not told.left_out
    assert told.reason == "KSampler 1 computes with it; one copy of each: 0.0 GB of weights; host memory can hold copies of 0.0 GB"


def test_what_runs_never_leaves_and_nothing_is_evicted_or_brought_ahead():
    tier, parts = one_copy({"t": 10, "a": 12}, t=10, a=12, b=12)
    view = at(1, "tab", parts, working_set_mb=1, comes_bytes=99 * MB)
    (told,) = tier.node_starts(view)
    assert [one.key for one in told.leaving] == ["t"] and tier.node_steps(view) == []


def test_a_model_that_is_passed_once_is_left_out_of_what_does_not_fit():
    tier, parts = one_copy({}, t=10, a=12, b=12)
    view = at(0, "tab", parts)
    visits = (replace(view.timeline.visits[0], passes_once=True), *view.timeline.visits[1:])
    (told,) = tier.node_starts(replace(view, timeline=replace(view.timeline, visits=visits)))
    assert told.left_out


def settled(room_mb, copies_mb, often="", **held_mb):
    """Three models, of which t is passed once where it is not one of `often`; 1,000 MB beside the weights."""
    parts = components(t=10_000, a=12_000, b=12_000)
    tier = DeviceTier()
    tier.placement.begin(parts.values())
    held = {key: size * MB for key, size in held_mb.items()}
    tier.observe(DeviceObserved(0.0, held, room_mb * MB, {}, copies_mb * MB, True))
    view = at(1, "tabt", parts, working_set_mb=1_000)
    visits = tuple(
        replace(visit, passes_once=key == "t" and str(n) not in often)
        for n, (visit, key) in enumerate(zip(view.timeline.visits, "tabt", strict=True))
    )
    (told,) = tier.node_starts(replace(view, timeline=replace(view.timeline, visits=visits)))
    return tier, told


def test_where_both_tiers_are_too_small_the_end_of_what_is_passed_once_is_meant_for_neither():
    """34,000 MB of weights, 11,000 beside the working set on the device, 20,000 in host memory; a gibibyte is left."""
    tier, told = settled(2_000, 20_000, t=10_000)
    assert tier.placement.outside == told.outside == {"t": 3_000 * MB + SPARE_BYTES}


def test_where_all_fits_or_nothing_is_passed_once_each_weight_has_its_place():
    assert settled(2_000, 25_000, t=10_000)[0].placement.outside == {}
    assert settled(2_000, 20_000, often="3", t=10_000)[0].placement.outside == {}


def test_what_fits_neither_tier_is_of_the_largest_first():
    parts = components(s=1_000, t=3_000, a=9_000)
    placement = Placement()
    placement.begin(parts.values())
    look = DeviceObserved(0.0, {}, 5_000 * MB, {}, 5_500 * MB, True)
    placement.decide(look)
    placement.settle(look, [parts["s"], parts["t"]], 0)
    assert placement.outside == {"t": 3_000 * MB, "s": SPARE_BYTES - 500 * MB}
    placement.begin(parts.values())
    look = DeviceObserved(0.0, {}, 5_000 * MB, {}, 13_000 * MB, True)
    placement.decide(look)
    placement.settle(look, [parts["s"], parts["t"]], 0)
    assert placement.outside == {}


def test_an_exchange_that_has_not_taken_place_is_over_when_another_node_starts():
    tier, parts = one_copy({}, t=10, a=12, b=12)
    tier.node_starts(at(0, "tab", parts))
    assert said_kinds(tier.node_starts(at(1, "tab", parts))) == [("Cancel", "t"), ("Exchange", "a")]
    arrives(tier, "t", 0, "another node has started")
    arrives(tier, "a", 12 * MB)
    assert said_kinds(tier.node_starts(at(2, "tab", parts))) == [("Exchange", "b")]
    assert said_kinds(tier.stop(parts, "the prompt has ended")) == [("Cancel", "b")]
    tier.state.validate()


def test_the_decision_holds_for_the_whole_prompt():
    tier, parts = one_copy({}, t=10, a=12, b=12)
    tier.node_starts(at(0, "tab", parts))
    tier.observe(DeviceObserved(0.0, {}, 2 * MB, {}, 99 * MB, True))
    assert said_kinds(tier.node_starts(at(1, "tab", parts))) == [("Cancel", "t"), ("Exchange", "a")]
    tier.placement.begin(parts.values())
    tier.node_starts(at(0, "tab", parts))
    assert tier.placement.copies is Copies.BOTH


def test_a_host_whose_mover_exchanges_nothing_keeps_copies_in_both():
    tier, parts = one_copy({}, t=10, a=12, b=12)
    tier.observe(DeviceObserved(0.0, {}, 2 * MB, {}, 0, False))
    tier.node_starts(at(0, "tab", parts))
    assert (tier.placement.copies, tier.placement.reason) == (Copies.BOTH, "the mover of this host exchanges nothing")


def said_kinds(instructions):
    return [(type(one).__name__, one.component.key) for one in instructions]


@given(st.text("abcd", min_size=1, max_size=12), st.integers(1, 60), st.integers(0, 11))
def test_when_everything_is_there_nothing_moves(order, room, position):
    parts = components(a=5, b=6, c=7, d=8)
    tier = seen(room, a=5, b=6, c=7, d=8)
    view = at(position % len(order), order, parts)
    assert tier.node_starts(view) == [] and tier.node_steps(view) == []


@given(
    st.text("abcd", min_size=2, max_size=12),
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9), max_size=4),
    st.integers(0, 20),
    st.integers(0, 10),
)
def test_the_room_holds_and_what_runs_or_flies_stays(order, held, room, position):
    sizes = {"a": 9, "b": 9, "c": 9, "d": 9}
    tier = seen(room, **held)
    view = at(position % (len(order) - 1), order, components(**sizes))
    instructions = tier.node_steps(view)
    freed = sum(one.size_bytes for one in instructions if isinstance(one, Evict))
    brought = sum(one.size_bytes - tier.state.held.get(one.component.key, 0) for one in instructions if isinstance(one, Prefetch))
    evicted = {one.component.key for one in instructions if isinstance(one, Evict)}
    assert brought <= room * MB + freed
    assert not evicted & (view.running | set(tier.state.in_flight))


def test_for_what_comes_early_nothing_leaves_that_has_no_copy_in_the_host():
    tier = DeviceTier()
    tier.observe(DeviceObserved(0.0, {"a": 12 * MB, "t": 10 * MB}, 2 * MB, {"b": 12 * MB, "t": 4 * MB}))
    assert said(tier.node_steps(at(0, "abt", components(t=10, a=12, b=12)))) == [("Prefetch", "b", 2)]


def test_only_what_the_host_holds_comes_early():
    tier = DeviceTier()
    tier.observe(DeviceObserved(0.0, {"a": 12 * MB}, 20 * MB, {"b": 5 * MB}))
    assert said(tier.node_steps(at(0, "ab", components(a=12, b=12)))) == [("Prefetch", "b", 5)]


def test_no_more_leaves_than_can_cross_the_link_while_the_node_computes():
    tier = seen(0, a=12, t=10)
    decided = tier.node_steps(at(0, "abt", components(t=10, a=12, b=12), comes_bytes=3 * MB))
    assert said(decided) == [("Evict", "t", 3), ("Prefetch", "b", 3)]


def test_while_a_copy_that_was_told_to_stop_is_not_answered_its_component_is_left_to_its_node():
    tier, parts = seen(50, a=0), components(a=12, b=12)
    tier.observe(DeviceObserved(0.0, {}, 50 * MB, {"a": 12 * MB, "b": 12 * MB}))
    assert said(tier.node_steps(at(0, "ab", parts))) == [("Prefetch", "b", 12)]
    tier.stop(parts, "the prompt has ended")
    assert said(tier.node_starts(at(1, "ab", parts))) == [] and not tier.own
    arrives(tier, "b", 0, refusal="the prompt has ended")  # the answer to the old one
    assert said(tier.node_starts(at(1, "ab", parts))) == [("Prefetch", "b", 12)] and set(tier.own) == {"b"}


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
