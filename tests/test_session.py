"""A session turns facts into events in one order, knows its phase, and refuses what cannot be true."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from story import components, reads

from residency.core.component import Mode, Tier
from residency.core.events import (
    BudgetChanged,
    DeviceObserved,
    HostObserved,
    NodeFinished,
    NodeStarted,
    Outcome,
    PromptEnded,
    PromptStarted,
    RatesMeasured,
    Replanned,
)
from residency.core.timeline import Timeline, Use, UseKind, Visit
from residency.session import (
    LEGAL,
    Limits,
    Looks,
    NodeBegins,
    NodeEnds,
    OrderChanges,
    Phase,
    PromptBegins,
    PromptEnds,
    Session,
    SessionError,
    Sight,
    StandsAside,
)

SEEN = Sight(HostObserved(1.0, {}), DeviceObserved(1.0, {}, 5))


def begins(order: str = "ab", prompt_id: str = "p", **facts: object) -> PromptBegins:
    return PromptBegins(0.0, prompt_id, reads(order), components(a=10, b=10), Mode.BALANCED, **facts)


def begun(order: str = "ab") -> Session:
    session = Session()
    session.take(begins(order))
    return session


def names(events: list[object]) -> list[str]:
    return [type(event).__name__ for event in events]


def test_limits_come_first_then_what_lies_where_then_what_happens():
    session = Session()
    told = session.take(begins(limits=Limits(100, 10, 50), sight=SEEN))
    assert told[:2] == [BudgetChanged(0.0, Tier.HOST, 100, 10), BudgetChanged(0.0, Tier.DEVICE, 50)]
    assert names(told[2:]) == ["HostObserved", "DeviceObserved", "PromptStarted"]
    assert names(session.take(NodeBegins(1.0, "0", sight=SEEN))) == ["HostObserved", "DeviceObserved", "NodeStarted"]


def test_a_limit_that_stays_is_told_once():
    session = begun()
    assert names(session.take(Looks(1.0, Limits(100, 10)))) == ["BudgetChanged"]
    assert session.take(Looks(2.0, Limits(100, 10))) == [] == session.take(Looks(3.0))
    assert session.take(Looks(4.0, Limits(100, 11))) == [BudgetChanged(4.0, Tier.HOST, 100, 11)]


def test_another_node_than_expected_is_followed():
    session = begun("abc")
    assert session.next_node() == "0"
    assert session.take(NodeBegins(1.0, "2")) == [NodeStarted(1.0, 2)]
    session.take(NodeEnds(2.0))
    assert session.next_node() is None


def test_a_node_of_the_same_name_in_a_queued_prompt_is_not_meant():
    visits = (Visit("p", "1", "Node"), Visit("q", "2", "Node"))
    session = Session()
    session.take(PromptBegins(0.0, "p", Timeline(visits, ()), {}, Mode.BALANCED))
    with pytest.raises(SessionError, match="node 2 begins"):
        session.take(NodeBegins(1.0, "2"))
    assert session.phase is Phase.BETWEEN and session.take(NodeBegins(1.0, "1")) == [NodeStarted(1.0, 0)]


def test_another_order_restarts_the_positions_and_says_whether_a_node_runs():
    session = begun("abc")
    session.take(NodeBegins(1.0, "0"))
    assert session.take(OrderChanges(2.0, reads("ac"), {})) == [Replanned(2.0, reads("ac"), {}, frozenset(), 0)]
    session.take(NodeEnds(3.0))
    assert session.take(OrderChanges(4.0, reads("c"), {})) == [Replanned(4.0, reads("c"), {}, frozenset(), None)]
    assert session.take(NodeBegins(5.0, "0")) == [NodeStarted(5.0, 0)]


def test_an_abandoned_prompt_ends_in_any_phase_with_its_reason_and_once():
    session = begun()
    session.take(NodeBegins(1.0, "0"))
    gone = StandsAside(2.0, "the user has switched it off")
    assert session.take(gone) == [PromptEnded(2.0, "p", Outcome.ABANDONED, "the user has switched it off")]
    assert session.take(gone) == [] and session.phase is Phase.IDLE


def test_a_prompt_that_its_host_has_lost_ends_when_the_next_begins():
    session = begun()
    told = session.take(begins(prompt_id="q"))
    assert told[0] == PromptEnded(0.0, "p", Outcome.ABANDONED, "another prompt has begun")
    assert isinstance(told[1], PromptStarted)


FACTS = [
    begins(),
    OrderChanges(1.0, reads("ab"), {}),
    NodeBegins(1.0, "0"),
    NodeBegins(1.0, "7"),
    Looks(1.0, Limits(5), SEEN),
    NodeEnds(1.0),
    PromptEnds(1.0, Outcome.ERROR),
    StandsAside(1.0, "a test"),
    RatesMeasured(1.0, {}),
]


@given(st.lists(st.sampled_from(FACTS), max_size=30))
def test_every_started_prompt_ends_once_and_nodes_alternate_whatever_a_host_tells(facts):
    session, told = Session(), []
    for fact in facts:
        before = session.phase, session.position, session.timeline
        try:
            told += session.take(fact)
        except SessionError:
            assert (session.phase, session.position, session.timeline) == before
        else:
            assert before[0] in LEGAL.get(type(fact), frozenset(Phase))
    told += session.take(StandsAside(9.0, "the end"))
    assert sum(isinstance(event, PromptStarted) for event in told) == sum(isinstance(event, PromptEnded) for event in told)
    running = False
    for event in told:
        if isinstance(event, NodeStarted):
            assert not running
        if isinstance(event, NodeStarted | NodeFinished | PromptEnded):
            running = isinstance(event, NodeStarted)


def test_standing_aside_from_a_prompt_that_has_ended_meanwhile_leaves_the_next_one_alone():
    session = begun()
    session.take(begins(prompt_id="q"))
    assert session.take(StandsAside(2.0, "switched off while p ran", "p")) == [] and session.phase is Phase.BETWEEN
    assert session.take(StandsAside(3.0, "switched off", "q")) == [PromptEnded(3.0, "q", Outcome.ABANDONED, "switched off")]


def test_a_prompt_is_in_its_tail_when_no_node_of_its_own_from_here_on_uses_weights():
    """Those of the queue behind it do not count."""
    session = Session()
    visits = [Visit("p", "0", "Node"), Visit("p", "1", "Node"), Visit("q", "2", "Node")]
    uses = [Use(0, "a", UseKind.COMPUTE, True), Use(2, "a", UseKind.COMPUTE, True)]
    session.take(PromptBegins(1.0, "p", Timeline(tuple(visits), tuple(uses)), components(a=10), Mode.BALANCED))
    found = []
    for node_id in "01":
        session.take(NodeBegins(2.0, node_id))
        found.append(session.is_in_tail())
        session.take(NodeEnds(3.0))
    assert found == [False, True]
