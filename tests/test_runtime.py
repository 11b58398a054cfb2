"""The runtime with real threads: a mover that answers from its own thread, at once, or not at all."""

import threading
from concurrent.futures import Future

import pytest
from story import MB, components, reads

from residency.core.component import Mode, Tier
from residency.core.events import (
    BudgetChanged,
    Cancel,
    Evicted,
    NodeFinished,
    NodeStarted,
    Outcome,
    PromptEnded,
    PromptStarted,
    TransferDone,
    TransferMoved,
    TransferStopped,
)
from residency.core.timeline import Timeline, Use, UseKind, Visit
from residency.runtime import KEPT_TRACES, Runtime


class ThreadMover:
    """Answers each prefetch from a thread of its own, once the gate is open."""

    def __init__(self, runtime):
        self.runtime, self.gate, self.seen, self.futures = runtime, threading.Event(), [], []

    def prefetch(self, instruction):
        future = Future()
        self.futures.append(future)

        def move():
            self.gate.wait()
            key, size = instruction.component.key, instruction.size_bytes
            self.runtime.post(TransferDone(self.runtime.clock(), key, Tier.HOST, size, size, 0.1))
            future.set_result(None)

        threading.Thread(target=move, daemon=True).start()
        return future

    def cancel(self, instruction):
        self.seen.append(instruction)

    def evict(self, instruction):
        self.seen.append(instruction)
        self.runtime.post(Evicted(self.runtime.clock(), instruction.component.key, instruction.tier, 1, "asked"))

    def progress(self, key):
        return 0

    def so_far(self, key):
        return None

    def close(self, *, wait=True):
        self.gate.set()


def start(runtime, mover, order="ab", mode=Mode.BALANCED):
    runtime.movers = {Tier.HOST: mover}
    runtime.post(BudgetChanged(runtime.clock(), Tier.HOST, 100 * MB))
    runtime.post(PromptStarted(runtime.clock(), "p", reads(order), components(a=10, b=10), mode, exclusive=frozenset("ab")))


def test_a_node_gets_the_future_of_the_transfer_it_must_wait_for():
    runtime = Runtime()
    mover = ThreadMover(runtime)
    start(runtime, mover)
    (hold,) = runtime.post(NodeStarted(runtime.clock(), 0))
    assert not hold.over()
    mover.gate.set()
    hold.future.result(timeout=10)
    assert hold.over()
    runtime.post(NodeFinished(runtime.clock(), 0))
    runtime.post(PromptEnded(runtime.clock(), "p", Outcome.SUCCESS))
    assert runtime.traces[-1].summary()["prefetched_bytes"] >= 10 * MB


def test_a_mover_that_raises_is_a_refusal_and_the_prompt_goes_on():
    class Broken(ThreadMover):
        def prefetch(self, instruction):
            raise OSError("no such drive")

    runtime = Runtime()
    start(runtime, Broken(runtime))
    assert runtime.post(NodeStarted(runtime.clock(), 0)) == []
    runtime.post(PromptEnded(runtime.clock(), "p", Outcome.SUCCESS))
    reasons = [transfer["reason"] for transfer in runtime.traces[-1].as_dict()["transfers"]]
    assert reasons == ["OSError: no such drive"] * 2


@pytest.mark.parametrize("manager_fails", [False, True])
def test_a_prompt_that_its_host_gives_up_ends_its_trace_and_everything_that_was_announced(manager_fails):
    runtime = Runtime()
    mover = ThreadMover(runtime)
    start(runtime, mover)
    runtime.post(NodeStarted(runtime.clock(), 0))
    ended = []
    runtime.on_update = lambda trace, is_over: ended.append(is_over)
    if manager_fails:
        runtime.manager.handle = lambda event: 1 / 0
    runtime.abandon("left to ComfyUI: a bug")
    trace = runtime.traces[-1].as_dict()
    assert (trace["outcome"], trace["outcome_reason"]) == ("abandoned", "left to ComfyUI: a bug") and runtime.trace is None
    assert [(one["status"], one["reason"]) for one in trace["transfers"]] == [("stopped", "left to ComfyUI: a bug")] * 2
    assert all(node["end_s"] is not None for node in trace["nodes"])
    assert [(type(one), one.component.key) for one in mover.seen] == [(Cancel, "a"), (Cancel, "b")]
    assert ended == [True]


def test_a_tier_without_a_mover_refuses_by_name():
    runtime = Runtime()
    mover = ThreadMover(runtime)
    mover.gate.set()
    start(runtime, mover, order="a", mode=Mode.LOW_VRAM)
    for hold in runtime.post(NodeStarted(runtime.clock(), 0)):
        hold.future.result(timeout=10)
    runtime.post(NodeFinished(runtime.clock(), 0))
    runtime.post(PromptEnded(runtime.clock(), "p", Outcome.SUCCESS))
    device = [e["reason"] for e in runtime.traces[-1].as_dict()["evictions"] if e["tier"] == "device"]
    assert device == ["refused: this host has no mover for the device tier"]


def test_a_read_that_goes_on_from_one_prompt_into_the_next_is_followed():
    class Slow(ThreadMover):
        moved_bytes = 0

        def so_far(self, key):
            return TransferMoved(self.runtime.clock(), key, Tier.HOST, self.moved_bytes, self.moved_bytes, 0.01)

    def queued(*prompt_ids):
        visits = [Visit(prompt_id, "1", "Node") for prompt_id in prompt_ids]
        return Timeline.of(visits, [Use(len(visits) - 1, "a", UseKind.COMPUTE, True)])

    def in_trace(prompt_id, bytes_mb):
        trace = next(trace for trace in runtime.traces if trace.prompt_id == prompt_id)
        return [transfer["moved_bytes"] for transfer in trace.as_dict()["transfers"]] == [bytes_mb * MB]

    runtime = Runtime()
    mover = Slow(runtime)
    runtime.movers = {Tier.HOST: mover}
    runtime.post(BudgetChanged(runtime.clock(), Tier.HOST, 100 * MB))
    runtime.post(PromptStarted(runtime.clock(), "p", queued("p", "q"), components(a=10), Mode.BALANCED))
    runtime.post(NodeStarted(runtime.clock(), 0))
    mover.moved_bytes = 3 * MB
    updates = []
    runtime.on_update = lambda trace, ended: updates.append(trace.summary()["prefetched_bytes"])
    runtime.look()  # in the middle of the node
    assert updates == [3 * MB] and in_trace("p", 3)
    runtime.post(NodeFinished(runtime.clock(), 0))
    mover.moved_bytes = 4 * MB
    runtime.post(PromptEnded(runtime.clock(), "p", Outcome.SUCCESS))
    runtime.post(PromptStarted(runtime.clock(), "q", queued("q"), components(a=10), Mode.BALANCED))
    runtime.post(NodeStarted(runtime.clock(), 0))
    mover.gate.set()
    mover.futures[-1].result(timeout=10)
    runtime.post(NodeFinished(runtime.clock(), 0))
    runtime.post(PromptEnded(runtime.clock(), "q", Outcome.SUCCESS))
    assert in_trace("p", 4) and in_trace("q", 6)


def test_a_read_that_ends_between_two_prompts_is_none_of_the_seconds():
    runtime = Runtime()
    mover = ThreadMover(runtime)
    start(runtime, mover)
    runtime.post(PromptEnded(runtime.clock(), "p", Outcome.INTERRUPTED))
    reads_left = [one["component"] for one in runtime.traces[-1].as_dict()["transfers"]]
    for key in reads_left:
        runtime.post(TransferStopped(runtime.clock(), key, Tier.HOST, 2 * MB, 2 * MB, 0.1, "asked"))
    runtime.post(PromptStarted(runtime.clock(), "q", reads("-"), {}, Mode.BALANCED))
    assert reads_left and runtime.traces[-1].as_dict()["transfers"] == []


def test_events_from_many_threads_are_handled_one_at_a_time():
    runtime = Runtime()
    inside, overlaps = [], []
    original = runtime.manager.handle

    def watched(event):
        inside.append(event)
        overlaps.append(len(inside))
        try:
            return original(event)
        finally:
            inside.pop()

    runtime.manager.handle = watched
    threads = [threading.Thread(target=lambda: [runtime.post(BudgetChanged(0.0, Tier.HOST, i)) for i in range(200)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(overlaps) == {1} and len(overlaps) == 1600


def meanwhile(work, look):
    """`look()` again and again on another thread until `work()` has run; what it raised."""
    raised, over = [], threading.Event()

    def looking():
        while not over.is_set():
            try:
                look()
            except BaseException as error:
                raised.append(error)
                return

    watcher = threading.Thread(target=looking)
    watcher.start()
    try:
        work()
    finally:
        over.set()
        watcher.join()
    return raised


def test_the_traces_are_read_while_prompts_start_and_run():
    runtime = Runtime()

    def prompts():
        for number in range(400):
            key = f"{number}"
            runtime.post(PromptStarted(runtime.clock(), key, reads("ab"), components(a=10, b=10), Mode.BALANCED))
            for position in range(2):
                runtime.post(NodeStarted(runtime.clock(), position))
                runtime.post(NodeFinished(runtime.clock(), position))
            runtime.post(PromptEnded(runtime.clock(), key, Outcome.SUCCESS))

    heads = lambda: [(trace.head(), trace.as_dict()) for trace in runtime.traces]  # noqa: E731
    assert meanwhile(prompts, heads) == []
    assert len(runtime.traces) == KEPT_TRACES and runtime.traces[-1].prompt_id == "399"


def test_a_trace_is_read_while_a_mover_works_under_the_lock():
    runtime = Runtime()
    mover = ThreadMover(runtime)
    start(runtime, mover)
    read = threading.Event()

    def look():
        runtime.look(wait=False)
        if runtime.traces[-1].as_dict():
            read.set()

    with runtime._lock:  # what a mover that works is called under
        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        assert read.wait(10)
    watcher.join()


def test_closing_without_waiting_keeps_the_answers_for_the_first_event_of_the_next_movers():
    runtime = Runtime()
    mover = ThreadMover(runtime)
    start(runtime, mover)
    assert runtime.manager.host.in_flight

    def close(*, wait):
        assert not wait
        for key in [*runtime.manager.host.in_flight]:
            runtime.post(TransferStopped(runtime.clock(), key, Tier.HOST, 0, 0, 0.0, "closed"))

    mover.close = close
    with runtime._lock:  # somebody's event is being handled for long
        closer = threading.Thread(target=lambda: runtime.close(wait=False))
        closer.start()
        closer.join(10)
        assert not closer.is_alive()
    assert runtime.manager.host.in_flight
    runtime.open({})
    runtime.post(PromptEnded(runtime.clock(), "p", Outcome.ERROR))
    assert not runtime.manager.host.in_flight
