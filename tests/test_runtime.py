"""The runtime with real threads: a mover that answers from its own thread, at once, or not at all."""

import threading
from concurrent.futures import Future

import pytest
from story import MB, components, reads

from residency.core.component import Mode, Tier
from residency.core.events import BudgetChanged, Evicted, Outcome, TransferDone, TransferMoved, TransferStopped
from residency.core.instructions import Cancel
from residency.core.timeline import Timeline, Use, UseKind, Visit
from residency.runtime import KEPT_TRACES, Runtime
from residency.session import NodeBegins, NodeEnds, OrderChanges, PromptBegins, PromptEnds, SessionError


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
            self.runtime.tell(TransferDone(self.runtime.clock(), key, Tier.HOST, size, size, 0.1))
            future.set_result(None)

        threading.Thread(target=move, daemon=True).start()
        return future

    def cancel(self, instruction):
        self.seen.append(instruction)

    def evict(self, instruction):
        self.seen.append(instruction)
        self.runtime.tell(Evicted(self.runtime.clock(), instruction.component.key, instruction.tier, 1, "asked"))

    def progress(self, key):
        return 0

    def so_far(self, key):
        return None

    def close(self, *, wait=True):
        self.gate.set()


def start(runtime, mover, order="ab", mode=Mode.BALANCED):
    runtime.movers = {Tier.HOST: mover}
    runtime.tell(BudgetChanged(runtime.clock(), Tier.HOST, 100 * MB))
    runtime.tell(PromptBegins(runtime.clock(), "p", reads(order), components(a=10, b=10), mode, single_reader=frozenset("ab")))


def test_a_node_gets_the_future_of_the_transfer_it_must_wait_for():
    runtime = Runtime()
    mover = ThreadMover(runtime)
    start(runtime, mover)
    (hold,) = runtime.tell(NodeBegins(runtime.clock(), "0"))
    assert not hold.over()
    mover.gate.set()
    hold.future.result(timeout=10)
    assert hold.over()
    runtime.tell(NodeEnds(runtime.clock()))
    runtime.tell(PromptEnds(runtime.clock(), Outcome.SUCCESS))
    assert runtime.traces[-1].summary()["prefetched_bytes"] >= 10 * MB


def test_a_mover_that_raises_is_a_refusal_and_the_prompt_goes_on():
    class Broken(ThreadMover):
        def prefetch(self, instruction):
            raise OSError("no such drive")

    runtime = Runtime()
    start(runtime, Broken(runtime))
    assert runtime.tell(NodeBegins(runtime.clock(), "0")) == []
    runtime.tell(PromptEnds(runtime.clock(), Outcome.SUCCESS))
    reasons = [transfer["reason"] for transfer in runtime.traces[-1].as_dict()["transfers"]]
    assert reasons == ["OSError: no such drive"] * 2
    assert runtime.failures == {"host mover": 2}


@pytest.mark.parametrize("manager_fails", [False, True])
def test_a_prompt_that_its_host_gives_up_ends_its_trace_and_everything_that_was_announced(manager_fails):
    runtime = Runtime()
    mover = ThreadMover(runtime)
    start(runtime, mover)
    runtime.tell(NodeBegins(runtime.clock(), "0"))
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
    for hold in runtime.tell(NodeBegins(runtime.clock(), "0")):
        hold.future.result(timeout=10)
    runtime.tell(NodeEnds(runtime.clock()))
    runtime.tell(PromptEnds(runtime.clock(), Outcome.SUCCESS))
    device = [e["reason"] for e in runtime.traces[-1].as_dict()["evictions"] if e["tier"] == "device"]
    assert device == ["refused: this host has no mover for the device tier"]


def test_a_read_that_goes_on_from_one_prompt_into_the_next_is_followed():
    class Slow(ThreadMover):
        moved_bytes = 0

        def so_far(self, key):
            return TransferMoved(self.runtime.clock(), key, Tier.HOST, self.moved_bytes, self.moved_bytes, 0.01)

    def queued(*prompt_ids):
        visits = [Visit(prompt_id, "0", "Node") for prompt_id in prompt_ids]
        return Timeline.of(visits, [Use(len(visits) - 1, "a", UseKind.COMPUTE, True)])

    def in_trace(prompt_id, bytes_mb):
        trace = next(trace for trace in runtime.traces if trace.prompt_id == prompt_id)
        return [transfer["moved_bytes"] for transfer in trace.as_dict()["transfers"]] == [bytes_mb * MB]

    runtime = Runtime()
    mover = Slow(runtime)
    runtime.movers = {Tier.HOST: mover}
    runtime.tell(BudgetChanged(runtime.clock(), Tier.HOST, 100 * MB))
    runtime.tell(PromptBegins(runtime.clock(), "p", queued("p", "q"), components(a=10), Mode.BALANCED))
    runtime.tell(NodeBegins(runtime.clock(), "0"))
    mover.moved_bytes = 3 * MB
    updates = []
    runtime.on_update = lambda trace, ended: updates.append(trace.summary()["prefetched_bytes"])
    runtime.look()  # in the middle of the node
    assert updates == [3 * MB] and in_trace("p", 3)
    runtime.tell(NodeEnds(runtime.clock()))
    mover.moved_bytes = 4 * MB
    runtime.tell(PromptEnds(runtime.clock(), Outcome.SUCCESS))
    runtime.tell(PromptBegins(runtime.clock(), "q", queued("q"), components(a=10), Mode.BALANCED))
    runtime.tell(NodeBegins(runtime.clock(), "0"))
    mover.gate.set()
    mover.futures[-1].result(timeout=10)
    runtime.tell(NodeEnds(runtime.clock()))
    runtime.tell(PromptEnds(runtime.clock(), Outcome.SUCCESS))
    assert in_trace("p", 4) and in_trace("q", 6)


def test_a_read_that_ends_between_two_prompts_is_none_of_the_seconds():
    runtime = Runtime()
    mover = ThreadMover(runtime)
    start(runtime, mover)
    runtime.tell(PromptEnds(runtime.clock(), Outcome.INTERRUPTED))
    reads_left = [one["component"] for one in runtime.traces[-1].as_dict()["transfers"]]
    for key in reads_left:
        runtime.tell(TransferStopped(runtime.clock(), key, Tier.HOST, 2 * MB, 2 * MB, 0.1, "asked"))
    runtime.tell(PromptBegins(runtime.clock(), "q", reads("-"), {}, Mode.BALANCED))
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
    threads = [threading.Thread(target=lambda: [runtime.tell(BudgetChanged(0.0, Tier.HOST, i)) for i in range(200)]) for _ in range(8)]
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
        for _ in range(400):
            runtime.tell(PromptBegins(runtime.clock(), "p", reads("ab"), components(a=10, b=10), Mode.BALANCED))
            for position in range(2):
                runtime.tell(NodeBegins(runtime.clock(), str(position)))
                runtime.tell(NodeEnds(runtime.clock()))
            runtime.tell(PromptEnds(runtime.clock(), Outcome.SUCCESS))

    heads = lambda: [(trace.head(), trace.as_dict()) for trace in runtime.traces]  # noqa: E731
    assert meanwhile(prompts, heads) == []
    assert len(runtime.traces) == KEPT_TRACES


def test_no_mover_is_called_with_the_lock_that_readers_of_the_trace_take():
    class Looking(ThreadMover):
        def prefetch(self, instruction):
            def read():
                runtime.look()
                self.seen.append(runtime.trace.as_dict()["outcome"])

            reader = threading.Thread(target=read, daemon=True)
            reader.start()
            reader.join(timeout=10)
            return super().prefetch(instruction)

    runtime = Runtime()
    mover = Looking(runtime)
    start(runtime, mover)
    assert mover.seen == ["running", "running"]
    mover.gate.set()


def test_a_node_that_begins_while_another_thread_enacts_knows_its_holds():
    class Held(ThreadMover):
        entered, go_on = threading.Event(), threading.Event()

        def prefetch(self, instruction):
            if instruction.component.key == "a":
                self.entered.set()
                assert self.go_on.wait(timeout=10)
            return super().prefetch(instruction)

    runtime = Runtime()
    mover = Held(runtime)
    begun = threading.Thread(target=start, args=(runtime, mover))
    begun.start()
    assert mover.entered.wait(timeout=10)
    holds = []
    node = threading.Thread(target=lambda: holds.extend(runtime.tell(NodeBegins(runtime.clock(), "0"))))
    node.start()
    mover.go_on.set()
    begun.join()
    node.join()
    assert [hold.size_bytes for hold in holds] == [10 * MB]
    mover.gate.set()


def test_a_tier_at_safe_points_is_enacted_there_and_on_that_thread():
    class Device(ThreadMover):
        def evict(self, instruction):
            self.seen.append(threading.get_ident())
            runtime.tell(Evicted(runtime.clock(), instruction.component.key, Tier.DEVICE, 1, "asked"))

    runtime = Runtime(at_safe_points=[Tier.DEVICE])
    host, device = ThreadMover(runtime), Device(runtime)
    host.gate.set()
    start(runtime, host, order="a", mode=Mode.LOW_VRAM)
    runtime.movers = {Tier.HOST: host, Tier.DEVICE: device}
    for hold in runtime.tell(NodeBegins(runtime.clock(), "0")):
        hold.future.result(timeout=10)
    other = threading.Thread(target=lambda: runtime.tell(NodeEnds(runtime.clock())))
    other.start()
    other.join()
    assert device.seen == []
    runtime.safe_point()
    assert device.seen == [threading.get_ident()]


def test_a_fact_that_cannot_be_true_changes_nothing():
    runtime = Runtime()
    mover = ThreadMover(runtime)
    start(runtime, mover)
    with pytest.raises(SessionError, match="NodeEnds while the session is between of prompt p"):
        runtime.tell(NodeEnds(runtime.clock()))
    assert len(runtime.tell(NodeBegins(runtime.clock(), "0"))) == 1
    mover.gate.set()


def test_a_trace_tells_what_became_of_each_component():
    runtime = Runtime()
    mover = ThreadMover(runtime)
    mover.gate.set()
    start(runtime, mover, order="a")
    for hold in runtime.tell(NodeBegins(runtime.clock(), "0")):
        hold.future.result(timeout=10)
    runtime.tell(NodeEnds(runtime.clock()))
    assert runtime.traces[-1].as_dict()["components"][0]["story"] == ""
    runtime.tell(PromptEnds(runtime.clock(), Outcome.SUCCESS))
    told = {one["key"]: one["story"] for one in runtime.traces[-1].as_dict()["components"]}
    assert told["a"].startswith("announced on the host at 0.0 s with 9.54 MiB: read by Node 0") and "arrived on the host" in told["a"]
    assert told["b"] == ""


def test_who_only_follows_a_run_may_fail_and_what_was_decided_is_enacted_all_the_same(caplog):
    runtime = Runtime()
    mover = ThreadMover(runtime)
    mover.gate.set()
    runtime.on_update = lambda trace, ended: 1 / 0
    runtime.recorder = lambda fact, told: 1 / 0
    start(runtime, mover)
    assert len(mover.futures) == 2
    for hold in runtime.tell(NodeBegins(runtime.clock(), "0")):
        hold.future.result(timeout=10)
    runtime.tell(NodeEnds(runtime.clock()))
    runtime.look()
    runtime.tell(PromptEnds(runtime.clock(), Outcome.SUCCESS))
    assert runtime.trace is None and runtime.traces[-1].outcome is Outcome.SUCCESS
    assert set(runtime.failures) == {"on_update", "recorder"}
    assert sorted(record.message.split()[1] for record in caplog.records) == ["on_update", "recorder"]  # each once


def test_a_core_that_has_failed_is_replaced_and_the_next_prompt_is_as_any_other():
    runtime = Runtime()
    mover = ThreadMover(runtime)
    start(runtime, mover, order="a")
    handle = runtime.manager.handle

    def decides_and_fails(event):
        handle(event)
        raise ValueError("a bug")

    runtime.manager.handle = decides_and_fails
    with pytest.raises(ValueError, match="a bug"):
        runtime.tell(OrderChanges(runtime.clock(), reads("ab"), components(a=10, b=10)))  # that b is on its way is told to nobody
    trace = runtime.traces[-1]
    assert (trace.outcome, trace.outcome_reason) == (Outcome.ABANDONED, "the core failed: ValueError('a bug')") and runtime.trace is None
    assert [(type(one), one.component.key) for one in mover.seen] == [(Cancel, "a")]
    with pytest.raises(SessionError):
        runtime.tell(NodeBegins(runtime.clock(), "0"))
    mover.gate.set()
    for future in mover.futures:
        future.result(timeout=10)  # an answer for which the new core has not asked
    start(runtime, mover)
    for key, hold in zip("ab", runtime.tell(NodeBegins(runtime.clock(), "0")), strict=False):
        assert key in runtime.manager.host.coming or hold.over()
    runtime.tell(NodeEnds(runtime.clock()))
    assert "b" in runtime.manager.host.held or "b" in runtime.manager.host.coming
    runtime.tell(PromptEnds(runtime.clock(), Outcome.SUCCESS))
    assert runtime.traces[-1].outcome is Outcome.SUCCESS


def test_a_failure_on_one_threads_refusal_leaves_no_other_thread_waiting_and_no_instruction_out():
    class Broken(ThreadMover):
        entered, go_on = threading.Event(), threading.Event()

        def prefetch(self, instruction):
            if instruction.component.key == "b":
                return super().prefetch(instruction)
            self.entered.set()
            assert self.go_on.wait(timeout=10)
            runtime.manager.handle = lambda event: 1 / 0
            raise OSError("no such drive")

    runtime = Runtime()
    mover = Broken(runtime)
    begins = threading.Thread(target=start, args=(runtime, mover), daemon=True)
    begins.start()
    assert mover.entered.wait(timeout=10)
    other = threading.Thread(target=lambda: runtime.tell(BudgetChanged(runtime.clock(), Tier.HOST, 5 * MB)), daemon=True)
    other.start()
    mover.go_on.set()
    begins.join(timeout=10)
    other.join(timeout=10)
    assert not begins.is_alive() and not other.is_alive()
    assert len(mover.futures) == 1 and runtime.failures == {"host mover": 1, "core": 1}
    assert runtime.traces[-1].outcome is Outcome.ABANDONED
    mover.gate.set()
