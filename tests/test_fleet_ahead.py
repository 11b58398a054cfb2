"""A worker's queue thought through: prompts of one model together, nobody put off for long, nobody before his own."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from residency.fleet.ahead import AGE_SHARE, GAIN_S, LONG_S, MOST_OVERTAKEN, Memory, Queued, ahead, pick
from residency.fleet.forecast import Forecast, Job, Place
from residency.simulate import GB, OURS, Step, of_rates

MODEL_BYTES = 10 * GB
FORECAST = Forecast(of_rates(1.0 * GB, 25.0 * GB, 12 * GB, 64 * GB), OURS)
LOADING_S = FORECAST.of(Job((Step("1", "Sample", 2.0, ("a",), 20),), {"a": MODEL_BYTES}, "a"), {}).stall_s


def as_predicted(predicted_s: float, stall_s: float) -> float:
    return predicted_s


def job(model: str) -> Job:
    return Job((Step("1", "Sample", 2.0, (model,), 20),), {model: MODEL_BYTES}, model)


def queue(models: str, **more: object) -> list[Queued]:
    """One prompt a letter, each of a client of its own."""
    return [Queued(f"{n}{model}", 0, f"client {n}", job(model), float(n), 2.0, **more) for n, model in enumerate(models)]


def memory(*on_device: str) -> Memory:
    return Memory(dict.fromkeys(on_device, Place.DEVICE), dict.fromkeys(on_device, MODEL_BYTES), 12 * GB)


def names(of: list[Queued]) -> list[str]:
    return [one.name for one in of]


def test_prompts_of_the_model_at_hand_go_first():
    order, seconds = ahead(queue("baba"), memory("a"), FORECAST, as_predicted)
    assert names(order) == ["1a", "3a", "0b", "2b"]
    assert seconds == 4 * 2.0 + LOADING_S  # b is loaded once; in the clients' turns it would be thrice a load


def first(b_waited_s: float, a_waited_s: float = 0.0) -> str:
    """Of a prompt whose model would be loaded, and a later one whose model is at hand."""
    waiting = [replace(queue("b")[0], waited_s=b_waited_s), replace(queue("ba")[1], waited_s=a_waited_s)]
    return pick(waiting, lambda one: LOADING_S if one.job.model == "b" else 0.0).name


def test_who_has_waited_longer_than_loading_is_worth_is_not_overtaken():
    def worth(loading_s: float) -> float:
        return loading_s / (AGE_SHARE - loading_s / LONG_S)

    assert first(worth(LOADING_S - GAIN_S - 0.5)) == "1a"
    assert first(worth(LOADING_S - GAIN_S + 0.5)) == "0b"


def test_where_all_wait_long_having_waited_longer_is_worth_less_loading():
    longer_s = 2 * LOADING_S / AGE_SHARE
    assert first(longer_s) == "0b"
    assert first(3 * LONG_S + longer_s, 3 * LONG_S) == "1a"


def test_where_all_wait_long_short_prompts_go_before_long_ones():
    def begins(waited_s: float) -> str:
        long, short = queue("aa", waited_s=waited_s)
        return pick([replace(long, compute_s=20.0), short], lambda one: 0.0).name

    assert (begins(0.0), begins(LONG_S)) == ("0a", "1a")


def test_who_was_overtaken_often_is_overtaken_by_nobody():
    often = [replace(one, overtaken=MOST_OVERTAKEN if one.name == "2b" else 0.0) for one in queue("baba")]
    assert names(ahead(often, memory("a"), FORECAST, as_predicted)[0]) == ["1a", "0b", "2b", "3a"]


def test_nobody_overtakes_his_own_earlier_prompt_nor_one_with_a_place():
    mine = [Queued("0b", 0, "me", job("b"), 0.0, 2.0), Queued("1a", 0, "me", job("a"), 1.0, 2.0)]
    assert names(ahead(mine, memory("a"), FORECAST, as_predicted)[0]) == ["0b", "1a"]
    assert names(ahead(queue("ba", fixed=True), memory("a"), FORECAST, as_predicted)[0]) == ["0b", "1a"]


def test_what_runs_is_first_and_counts_what_is_left_of_it():
    running = Queued("runs", 0, "client", job("b"), 9.0, 2.0, left_s=0.5)
    order, seconds = ahead([*queue("ab"), running], memory("b"), FORECAST, lambda predicted_s, stall_s: 2.0 * predicted_s, until="0a")
    assert names(order) == ["runs", "1b"]
    assert seconds == 0.5 + 2.0 * 2.0  # the margin is of what is predicted


def test_what_the_device_gives_up_stays_in_ram():
    lies = memory("a")
    lies.take(job("b"))
    assert lies.places == {"a": Place.PINNED, "b": Place.DEVICE}


def test_ram_forgets_first_those_that_came_longest_ago():
    sizes = dict.fromkeys("ab", MODEL_BYTES)
    lies = Memory({"a": Place.DEVICE, "b": Place.CACHED}, sizes, 12 * GB, 25 * GB, in_ram="b")
    lies.take(job("c"))  # a leaves the device, and both come to RAM behind b
    assert lies.places == {"a": Place.PINNED, "c": Place.DEVICE}
    assert list(lies.in_ram) == ["c", "a"]
    lies.take(job("d"))  # c has left the device last
    assert lies.places == {"c": Place.PINNED, "d": Place.DEVICE}


def test_what_is_on_the_device_is_not_read_into_ram_again():
    sizes = dict.fromkeys("ab", MODEL_BYTES)
    lies = Memory({"a": Place.DEVICE, "b": Place.CACHED}, sizes, 12 * GB, 15 * GB, in_ram="b")
    lies.take(job("a"))
    assert (lies.places, list(lies.in_ram)) == ({"a": Place.DEVICE, "b": Place.CACHED}, ["b"])


def test_where_the_device_is_ram_it_forgets_as_ram_does():
    lies = Memory({"a": Place.DEVICE}, {"a": MODEL_BYTES}, None, 15 * GB, in_ram="a")
    lies.take(job("b"))
    assert lies.places == {"b": Place.DEVICE}


def test_prompts_of_one_model_go_together_where_ram_does_not_hold_both():
    lies = Memory({}, {}, 12 * GB, 15 * GB)
    assert names(ahead(queue("abab"), lies, FORECAST, as_predicted)[0]) == ["0a", "2a", "1b", "3b"]


def test_without_a_forecast_clients_take_turns():
    assert names(ahead(queue("baba"), memory("a"), None, as_predicted)[0]) == ["0b", "1a", "2b", "3a"]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.floats(0, 60), st.booleans()), max_size=12),
    st.sampled_from(["", "a", "b"]),
)
def test_everybody_runs_once_and_each_clients_prompts_in_their_order(prompts: list[tuple[str, str, float, bool]], warm: str):
    waiting = [
        Queued(str(n), 0, client, job(model), float(n), 2.0, waited_s, None, fixed)
        for n, (model, client, waited_s, fixed) in enumerate(prompts)
    ]
    order, _ = ahead(waiting, memory(*warm), FORECAST, as_predicted)
    assert sorted(names(order), key=int) == names(waiting)
    for client in "xyz":
        own = [int(one.name) for one in order if one.client == client]
        assert own == sorted(own)
    if waiting and waiting[0].fixed:
        assert order[0] is waiting[0]
