import pytest
from hypothesis import given
from hypothesis import strategies as st
from story import MB, VirtualHost, components, reads

from residency.core.component import Mode, Policy, Strategy, Tier
from residency.core.device_placement import Copies
from residency.core.events import (
    DeviceObserved,
    HostObserved,
    NodeFinished,
    NodeStarted,
    Outcome,
    PrefetchAsked,
    PromptEnded,
    PromptStarted,
    RatesMeasured,
    ReleaseAsked,
    Replanned,
    TransferStopped,
)
from residency.core.instructions import Cancel, Evict, Prefetch, Wait
from residency.core.manager import Manager
from residency.core.timeline import Timeline, Use, UseKind, Visit


def said(instructions):
    return [(type(i).__name__, i.component.key) for i in instructions]


def test_a_node_that_is_early_follows_the_reader_where_the_drive_serves_both():
    host = VirtualHost(reads("ab"), components(a=10, b=10), limit_mb=100)
    assert said(host.log) == [("Prefetch", "a"), ("Prefetch", "b")]
    assert said(host.start(0)) == []


def test_what_a_node_has_read_itself_is_not_read_again():
    host = VirtualHost(reads("ab"), components(a=10, b=10), limit_mb=100)
    host.start(0)
    assert said(host.finish(0)) == [("Cancel", "a")]
    assert [prefetch.component.key for prefetch in host.flight] == ["b"]


def test_from_a_hard_disk_a_node_that_is_early_waits():
    host = VirtualHost(reads("ab"), components(a=10, b=10), limit_mb=100, hard_disk=True)
    assert said(host.log) == [("Prefetch", "a"), ("Prefetch", "b")]
    assert said(host.start(0)) == [("Wait", "a")]
    host.land()
    host.finish(0)
    host.land()
    assert said(host.start(1)) == []  # b is there: nothing to wait for


def test_within_a_small_budget_the_next_component_takes_the_place_of_the_one_that_is_done():
    host = VirtualHost(reads("ab"), components(a=60, b=60), limit_mb=60)
    assert said(host.log) == [("Prefetch", "a")]
    host.start(0)
    host.land()
    host.finish(0)
    assert said(host.log)[-2:] == [("Evict", "a"), ("Prefetch", "b")]


def test_what_is_read_again_gives_up_no_more_than_the_drive_brings_while_a_node_runs_whose_own_room_is_worth_less_then():
    manager = Manager(host_limit_bytes=100 * MB)
    manager.handle(RatesMeasured(0.0, {"c": 5.0 * MB}))
    manager.handle(HostObserved(0.0, {"a": 40 * MB, "b": 40 * MB, "c": 20 * MB}))
    visits = tuple(Visit("p", key, "Node", compute_s=3.0) for key in "acb")
    order = Timeline(visits, reads("acb").uses)
    assert said(manager.handle(PromptStarted(0.0, "p", order, components(a=40, b=60, c=20), Mode.BALANCED))) == []
    assert said(manager.handle(NodeStarted(1.0, 0))) == []
    # a runs until 4.0 s; others have taken c, which is read next, and brought the rest of b
    told = manager.handle(HostObserved(2.0, {"a": 40 * MB, "b": 60 * MB}))
    assert [(type(one), one.component.key, one.size_bytes // MB) for one in told] == [(Evict, "b", 10)]


def test_when_memory_gets_short_what_is_on_its_way_goes_before_what_is_read_sooner_and_what_runs_stays():
    host = VirtualHost(reads("abc"), components(a=60, b=60, c=60), limit_mb=180)
    host.land()
    host.land()  # a and b are there, c is on its way
    host.start(0)
    assert said(host.limit(120)) == [("Cancel", "c")]
    assert said(host.limit(100)) == [("Evict", "b")]
    assert host.present == {"a": 60 * MB, "b": 40 * MB}
    mark = len(host.log)
    host.finish(0)
    assert [(type(i).__name__, i.component.key, i.size_bytes // MB) for i in host.log[mark:]][:2] == [
        ("Evict", "a", 60),
        ("Prefetch", "b", 60),
    ]


def test_only_as_much_leaves_as_is_needed_and_what_stays_is_the_beginning():
    host = VirtualHost(reads("aba"), components(a=60, b=30), limit_mb=80)
    host.land()
    host.land()
    host.start(0)
    host.finish(0)
    evict = next(i for i in host.log if isinstance(i, Evict))
    assert (evict.component.key, evict.size_bytes // MB, evict.keep_bytes // MB) == ("a", 10, 50)


def test_a_part_that_was_announced_is_extended_when_there_is_room():
    host = VirtualHost(reads("ab"), components(a=60, b=60), limit_mb=80)
    assert [prefetch.size_bytes // MB for prefetch in host.flight] == [60, 20]
    host.limit(200)
    host.land()
    host.land()
    assert [(prefetch.component.key, prefetch.size_bytes // MB) for prefetch in host.flight] == [("b", 60)]


def test_low_vram_releases_after_the_last_use_and_not_before():
    host = VirtualHost(reads("aba"), components(a=10, b=10), limit_mb=100, mode=Mode.LOW_VRAM)
    for position in range(3):
        while host.flight:
            host.land()
        host.start(position)
        released = [i for i in host.finish(position) if isinstance(i, Evict)]
        expected = [[], [(Tier.DEVICE, "b")], [(Tier.DEVICE, "a")]][position]  # the host copy costs nothing while RAM is not short
        assert [(i.tier, i.component.key) for i in released] == expected


@pytest.mark.parametrize(
    ("mode", "asked", "left"), [(Mode.AUTO, None, []), (Mode.LOW_VRAM, None, ["a"]), (Mode.AUTO, Mode.LOW_VRAM, ["a"])]
)
def test_what_nobody_asked_to_release_stays_for_the_same_workflow_again(mode, asked, left):
    """A model larger than the device: what fits of it stays, as ComfyUI leaves it, unless somebody chose low-vram."""
    manager = Manager(host_limit_bytes=100 * MB, device_limit_bytes=5 * MB)
    once = reads("aa")
    timeline = Timeline(once.visits, once.uses, expected_from=1)
    manager.handle(PromptStarted(0.0, "p", timeline, components(a=10), mode, {"a": Policy(asked)}))
    assert manager.mode.mode is Mode.LOW_VRAM
    manager.handle(NodeStarted(1.0, 0))
    instructions = manager.handle(NodeFinished(2.0, 0))
    assert [i.component.key for i in instructions if isinstance(i, Evict) and i.tier is Tier.DEVICE] == left


@pytest.mark.parametrize(("mode", "left"), [(Mode.AUTO, []), (Mode.LOW_VRAM, ["a"])])
def test_the_only_copy_is_given_back_only_where_somebody_asked_for_that(mode, left):
    """A first prompt, nothing is expected behind it: what the device alone holds of it would be read again by the second."""
    manager = Manager(host_limit_bytes=100 * MB, device_limit_bytes=5 * MB)
    manager.handle(DeviceObserved(0.0, {}, 5 * MB, {}, host_copies_bytes=4 * MB, exchanges=True))
    manager.handle(PromptStarted(0.0, "p", reads("a-"), components(a=10), mode))
    manager.handle(NodeStarted(1.0, 0))
    assert manager.placement.copies is Copies.ONE
    instructions = manager.handle(NodeFinished(2.0, 0))
    assert [i.component.key for i in instructions if isinstance(i, Evict) and i.tier is Tier.DEVICE] == left


def test_one_nodes_setting_holds_for_its_component_alone():
    manager = Manager(host_limit_bytes=100 * MB)
    started = PromptStarted(0.0, "p", reads("ab"), components(a=10, b=10), Mode.BALANCED, {"a": Policy(Mode.LOW_VRAM)})
    manager.handle(started)
    for position, released in ((0, ["a"]), (1, [])):
        manager.handle(NodeStarted(1.0, position))
        instructions = manager.handle(NodeFinished(2.0, position))
        assert [i.component.key for i in instructions if isinstance(i, Evict) and i.tier is Tier.DEVICE] == released


def test_a_new_order_cancels_what_it_no_longer_reads():
    host = VirtualHost(reads("ab"), components(a=10, b=10), limit_mb=100)
    assert said(host.give(Replanned(1.0, reads("b")))) == [("Cancel", "a")]


def test_more_is_known_while_a_node_runs_and_what_it_uses_stays():
    """The rest of the timeline changes under a running node: its component is busy as before, and its own transfer goes on."""
    host = VirtualHost(reads("abc"), components(a=50, b=50, c=50), limit_mb=100)
    host.land()
    host.start(0)
    mark = len(host.log)
    host.give(Replanned(1.0, reads("ac"), running=0))
    host.land()  # b had begun and was told to stop
    host.limit(50)
    assert said(host.log[mark:])[0] == ("Cancel", "b")
    assert ("Evict", "a") not in said(host.log[mark:])


def test_an_interrupt_cancels_everything_and_the_end_of_a_prompt_what_the_queue_does_not_read():
    host = VirtualHost(reads("ab"), components(a=10, b=10), limit_mb=100)
    assert said(host.give(PromptEnded(1.0, "p", Outcome.INTERRUPTED))) == [("Cancel", "a"), ("Cancel", "b")]
    host = VirtualHost(reads("ab"), components(a=10, b=10), limit_mb=100)
    host.start(0)
    # b belongs to the queued prompt behind: it goes on being read
    assert said(host.give(PromptEnded(1.0, "p", Outcome.SUCCESS))) == [("Cancel", "a")]


def test_a_new_prompt_keeps_the_transfers_that_it_reads_and_may_ask_again_for_the_others():
    host = VirtualHost(reads("ab"), components(a=10, b=10), limit_mb=100)
    mark = len(host.log)
    host.give(PromptStarted(1.0, "q", reads("-b"), components(b=10), Mode.BALANCED))
    assert said(host.log[mark:]) == [("Cancel", "a")]
    assert [prefetch.component.key for prefetch in host.flight] == ["b"]
    assert ("Prefetch", "a") in said(host.give(Replanned(2.0, reads("-ba"), components(a=10))))


def test_what_a_node_needs_now_does_not_queue_behind_what_is_read_later():
    host = VirtualHost(reads("ab"), components(a=50, b=10), limit_mb=100)
    mark = len(host.log)
    host.give(Replanned(1.0, reads("ba")))  # announced in the old order: a before b
    host.start(0)
    assert said(host.log[mark:])[:2] == [("Cancel", "a"), ("Prefetch", "a")]
    assert [prefetch.component.key for prefetch in host.flight] == ["b", "a"]


def test_a_refused_transfer_is_not_asked_for_again_in_this_prompt():
    host = VirtualHost(reads("-a"), components(a=10), limit_mb=100)
    host.flight.clear()
    assert host.give(TransferStopped(1.0, "a", Tier.HOST, 0, 0, 0.0, "file vanished")) == []
    assert host.start(0) == []


def test_an_abandoned_prompt_is_cancelled_with_its_reason_and_then_stays_silent():
    host = VirtualHost(reads("ab"), components(a=10, b=10), limit_mb=100)
    told = host.give(PromptEnded(1.0, "p", Outcome.ABANDONED, "the user has switched it off"))
    assert said(told) == [("Cancel", "a"), ("Cancel", "b")]
    assert {instruction.reason for instruction in told} == {"the user has switched it off"}
    assert host.start(0) == [] and host.finish(0) == []


def test_what_is_not_an_event_is_named():
    with pytest.raises(TypeError, match="'hello'"):
        Manager().handle("hello")


orders = st.text("abcd-", min_size=1, max_size=12)
sizes = st.fixed_dictionaries({key: st.integers(1, 60) for key in "abcd"})


@given(orders, sizes, st.integers(0, 120), st.data())
def test_the_invariants_hold_whatever_lands_when(order, sizes, limit, data):
    """Budget kept, nothing busy evicted, a node whose bytes are in flight waits, every announced byte is accounted for."""
    timeline, parts = reads(order), components(**sizes)
    host = VirtualHost(timeline, parts, limit, hard_disk=True)

    def check(instructions, running):
        manager = host.manager
        assert manager.host.used_bytes <= manager.host.limit_bytes
        for instruction in instructions:
            if isinstance(instruction, Evict):
                assert instruction.component.key not in running
        assert {p.component.key for p in host.flight} == set(manager.host.in_flight)

    for position in range(len(order)):
        for _ in range(data.draw(st.integers(0, 2))):
            if host.flight:
                host.land(data.draw(st.integers(0, len(host.flight) - 1)))
        mark = len(host.log)
        flying = {p.component.key for p in host.flight}
        waits = [i for i in host.start(position) if isinstance(i, Wait)]
        running = {use.component for use in timeline.at(position)}
        assert {w.component.key for w in waits} == running & flying
        for wait in waits:
            host.land([p.component.key for p in host.flight].index(wait.component.key))
        check(host.log[mark:], running)
        host.finish(position)
        check([], set())
    host.give(PromptEnded(9.0, "p", Outcome.SUCCESS))
    assert not host.flight and not host.manager.host.in_flight


@given(orders, sizes)
def test_when_everything_fits_each_component_moves_once_and_nothing_leaves(order, sizes):
    host = VirtualHost(reads(order), components(**sizes), limit_mb=240)
    for position in range(len(order)):
        while host.flight:
            host.land()
        host.start(position)
        host.finish(position)
    used = set(order) - {"-"}
    assert sorted(i.component.key for i in host.log if isinstance(i, Prefetch)) == sorted(used)
    assert not [i for i in host.log if isinstance(i, Evict | Cancel)]
    assert host.moved_bytes == sum(sizes[key] for key in used) * MB


@given(orders, sizes, st.integers(0, 120))
def test_off_means_off(order, sizes, limit):
    host = VirtualHost(reads(order), components(**sizes), limit, mode=Mode.OFF)
    for position in range(len(order)):
        host.start(position)
        host.finish(position)
    host.limit(limit + 10)
    host.give(PromptEnded(1.0, "p", Outcome.SUCCESS))
    assert host.log == []


def test_after_an_interrupt_nothing_of_the_prompt_is_read_ahead_again():
    host = VirtualHost(reads("abc"), components(a=10, b=10, c=10), limit_mb=100)
    host.start(0)
    host.give(PromptEnded(1.0, "p", Outcome.INTERRUPTED))
    assert not host.flight and not host.manager.host.in_flight


@pytest.mark.parametrize(
    ("asks", "stopped"), [({}, ["far"]), ({"far": Policy(priority=1)}, []), ({"near": Policy(prefetch=False)}, [])], ids=str
)
def test_what_is_put_in_front_takes_the_drive_from_what_is_read_later(asks, stopped):
    host = VirtualHost(reads("-"), components(far=90, near=30), 0)
    host.give(PromptStarted(1.0, "p", named("-", "far"), components(far=90, near=30), Mode.BALANCED, asks))
    host.limit(100)
    host.start(0)
    assert [prefetch.component.key for prefetch in host.flight] == ["far"]
    told = host.give(Replanned(2.0, named("-", "near", "far"), running=0))
    assert [one.component.key for one in told if isinstance(one, Cancel)] == stopped
    assert host.flight[0].component.key == ("near" if stopped else "far")


def named(*keys: str) -> Timeline:
    """One visit for each; it reads that component, "-" none."""
    visits = [Visit("p", str(position), "Node") for position in range(len(keys))]
    return Timeline.of(visits, [Use(position, key, UseKind.COMPUTE, True) for position, key in enumerate(keys) if key != "-"])


def turns(limit_mb: int, *prompts: str) -> VirtualHost:
    """Prompts of one letter a node; the first node of the first has run."""
    visits = [Visit(str(number), str(index), "Node") for number, prompt in enumerate(prompts) for index in range(len(prompt))]
    uses = [Use(position, key, UseKind.COMPUTE, True) for position, key in enumerate("".join(prompts))]
    host = VirtualHost(Timeline.of(visits, uses), components(a=60, b=60, c=60), limit_mb)
    host.start(0)
    host.finish(0)
    return host


def test_a_component_that_the_queue_needs_again_stays_loaded_while_all_that_is_read_before_fits():
    assert turns(120, "a", "bc", "a").manager.needed_again("a") == "Node 0, which is queued, needs it again"
    assert turns(119, "a", "bc", "a").manager.needed_again("a") is None
    one_copy = turns(0, "a", "bc", "a").manager
    one_copy.placement.copies = Copies.ONE
    assert one_copy.needed_again("a") is not None  # it only takes the place of what leaves
    # only what is read before its own turn counts
    assert turns(119, "a", "b", "ca").manager.needed_again("b") is not None


def test_what_the_running_prompt_loads_anew_or_nothing_needs_or_only_a_repetition_may_go():
    host = turns(500, "ab", "b", "c")
    assert host.manager.needed_again("a") is host.manager.needed_again("b") is host.manager.needed_again("nobody knows it") is None
    assert host.manager.needed_again("c") is not None
    timeline = host.manager._host.place.timeline
    host.give(Replanned(1.0, Timeline(timeline.visits, timeline.uses, expected_from=3)))
    host.start(0)
    assert host.manager.needed_again("c") is None


def test_nothing_stays_for_the_queue_behind_an_abandoned_prompt():
    host = turns(500, "a", "b")
    assert host.manager.needed_again("b") is not None
    host.give(PromptEnded(2.0, "p", Outcome.ABANDONED, "a test"))
    assert host.manager.needed_again("b") is None


def test_what_a_node_asked_to_keep_stays_loaded_in_prompts_that_do_not_know_it():
    host = VirtualHost(reads("a"), components(a=60), limit_mb=100)
    keep = {"a": Policy(keep=True)}
    host.give(PromptStarted(1.0, "p", reads("a"), components(a=60), Mode.BALANCED, keep))
    host.give(PromptStarted(2.0, "q", reads("b"), components(b=60), Mode.BALANCED, {"b": Policy()}))
    assert host.manager.needed_again("a") == "the last prompt that used it asked to keep it"
    host.give(PromptStarted(3.0, "r", reads("bc"), components(b=60, c=60), Mode.BALANCED, {"b": Policy(), "c": Policy()}))
    assert host.manager.needed_again("a") is None  # what comes needs the room
    host.give(PromptStarted(4.0, "s", reads("a"), components(a=60), Mode.BALANCED, {"a": Policy()}))
    host.give(PromptStarted(5.0, "q", reads("b"), components(b=60), Mode.BALANCED, {"b": Policy()}))
    assert host.manager.needed_again("a") is None  # nobody asks for it any more


def test_what_a_node_gives_up_while_it_uses_it_leaves_with_that_node_however_it_ends():
    def given_up(outcome: Outcome) -> list[tuple[str, str]]:
        manager = Manager(100 * MB)
        manager.handle(PromptStarted(0.0, "p", reads("a"), components(a=60), Mode.BALANCED))
        manager.handle(NodeStarted(1.0, 0))
        manager.handle(DeviceObserved(1.0, {"a": 60 * MB}, 0))
        assert manager.handle(ReleaseAsked(2.0, "a", False, "node 7 releases it")) == []
        told = said(manager.handle(PromptEnded(3.0, "p", outcome)))
        manager.handle(TransferStopped(3.5, "a", Tier.HOST, 0, 0, 0.1, "the prompt has ended"))
        manager.handle(PromptStarted(4.0, "q", reads("b"), components(b=60), Mode.BALANCED))
        manager.handle(NodeStarted(5.0, 0))
        assert said(manager.handle(NodeFinished(6.0, 0))) == [("Cancel", "b")]  # of the prompt before nothing is left to do
        return told

    assert given_up(Outcome.INTERRUPTED) == [("Evict", "a"), ("Cancel", "a")]
    assert given_up(Outcome.ABANDONED) == [("Cancel", "a")]


def test_what_was_given_up_on_its_way_does_not_leave_from_under_a_node_that_has_begun():
    manager = Manager(100 * MB)
    manager.handle(HostObserved(0.0, {}))
    manager.handle(PromptStarted(0.0, "p", reads("a"), components(a=60), Mode.BALANCED))
    told = manager.handle(ReleaseAsked(1.0, "a", True, "node 7 releases it"))
    assert [one.tier for one in told if isinstance(one, Cancel)] == [Tier.HOST]
    manager.handle(NodeStarted(2.0, 0))
    assert manager.handle(TransferStopped(3.0, "a", Tier.HOST, 20 * MB, 20 * MB, 1.0, "node 7 releases it")) == []
    assert said(manager.handle(NodeFinished(4.0, 0))).count(("Evict", "a")) == 2  # both tiers
    assert manager.host.held == {"a": 20 * MB}  # until its mover has answered


def test_a_component_that_is_asked_for_and_expected_is_announced_once():
    visits = [Visit("p", "0", "Node"), Visit("p", "0", "Node")]
    timeline = Timeline.of(visits, [Use(1, "a", UseKind.COMPUTE, True)], expected_from=1)
    manager = Manager(100 * MB)
    manager.handle(PromptStarted(0.0, "p", timeline, components(a=60), Mode.BALANCED))
    manager.handle(HostObserved(1.0, {}, {"a": 20 * MB}))
    for evicted in manager.host.in_flight:
        manager.handle(TransferStopped(1.5, evicted, Tier.HOST, 0, 0, 0.1, "a test"))
    assert said(manager.handle(PrefetchAsked(2.0, "a", "node 7 asks for it"))) == [("Prefetch", "a")]


def test_what_a_released_component_left_on_the_device_is_no_matter_of_a_core_that_does_not_know_it():
    manager = Manager(100 * MB)
    low = {"x": Policy(strategy=Strategy.RELEASE)}
    manager.handle(PromptStarted(0.0, "p", reads("a"), components(a=60), Mode.LOW_VRAM, low))
    manager.handle(DeviceObserved(1.0, {"x": 60 * MB}, 0))
    manager.handle(Replanned(2.0, reads("a")))
    manager.handle(NodeStarted(3.0, 0))
    assert ("Evict", "x") not in said(manager.handle(NodeFinished(4.0, 0)))
