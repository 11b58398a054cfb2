"""What must hold after any sequence of events: budgets, what is in use, what is in flight, and what is accounted for."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from story import MB, VirtualHost, components, reads, tier

from residency.core import host_plan
from residency.core.component import Mode, Policy
from residency.core.events import Outcome, PrefetchAsked, PromptEnded, PromptStarted, ReleaseAsked, TransferDone, TransferStopped
from residency.core.eviction_order import Ranking, rank
from residency.core.host_plan import plan
from residency.core.instructions import Cancel, Evict, Prefetch
from residency.core.view import Terms

KEYS = "abcd"
orders = st.text(KEYS + "-", min_size=1, max_size=10)
sizes = st.fixed_dictionaries({key: st.integers(1, 60) for key in KEYS})
policies = st.dictionaries(
    st.sampled_from(KEYS), st.builds(Policy, priority=st.integers(-1, 1), prefetch=st.booleans(), keep=st.booleans()), max_size=2
)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("land"), st.integers(0, 3)),
        st.tuples(st.just("limit"), st.integers(0, 200)),
        st.tuples(st.just("ask"), st.sampled_from(KEYS)),
        st.tuples(st.just("release"), st.sampled_from(KEYS)),
    ),
    max_size=3,
)


class Checked(VirtualHost):
    """Checks every instruction against what runs and what flies."""

    running: frozenset[str] = frozenset()
    depth = 0

    def give(self, event):
        manager = getattr(self, "manager", None)
        flying_before = set(manager.host.in_flight) if manager else set()
        if isinstance(event, TransferDone | TransferStopped):
            flying_before.discard(event.component)
        mark = len(self.log)
        before = manager.host.used_bytes if manager else 0
        self.depth += 1
        instructions = super().give(event)
        self.depth -= 1
        own = self.log[mark : mark + len(instructions)]
        for instruction in own:
            key = instruction.component.key
            if isinstance(instruction, Evict) and instruction.tier.value == "host":
                assert key not in self.running and key not in flying_before
                assert 0 <= instruction.keep_bytes < instruction.component.size_bytes
            if isinstance(instruction, Prefetch):
                assert instruction.start_bytes <= instruction.size_bytes <= instruction.component.size_bytes
        budget = self.manager.host
        assert budget.used_bytes <= max(budget.limit_bytes, before)
        if self.depth == 0:  # the answers to what was told have come
            assert {prefetch.component.key for prefetch in self.flight} == set(budget.in_flight)
        return instructions


@settings(max_examples=60, deadline=None)
@given(orders, sizes, st.integers(0, 200), policies, st.data())
def test_budgets_and_what_is_in_use_are_respected_whatever_happens(order, size_mb, limit_mb, asked, data):
    host = Checked(reads("-"), components(**size_mb), limit_mb)
    host.give(PromptStarted(1.0, "p", reads(order), components(**size_mb), Mode.BALANCED, asked))
    for position, key in enumerate(order):
        host.running = frozenset({key})
        host.start(position)
        for action, value in data.draw(actions):
            if action == "land" and host.flight:
                host.land(value % len(host.flight))
            elif action == "limit":
                host.limit(value)
            elif action == "ask":
                host.give(PrefetchAsked(2.0, value, "asked"))
            elif action == "release":
                host.give(ReleaseAsked(2.0, value, True, "released"))
        host.running = frozenset()
        host.finish(position)
    host.give(PromptEnded(9.0, "p", Outcome.INTERRUPTED))
    assert not host.flight and not host.manager.host.in_flight


@given(orders, sizes)
def test_every_prefetched_byte_is_of_a_component_that_is_read_later(order, size_mb):
    host = VirtualHost(reads(order), components(**size_mb), 100)
    for position in range(len(order)):
        mark = len(host.log)
        host.start(position)
        for instruction in host.log[mark:]:
            if isinstance(instruction, Prefetch):
                assert instruction.component.key in order[position:]
        while host.flight:
            host.land()
        host.finish(position)


@given(orders, sizes, st.integers(0, 9), st.integers(0, 200), st.dictionaries(st.sampled_from(KEYS), st.integers(1, 60)))
def test_the_kept_order_and_a_sorted_one_give_the_same_plan(order, size_mb, position, limit_mb, held_mb):
    parts, timeline = components(**size_mb), reads(order)
    held = {key: min(size, size_mb[key]) for key, size in held_mb.items()}
    ranking = Ranking()
    for at in range(-1, position + 1):  # ranks as they were at earlier positions, then as they are
        for key in held:
            ranking.put(rank(key, timeline, at, parts, {}))
    kept = ranking.first_to_leave()
    state = tier(limit_mb, held)
    assert plan(timeline, position, parts, state, leave_order=kept) == plan(timeline, position, parts, state)


@settings(max_examples=600)
@given(
    st.text(KEYS, min_size=2, max_size=6),
    st.integers(-1, 1),
    st.booleans(),
    st.sampled_from(("nothing", "room", "priority", "asked", "second copy", "reserve", "hard disk", "copies")),
    st.sampled_from(KEYS),
    st.data(),
)
def test_the_short_way_overlooks_nothing_that_the_whole_deliberation_sees(order, position, running, beside, key, data):
    """A full tier is what the short way is for: what else there may be beside the order is what it must not overlook."""
    parts, timeline = components(**dict.fromkeys(KEYS, 2)), reads(order)
    held_mb = {one: size for one in KEYS if (size := data.draw(st.integers(0, 2)))}
    coming_mb = {one: 1 for one in data.draw(st.sets(st.sampled_from(KEYS), max_size=1)) if held_mb.get(one, 0) < 2}
    state = tier(sum(held_mb.values()) + sum(coming_mb.values()) + (beside == "room"), held_mb, coming_mb)
    if beside == "asked":
        state.ask(key, "a test")
    if beside == "second copy":
        state.owned({key: MB}, {key: MB})
    terms = Terms(
        policies=dict.fromkeys(order[1:3], Policy(priority=1)) if beside == "priority" else {},
        alone={key} if beside == "hard disk" else set(),
        copies=beside == "copies",
        reserve_bytes=-MB if beside == "reserve" else 0,
    )
    busy = data.draw(st.sets(st.sampled_from(KEYS), max_size=1))
    found = plan(timeline, position, parts, state, busy, running=running, terms=terms)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host_plan, "stays", lambda *_: False)
        whole = plan(timeline, position, parts, state, busy, running=running, terms=terms)
    assert found._replace(complete_reads=0, whole_until=None) == whole._replace(complete_reads=0, whole_until=None)


@given(orders, sizes, st.integers(1, 240))
def test_a_plan_that_was_enacted_asks_for_nothing_more(order, size_mb, limit_mb):
    host = VirtualHost(reads(order), components(**size_mb), limit_mb)
    while host.flight:
        host.land()
    mark = len(host.log)
    host.limit(limit_mb)
    assert [i for i in host.log[mark:] if isinstance(i, Prefetch | Evict | Cancel)] == []
