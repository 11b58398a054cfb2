"""Which worker gets a prompt, told as stories on machines whose numbers a hand can divide by."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from residency.core.component import Component
from residency.fleet.forecast import Forecast, Job, Place
from residency.fleet.routing import Decision, NoWorkerError, Router, Turns, Worker
from residency.simulate import COLD, GB, OURS, OURS_EXCHANGING, Drive, Machine, Program, Start, Step, run

MACHINE = Machine(
    name="bench",
    drives=(Drive(2 * GB, 1 * GB),),
    device_bytes=24 * GB,
    host_bytes=64 * GB,
    pinned_bytes_per_s=20 * GB,
    pageable_bytes_per_s=10 * GB,
    pinned_back_bytes_per_s=20 * GB,
    pageable_back_bytes_per_s=10 * GB,
    page_cache_bytes_per_s=10 * GB,
    fresh_pin_bytes_per_s=4 * GB,
)
SIZE = 7 * 2**30  # a size that is not rounded
FORECAST = Forecast(MACHINE, OURS)


def job(model: str, model_bytes: int = 10 * GB, compute_s: float = 5.0, upload_bytes: int = 0) -> Job:
    """One sampler with one model."""
    return Job((Step("1", "Sample", compute_s, (model,), 20),), {model: model_bytes}, model, upload_bytes)


def worker(name: str, *warm: str, ready_s: float = 0.0, room_bytes: int = 50 * GB, **known: object) -> Worker:
    """A worker with components of 10 GB on its device."""
    held = dict.fromkeys(warm, 10 * GB)
    one = Worker(name, FORECAST, room_bytes, dict.fromkeys(warm, Place.DEVICE), held, sum(held.values()), ready_s)
    for field, value in known.items():
        setattr(one, field, value)
    return one


def chosen(of: Job, *workers: Worker, now_s: float = 0.0, asked: dict[str, int] | None = None) -> tuple[str, Decision]:
    router = Router(workers)
    for key, count in (asked or {}).items():
        for _ in range(count):
            router.demand.asked([key], now_s)
    decision = router.decide(of, now_s)
    return workers[decision.index].name, decision


def test_the_forecast_is_the_simulators_own():
    prompt = job("a", SIZE)
    cold, warm = FORECAST.of(prompt, {}), FORECAST.of(prompt, {"a": Place.DEVICE})
    program = Program("p", {"a": Component("a", "a", "MODEL", SIZE)}, (prompt.steps,))
    assert cold.stall_s == run(program, MACHINE, OURS, start=COLD).stall_s > 2
    on_device = Start(loaded={"a": SIZE}, pinned={"a": SIZE}, device={"a": SIZE})
    assert warm.stall_s == run(program, MACHINE, OURS, start=on_device).stall_s == 0
    assert (cold.read_bytes, warm.read_bytes) == (SIZE, 0)


def test_a_worker_that_exchanges_waits_less_for_what_neither_its_device_nor_its_ram_can_hold():
    small = replace(MACHINE, device_bytes=12 * GB, host_bytes=16 * GB)
    prompt, warm = job("a", 20 * GB), {"a": Place.CACHED}
    assert Forecast(small, OURS_EXCHANGING).of(prompt, warm).stall_s < 0.85 * Forecast(small, OURS).of(prompt, warm).stall_s
    assert Forecast(MACHINE, OURS_EXCHANGING).of(prompt, warm) == Forecast(MACHINE, OURS).of(prompt, warm)  # here it fits


def test_an_answer_that_is_kept_is_not_another_prompts():
    kept = Forecast(MACHINE, OURS)
    for size_bytes in [SIZE, 2 * SIZE] * 20:  # each prompt is gone before the next one is made, which may get its place in memory
        assert (
            kept.of(job("a", size_bytes), {}) == kept.of(job("a", size_bytes), {"b": Place.DEVICE}) == FORECAST.of(job("a", size_bytes), {})
        )
        assert kept.of(job("a", size_bytes), {"a": Place.DEVICE}).read_bytes == 0
    assert kept.simulated == 4


def test_a_prompt_goes_where_its_model_is():
    name, decision = chosen(job("a"), worker("cold"), worker("warm", "a"))
    assert name == "warm"
    assert decision.score.stall_s == 0
    assert [one.worker for one in decision.runners_up] == ["cold"]
    assert "cold: " in decision.reason and "loading" in decision.reason


def test_a_hot_model_gets_a_second_worker_once_waiting_costs_more_than_loading():
    loading_s = FORECAST.of(job("a"), {}).stall_s
    assert chosen(job("a"), worker("cold"), worker("warm", "a", ready_s=loading_s - 0.1))[0] == "warm"
    assert chosen(job("a"), worker("cold"), worker("warm", "a", ready_s=loading_s + 0.1))[0] == "cold"


def test_what_others_will_ask_for_is_not_displaced_for_a_small_gain():
    loading_s = FORECAST.of(job("a"), {}).stall_s
    warm = worker("warm", "a", ready_s=loading_s + 1)
    full = worker("full", "b", room_bytes=15 * GB)
    assert chosen(job("a"), full, warm)[0] == "full"  # nobody asks for b
    assert chosen(job("a"), full, warm, asked={"b": 3})[0] == "warm"  # 10 GB at 2 GB/s are 5 s


def test_a_second_copy_may_be_displaced():
    loading_s = FORECAST.of(job("a"), {}).stall_s
    warm = worker("warm", "a", ready_s=loading_s + 2)
    full = worker("full", "b", room_bytes=15 * GB)
    others = [worker(f"other-{n}", "b", ready_s=1000.0) for n in range(5)]
    assert chosen(job("a"), full, warm, asked={"b": 1})[0] == "warm"
    assert chosen(job("a"), full, warm, *others, asked={"b": 1})[0] == "full"


def test_what_is_on_the_device_displaces_nothing_in_ram():
    one = worker("one", "b", room_bytes=15 * GB)
    one.places["a"] = Place.DEVICE
    assert chosen(job("a"), one, asked={"b": 3})[1].score.displaced_s == 0.0


def test_displacing_costs_more_where_a_queue_has_to_wait_for_it():
    queue = worker("queue", "b", room_bytes=15 * GB, ready_s=2.0, queued=2)
    free = worker("free", "c", room_bytes=15 * GB, ready_s=4.0)
    name, decision = chosen(job("a"), queue, free, asked={"b": 1, "c": 1})
    assert name == "free"
    assert (decision.score.displaced_s, decision.runners_up[0].displaced_s) == (5.0, 15.0)  # 10 GB at 2 GB/s, and again for each of two
    assert chosen(job("a"), queue, free, asked={"c": 1})[0] == "queue"  # nobody asks for b


def test_equal_scores_go_to_the_shortest_queue():
    assert chosen(job("a"), worker("first", queued=2), worker("second", queued=1), worker("third", queued=2))[0] == "second"


def test_a_worker_whose_predictions_fail_is_trusted_less():
    first, second = worker("first", "a"), worker("second", "a", queued=1)
    assert chosen(job("a"), first, second)[0] == "first"
    first.took(5.0, 10.0)
    assert first.margin == pytest.approx(1.2)
    assert chosen(job("a"), first, second)[0] == "second"


def test_workers_that_share_drives_learn_of_one_another_how_late_loading_is_and_each_of_itself_how_late_it_computes():
    """One loads beside another: 10 s instead of 5. Taken for the worker's own, that would send the next prompts to the other, which then
    loads as slowly."""
    first, second = worker("first", "a"), worker("second", "b")
    second.drives = first.drives
    for _ in range(40):
        first.took(7.0, 12.0, stall_s=5.0)
        second.took(2.0, 2.0)
    assert (first.drives.margin, second.margin) == (pytest.approx(2.0, abs=0.01), 1.0) and first.margin == 1.0
    assert (first.takes_s(7.0, 5.0), second.takes_s(7.0, 5.0)) == (pytest.approx(12.0, abs=0.05), pytest.approx(12.0, abs=0.05))
    late, as_predicted = (Router([one]).score(0, job("a"), 0.0) for one in (second, worker("third", "b")))
    assert late is not None and as_predicted is not None and late.stall_s == pytest.approx(2.0 * as_predicted.stall_s, rel=0.01)
    assert late.compute_s == as_predicted.compute_s


def test_what_neither_margin_explains_is_neither_less_than_predicted_nor_without_bound():
    one = worker("one")
    for _ in range(100):
        one.took(10.0, 0.1, stall_s=5.0)
    assert (one.margin, one.drives.margin) == (1.0, 1.0)
    for _ in range(100):
        one.took(10.0, 1e6, stall_s=5.0)
        one.took(10.0, 1e6, stall_s=6.0)
    assert (one.margin, one.drives.margin) == (pytest.approx(4.0), pytest.approx(4.0))
    one.took(0.0, 5.0)  # nothing was predicted


def test_a_worker_without_the_pack_is_served_by_its_last_model():
    plain = worker("plain", tells=False, last_model="a", queued=1)
    assert chosen(job("a"), worker("cold"), plain)[0] == "plain"
    assert chosen(job("b"), worker("cold"), plain)[0] == "cold"


def test_a_worker_without_the_file_is_routed_around_and_said_so():
    lacking = worker("lacking", lacks=frozenset({"unet_name a"}))
    wanting = replace(job("a"), wants=frozenset({"unet_name a", "node Sample"}))
    assert chosen(wanting, lacking, worker("busy", ready_s=100.0))[0] == "busy"
    with pytest.raises(NoWorkerError, match=r"lacking lacks unet_name a; gone takes no prompts"):
        chosen(wanting, lacking, worker("gone", takes_prompts=False))
    with pytest.raises(NoWorkerError, match="no worker; start one"):
        chosen(job("a"))


def test_demand_halves():
    router = Router()
    router.demand.asked(["a"], 0.0)
    assert router.demand.of("a", 600.0) == 0.5


@st.composite
def fleets(draw: st.DrawFn) -> tuple[Job, list[Worker]]:
    names = ["a", "b", "c"]
    workers = [
        worker(
            f"w{n}",
            *draw(st.lists(st.sampled_from(names), unique=True)),
            ready_s=draw(st.sampled_from([0.0, 0.0, 1.0, 4.0, 20.0])),
            room_bytes=draw(st.sampled_from([15, 30])) * GB,
            queued=draw(st.integers(0, 2)),
        )
        for n in range(draw(st.integers(1, 8)))
    ]
    keys = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    return Job((Step("1", "Sample", 5.0, tuple(keys), 20),), dict.fromkeys(keys, 10 * GB), keys[0]), workers


@given(fleets())
def test_what_is_left_out_of_a_decision_could_not_have_won(fleet: tuple[Job, list[Worker]]):
    of, workers = fleet
    router = Router(workers)
    for key in ("a", "b", "c"):
        router.demand.asked([key], 0.0)
    found = router.decide(of, 0.0)
    for index in range(len(workers)):  # each worker alone, in a fleet where the others only hold what they hold
        takes, workers[index].takes_prompts = [one.takes_prompts for one in workers], True
        for other in workers:
            other.takes_prompts = other is workers[index]
        alone = router.decide(of, 0.0)
        for other, before in zip(workers, takes, strict=True):
            other.takes_prompts = before
        assert alone.score.total_s >= found.score.total_s - 2e-3


def test_one_client_does_not_starve_another():
    turns = Turns()
    flood = [turns.of("a", 5.0) for _ in range(5)]
    late = [turns.of("b", 5.0) for _ in range(2)]
    order = sorted([(number, f"a{n}") for n, number in enumerate(flood)] + [(number, f"b{n}") for n, number in enumerate(late)])
    assert [name for _, name in order] == ["a0", "b0", "a1", "b1", "a2", "a3", "a4"]


def test_who_was_away_has_saved_up_nothing():
    turns = Turns()
    for _ in range(10):
        turns.begins(turns.of("a", 5.0))
    assert turns.of("b", 5.0) == 45.0


def test_what_was_had_while_nobody_waited_is_not_held_against_anybody():
    turns = Turns()
    turns.begins(turns.of("a", 20.0))
    turns.rest()
    assert turns.of("a", 5.0) == turns.of("b", 5.0)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 10), st.booleans()), max_size=40))
def test_nobody_overtakes_himself(prompts: list[tuple[str, float, bool]]):
    turns = Turns()
    last: dict[str, float] = {}
    for client, expected_s, begins in prompts:
        number = turns.of(client, expected_s)
        assert number >= last.get(client, 0.0)
        last[client] = number
        if begins:
            turns.begins(number)


def test_a_prompt_that_is_late_is_expected_to_take_ever_longer():
    worker = Worker("a", FORECAST, 64 * GB)
    left_s = [worker.left_s(10.0, ran_s) for ran_s in (0.0, 5.0, 10.0, 15.0, 60.0)]
    assert left_s[:2] == [10.0, 5.0]
    assert 0.0 < left_s[2] < left_s[3] < left_s[4] and left_s[4] >= 50.0


def test_who_predicts_well_is_believed_to_be_nearly_done():
    exact, loose = Worker("a", FORECAST, 64 * GB), Worker("b", FORECAST, 64 * GB)
    for times in (0.5, 1.5) * 20:
        exact.took(10.0, 10.0)
        loose.took(10.0, 10.0 * times)
    assert exact.left_s(10.0, 10.0) < 0.1
    assert loose.left_s(10.0, 10.0 * loose.margin) > 3.0
