"""The time limit: what one server will do, how long it will take by what has been seen, and what has room."""

from __future__ import annotations

import pytest

from residency.bench.pace import Kind, Pace, Rest, Seen, kinds, least, one_more
from residency.bench.results import PACK, STOCK
from residency.bench.scenarios import Scenario, choose
from residency.bench.sessions import Work, works

COLD, WARM, SHORT, QUEUE = (choose([name])[0] for name in ("S1", "S4", "S3", "S7"))
NONE: frozenset[str] = frozenset()


def seen(scenario: Scenario, kind: Kind, seconds: float, side: str = STOCK) -> Seen:
    return Seen(side, scenario.name, kind, len(scenario.queue), seconds)


def test_a_server_warms_up_for_its_first_scenario_settles_for_the_others_and_runs_a_cold_one_once():
    assert works([COLD, WARM], 3, NONE) == (Work(COLD, 0, 1, True), Work(WARM, 1, 3, False))
    assert works([WARM, QUEUE], 3, NONE) == (Work(WARM, 2, 3, True), Work(QUEUE, 1, 3, False))
    assert works([COLD, WARM], 3, NONE, warm_ups=4) == (Work(COLD, 0, 1, True), Work(WARM, 4, 3, False))
    assert works([WARM], 5, frozenset(["S4"])) == (Work(WARM, 2, 2, True),)


def test_only_the_first_queue_of_a_fresh_server_reads_everything():
    assert kinds(Work(COLD, 0, 1, True)) == (Kind.COLD,)
    assert kinds(Work(WARM, 2, 1, True)) == (Kind.FIRST, Kind.LATER, Kind.LATER)
    assert kinds(Work(WARM, 1, 1, False)) == (Kind.LATER, Kind.LATER)
    assert kinds(Work(WARM, 0, 1, True)) == (Kind.FIRST,)


def test_when_nothing_is_known_a_side_takes_nothing_and_one_that_has_nothing_to_do_never_takes_anything():
    assert Pace().side_s(STOCK, works([COLD, WARM], 3, NONE)) == 0.0
    assert Pace(around=[(STOCK, 20.0)]).side_s(STOCK, ()) == 0.0


def test_a_side_takes_its_servers_start_and_what_its_queues_took_before():
    pace = Pace([seen(WARM, Kind.FIRST, 30.0), seen(WARM, Kind.LATER, 10.0), seen(WARM, Kind.LATER, 12.0)], [(STOCK, 15.0), (STOCK, 17.0)])
    assert pace.side_s(STOCK, works([WARM], 3, NONE)) == 16.0 + 30.0 + 4 * 11.0


def test_a_side_is_told_by_its_own_rounds_and_before_them_by_the_other_side():
    pace = Pace([seen(WARM, Kind.LATER, 10.0)], [(STOCK, 15.0)])
    one = [Work(WARM, 0, 1, False)]
    assert pace.side_s(PACK, one) == 25.0
    pace.queues.append(seen(WARM, Kind.LATER, 7.0, PACK))
    pace.around.append((PACK, 18.0))
    assert (pace.side_s(PACK, one), pace.side_s(STOCK, one)) == (25.0, 25.0)
    assert pace.queues_s(PACK, one) == 7.0


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ([seen(WARM, Kind.LATER, 10.0), seen(SHORT, Kind.LATER, 13.0)], 5 * 13.0),
        ([seen(WARM, Kind.FIRST, 30.0)], 5 * 30.0),
        ([seen(QUEUE, Kind.LATER, 70.0), seen(SHORT, Kind.LATER, 99.0)], 70.0),
    ],
)
def test_an_unknown_queue_takes_what_the_slowest_prompt_elsewhere_took_for_each_of_its_prompts(told: list[Seen], seconds: float):
    assert Pace(told).queues_s(PACK, [Work(QUEUE, 0, 1, False)]) == seconds


def test_a_first_queue_behind_a_cold_one_is_not_held_to_be_cold():
    pace = Pace([seen(COLD, Kind.COLD, 70.0), seen(WARM, Kind.LATER, 10.0)])
    assert pace.queues_s(STOCK, [Work(SHORT, 0, 1, True)]) == 10.0
    assert Pace(pace.queues[:1]).queues_s(STOCK, [Work(SHORT, 0, 1, True)]) == 70.0


def test_a_side_gives_way_to_the_other_one_that_only_just_fits():
    """With 150 s left a first side of 92 s was begun; the second, of 66 s at least, had no room."""
    pace = Pace([seen(SHORT, Kind.FIRST, 25.0), *[seen(SHORT, Kind.LATER, 13.0)] * 2], [(STOCK, 15.0)])
    (mine,) = works([SHORT], 3, NONE)
    coming = Rest(STOCK, (), [(PACK, (mine,))])
    after_s = {done: 15.0 + 25.0 + 13.0 + done * 13.0 for done in (1, 2)}
    needs_s = {done: one_more(coming, mine, done).seconds(pace) for done in (1, 2)}
    assert needs_s == {1: 13.0 + 15.0 + 25.0 + 3 * 13.0, 2: 13.0 + 15.0 + 25.0 + 4 * 13.0}
    assert after_s[1] + needs_s[1] > 150.0 >= after_s[1] + least([(PACK, (mine,))]).seconds(pace)


def test_one_queue_more_leaves_as_many_to_what_comes_after_it_on_this_server_and_on_the_next():
    cold, warm, queue = works([COLD, WARM, QUEUE], 3, NONE)
    more = one_more(Rest(STOCK, (queue,), [(PACK, (cold, warm, queue))]), warm, 1)
    assert more.works == (Work(WARM, 0, 1, False), Work(QUEUE, 1, 2, False))
    assert more.sides == [(PACK, (Work(COLD, 0, 1, True), Work(WARM, 1, 2, False), Work(QUEUE, 1, 2, False)))]
    assert least(more.sides).sides == [(PACK, (Work(COLD, 0, 1, True), Work(WARM, 1, 1, False), Work(QUEUE, 1, 1, False)))]
