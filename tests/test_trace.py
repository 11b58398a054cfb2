import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from story import MB, components, reads

from residency.core.component import Mode, Tier
from residency.core.events import (
    Copied,
    Evicted,
    Foretold,
    NodeFinished,
    NodeStarted,
    Outcome,
    PromptEnded,
    PromptStarted,
    Replanned,
    Spent,
    Stalled,
    Stepped,
    TransferDone,
    TransferMoved,
    TransferStopped,
    Waited,
)
from residency.core.instructions import Cancel, Evict, Prefetch, Wait
from residency.core.timeline import Timeline, Use, UseKind, Visit
from residency.record import text
from residency.record.trace import MAX_RECORDS, Mark, Trace
from residency.record.trace_events import chrome
from residency.record.transfers import OWN


def trace_of(timeline, parts, start_s=100.0):
    return Trace(PromptStarted(start_s, "p", timeline, parts, Mode.BALANCED), started_unix_s=1.0)


def test_a_prompt_is_told_with_times_from_its_start():
    parts = components(a=10)
    trace = trace_of(reads("a-"), parts)
    trace.record(
        NodeStarted(101.0, 0), [Prefetch(parts["a"], Tier.HOST, 10 * MB, "next"), Wait(parts["a"], Tier.HOST, 10 * MB, "in flight")]
    )
    trace.record(Stalled(103.0, 2.0, waited=True), [])
    trace.record(TransferDone(103.0, "a", Tier.HOST, 10 * MB, 10 * MB, 1.5), [])
    trace.record(NodeFinished(106.0, 0), [Evict(parts["a"], Tier.HOST, 10 * MB, "done")])
    trace.record(Evicted(106.5, "a", Tier.HOST, 10 * MB, "done"), [])
    trace.record(PromptEnded(107.0, "p", Outcome.SUCCESS), [])
    data = trace.as_dict()
    assert data["duration_s"] == 7.0 and data["outcome"] == "success"
    assert data["nodes"] == [
        {
            "node_id": "0",
            "class_type": "Node",
            "start_s": 1.0,
            "end_s": 6.0,
            "stall_s": 2.0,
            "own_s": 0.0,
            "unsplit_s": 0.0,
            "predicted_s": 0.0,
            "loads": [],
            "computes": ["a"],
            "reads": ["a"],
            "working_set_bytes": 0,
            "steps": [],
        }
    ]
    (transfer,) = data["transfers"]
    assert (transfer["start_s"], transfer["end_s"], transfer["status"]) == (1.5, 3.0, "done")
    assert [decision["kind"] for decision in data["decisions"]] == ["prefetch", "wait", "evict"]
    summary = data["summary"]
    assert (summary["compute_s"], summary["stall_s"], summary["wait_s"]) == (3.0, 2.0, 2.0)
    assert (summary["prefetched_bytes"], summary["wasted_bytes"], summary["evicted_bytes"]) == (10 * MB, 0, 10 * MB)
    json.dumps(data)


def test_bytes_that_no_node_read_are_waste_whatever_way_the_transfer_ended():
    trace = trace_of(reads("ab"), components(a=10, b=10))
    trace.record(TransferDone(101.0, "a", Tier.HOST, 10 * MB, 10 * MB, 1.0), [])
    trace.record(TransferStopped(102.0, "b", Tier.HOST, 4 * MB, 4 * MB, 1.0, "cancelled"), [])
    trace.record(NodeStarted(103.0, 0), [])
    trace.record(NodeFinished(104.0, 0), [])
    trace.record(PromptEnded(105.0, "p", Outcome.ERROR), [])
    assert trace.summary()["wasted_bytes"] == 4 * MB


def test_what_has_moved_counts_before_its_transfer_has_ended_and_once():
    trace = trace_of(reads("a"), components(a=10))
    trace.record(NodeStarted(101.0, 0), [Prefetch(components(a=10)["a"], Tier.DEVICE, 10 * MB, "next")])
    trace.record(TransferMoved(103.0, "a", Tier.DEVICE, 4 * MB, 5 * MB, 1.0), [])
    (moving,) = trace.as_dict()["transfers"]
    assert (moving["start_s"], moving["end_s"], moving["moved_bytes"], moving["present_bytes"]) == (2.0, None, 4 * MB, 5 * MB)
    assert trace.summary()["onloaded_bytes"] == 4 * MB
    trace.record(TransferDone(105.0, "a", Tier.DEVICE, 9 * MB, 10 * MB, 3.0), [])
    (done,) = trace.as_dict()["transfers"]
    assert (done["start_s"], done["end_s"], done["moved_bytes"]) == (2.0, 5.0, 9 * MB)
    assert trace.summary()["onloaded_bytes"] == 9 * MB


def test_a_transfer_that_outlasts_its_prompt_is_told_in_both_each_byte_once():
    parts = components(a=10, b=10)
    visits = [Visit("p", "1", "Node"), Visit("q", "1", "Node")]
    first = trace_of(Timeline.of(visits, [Use(1, "a", UseKind.COMPUTE, True)]), parts)
    first.record(NodeStarted(101.0, 0), [Prefetch(parts["a"], Tier.HOST, 10 * MB, "next but one")])
    first.record(TransferMoved(103.0, "a", Tier.HOST, 4 * MB, 5 * MB, 2.0), [])
    first.record(PromptEnded(103.0, "p", Outcome.SUCCESS), [])
    second = Trace(PromptStarted(103.5, "q", reads("b"), components(b=10), Mode.BALANCED), 4.5, first.under_way())
    second.record(TransferDone(105.0, "a", Tier.HOST, 9 * MB, 10 * MB, 4.0), [])
    told = [trace.as_dict()["transfers"][0] for trace in (first, second)]
    assert [(one["start_s"], one["end_s"], one["moved_bytes"] / MB, one["status"]) for one in told] == [
        (1.0, None, 4, "announced"),
        (0.0, 1.5, 5, "done"),
    ]
    assert [one["reason"] for one in told] == ["next but one"] * 2
    assert "a" in {component["key"] for component in second.as_dict()["components"]} and not second.under_way()
    assert [trace.summary()["prefetched_bytes"] / MB for trace in (first, second)] == [4, 5]


def test_what_the_end_of_its_prompt_stops_has_ended():
    parts = components(a=10)
    trace = trace_of(reads("a"), parts)
    trace.record(NodeStarted(101.0, 0), [Prefetch(parts["a"], Tier.HOST, 10 * MB, "next")])
    trace.record(PromptEnded(103.0, "p", Outcome.INTERRUPTED), [Cancel(parts["a"], Tier.HOST, "the prompt has ended: interrupted")])
    (stopped,) = trace.as_dict()["transfers"]
    assert (stopped["end_s"], stopped["status"], stopped["reason"]) == (3.0, "stopped", "the prompt has ended: interrupted")


def test_what_crossed_the_link_is_drawn_when_it_crossed():
    trace = trace_of(reads("ab"), components(a=10, b=10))
    parts = components(a=10, b=10)
    own = Prefetch(parts["a"], Tier.DEVICE, 10 * MB, "Node 0 computes with it", ahead=False)
    trace.record(NodeStarted(101.0, 0), [own, Prefetch(parts["b"], Tier.DEVICE, 10 * MB, "next")])
    trace.record(Copied(101.0, "c", 5 * MB, 5 * MB, True, 99.0, 101.0), [])  # announced by the prompt before
    trace.record(TransferStopped(101.0, "a", Tier.DEVICE, 8 * MB, 9 * MB, 0.0, "there is no more room on the device"), [])
    trace.record(TransferMoved(101.2, "b", Tier.DEVICE, 4 * MB, 4 * MB, 0.1), [])
    trace.record(Copied(102.0, "a", 8 * MB, 9 * MB, False, 101.0, 102.0), [])
    trace.record(Copied(102.4, "b", 4 * MB, 4 * MB, True, 102.0, 102.4), [])
    trace.record(TransferDone(104.5, "b", Tier.DEVICE, 10 * MB, 10 * MB, 3.4), [])
    trace.record(Copied(105.0, "b", 6 * MB, 10 * MB, True, 104.5, 105.0), [])
    _, announced, *crossed = [
        (one["component"], one["start_s"], one["end_s"], one["moved_bytes"] / MB, one["reason"]) for one in trace.as_dict()["transfers"]
    ]
    assert crossed == [("a", 1.0, 2.0, 8, OWN), ("b", 2.0, pytest.approx(2.4), 4, "next"), ("b", 4.5, 5.0, 6, "next")]
    assert (announced[0], announced[3]) == ("b", 0)
    assert trace.summary()["onloaded_bytes"] == 18 * MB and trace.summary()["wasted_bytes"] == 0


def test_bytes_that_land_just_after_the_node_that_followed_them_are_not_waste():
    parts = components(a=10)
    trace = trace_of(reads("a"), parts)
    trace.record(NodeStarted(101.0, 0), [Prefetch(parts["a"], Tier.HOST, 10 * MB, "next")])
    trace.record(NodeFinished(104.0, 0), [])
    trace.record(TransferDone(104.1, "a", Tier.HOST, 10 * MB, 10 * MB, 3.0), [])
    trace.record(PromptEnded(105.0, "p", Outcome.SUCCESS), [])
    assert trace.summary()["wasted_bytes"] == 0


@pytest.mark.parametrize(
    ("waited_s", "told"), [(1.0, (1.5, 1.5, 0.0)), (0.0, (0.5, 2.5, 0.0)), (None, (0.5, 0.0, 2.5))], ids=["drive", "RAM", "not known"]
)
def test_a_loader_has_stalled_as_long_as_it_waited_for_bytes_and_no_longer(waited_s, told):
    """What it unpacks no reading ahead saves; and where a system does not tell the two apart, neither is made up."""
    timeline = Timeline.of([Visit("p", "1", "UNETLoader")], [Use(0, "a", UseKind.LOAD, True)])
    trace = trace_of(timeline, components(a=10))
    trace.record(NodeStarted(101.0, 0), [])
    trace.record(Stalled(101.5, 0.5, waited=True), [])
    trace.record(Waited(104.0, 101.5, waited_s), [])
    trace.record(NodeFinished(104.0, 0), [])
    trace.record(PromptEnded(104.0, "p", Outcome.SUCCESS), [])
    summary = trace.summary()
    assert (summary["stall_s"], summary["compute_s"], summary["unsplit_s"]) == pytest.approx(told)
    assert summary["compute_s"] + summary["stall_s"] + summary["other_s"] == pytest.approx(4.0)


def test_waiting_inside_a_forward_pass_stands_in_its_node_and_its_step():
    """A device answers later than it has waited: the node that asked has ended meanwhile, and another one runs."""
    trace = trace_of(reads("ab"), components(a=10, b=10))
    trace.record(NodeStarted(100.0, 0), [])
    trace.record(Waited(102.0, 100.5, 1.25), [])
    trace.record(Stepped(102.0), [])
    trace.record(Stepped(103.0, 2), [])
    trace.record(NodeFinished(105.0, 0), [])
    trace.record(NodeStarted(105.0, 1), [])
    trace.record(Waited(104.5, 103.5, 0.5), [])
    trace.record(Stepped(104.5), [])
    trace.record(NodeFinished(106.0, 1), [])
    first, second = trace.as_dict()["nodes"]
    assert first["steps"] == [(2.0, 1.25, 1), (1.0, 0.0, 2), (1.5, 0.5, 1)]
    assert (first["stall_s"], second["stall_s"], second["steps"]) == (1.75, 0.0, [])
    assert (trace.summary()["compute_s"], trace.summary()["stall_s"]) == (4.25, 1.75)


times = st.floats(0, 10, allow_nan=False)
moments = st.one_of(
    st.tuples(st.just("start")),
    st.tuples(st.just("finish")),
    st.tuples(st.just("stall"), times),
    st.tuples(st.just("wait"), times, st.none() | times),
    st.tuples(st.just("step"), times),
    st.tuples(st.just("own"), times, times),
)


@given(st.lists(st.tuples(st.floats(0, 3), moments), max_size=40))
@example([(0, ("start",)), (1, ("finish",)), (0, ("step", 0)), (1, ("start",)), (0, ("step", 0)), (0, ("step", 1))])
def test_compute_stall_and_other_are_the_wall_time_whatever_is_told(story):
    """Of the whole prompt at any moment, of each node, and of each step no more than it took."""
    trace, now_s, running = trace_of(reads("a"), components(a=10)), 100.0, False
    for passed_s, (kind, *values) in story:
        now_s += passed_s
        match kind:
            case "start" if not running:
                trace.record(NodeStarted(now_s, 0), [])
                running = True
            case "finish" if running:
                trace.record(NodeFinished(now_s, 0), [])
                running = False
            case "stall":
                trace.record(Stalled(now_s, values[0]), [])
            case "wait":
                trace.record(Waited(now_s, now_s - values[0], values[1]), [])
            case "step":
                trace.record(Stepped(now_s - values[0]), [])
            case "own":
                trace.spent(Spent(now_s - values[0], now_s, values[1]))
        summary = trace.summary()
        shares = [summary[key] for key in ("compute_s", "stall_s", "other_s")]
        assert sum(shares) == pytest.approx(trace.duration_s, abs=1e-6) and min(shares) >= -1e-9
    trace.record(PromptEnded(now_s, "p", Outcome.SUCCESS), [])
    told = trace.as_dict()
    within = [node["end_s"] - node["start_s"] - node["stall_s"] - node["own_s"] - node["unsplit_s"] for node in told["nodes"]]
    assert sum(within) == pytest.approx(told["summary"]["compute_s"], abs=1e-6) and all(left_s >= -1e-9 for left_s in within)
    for node in told["nodes"]:
        assert all(0 <= stall_s <= took_s for took_s, stall_s, _ in node["steps"])
        assert sum(took_s for took_s, *_ in node["steps"]) <= node["end_s"] - node["start_s"] + 1e-9


def test_bytes_read_for_a_queued_prompt_are_not_waste():
    visits = [Visit("p", "1", "Node"), Visit("q", "1", "Node")]
    timeline = Timeline.of(visits, [Use(1, "a", UseKind.COMPUTE, True)])
    trace = trace_of(timeline, components(a=10))
    trace.record(TransferDone(101.0, "a", Tier.HOST, 10 * MB, 10 * MB, 1.0), [])
    trace.record(PromptEnded(102.0, "p", Outcome.SUCCESS), [])
    assert trace.summary()["wasted_bytes"] == 0


def test_a_trace_stays_bounded_and_counts_what_it_left_out():
    trace = trace_of(reads("-"), {})
    for i in range(MAX_RECORDS + 7):
        trace.record(NodeStarted(100.0 + i, 0), [])
        trace.record(NodeFinished(100.0 + i, 0), [])
    assert len(trace.as_dict()["nodes"]) == MAX_RECORDS
    assert trace.as_dict()["dropped_records"] == 7


def test_chrome_events_are_microseconds_in_one_lane_per_tier():
    trace = trace_of(reads("a"), components(a=10))
    trace.record(NodeStarted(101.0, 0), [])
    trace.record(TransferDone(101.5, "a", Tier.HOST, 10 * MB, 10 * MB, 0.5), [])
    trace.record(NodeFinished(102.0, 0), [])
    spans = [event for event in chrome(trace.as_dict())["traceEvents"] if event["ph"] == "X"]
    assert [(span["tid"], span["ts"], span["dur"]) for span in spans] == [(0, 1e6, 1e6), (1, 1e6, 0.5e6)]


def test_in_perfetto_the_steps_of_a_node_lie_below_it_with_what_they_waited():
    trace = trace_of(reads("a"), components(a=10))
    trace.record(NodeStarted(101.0, 0), [])
    trace.record(Waited(102.0, 101.0, 0.25), [])
    trace.record(Stepped(102.0), [])
    trace.record(Stepped(104.0, 3), [])
    trace.record(NodeFinished(105.0, 0), [])
    _, *steps = [event for event in chrome(trace.as_dict())["traceEvents"] if event["ph"] == "X"]
    assert [(step["name"], step["ts"], step["dur"], step["args"]["stall_s"]) for step in steps] == [
        ("step 1", 1e6, 1e6, 0.25),
        ("steps 2 to 4", 2e6, 2e6, 0.0),
    ]


def test_a_replan_counts_when_the_order_of_this_prompts_nodes_was_another():
    trace = trace_of(reads("abc"), components(a=1, b=1, c=1))
    rest, queued = reads("abc"), Visit("q", "9", "Node")
    trace.record(Replanned(101.0, Timeline(rest.visits[1:], ())), [])
    trace.record(Replanned(102.0, Timeline((*rest.visits[2:], queued), ()), running=0), [])
    assert trace.summary()["replans"] == 0
    trace.record(Replanned(103.0, Timeline((rest.visits[1],), ())), [])
    assert trace.summary()["replans"] == 1


def test_the_prediction_stands_beside_what_it_took():
    trace = trace_of(reads("-"), {})
    assert trace.summary()["predicted_compute_s"] is None and text.prediction(trace.as_dict()) is None
    trace.record(Foretold(0.0, 2.0, 0.5, 1), [])
    trace.record(NodeStarted(100.0, 0), [])
    trace.record(Replanned(100.5, Timeline((Visit("p", "0", "Node", compute_s=2.0),), ()), running=0), [])
    trace.record(NodeFinished(103.0, 0), [])
    trace.record(PromptEnded(103.0, "p", Outcome.SUCCESS), [])
    assert trace.as_dict()["nodes"][0]["predicted_s"] == 2.0
    assert text.prediction(trace.as_dict()) == ("Predicted: 2.00 ± 0.50 s of compute, from earlier runs of 1 node; it took 3.00 s (+50%)")


def test_what_the_pack_itself_takes_is_told_and_is_neither_compute_nor_stall():
    """Only what lies within a node is taken off what it computes; what was stall meanwhile stays stall."""
    trace = trace_of(reads("a-"), components(a=10))
    trace.spent(Spent(100.0, 101.0))
    trace.record(NodeStarted(101.0, 0), [])
    trace.record(Stalled(101.0, 0.5), [])
    trace.spent(Spent(100.5, 102.0, stalled_s=0.5))
    trace.record(NodeFinished(105.0, 0), [])
    trace.spent(Spent(105.0, 105.25))
    trace.record(PromptEnded(106.0, "p", Outcome.SUCCESS), [])
    told = trace.as_dict()
    assert told["nodes"][0]["own_s"] == 0.5 and told["nodes"][0]["stall_s"] == 0.5
    assert told["summary"]["own_s"] == 1.0 + 1.0 + 0.25
    assert told["summary"]["compute_s"] == 3.0
    assert "6.00 s = 3.00 s compute + 0.50 s stall + 2.50 s other (the pack 2.25 s);" in text.line(told)


def test_a_trace_of_a_prompt_that_was_left_to_comfyui_says_why():
    trace = trace_of(reads("a"), components(a=10))
    trace.record(PromptEnded(101.0, "p", Outcome.ABANDONED, "it took 9 operations, more than it may"), [])
    assert (trace.head()["outcome"], trace.head()["outcome_reason"]) == ("abandoned", "it took 9 operations, more than it may")


@given(st.data())
def test_what_was_known_and_what_is_new_make_the_whole(data):
    """However often somebody asks, and whatever happens in between: put together it is what a new reader would get."""
    parts = components(a=10, b=20, c=30)
    trace = trace_of(reads("abcabc"), parts)
    known = {name: [] for name in ("components", "nodes", "transfers", "evictions", "decisions")}
    mark, now_s, position = Mark(), 100.0, -1
    for _ in range(data.draw(st.integers(1, 30))):
        now_s += 1.0
        key = data.draw(st.sampled_from(sorted(parts)))
        tier = data.draw(st.sampled_from([Tier.HOST, Tier.DEVICE]))
        match data.draw(st.sampled_from(["node", "announce", "moved", "done", "evicted", "copied", "ask"])):
            case "node" if position < 5:
                if position >= 0:
                    trace.record(NodeFinished(now_s, position), [])
                position += 1
                trace.record(NodeStarted(now_s, position), [])
            case "announce":
                trace.record(Stalled(now_s, 0.5), [Prefetch(parts[key], tier, 5 * MB, "next")])
            case "moved":
                trace.record(TransferMoved(now_s, key, Tier.HOST, MB, MB, 0.5), [])
            case "done":
                trace.record(TransferDone(now_s, key, tier, 5 * MB, 5 * MB, 0.5), [])
            case "evicted":
                trace.record(Evicted(now_s, key, Tier.HOST, MB, "room"), [])
            case "copied":
                trace.record(Copied(now_s, key, MB, MB, True, now_s - 1, now_s), [])
            case "ask":
                mark = put_together(known, trace, mark)
    put_together(known, trace, mark)
    whole = trace.as_dict()
    assert known == {name: whole[name] for name in known}


def put_together(known, trace, mark):
    """As a client does: lists are cut at the index and go on from there."""
    after, new = trace.mark(), trace.since(mark)
    for name, records in known.items():
        first, more = new[name]
        assert first <= len(records)
        records[first:] = more
    for index, record in new["open"].items():
        known["transfers"][index] = record
    return after
