"""What a free worker begins: the prompt that costs it the least, unless a busy one is better; nobody is put off for ever."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from residency.fleet import ahead
from residency.fleet.ahead import Queued
from residency.fleet.dispatch import IDLE_COST, dispatch
from residency.fleet.forecast import Forecast, Job, Place
from residency.fleet.routing import Decision, NoWorkerError, Router, Score, Worker
from residency.fleet.traffic import Request
from residency.fleet.virtual_door import Line, VirtualDoor
from residency.simulate import GB, Step, of_rates

MODEL_BYTES = 10 * GB
FORECAST = Forecast(of_rates(1.0 * GB, 25.0 * GB, 12 * GB, 64 * GB))


def job(model: str) -> Job:
    return Job((Step("1", "Sample", 2.0, (model,), 20),), {model: MODEL_BYTES}, model)


def waiting(models: str, overtaken: float = 0.0) -> list[Queued]:
    return [Queued(f"{n}{model}", -1, f"client {n}", job(model), float(n), 2.0, overtaken=overtaken) for n, model in enumerate(models)]


def begun(
    queue: Sequence[Queued], costs_here: dict[str, float], waits_s: float, *, at: int = 1, free: Sequence[int] = (0,)
) -> list[tuple[str, int]]:
    """On worker 0, where worker `at` has all weights and its turn comes in `waits_s`, and as much later for each that goes before."""

    def decide(one: Queued, behind: Sequence[Queued]) -> Decision:
        score = Score("other", waits_s + sum(other.compute_s for other in behind if other.worker == at), 0.0, 2.0, 0.0, 0.0)
        return Decision(at, score, "", ())

    return [(one.name, where) for one, where in dispatch(0, queue, free, lambda one: costs_here[one.job.model], decide)]


def test_a_free_worker_begins_what_is_at_hand_there():
    assert begun(waiting("bab"), {"a": 0.0, "b": 10.0}, waits_s=50.0) == [("1a", 0)]


def test_a_prompt_stays_where_waiting_is_shorter_than_loading_and_idling_counts_more():
    costs = {"a": 6.0}
    assert begun(waiting("a"), costs, waits_s=6.0 / IDLE_COST - 0.1) == []
    assert begun(waiting("a"), costs, waits_s=6.0 / IDLE_COST + 0.1) == [("0a", 0)]


def test_what_goes_before_it_there_makes_the_wait_longer():
    assert begun(waiting("aa"), {"a": 6.0}, waits_s=3.0) == [("1a", 0)]  # 3 s, then 5 s of which each counts one and a half


def test_another_free_worker_gets_what_is_better_off_there():
    assert begun(waiting("aa"), {"a": 2.5}, waits_s=0.0, free=(0, 1)) == [("0a", 1), ("1a", 0)]


def test_who_was_overtaken_often_takes_the_free_worker_and_one_that_cannot_run_there_is_passed_over():
    assert begun(waiting("a", overtaken=ahead.MOST_OVERTAKEN), {"a": 6.0}, waits_s=0.1) == [("0a", 0)]
    assert begun(waiting("ba"), {"a": 0.0, "b": math.inf}, waits_s=1.0) == [("1a", 0)]


def test_a_prompt_that_no_worker_takes_keeps_nobody_from_the_free_one():
    def nobody(one: Queued, behind: Sequence[Queued]) -> Decision:
        raise NoWorkerError("none")

    found = dispatch(0, waiting("ba"), {0}, lambda one: math.inf if one.job.model == "b" else 1.0, nobody)
    assert found == []
    found = dispatch(0, waiting("ba"), {0}, lambda one: math.inf if one.job.model == "b" else 0.0, nobody)
    assert [(one.name, at) for one, at in found] == [("1a", 0)]


requests = st.lists(st.tuples(st.floats(0, 1.5), st.sampled_from("aaab"), st.sampled_from("xyz")), min_size=1, max_size=60)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests, st.integers(1, 3))
def test_nobody_is_overtaken_more_often_than_is_allowed(monkeypatch: pytest.MonkeyPatch, prompts: list[tuple[float, str, str]], count: int):
    most = 2
    monkeypatch.setattr(ahead, "MOST_OVERTAKEN", most)
    router = Router([Worker(f"worker-{index}", FORECAST, 12 * GB) for index in range(count)])

    def keeps(worker: Worker) -> Callable[[Job], None]:
        return lambda job: worker.places.clear() or worker.places.update({job.model: Place.DEVICE})

    door = VirtualDoor(router, [Line(keeps(worker)) for worker in router.workers])
    now_s = 0.0
    for after_s, model, client in prompts:
        now_s += after_s
        door.takes(Request(now_s, client, job(model)))
    door.runs_until(math.inf)
    assert len(door.begun) == len(prompts)
    for at, one in enumerate(door.begun):
        overtaking = [other for other in door.begun[:at] if other.begun_s >= one.came_s and other.number > one.number]
        assert len(overtaking) <= (most + 1) * count
