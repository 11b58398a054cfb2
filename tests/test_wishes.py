"""What the user asks for and what the host has seen, as stories of the manager."""

from __future__ import annotations

from story import MB, VirtualHost, components, reads

from residency.core.component import Mode, Policy, Tier
from residency.core.events import (
    BudgetChanged,
    Evicted,
    HostObserved,
    NodeStarted,
    PrefetchAsked,
    PromptStarted,
    ReleaseAsked,
    Replanned,
    TransferDone,
    TransferStopped,
)
from residency.core.instructions import Evict, Prefetch
from residency.core.manager import Manager


def told(instructions):
    """(kind, component, megabytes) of each prefetch and eviction."""
    return [(type(i).__name__, i.component.key, i.size_bytes // MB) for i in instructions if isinstance(i, Prefetch | Evict)]


def begin(order: str, policies: dict[str, Policy], limit_mb: int, **sizes: int) -> VirtualHost:
    host = VirtualHost(reads("-"), components(**sizes), 0)
    host.log.clear()
    host.limit(limit_mb)
    host.give(PromptStarted(1.0, "p", reads(order), components(**sizes), Mode.BALANCED, policies))
    return host


def test_a_component_that_is_not_to_be_read_ahead_is_left_to_its_node():
    host = begin("ab", {"a": Policy(prefetch=False)}, 100, a=10, b=10)
    assert told(host.log) == [("Prefetch", "b", 10)]


def test_between_two_that_could_leave_the_lower_priority_goes_however_soon_it_is_read():
    host = begin("-abc", {"b": Policy(priority=1)}, 60, a=30, b=30, c=30)
    while host.flight:
        host.land()
    assert host.present == {"a": 30 * MB, "b": 30 * MB}
    host.limit(40)
    assert told(host.log)[-1] == ("Evict", "a", 20)  # b is read later, and stays


def test_room_goes_to_priority_first_and_reading_in_the_order_of_the_nodes():
    host = begin("abc", {"c": Policy(priority=1)}, 60, a=30, b=30, c=30)
    assert told(host.log) == [("Prefetch", "a", 30), ("Prefetch", "c", 30)]


def test_what_is_kept_outlives_the_prompt_and_gives_no_room():
    keep = {"a": Policy(keep=True)}
    host = begin("a", keep, 60, a=30, b=60)
    host.land()
    host.start(0)
    host.finish(0)
    mark = len(host.log)
    host.give(PromptStarted(2.0, "q", reads("b"), components(b=60), Mode.BALANCED, keep))
    assert told(host.log[mark:]) == [("Prefetch", "b", 30)]
    assert host.manager.host.held == {"a": 30 * MB}


def test_what_is_kept_is_the_last_to_leave_when_memory_gets_short():
    host = begin("-ba", {"a": Policy(keep=True)}, 60, a=30, b=30)
    while host.flight:
        host.land()
    host.limit(20)
    assert told(host.log)[-2:] == [("Evict", "b", 30), ("Evict", "a", 10)]


def test_what_the_user_asks_for_now_comes_first_and_stays_within_the_budget():
    host = begin("-b", {}, 50, a=40, b=30)
    while host.flight:
        host.land()
    mark = len(host.log)
    host.give(PrefetchAsked(2.0, "a", "the user wants it"))
    assert told(host.log[mark:]) == [("Evict", "b", 20), ("Prefetch", "a", 40)]
    host.give(PrefetchAsked(2.0, "nobody", "a typing mistake"))
    assert host.manager.host.used_bytes <= 50 * MB


def test_what_the_user_asks_for_is_announced_before_what_the_order_says():
    host = begin("-b", {}, 0, a=40, b=30)
    host.give(PrefetchAsked(2.0, "a", "the user wants it"))
    assert told(host.log) == []
    host.limit(100)
    assert told(host.log) == [("Prefetch", "a", 40), ("Prefetch", "b", 30)]


def test_a_release_gives_the_device_back_and_the_host_when_asked():
    host = begin("-ab", {}, 100, a=30, b=30)
    while host.flight:
        host.land()
    instructions = host.give(ReleaseAsked(2.0, "a", True, "its last use"))
    assert [(i.tier, i.component.key) for i in instructions if isinstance(i, Evict)] == [(Tier.DEVICE, "a"), (Tier.HOST, "a")]
    assert told(host.start(0)) == []  # it is not read ahead again in this prompt
    assert [i.tier for i in host.give(ReleaseAsked(3.0, "b", False, "its last use"))] == [Tier.DEVICE]


def test_what_is_in_use_is_released_when_its_node_has_ended():
    host = begin("a", {}, 100, a=30)
    host.land()
    host.start(0)
    assert host.give(ReleaseAsked(2.0, "a", True, "its last use")) == []
    assert [i.tier for i in host.finish(0)] == [Tier.DEVICE, Tier.HOST]


def seen(
    held_mb: dict[str, int], loaded_mb: dict[str, int], surplus_mb: dict[str, int] | None = None, *, copies: bool = False
) -> HostObserved:
    def in_bytes(sizes: dict[str, int]) -> dict[str, int]:
        return {key: size * MB for key, size in sizes.items()}

    return HostObserved(0.0, in_bytes(held_mb), in_bytes(loaded_mb), in_bytes(surplus_mb or {}), copies)


def started(limit_mb: int, look: HostObserved, order: str, **sizes: int) -> list[object]:
    manager = Manager(limit_mb * MB)
    manager.handle(PromptStarted(0.0, "o", reads("-"), components(**sizes), Mode.BALANCED))
    manager.handle(look)
    return list(manager.handle(PromptStarted(1.0, "p", reads(order), components(**sizes), Mode.BALANCED)))


def test_what_the_process_holds_for_itself_is_not_read_again():
    (prefetch,) = started(100, seen({}, {"a": 20, "b": 30}), "ab", a=50, b=30)
    assert isinstance(prefetch, Prefetch)
    assert (prefetch.component.key, prefetch.start_bytes // MB, prefetch.size_bytes // MB) == ("a", 20, 50)


def test_second_copies_of_what_the_process_holds_make_room_first_and_cost_nothing():
    instructions = started(60, seen({"b": 30}, {"a": 30}, {"a": 30}), "-bc", a=30, b=30, c=30)
    assert told(instructions) == [("Evict", "a", 30), ("Prefetch", "c", 30)]
    assert isinstance(instructions[0], Evict) and (instructions[0].keep_bytes, instructions[0].upto_bytes) == (0, 30 * MB)


def test_what_is_planned_while_a_second_copy_leaves_does_not_forget_the_rest_of_its_component():
    """A component whose answer is due is passed over by a plan. It comes first again with the answer, also where a part is on its way."""
    sizes = {"c": 11, "e": 26, "b": 11, "f": 10}
    manager = Manager(16 * MB)
    manager.handle(PromptStarted(0.0, "o", reads("-"), components(**sizes), Mode.BALANCED))
    manager.handle(seen({}, {"e": 8}, {"e": 2}))
    first = manager.handle(PromptStarted(1.0, "p", reads("ceb-f"), components(**sizes), Mode.BALANCED))
    assert told(first) == [("Evict", "e", 2), ("Prefetch", "c", 11), ("Prefetch", "e", 13)]
    refused = manager.handle(TransferStopped(2.0, "c", Tier.HOST, 0, 0, 0.0, "no such file"))
    assert told(refused) == [("Prefetch", "b", 11)]
    assert manager.handle(Evicted(3.0, "e", Tier.HOST, 2 * MB, "asked")) == []
    assert told(manager.handle(BudgetChanged(4.0, Tier.HOST, 26 * MB))) == []  # f is read behind e
    landed = manager.handle(TransferDone(5.0, "e", Tier.HOST, 5 * MB, 13 * MB, 1.0))
    assert told(landed) == [("Prefetch", "e", 23)]


def test_a_second_copy_and_weights_that_leave_together_are_answered_one_by_one_and_what_stays_is_still_there():
    manager = Manager(20 * MB)
    manager.handle(PromptStarted(0.0, "p", reads("-"), components(a=60), Mode.BALANCED))
    instructions = manager.handle(seen({"a": 30}, {"a": 20}, {"a": 10}))
    assert told(instructions) == [("Evict", "a", 10), ("Evict", "a", 10)]
    for _ in instructions:
        assert manager.handle(Evicted(1.0, "a", Tier.HOST, 10 * MB, "asked")) == []
    assert manager.host.held == {"a": 20 * MB}


def test_what_the_user_wants_goes_on_being_read_when_the_order_changes():
    host = begin("-b", {}, 100, a=40, b=30)
    host.give(PrefetchAsked(2.0, "a", "the user wants it"))
    assert host.give(Replanned(3.0, reads("-b"))) == []
    assert [prefetch.component.key for prefetch in host.flight] == ["b", "a"]


def test_what_was_given_up_while_it_was_read_leaves_unless_the_next_prompt_reads_it():
    def given_up() -> Manager:
        manager = Manager(100 * MB)
        manager.handle(PromptStarted(0.0, "p", reads("-a"), components(a=40), Mode.BALANCED))
        assert [type(one).__name__ for one in manager.handle(ReleaseAsked(1.0, "a", True, "its last use"))] == ["Evict", "Cancel"]
        return manager

    def stops(manager: Manager) -> list[tuple[str, str, int]]:
        return told(manager.handle(TransferStopped(3.0, "a", Tier.HOST, 9 * MB, 9 * MB, 0.1, "asked")))

    assert stops(given_up()) == [("Evict", "a", 9)]
    again = given_up()
    again.handle(PromptStarted(2.0, "q", reads("-a"), components(a=40), Mode.BALANCED))
    assert stops(again) == [("Prefetch", "a", 40)]


def test_a_node_that_copies_what_it_reads_needs_room_for_both():
    parts = components(a=40, b=40)
    manager = Manager(40 * MB)
    manager.handle(PromptStarted(0.0, "p", reads("ab"), parts, Mode.BALANCED))
    manager.handle(TransferDone(0.5, "a", Tier.HOST, 40 * MB, 40 * MB, 0.5))
    manager.handle(seen({"a": 40}, {}, copies=True))
    manager.handle(NodeStarted(1.0, 0))
    assert told(manager.handle(BudgetChanged(1.0, Tier.HOST, 100 * MB))) == [("Prefetch", "b", 20)]


def test_bytes_in_the_reserve_stay_but_nothing_is_brought_there():
    host = begin("-ab", {}, 60, a=30, b=30)
    while host.flight:
        host.land()
    mark = len(host.log)
    host.give(BudgetChanged(2.0, Tier.HOST, 40 * MB, 20 * MB))
    assert told(host.log[mark:]) == []
    host.give(BudgetChanged(2.0, Tier.HOST, 40 * MB, 10 * MB))
    assert told(host.log[mark:]) == [("Evict", "b", 10)]


def looks(host: VirtualHost) -> list[tuple[str, str, int]]:
    """Moves of a host that looks twice at what does not change."""
    mark = len(host.log)
    for _ in range(2):
        host.give(HostObserved(host.time_s, dict(host.present)))
        while host.flight:
            host.land()
    return told(host.log[mark:])


def test_what_has_priority_does_not_take_the_room_that_the_running_node_reads_its_own_into():
    urgent, own = Policy(priority=1), Policy(Mode.OFF, priority=1)
    host = begin("ba-", {"a": urgent, "b": own}, 60, a=30, b=60)
    while host.flight:
        host.land()
    host.start(0)
    assert host.present == {} and looks(host) == []  # b is read by its node, and a behind it


def test_of_two_with_one_priority_the_one_that_is_read_first_gets_the_room():
    urgent = Policy(priority=1)
    host = begin("--ba", {"a": urgent, "b": urgent}, 30, a=30, b=30)
    assert told(host.log) == [("Prefetch", "b", 30)]


def test_what_the_user_asks_for_leaves_for_nothing_whatever_its_priority():
    host = begin("-b", {"a": Policy(priority=-1)}, 0, a=30, b=80)
    host.give(PrefetchAsked(2.0, "a", "node 7 asks for it"))
    host.limit(90)
    while host.flight:
        host.land()
    assert host.present == {"a": 30 * MB, "b": 60 * MB}
    assert looks(host) == []
