from story import MB, components, reads

from residency.core.component import Mode, Policy, Strategy, Tier
from residency.core.events import (
    NodeFinished,
    NodeStarted,
    NotMeasured,
    Outcome,
    PromptEnded,
    PromptStarted,
    Spent,
    Stalled,
    Stepped,
    TransferDone,
    Waited,
)
from residency.core.instructions import Prefetch
from residency.record.text import patching, text, waiting
from residency.record.trace import Trace


def test_a_trace_in_words_names_who_waited_and_why_bytes_moved():
    parts = components(a=10)
    trace = Trace(PromptStarted(0.0, "p", reads("a"), parts, Mode.BALANCED), 0.0)
    trace.record(NodeStarted(1.0, 0), [Prefetch(parts["a"], Tier.HOST, 10 * MB, "read by Node 0, next")])
    trace.record(Stalled(1.0, 2.25, waited=True), [])
    trace.record(Spent(0.75, 1.25), [])
    trace.record(TransferDone(3.5, "a", Tier.HOST, 10 * MB, 10 * MB, 2.0), [])
    trace.record(NodeFinished(5.0, 0), [])
    trace.record(PromptEnded(5.0, "p", Outcome.SUCCESS), [])
    said = text(trace.as_dict())
    assert said.startswith("Residency: 5.00 s = 1.50 s compute + 2.25 s stall + 1.25 s other (the pack 0.50 s); read ahead 9.54 MiB")
    assert "Waited 2.25 s for weights: Node 0 (a)." in said.splitlines()
    assert "2.25 s  Node 0" in said and "a: read by Node 0, next" in said


def test_the_sentence_about_waiting_names_the_node_its_weights_and_its_steps():
    parts = components(a=10, b=10)
    trace = Trace(PromptStarted(0.0, "p", reads("ab"), parts, Mode.BALANCED), 0.0)
    assert waiting(trace.as_dict()) == "No node has waited for weights."
    trace.record(NodeStarted(0.0, 0), [])
    trace.record(Stalled(1.0, 0.5), [])
    trace.record(NodeFinished(1.0, 0), [])
    trace.record(NodeStarted(1.0, 1), [])
    for step, waited_s in enumerate((0.0, 0.75, 0.25)):
        trace.record(Waited(step + 2.0, step + 1.0, waited_s), [])
        trace.record(Stepped(step + 2.0), [])
    trace.record(NodeFinished(4.0, 1), [])
    assert waiting(trace.as_dict()) == "Waited 1.50 s for weights, of it 1.00 s in Node 1 (b), in 2 of 3 steps."


def test_what_patching_took_is_the_first_step_beyond_the_others_of_a_node_with_a_lora():
    def told(first: list[object], *, kind: str = "LORA", others: int = 3) -> str | None:
        node = {"node_id": "6", "class_type": "KSampler", "computes": ["m", "l"], "steps": [first, *[[0.5, 0.0, 1]] * others]}
        parts = [{"key": "m", "name": "model", "kind": "MODEL"}, {"key": "l", "name": "style", "kind": kind}]
        return patching({"components": parts, "nodes": [node, {**node, "node_id": "7", "computes": ["m"]}]})

    by_so_much = "by so much longer its first step computed than each of the others."
    assert told([1.3, 0.0, 1]) == f"Patching weights took at most 0.80 s in KSampler 6 (style): {by_so_much}"
    assert told([1.3, 0.5, 1]) == f"Patching weights took at most 0.30 s in KSampler 6 (style): {by_so_much}"  # waiting is no patching
    assert told([1.3, 0.0, 2]) == f"Patching weights took at most 0.30 s in KSampler 6 (style): {by_so_much}"  # two steps in one report
    assert told([0.52, 0.0, 1]) is told([1.3, 0.0, 1], kind="VAE") is told([1.3, 0.0, 1], others=1) is None


def test_where_a_system_does_not_tell_waiting_from_unpacking_that_is_said():
    trace = Trace(PromptStarted(0.0, "p", reads("a"), components(a=10), Mode.BALANCED), 0.0)
    trace.record(NodeStarted(0.0, 0), [])
    trace.record(Waited(3.0, 0.0, None), [])
    trace.record(NodeFinished(3.0, 0), [])
    assert waiting(trace.as_dict()) == (
        "No node has waited for weights, as far as it is measured (a loader's waiting is not told on this system)."
    )
    assert "+ 3.00 s other (the pack 0.00 s, loaders 3.00 s, of which this system does not tell the waiting)" in text(trace.as_dict())


def test_where_waiting_inside_a_forward_pass_is_not_measured_nobody_claims_that_there_was_none():
    trace = Trace(PromptStarted(0.0, "p", reads("a"), components(a=10), Mode.BALANCED), 0.0)
    trace.record(NotMeasured(1.0, "replaced by another pack"), [])
    assert waiting(trace.as_dict()) == "No node has waited for weights, as far as it is measured (replaced by another pack)."


def test_a_prompt_that_was_given_up_says_why():
    trace = Trace(PromptStarted(0.0, "p", reads("a"), components(a=10), Mode.BALANCED), 0.0)
    trace.record(PromptEnded(5.0, "p", Outcome.ABANDONED, "left to ComfyUI: the pack was switched off while it ran"), [])
    assert "left to ComfyUI: the pack was switched off while it ran" in text(trace.as_dict()).splitlines()


def test_each_component_is_told_with_what_was_asked_for_it_and_by_whom():
    parts = components(a=10, b=20, c=30)
    policies = {
        "a": Policy(Mode.LOW_VRAM, priority=-1, prefetch=False, source="node 4 (ResidencyPolicy)"),
        "b": Policy(strategy=Strategy.OFFLOAD, keep=True, source="node 5 (ResidencyUNETLoader)"),
    }
    trace = Trace(PromptStarted(0.0, "p", reads("abc"), parts, Mode.BALANCED, policies), 0.0)
    said = text(trace.as_dict())
    assert "  a: low-vram, priority -1, not read ahead (node 4 (ResidencyPolicy))" in said
    assert "  b: strategy offload, kept in RAM (node 5 (ResidencyUNETLoader))" in said
    assert "  c: balanced\n" in said + "\n"


def test_a_trace_of_an_older_version_is_told_without_what_it_does_not_have():
    trace = Trace(PromptStarted(0.0, "p", reads("a"), components(a=10), Mode.BALANCED), 0.0).as_dict()
    for component in trace["components"]:
        del component["policy"]
    assert "Placed" not in text(trace)
