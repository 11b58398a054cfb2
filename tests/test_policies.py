"""What nodes ask for their components: who is heard, and what a limit leaves."""

from hypothesis import given
from hypothesis import strategies as st

from residency.core.component import Mode, Policy, Strategy
from residency.core.timeline import Timeline, Visit
from residency.settings.node_inputs import Family
from residency.settings.node_policies import NodeAsk, policies, with_hints

GIB = 2**30


def ask(node_id, family, **values):
    return NodeAsk(node_id, f"Residency{family.value.title()}", family, values)


def policy_of_a(*asks, sizes=None):
    flows = {one.node_id: ["a"] for one in asks}
    return policies(asks, flows, sizes or {"a": GIB}, "the default")["a"]


def test_a_policy_node_speaks_before_the_loader_and_the_loader_before_a_step():
    step = ask("1", Family.STEP, memory_mode="low-vram")
    loader = ask("2", Family.LOADER, memory_mode="balanced")
    policy = ask("3", Family.POLICY, memory_mode="high-vram")
    assert policy_of_a(step, loader, policy) == Policy(Mode.HIGH_VRAM, source="node 3 (ResidencyPolicy)")
    assert policy_of_a(step, loader) == Policy(Mode.BALANCED, source="node 2 (ResidencyLoader)")
    assert policy_of_a(step) == Policy(Mode.LOW_VRAM, source="node 1 (ResidencyStep)")


def test_among_equals_the_first_in_the_prompt_is_heard():
    first, second = ask("9", Family.STEP, memory_mode="low-vram"), ask("2", Family.STEP, memory_mode="balanced")
    assert policy_of_a(first, second).mode is Mode.LOW_VRAM


def test_each_setting_is_decided_by_itself_and_says_by_whom():
    loader = ask("2", Family.LOADER, strategy="offload", priority=5)
    policy = ask("3", Family.POLICY, memory_mode="workflow", strategy="auto", priority=-2, prefetch=True)
    found = policy_of_a(loader, policy)
    assert (found.strategy, found.priority, found.mode) == (Strategy.OFFLOAD, -2, None)
    assert found.source == "priority by node 3 (ResidencyPolicy), strategy by node 2 (ResidencyLoader)"


def test_reading_ahead_is_off_when_any_node_says_so_and_the_mode_stays_with_whoever_chose_it():
    found = policy_of_a(ask("1", Family.STEP, prefetch=False), ask("3", Family.POLICY, prefetch=True))
    assert (found.prefetch, found.source) == (False, "prefetch by node 1 (ResidencyStep), mode by the default")


def test_default_values_say_nothing():
    silent = ask("1", Family.LOADER, memory_mode="workflow", strategy="auto", priority=0)
    assert policy_of_a(silent) == Policy(source="the default")


def test_keep_with_nothing_connected_takes_the_workflows_models_in_the_order_of_their_use_up_to_its_limit():
    sizes = {"a": 8 * GIB, "b": 13 * GIB, "c": 9 * GIB}
    found = policies([ask("5", Family.KEEP, keep_gib=20)], {}, sizes, "the default")
    assert [key for key, policy in found.items() if policy.keep] == ["a", "c"]
    assert found["a"].source == "the default; kept by node 5 (ResidencyKeep)"


def test_keep_takes_only_what_flows_through_it():
    found = policies([ask("5", Family.KEEP)], {"5": ["b"]}, {"a": GIB, "b": GIB}, "the default")
    assert [key for key, policy in found.items() if policy.keep] == ["b"]


@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=2), st.integers(0, 40 * GIB)), st.floats(0, 64))
def test_what_is_kept_never_exceeds_the_limit(sizes, limit_gib):
    found = policies([ask("5", Family.KEEP, keep_gib=limit_gib)], {}, sizes, "the default")
    assert sum(sizes[key] for key, policy in found.items() if policy.keep) <= limit_gib * GIB


def test_a_steps_working_set_is_its_own_word_in_its_own_prompt_only():
    timeline = Timeline((Visit("p", "1", "KSampler", 2.0, 7), Visit("p", "2", "VAEDecode"), Visit("q", "1", "KSampler")), ())
    hinted = with_hints(timeline, "p", [ask("1", Family.STEP, working_set_gib=1.5), ask("2", Family.STEP, working_set_gib=0.0)])
    assert [(visit.working_set_bytes, visit.compute_s) for visit in hinted.visits] == [(3 * GIB // 2, 2.0), (0, 0.0), (0, 0.0)]
