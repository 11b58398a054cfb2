from story import MB, components, reads

from residency.component import Mode, Tier
from residency.events import NodeFinished, NodeStarted, Outcome, Prefetch, PromptEnded, PromptStarted, TransferDone
from residency.report import gib, text
from residency.trace import Trace


def test_a_trace_in_words_names_who_waited_and_why_bytes_moved():
    parts = components(a=10)
    trace = Trace(PromptStarted(0.0, "p", reads("a"), parts, Mode.BALANCED), 0.0)
    trace.record(NodeStarted(1.0, 0), [Prefetch(parts["a"], Tier.HOST, 10 * MB, "read by Node 0, next")])
    trace.stalled(2.5, waited=True)
    trace.record(TransferDone(3.5, "a", Tier.HOST, 10 * MB, 10 * MB, 2.0), [])
    trace.record(NodeFinished(5.0, 0), [])
    trace.record(PromptEnded(5.0, "p", Outcome.SUCCESS), [])
    said = text(trace.as_dict())
    assert said.startswith("Residency: 5.00 s = 1.50 s compute + 2.50 s stall; read ahead 9.5 MiB")
    assert "2.50 s  Node 0" in said and "a: read by Node 0, next" in said


def test_bytes_for_people():
    assert (gib(0), gib(5 * 2**20), gib(3 * 2**30)) == ("0.0 MiB", "5.0 MiB", "3.00 GiB")
