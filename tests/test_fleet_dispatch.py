"""What a worker begins next: of its own queue what costs it the least, of others' what waits too long there; nobody is put off for ever."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from residency.fleet import ahead
from residency.fleet.ahead import GROUPED, Queued
from residency.fleet.dispatch import IDLE_COST, dispatch, looked_at
from residency.fleet.forecast import Forecast, Job
from residency.fleet.routing import Router, Worker
from residency.fleet.traffic import Request
from residency.fleet.virtual_door import Held, Line, VirtualDoor
from residency.simulate import GB, OURS, Step, of_rates

MODEL_BYTES = 10 * GB
FORECAST = Forecast(of_rates(1.0 * GB, 25.0 * GB, 12 * GB, 64 * GB), OURS)
HERE, THERE = 0, 1


def job(model: str) -> Job:
    return Job((Step("1", "Sample", 2.0, (model,), 20),), {model: MODEL_BYTES}, model)


def waiting(models: str, worker: int = THERE, overtaken: float = 0.0) -> list[Queued]:
    return [Queued(f"{n}{model}", worker, f"client {n}", job(model), float(n), 2.0, overtaken=overtaken) for n, model in enumerate(models)]


def begun(queue: Sequence[Queued], costs_here: dict[str, float], waits_s: float, costs_there_s: float = 0.0) -> str | None:
    """By the worker HERE, where each prompt waits so long where it is."""
    one = dispatch(HERE, queue, lambda one: costs_here[one.job.model], lambda one: (waits_s, costs_there_s))
    return None if one is None else one.name


def test_what_is_at_hand_is_begun_first():
    assert begun(waiting("bab"), {"a": 0.0, "b": 10.0}, waits_s=50.0) == "1a"


def test_a_prompt_stays_where_waiting_is_shorter_than_loading_and_idling_counts_more():
    costs = {"a": 6.0}
    assert begun(waiting("a"), costs, waits_s=6.0 / IDLE_COST - 0.1) is None
    assert begun(waiting("a"), costs, waits_s=6.0 / IDLE_COST + 0.1) == "0a"
    assert begun(waiting("a"), costs, waits_s=6.0 / IDLE_COST - 0.1, costs_there_s=1.0) == "0a"


def test_its_own_queue_is_begun_whatever_it_costs():
    assert begun(waiting("a", worker=HERE), {"a": 60.0}, waits_s=0.0) == "0a"


def test_a_client_keeps_his_order_in_each_queue_and_waits_in_none_for_another():
    elsewhere, here, behind = (
        Queued(name, worker, "me", job(name[1]), float(name[0]), 2.0) for name, worker in (("0b", THERE), ("1a", HERE), ("2c", HERE))
    )
    assert begun([elsewhere, here], {"a": 0.0, "b": 60.0}, waits_s=100.0) == "1a"
    assert begun([here, behind], {"a": 60.0, "c": 0.0}, waits_s=100.0) == "1a"


def test_who_was_overtaken_often_takes_the_worker_and_one_that_cannot_run_there_is_passed_over():
    assert begun(waiting("a", overtaken=ahead.MOST_OVERTAKEN), {"a": 6.0}, waits_s=0.1) == "0a"
    assert begun(waiting("ba"), {"a": 0.0, "b": math.inf}, waits_s=1.0) == "1a"
    assert begun(waiting("ba", worker=HERE), {"a": math.inf, "b": math.inf}, waits_s=1.0) is None


@dataclass(frozen=True)
class Waits:
    worker: int
    number: float


def test_its_own_prompts_are_looked_at_however_many_wait_elsewhere():
    others = [Waits(THERE, float(number)) for number in range(5 * GROUPED)]
    mine = Waits(HERE, 1000.0)
    found = looked_at(HERE, [*others, mine])
    assert found == [*others[:GROUPED], mine]


def test_a_herd_is_spread_over_workers_since_each_prompt_counts_where_it_waits():
    router = Router([Worker(f"worker-{index}", FORECAST, 64 * GB) for index in range(4)])
    door = VirtualDoor(router, [Line(Held(12 * GB, 64 * GB)) for _ in router.workers])
    door.takes(Request(0.0, "first", job("a")))
    for number in range(24):
        door.takes(Request(11.0 + 0.01 * number, f"client {number}", job("a")))  # the first worker is to be free in a second
    door.runs_until(math.inf)
    assert sum(one.read_bytes > 0 for one in door.begun) > 2  # 2 s each, 10 s of loading: 24 behind one would take 48 s


requests = st.lists(st.tuples(st.floats(0, 1.5), st.sampled_from("aaab"), st.sampled_from("xyz")), min_size=1, max_size=60)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests, st.integers(1, 3))
def test_nobody_is_overtaken_more_often_than_is_allowed(monkeypatch: pytest.MonkeyPatch, prompts: list[tuple[float, str, str]], count: int):
    most = 2
    monkeypatch.setattr(ahead, "MOST_OVERTAKEN", most)
    router = Router([Worker(f"worker-{index}", FORECAST, 12 * GB) for index in range(count)])

    door = VirtualDoor(router, [Line(Held(12 * GB, 12 * GB)) for _ in router.workers])
    now_s = 0.0
    for after_s, model, client in prompts:
        now_s += after_s
        door.takes(Request(now_s, client, job(model)))
    door.runs_until(math.inf)
    assert len(door.begun) == len(prompts)
    for at, one in enumerate(door.begun):
        overtaking = [other for other in door.begun[:at] if other.begun_s >= one.came_s and other.number > one.number]
        assert len(overtaking) <= (most + 1) * count
