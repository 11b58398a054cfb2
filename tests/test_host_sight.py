"""What a host has seen of its memory decides what is read: stories of the manager."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from story import MB, components, reads

from residency.core.component import Component, Extent, Mode, Tier
from residency.core.device_placement import SPARE_BYTES
from residency.core.events import (
    BudgetChanged,
    DeviceObserved,
    Evicted,
    HostObserved,
    NodeFinished,
    NodeStarted,
    Outcome,
    PrefetchAsked,
    PromptEnded,
    PromptStarted,
    Replanned,
    Taken,
    TransferDone,
)
from residency.core.instructions import Cancel, Evict, Instruction, Prefetch
from residency.core.manager import Manager
from residency.core.timeline import Timeline, Use, UseKind, Visit
from residency.session import Limits, Looks, NodeBegins, PromptBegins, Session, Sight


def told(instructions: list[Instruction]) -> list[tuple[str, str, int]]:
    return [(type(i).__name__, i.component.key, i.size_bytes // MB) for i in instructions if isinstance(i, Prefetch | Evict)]


def bytes_of(sizes_mb: Mapping[str, int]) -> dict[str, int]:
    return {key: size_mb * MB for key, size_mb in sizes_mb.items()}


def seen(loaded_mb: Mapping[str, int], held_mb: Mapping[str, int] | None = None, **options: object) -> HostObserved:
    return HostObserved(0.0, None if held_mb is None else bytes_of(held_mb), bytes_of(loaded_mb), **options)  # type: ignore[arg-type]


def expecting(order: str, again: str, kind: UseKind = UseKind.COMPUTE) -> Timeline:
    """One visit for each letter, then those that nobody has asked for."""
    visits = [Visit("p", str(position), "KSampler") for position in range(len(order + again))]
    uses = [Use(position, key, kind, True) for position, key in enumerate(order + again) if key != "-"]
    return Timeline(tuple(visits), tuple(uses), len(order))


def begun(
    timeline: Timeline, parts: dict[str, Component], limit_mb: int, look: HostObserved | None = None
) -> tuple[Manager, list[Instruction]]:
    manager = Manager(limit_mb * MB)
    if look is not None:
        manager.handle(look)
    return manager, manager.handle(PromptStarted(1.0, "p", timeline, parts, Mode.BALANCED))


def test_what_a_host_has_seen_before_a_prompt_holds_for_components_that_come_with_it():
    _, instructions = begun(reads("-abc"), components(a=30, b=30, c=30), 100, seen({"a": 30}, {"b": 30}))
    assert told(instructions) == [("Prefetch", "c", 30)]


def test_a_model_that_an_earlier_prompt_left_loaded_is_not_read_ahead_for_one_that_is_queued_meanwhile():
    parts = components(a=30, b=30)

    def queued(loaded_mb: int) -> list[tuple[str, str, int]]:
        manager, _ = begun(reads("a"), dict(list(parts.items())[:1]), 100, seen({"a": 30, "b": loaded_mb}, {}))
        manager.handle(NodeStarted(2.0, 0))
        return told(manager.handle(Replanned(3.0, reads("ab"), parts, running=0)))

    assert (queued(0), queued(30), queued(15)) == ([("Prefetch", "b", 30)], [], [("Prefetch", "b", 30)])


def test_of_a_model_that_is_held_in_part_the_rest_is_read_wherever_it_lies_in_its_file():
    whole = Component("a", "a", "MODEL", 30 * MB, (Extent("f", 0, 30 * MB),))
    rest_last = (Extent("f", 10 * MB, 20 * MB), Extent("f", 0, 10 * MB))
    laid_out = Component("a", "a", "MODEL", 30 * MB, rest_last)
    manager, instructions = begun(reads("-a"), {"a": whole}, 100, seen({"a": 20}, {}, laid_out={"a": laid_out}))
    (prefetch,) = instructions
    assert isinstance(prefetch, Prefetch)
    assert (prefetch.component.extents, prefetch.start_bytes, prefetch.size_bytes) == (rest_last, 20 * MB, 30 * MB)
    manager.handle(TransferDone(2.0, "a", Tier.HOST, 10 * MB, 10 * MB, 0.1))
    (evict,) = manager.handle(BudgetChanged(3.0, Tier.HOST, 4 * MB))
    assert isinstance(evict, Evict) and (evict.component.extents, evict.keep_bytes) == (rest_last, 24 * MB)


def test_the_order_of_bytes_that_was_seen_outlives_a_new_order_of_nodes_and_a_new_prompt_until_another_is_seen():
    whole = Component("a", "a", "MODEL", 30 * MB, (Extent("f", 0, 30 * MB),))
    laid_out = Component("a", "a", "MODEL", 30 * MB, (Extent("f", 10 * MB, 20 * MB), Extent("f", 0, 10 * MB)))
    manager, _ = begun(reads("--a"), {"a": whole}, 0, seen({"a": 20}, {}, laid_out={"a": laid_out}))
    manager.handle(Replanned(2.0, reads("-a"), {"a": whole}))
    manager.handle(PromptEnded(3.0, "p", Outcome.SUCCESS))
    manager.handle(PromptStarted(4.0, "q", reads("-a"), {"a": whole}, Mode.BALANCED))
    (prefetch,) = manager.handle(BudgetChanged(5.0, Tier.HOST, 100 * MB))
    assert prefetch.component is laid_out
    manager.handle(TransferDone(6.0, "a", Tier.HOST, 10 * MB, 10 * MB, 0.1))
    (prefetch,) = manager.handle(seen({}, {}, laid_out={"a": whole}))
    assert prefetch.component is whole and isinstance(prefetch, Prefetch) and prefetch.start_bytes == 0


def test_a_limit_that_comes_with_a_look_waits_for_it():
    """A second copy that the look before has seen would be told to leave; until that is answered the component is not seen anew."""
    parts = components(a=100)
    manager, _ = begun(reads("a"), parts, 200, seen({"a": 10}, {"a": 80}, surplus={"a": 10 * MB}))
    manager.handle(NodeStarted(2.0, 0))
    manager.handle(TransferDone(2.5, "a", Tier.HOST, 10 * MB, 90 * MB, 0.1))
    assert manager.handle(BudgetChanged(3.0, Tier.HOST, 60 * MB, look_follows=True)) == []
    found = manager.handle(seen({"a": 50}, {"a": 20}))
    assert manager.host.held == {"a": 20 * MB}
    assert told(found) == [("Prefetch", "a", 100)]


def test_in_the_middle_of_a_node_a_limit_waits_for_the_look_of_the_same_moment():
    session = Session()
    session.take(PromptBegins(1.0, "p", reads("a"), components(a=30), Mode.BALANCED))
    told = session.take(Looks(2.0, Limits(50 * MB), Sight(seen({}, {}))))
    told += session.take(NodeBegins(3.0, "0", Limits(60 * MB), Sight(seen({}, {}))))
    told += session.take(Looks(4.0, Limits(70 * MB)))
    told += session.take(Looks(5.0, Limits(80 * MB), Sight(seen({}, {}))))
    assert [one.look_follows for one in told if isinstance(one, BudgetChanged)] == [False, False, False, True]


def test_weights_that_the_process_takes_while_a_node_runs_are_read_ahead_no_more_and_leave_room_for_the_rest():
    whole = Component("a", "a", "MODEL", 100 * MB, (Extent("f", 0, 100 * MB),))
    turned = Component("a", "a", "MODEL", 100 * MB, (Extent("f", 40 * MB, 60 * MB), Extent("f", 0, 40 * MB)))
    manager, (prefetch,) = begun(reads("a"), {"a": whole}, 60, seen({}, {"a": 0}))
    assert prefetch.size_bytes == 60 * MB
    manager.handle(NodeStarted(2.0, 0))
    manager.handle(TransferDone(3.0, "a", Tier.HOST, 60 * MB, 60 * MB, 0.1))
    copy, rest = manager.handle(Taken(4.0, {"a": 50 * MB}, {"a": turned}))
    assert manager.host.held == {"a": 10 * MB}
    assert isinstance(copy, Evict) and (copy.size_bytes, copy.keep_bytes, copy.upto_bytes) == (50 * MB, 0, 50 * MB)
    assert isinstance(rest, Prefetch)
    assert (rest.component.extents, rest.start_bytes, rest.size_bytes) == (turned.extents, 50 * MB, 100 * MB)
    assert manager.handle(Taken(4.5, {"a": 50 * MB}, {"a": turned})) == []  # nothing more
    manager.handle(Evicted(5.0, "a", Tier.HOST, 50 * MB, copy.reason))
    manager.handle(Taken(6.0, {"a": 70 * MB}, {"a": turned}))  # 10 MB of them were still to come
    manager.handle(TransferDone(7.0, "a", Tier.HOST, 40 * MB, 50 * MB, 0.1))
    assert manager.host.held == {"a": 30 * MB}


def test_what_is_meant_for_neither_tier_is_no_second_copy_once_its_node_has_ended():
    """34,000 MB of weights, 12,000 on the device and 20,000 of copies in host memory: the end of t is discarded with the device's pages,
    and lies in the page cache. Told to leave there as a second copy, it was read from the drive in each prompt."""
    parts = components(t=10_000, a=12_000, b=12_000)
    timeline = reads("tab")
    visits = (replace(timeline.visits[0], passes_once=True), *timeline.visits[1:])
    uses = tuple(replace(use, kind=UseKind.COMPUTE) for use in timeline.uses)
    look = seen({"t": 6_000, "a": 12_000, "b": 12_000}, {"t": 4_000})
    manager, _ = begun(Timeline(visits, uses), parts, 4_000, look)
    manager.handle(DeviceObserved(1.5, {}, 12_000 * MB, {}, 20_000 * MB, True))
    manager.handle(NodeStarted(2.0, 0))
    outside_bytes = 2_000 * MB + SPARE_BYTES
    assert manager.placement.outside == {"t": outside_bytes}
    assert told(manager.handle(Taken(3.0, {"t": 10_000 * MB}))) == []
    assert (manager.host.held, manager.host.records["t"].surplus_bytes) == ({}, 4_000 * MB)
    assert told(manager.handle(NodeFinished(4.0, 0))) == []
    assert manager.host.held == {"t": outside_bytes}
    (copy,) = manager.handle(BudgetChanged(5.0, Tier.HOST, outside_bytes))  # the rest of it stays in the process
    assert isinstance(copy, Evict) and (copy.size_bytes, copy.upto_bytes) == (4_000 * MB - outside_bytes, 10_000 * MB - outside_bytes)
    manager.host.validate()


def test_where_the_system_does_not_tell_of_its_page_cache_what_was_read_is_remembered():
    manager, _ = begun(reads("aab"), components(a=30, b=30), 100, seen({}))
    manager.handle(TransferDone(1.0, "a", Tier.HOST, 30 * MB, 30 * MB, 0.1))
    manager.handle(NodeStarted(2.0, 0))
    assert manager.handle(seen({})) == []  # of the page cache nothing was said
    assert manager.host.held == {"a": 30 * MB}
    manager.handle(seen({"a": 20}))
    assert manager.host.held == {"a": 10 * MB}
    again = manager.handle(PromptStarted(3.0, "q", reads("a"), components(a=30), Mode.BALANCED))
    assert told(again) == [("Prefetch", "a", 30)]  # asking its mover costs little, and nobody has looked meanwhile


def test_what_usually_comes_next_is_read_when_nothing_else_is_missing_and_of_what_is_held_in_part_the_rest():
    parts = components(a=30, b=30, c=30)
    manager, instructions = begun(expecting("ab", "abc"), parts, 100, seen({"a": 30}, {}))
    assert told(instructions) == [("Prefetch", "b", 30)]
    assert manager.handle(TransferDone(1.0, "b", Tier.HOST, 30 * MB, 30 * MB, 0.1)) == []
    assert told(manager.handle(NodeStarted(2.0, 1))) == [("Prefetch", "c", 30)]  # of a and b the process holds all
    (prefetch,) = manager.handle(seen({"a": 20, "b": 30}, {}))
    assert told([prefetch]) == [("Prefetch", "a", 30)] and isinstance(prefetch, Prefetch) and prefetch.start_bytes == 20 * MB
    assert prefetch.reason == "KSampler is expected to read it again"
    manager.handle(NodeFinished(3.0, 1))
    assert manager.handle(PromptEnded(4.0, "p", Outcome.SUCCESS)) == []  # it goes on being read
    assert manager.handle(PromptStarted(5.0, "q", expecting("ab", "abc"), parts, Mode.BALANCED)) == []


def test_a_file_that_only_a_loader_would_read_is_not_read_for_a_prompt_that_is_expected():
    """Its loader's result is in ComfyUI's cache, and the weights in the process, whatever the page cache has lost."""
    parts = components(a=30, b=30)
    manager, _ = begun(expecting("ab", "ab", UseKind.LOAD), parts, 100, seen({}, {"a": 30, "b": 30}))
    manager.handle(NodeStarted(2.0, 0))
    manager.handle(NodeFinished(2.5, 0))
    assert told(manager.handle(seen({}, {"b": 30}))) == []
    again, _ = begun(expecting("ab", "ab"), parts, 100, seen({}, {"a": 30, "b": 30}))
    again.handle(NodeStarted(2.0, 0))
    again.handle(NodeFinished(2.5, 0))
    assert told(again.handle(seen({}, {"b": 30}))) == [("Prefetch", "a", 30)]


def test_what_is_expected_gets_no_room_of_what_is_needed_sooner_and_is_stopped_for_another_workflow():
    parts = components(a=30, b=30)
    manager, instructions = begun(expecting("b", "ba"), parts, 10, seen({"a": 10, "b": 20}, {}))
    assert told(instructions) == [("Prefetch", "b", 30)]
    manager.handle(TransferDone(1.0, "b", Tier.HOST, 10 * MB, 10 * MB, 0.1))
    assert manager.handle(seen({"a": 10, "b": 20}, {"b": 10})) == []  # a is expected behind b
    assert told(manager.handle(BudgetChanged(2.0, Tier.HOST, 20 * MB))) == [("Prefetch", "a", 20)]
    (cancel,) = manager.handle(PromptStarted(3.0, "q", reads("-b"), components(b=30), Mode.BALANCED))
    assert isinstance(cancel, Cancel) and cancel.component.key == "a"


def test_nothing_leaves_for_what_could_not_come_all_the_same():
    parts = components(old=30, b=40, c=20)

    def short_by(limit_mb: int) -> list[tuple[str, str, int]]:
        manager, _ = begun(reads("--b"), parts, 70, seen({}, {"old": 30, "b": 40}))
        assert manager.handle(BudgetChanged(2.0, Tier.HOST, limit_mb * MB, 100 * MB)) == []
        return told(manager.handle(Replanned(3.0, reads("-cb"))))

    assert short_by(5) == []  # with all of what nobody reads gone there would be no room yet; the reserve lets it stay
    assert short_by(50) == [("Evict", "old", 30), ("Evict", "b", 10)]
    assert short_by(38) == [("Evict", "old", 30), ("Evict", "b", 22)]  # 2 of them for the limit: a tenth of the bytes that come


def test_a_host_that_looks_is_believed_and_not_what_its_nodes_should_have_read():
    manager, _ = begun(reads("ab"), components(a=30, b=30), 100, seen({}, {}))
    manager.handle(NodeStarted(2.0, 0))
    manager.handle(TransferDone(2.5, "a", Tier.HOST, 0, 0, 0.1))
    manager.handle(NodeFinished(3.0, 0))  # it has pinned what it read, and dropped it from the page cache
    assert manager.host.held == {}


def test_of_a_model_that_its_node_pins_while_it_is_read_ahead_no_byte_counts_twice():
    manager, _ = begun(reads("a-"), components(a=30), 100, seen({}, {}))
    manager.handle(NodeStarted(2.0, 0))
    manager.handle(seen({"a": 20}, {}))  # the node has pinned the first part; the read-ahead from the file's start goes on
    manager.handle(TransferDone(3.0, "a", Tier.HOST, 30 * MB, 30 * MB, 1.0))
    assert manager.host.held == {"a": 10 * MB}
    manager.handle(NodeFinished(4.0, 0))
    (evict,) = manager.handle(BudgetChanged(5.0, Tier.HOST, 4 * MB))
    assert isinstance(evict, Evict) and (evict.size_bytes, evict.keep_bytes) == (6 * MB, 24 * MB)


def test_what_its_node_has_taken_of_a_transfer_does_not_stand_for_what_is_not_read():
    """12 of 17 fit and are announced; by their end the node has taken 11. Its last 5 come before what the next node reads."""
    manager, _ = begun(reads("ab"), components(a=17, b=4), 12, seen({}, {}))
    manager.handle(NodeStarted(2.0, 0))
    manager.handle(seen({"a": 11}, {}))
    instructions = manager.handle(TransferDone(12.0, "a", Tier.HOST, 12 * MB, 12 * MB, 10.0))

    assert manager.host.held == {"a": 1 * MB}
    assert told(instructions)[0] == ("Prefetch", "a", 17)


def test_what_is_leaving_while_its_node_pins_it_counts_no_more_than_the_rest():
    manager, _ = begun(reads("-a-"), components(a=30), 100, seen({}, {"a": 30}))
    assert told(manager.handle(BudgetChanged(2.0, Tier.HOST, 25 * MB))) == [("Evict", "a", 5)]
    manager.handle(seen({"a": 20}, {"a": 10}))
    assert (manager.host.held, manager.host.leaving_bytes) == ({"a": 10 * MB}, 5 * MB)


def test_a_look_is_not_believed_of_what_a_mover_has_changed_since():
    manager, _ = begun(reads("a"), components(a=30), 100, seen({}, {"a": 30}))
    manager.handle(PromptEnded(2.0, "p", Outcome.SUCCESS))
    (evict,) = manager.handle(BudgetChanged(3.0, Tier.HOST, 0))
    manager.handle(Evicted(4.0, "a", Tier.HOST, 30 * MB, evict.reason))
    manager.handle(PromptStarted(5.0, "q", reads("b"), components(b=30), Mode.BALANCED))
    manager.handle(BudgetChanged(6.0, Tier.HOST, 100 * MB))
    assert ("Prefetch", "a", 30) in told(manager.handle(Replanned(7.0, reads("ba"), components(a=30))))


def test_what_is_asked_for_beside_the_graph_is_read_once_however_often_the_host_looks():
    manager, _ = begun(reads("-"), components(a=30), 100, seen({}, {}))
    assert told(manager.handle(PrefetchAsked(2.0, "a", "node 7 asks for it"))) == [("Prefetch", "a", 30)]
    manager.handle(TransferDone(3.0, "a", Tier.HOST, 30 * MB, 30 * MB, 1.0))
    assert manager.handle(seen({}, {})) == []
