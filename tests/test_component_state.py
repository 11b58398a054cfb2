"""One record per component and tier: every legal move, every illegal one, and totals that always agree with the records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from story import MB, VirtualHost, components, reads

from residency.core.budget import Budget
from residency.core.component import Mode, Policy, Tier
from residency.core.component_state import STORY_MOVES, TierState
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
    RatesMeasured,
    ReleaseAsked,
    Replanned,
    Taken,
    TransferDone,
    TransferStopped,
)
from residency.core.instructions import Cancel, Evict, Prefetch
from residency.core.manager import Manager
from residency.core.moves import MOVES, IllegalMoveError, Move, State
from residency.core.story import told
from residency.core.timeline import Timeline, Use, UseKind, Visit

A = "a"


def absent() -> TierState:
    return TierState(Tier.HOST, 100)


def held() -> TierState:
    tier = absent()
    tier.seen(A, 30, "a test")
    return tier


def after(build: Callable[[], TierState], *moves: Callable[[TierState], object]) -> Callable[[], TierState]:
    def built() -> TierState:
        tier = build()
        for move in moves:
            move(tier)
        return tier

    return built


DO: dict[Move, Callable[[TierState], object]] = {
    Move.ANNOUNCE: lambda tier: tier.announce(A, 20, "it is read next"),
    Move.EXTEND: lambda tier: tier.extend(A, 5, "there is more room"),
    Move.STOP: lambda tier: tier.stop(A, "nobody reads it"),
    Move.GIVE_UP: lambda tier: tier.give_up(A, "the user says so"),
    Move.LEAVE: lambda tier: tier.leave(A, 10, "others need the room"),
    Move.DROP_COPY: lambda tier: (tier.owned({A: 9}, {A: 9}), tier.drop_copy(A, "the process has its own")),
    Move.LANDED: lambda tier: tier.landed(A, 50),
    Move.STOPPED: lambda tier: tier.stopped(A, 40, "the drive is gone"),
    Move.LEFT: lambda tier: tier.left(A, max(0, tier.of(A).held_bytes - 10), "it has left"),
    Move.SEEN: lambda tier: tier.seen(A, 35, "the host has looked"),
    Move.RENEW: lambda tier: tier.ask(A, "the user wants it"),
}
BUILD: dict[State, Callable[[], TierState]] = {
    State.ABSENT: absent,
    State.HELD: held,
    State.ANNOUNCED: after(held, DO[Move.ANNOUNCE]),
    State.STOPPING: after(held, DO[Move.ANNOUNCE], DO[Move.STOP]),
    State.GIVEN_UP: after(held, DO[Move.ANNOUNCE], DO[Move.GIVE_UP]),
    State.LEAVING: after(held, DO[Move.LEAVE]),
    State.RELEASED: after(held, DO[Move.GIVE_UP], DO[Move.LEAVE]),
    State.REFUSED: after(held, DO[Move.GIVE_UP]),
}


@pytest.mark.parametrize("move", Move, ids=lambda move: move.name)
@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_every_legal_move_leads_where_the_table_says_and_every_other_one_is_named_and_changes_nothing(state: State, move: Move):
    tier = BUILD[state]()
    assert tier.of(A).state is state
    if (state, move) in MOVES:
        DO[move](tier)
        if MOVES[state, move] is State.HELD and not tier.of(A).held_bytes:
            assert tier.of(A).state is State.ABSENT
        else:
            assert tier.of(A).state is MOVES[state, move]
    else:
        before = (tier.held, tier.in_flight, tier.used_bytes, tier.leaving_bytes, tier.stopping_bytes)
        with pytest.raises(IllegalMoveError, match=f"a is {state.value} on the host tier and cannot be {move.value}: "):
            DO[move](tier)
        assert tier.of(A).state is state
        assert before == (tier.held, tier.in_flight, tier.used_bytes, tier.leaving_bytes, tier.stopping_bytes)
    tier.validate()


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_what_movers_and_hosts_say_is_legal_at_any_time(state: State):
    assert {move for move in (Move.LANDED, Move.STOPPED, Move.LEFT, Move.SEEN) if (state, move) not in MOVES} == set()


def test_an_answer_that_comes_late_changes_nothing_of_what_is_leaving_and_the_oldest_eviction_is_answered_first():
    tier = after(held, DO[Move.LEAVE], DO[Move.LEAVE], DO[Move.LANDED], DO[Move.STOPPED])()
    assert (tier.of(A).state, tier.held, tier.leaving_bytes) == (State.LEAVING, {A: 30}, 20)
    tier.left(A, 20, "it has left")
    assert (tier.of(A).state, tier.held, tier.leaving_bytes) == (State.LEAVING, {A: 20}, 10)
    tier.left(A, 10, "it has left")
    assert (tier.of(A).state, tier.held, tier.leaving_bytes) == (State.HELD, {A: 10}, 0)


def table() -> str:
    """`MOVES` as a Markdown table for the docs: a row for each state, a column for each move; "·" stays, an empty cell is illegal."""
    rows = [["", *(move.name for move in Move)], ["---"] * (len(Move) + 1)]
    for before in State:
        after = [MOVES.get((before, move)) for move in Move]
        rows.append([f"**{before.name}**", *("" if one is None else "·" if one is before else one.name for one in after)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def test_the_table_of_the_docs_is_drawn_from_the_moves():
    text = (Path(__file__).parents[1] / "docs" / "states.md").read_text(encoding="utf-8")
    assert table() in text, "docs/states.md: put in what table() in this file returns"


steps = st.lists(st.tuples(st.sampled_from(list(Move)), st.sampled_from("ab"), st.integers(0, 50)), max_size=40)


@given(steps)
@example([(Move.DROP_COPY, "a", 0), (Move.DROP_COPY, "a", 0), (Move.LANDED, "a", 1), (Move.LEFT, "a", 1)])
def test_the_totals_agree_with_the_records_after_any_moves(steps):
    tier = TierState(Tier.HOST, 100)
    for move, key, size in steps:
        record = tier.of(key)
        if (record.state, move) not in MOVES:
            continue
        match move:
            case Move.ANNOUNCE | Move.EXTEND:
                getattr(tier, move.name.lower())(key, size + 1, "")
            case Move.LEAVE if record.stays_bytes:
                tier.leave(key, min(size + 1, record.stays_bytes), "")
            case Move.STOP | Move.GIVE_UP:
                getattr(tier, move.name.lower())(key, "")
            case Move.DROP_COPY:
                tier.owned({key: 9}, {key: 9})
                tier.drop_copy(key, "")
            case Move.LANDED | Move.STOPPED:
                getattr(tier, move.name.lower())(key, size, "")
            case Move.LEFT:
                tier.left(key, max(0, record.held_bytes - size), "")
            case Move.SEEN:
                tier.seen(key, size, "")
            case Move.RENEW:
                tier.renew("ab")
        tier.validate()
    assert tier.used_bytes == sum(tier.held.values()) + sum(tier.in_flight.values())


def wrong_total(tier: TierState) -> None:
    tier.budget.used_bytes += 1


def wrong_index(tier: TierState) -> None:
    del tier.coming["b"]


def wrong_state(tier: TierState) -> None:
    tier.of(A).state = State.ABSENT


def wrong_leaving(tier: TierState) -> None:
    tier.of(A).leaving_bytes = 7


def wrong_asked(tier: TierState) -> None:
    tier.of("b").asked = "nobody"


@pytest.mark.parametrize("broken", [wrong_total, wrong_index, wrong_state, wrong_leaving, wrong_asked], ids=lambda one: one.__name__)
def test_whatever_is_changed_behind_the_tiers_back_is_found(broken: Callable[[TierState], None]):
    tier = held()
    tier.announce("b", 20, "a test")
    tier.validate()
    broken(tier)
    with pytest.raises(AssertionError, match="host tier"):
        tier.validate()


def test_a_budget_is_negative_when_its_limit_shrinks_and_never_starts_so():
    tier = held()
    tier.budget.limit_bytes = 10
    assert (tier.budget.available_bytes, tier.budget.held_bytes) == (-20, 30)
    with pytest.raises(ValueError, match="-1 bytes"):
        Budget(-1)


def test_a_story_tells_moves_times_bytes_and_reasons_of_both_tiers_in_order():
    host = VirtualHost(reads("ab"), components(a=60, b=60), limit_mb=60, mode=Mode.LOW_VRAM)
    host.time_s = 0.2
    host.start(0)
    host.time_s = 1.4
    host.land()
    host.time_s = 9.1
    host.finish(0)
    sentence = told(host.manager.story("a"))
    assert sentence.startswith("announced on the host at 0.0 s with 57.2 MiB: read by Node 0, next; arrived on the host at 1.4 s with")
    assert "; told to leave on the device at 9.1 s with 57.2 MiB: nothing in this prompt or the queue needs it any more" in sentence
    assert "; left on the host at 9.1 s with 57.2 MiB: makes room for b; nothing reads it any more" in sentence
    assert host.manager.story("nobody") == []


def test_a_story_is_bounded_and_what_no_prompt_knows_any_more_is_forgotten():
    tier = held()
    for size in range(3 * STORY_MOVES):
        tier.seen(A, size, "a test")
    assert len(list(tier.story(A))) == STORY_MOVES
    tier.seen(A, 0, "gone")
    tier.renew(known={A})
    assert tier.records
    tier.renew(known=set())
    assert not tier.records


KEYS = "abc"
SIZES = {"a": 10, "b": 30, "c": 50}
keys = st.sampled_from(KEYS)
tiers = st.sampled_from([Tier.HOST, Tier.DEVICE])
orders = st.text(KEYS + "-", min_size=1, max_size=6)
megabytes = st.integers(0, 60).map(lambda size: size * MB)
amounts = st.dictionaries(keys, megabytes)


def timeline(order: str) -> Timeline:
    visits = [Visit("p", str(index), "Node", 1.0, MB) for index in range(len(order))]
    return Timeline.of(visits, [Use(index, key, UseKind.COMPUTE, True) for index, key in enumerate(order) if key != "-"])


policies = st.dictionaries(keys, st.builds(Policy, priority=st.integers(-1, 1), prefetch=st.booleans(), keep=st.booleans()), max_size=2)
some_parts = st.sets(keys).map(lambda chosen: components(**{key: SIZES[key] for key in chosen}))
modes = st.sampled_from(list(Mode))
events = st.one_of(
    st.builds(PromptStarted, st.just(1.0), st.just("p"), orders.map(timeline), some_parts, modes, policies, st.frozensets(keys)),
    st.builds(Replanned, st.just(1.0), orders.map(timeline), some_parts, st.frozensets(keys), st.none() | st.just(0)),
    st.builds(NodeStarted, st.just(2.0), st.integers(0, 6)),
    st.builds(NodeFinished, st.just(2.0), st.integers(0, 6)),
    st.builds(TransferDone, st.just(2.0), keys, tiers, megabytes, megabytes, st.just(1.0)),
    st.builds(TransferStopped, st.just(2.0), keys, tiers, megabytes, megabytes, st.just(1.0), st.just("refused")),
    st.builds(Evicted, st.just(2.0), keys, tiers, megabytes, st.just("asked")),
    st.builds(BudgetChanged, st.just(2.0), tiers, megabytes, megabytes, st.booleans()),
    st.builds(RatesMeasured, st.just(2.0), st.dictionaries(keys, st.just(1e7)), st.none() | st.just(1e7)),
    st.builds(HostObserved, st.just(2.0), amounts, amounts, amounts, st.booleans()),
    st.builds(Taken, st.just(2.0), amounts),
    st.builds(DeviceObserved, st.just(2.0), amounts, st.integers(-60, 60).map(lambda size: size * MB), st.none() | amounts),
    st.builds(PrefetchAsked, st.just(2.0), keys, st.just("asked")),
    st.builds(ReleaseAsked, st.just(2.0), keys, st.booleans(), st.just("released")),
    st.builds(PromptEnded, st.just(3.0), st.just("p"), st.sampled_from(list(Outcome))),
)
# a mover's answer to its oldest instruction, once or twice, or any event at all
happenings = st.lists(st.one_of(st.tuples(st.just("answer"), st.booleans(), st.booleans()), events), max_size=40)


@settings(max_examples=300, deadline=None)
@given(orders, happenings)
def test_any_events_in_any_order_leave_both_tiers_in_step(order, happenings):
    manager = Manager(100 * MB, 100 * MB)
    told_to: list[object] = []

    def give(event):
        coming = {tier: set(tier.coming) for tier in (manager.host, manager.device)}
        instructions = manager.handle(event)
        if isinstance(event, TransferDone | TransferStopped):
            coming[manager.host if event.tier is Tier.HOST else manager.device].discard(event.component)
        for one in instructions:
            tier = manager.host if one.tier is Tier.HOST else manager.device
            if isinstance(one, Evict) and one.upto_bytes is None:  # a second copy may go while the rest comes
                assert one.component.key not in coming[tier] | set(tier.coming)
            if isinstance(one, Prefetch) and one.tier is Tier.HOST:
                assert one.component.key not in coming[tier]
        told_to.extend(instructions)

    give(PromptStarted(0.0, "p", timeline(order), components(**SIZES), Mode.BALANCED))
    for happening in happenings:
        if not isinstance(happening, tuple):
            give(happening)
            continue
        _, well, twice = happening
        while told_to and not isinstance(told_to[0], Prefetch | Evict | Cancel):
            told_to.pop(0)
        if not told_to:
            continue
        one = told_to.pop(0)
        key, tier = one.component.key, one.tier
        if isinstance(one, Evict):
            answer = Evicted(2.0, key, tier, one.size_bytes if well else 0, "asked")
        elif isinstance(one, Prefetch) and well:
            answer = TransferDone(2.0, key, tier, MB, one.size_bytes - one.start_bytes, 1.0)
        else:
            answer = TransferStopped(2.0, key, tier, 0, MB, 1.0, "stopped")
        for _ in range(1 + twice):
            give(answer)
