from hypothesis import given
from hypothesis import strategies as st
from story import MB, components, reads, tier

from residency.core.component import Policy
from residency.core.host_plan import plan
from residency.core.view import Terms


def moved(moves):
    return [(move.component, move.size_bytes // MB) for move in moves]


def test_prefetches_come_in_order_of_next_read():
    decided = plan(reads("cab"), -1, components(a=10, b=10, c=10), tier(100))
    assert moved(decided.prefetches) == [("c", 10), ("a", 10), ("b", 10)]


def test_what_does_not_fit_is_read_in_part_and_nothing_behind_it():
    decided = plan(reads("abc"), -1, components(a=60, b=60, c=10), tier(100))
    assert moved(decided.prefetches) == [("a", 60), ("b", 40)]
    assert "19.1 MiB of it do not fit" in decided.prefetches[1].reason


def test_room_is_made_by_what_is_read_last():
    # a, read next, needs the room of b or c: c is read later
    decided = plan(reads("-abc"), 0, components(a=50, b=50, c=50), tier(100, {"b": 50, "c": 50}))
    assert moved(decided.evictions) == [("c", 50)]


def test_nothing_leaves_for_what_is_read_later_than_itself():
    decided = plan(reads("-bca"), 0, components(a=50, b=50, c=50), tier(100, {"b": 50, "c": 50}))
    assert not decided.evictions and not decided.prefetches


def test_what_is_never_read_again_leaves_first_and_the_reason_says_so():
    decided = plan(reads("-a-"), 0, components(a=50, old=40, b=60), tier(100, {"old": 40, "b": 60}))
    assert moved(decided.evictions)[0] == ("old", 40)
    assert "nothing reads it any more" in decided.evictions[0].reason


def test_a_limit_that_shrank_gives_bytes_back_but_not_what_is_busy():
    decided = plan(reads("ab"), 0, components(a=60, b=60), tier(50, {"a": 60, "b": 60}), busy=frozenset({"a"}))
    assert moved(decided.evictions) == [("b", 60)]


def test_what_leaves_is_not_read_again_by_the_same_plan():
    """Its low priority sends the beginning of a away; the room that a stopped transfer gives comes with its mover's answer."""
    flying = tier(40, {"a": 10}, {"old": 50})
    decided = plan(reads("-a"), 0, components(a=60, old=50), flying, terms=Terms({"a": Policy(priority=-1)}))
    assert (moved(decided.evictions), moved(decided.cancels), moved(decided.prefetches)) == ([("a", 10)], [("old", 50)], [])


def test_when_everything_is_there_the_plan_does_nothing():
    decided = plan(reads("abab"), 0, components(a=10, b=10), tier(100, {"a": 10, "b": 10}))
    assert not decided.evictions and not decided.prefetches


keys = st.sampled_from("abcde")


@given(
    st.text("abcde-", max_size=20),
    st.integers(-1, 19),
    st.integers(0, 200),
    st.dictionaries(keys, st.integers(1, 60)),
    st.sets(keys),
    st.sets(keys),
    st.dictionaries(keys, st.integers(-1, 1)),
    st.sets(keys, max_size=1),
    st.booleans(),
)
def test_a_plan_keeps_within_the_limit_and_never_touches_what_is_busy(
    order, position, limit, held, flying, busy, priorities, asked, running
):
    parts = components(a=60, b=50, c=40, d=30, e=20)
    held = {k: min(v, parts[k].size_bytes // MB) for k, v in held.items()}
    in_flight = dict.fromkeys(flying, 5)
    before = tier(limit, held, in_flight)
    for key in asked:
        before.ask(key, "a test")
    terms = Terms({key: Policy(priority=priority) for key, priority in priorities.items()})
    decided = plan(reads(order), position, parts, before, busy=frozenset(busy), running=running, terms=terms)
    evicted = {move.component: move.size_bytes for move in decided.evictions}
    cancelled = {move.component for move in decided.cancels}
    assert not set(evicted) & (busy | flying) and not cancelled & busy
    after = before.used_bytes - sum(evicted.values()) - sum(before.in_flight[key] for key in cancelled)
    added = sum(move.size_bytes - before.held.get(move.component, 0) for move in decided.prefetches)
    assert added == 0 or after + added <= before.limit_bytes
    assert not (flying | set(evicted)) & {move.component for move in decided.prefetches}  # nothing leaves that is read at once


def cache_misses(order, room, choose):
    """Reads that found nothing there, in a cache of `room` equal components; `choose(held, position)` names the victim."""
    held, misses = [], 0
    for position, key in enumerate(order):
        if key not in held:
            misses += 1
            if len(held) == room:
                held.remove(choose(held, position))
        else:
            held.remove(key)
        held.append(key)  # most recently used last
    return misses


def farthest(order):
    def choose(held, position):
        return max(held, key=lambda key: next((i for i in range(position + 1, len(order)) if order[i] == key), len(order)))

    return choose


@given(st.text("abcdef", min_size=1, max_size=40), st.integers(1, 5))
def test_with_equal_sizes_the_victims_are_beladys_and_never_worse_than_least_recently_used(order, room):
    parts, timeline = components(a=1, b=1, c=1, d=1, e=1, f=1), reads(order)

    def ours(held, position):
        decided = plan(timeline, position - 1, parts, tier(room, dict.fromkeys(held, 1)))
        # a component that is read farther than everything held is not fetched early; on demand it takes the farthest one's place
        return decided.evictions[0].component if decided.evictions else farthest(order)(held, position)

    misses = cache_misses(order, room, ours)
    assert misses == cache_misses(order, room, farthest(order))
    assert misses <= cache_misses(order, room, lambda held, position: held[0])
