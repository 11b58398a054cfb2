"""Who chose the mode: docs/modes.md has a table, and each of its lines a test here."""

from residency.core.component import Mode
from residency.settings import take_out
from residency.settings.node_inputs import Family
from residency.settings.node_policies import policies
from residency.settings.prompt import Settings, node_asks, of_prompt, standing

USER = Settings(Mode.BALANCED, "the user's setting")
LOADER = {"class_type": "UNETLoader", "inputs": {"unet_name": "a.safetensors"}}


def node(mode, **more):
    return {"class_type": "ResidencyMode", "inputs": {"mode": mode, **more}}


def in_workflow(mode, **more):
    return {"extra_pnginfo": {"workflow": {"extra": {"residency": {"mode": mode, **more}}}}}


def test_line_1_what_a_node_asks_for_its_component_wins_over_the_mode_node():
    prompt = {"1": LOADER, "7": node("low-vram")}
    extra = {"residency": {"nodes": {"1": {"memory_mode": "high-vram"}}}}
    whole = of_prompt(prompt, extra, USER)
    policy = policies(node_asks(prompt, extra), {"1": ["a"]}, {"a": 1, "b": 1}, whole.source)
    assert (policy["a"].mode, policy["a"].source) == (Mode.HIGH_VRAM, "node 1 (UNETLoader)")
    assert (policy["b"].mode, policy["b"].source) == (None, "node 7 (ResidencyMode)")


def test_line_2_the_mode_node_of_the_workflow_wins_over_what_comes_with_the_prompt():
    chosen = of_prompt({"1": LOADER, "7": node("low-vram")}, {"residency": {"mode": "off"}} | in_workflow("off"), USER)
    assert (chosen.mode, chosen.source) == (Mode.LOW_VRAM, "node 7 (ResidencyMode)")


def test_line_3_extra_data_wins_over_the_workflows_own():
    both = {"residency": {"mode": "high-vram"}} | in_workflow("low-vram")
    assert of_prompt({"1": LOADER}, both, USER).source == "extra_data"


def test_line_4_the_workflows_own_wins_over_the_user():
    chosen = of_prompt({"1": LOADER}, in_workflow("low-vram"), USER)
    assert (chosen.mode, chosen.source) == (Mode.LOW_VRAM, "the workflow")


def test_line_5_the_users_setting_holds_where_nothing_came_with_the_prompt():
    assert of_prompt({"1": LOADER}, {}, USER) == USER


def test_lines_6_and_7_the_environment_stands_until_the_user_chooses_and_auto_without_it():
    assert standing({"RESIDENCY_MODE": "low-vram"}) == Settings(Mode.LOW_VRAM, "the environment variable RESIDENCY_MODE")
    assert standing({}) == Settings(Mode.AUTO, "the default")
    assert of_prompt({"1": LOADER}, {}, standing({})).mode is Mode.AUTO


def test_an_environment_of_nonsense_is_named(caplog):
    assert standing({"RESIDENCY_MODE": "warp"}).mode is Mode.AUTO
    assert "RESIDENCY_MODE='warp' is not a mode; choose one of auto, high-vram" in caplog.text


def test_an_unknown_mode_is_named_and_passed_over(caplog):
    chosen = of_prompt({"7": node("warp")}, in_workflow("low-vram"), USER)
    assert chosen.mode is Mode.LOW_VRAM
    assert "node 7 (ResidencyMode) asks for mode 'warp'" in caplog.text and "high-vram" in caplog.text


def test_budgets_come_from_the_first_that_names_one_even_where_another_chose_the_mode():
    extra = {"residency": {"device_budget_gib": 6}} | in_workflow("low-vram", device_budget_gib=8)
    chosen = of_prompt({"7": node("balanced", host_budget_gib=2)}, extra, USER)
    assert chosen == Settings(Mode.BALANCED, "node 7 (ResidencyMode)", 2 * 2**30, 6 * 2**30)


def test_a_budget_of_nonsense_is_named_and_the_mode_stays(caplog):
    chosen = of_prompt({"7": node("low-vram", host_budget_gib=-3)}, {}, USER)
    assert (chosen.mode, chosen.host_budget_bytes) == (Mode.LOW_VRAM, None)
    assert "host_budget_gib -3" in caplog.text
    assert of_prompt({"7": node("low-vram", host_budget_gib=2)}, {}, USER).host_budget_bytes == 2 * 2**30


def test_malformed_extra_data_is_no_reason_to_fail():
    for extra in (
        {"residency": "low-vram"},
        {"residency": {"nodes": [1]}},
        {"residency": {"nodes": {"1": "low-vram"}}},
        {"extra_pnginfo": None},
        {"extra_pnginfo": {"workflow": {"extra": None}}},
    ):
        assert of_prompt({"1": LOADER}, extra, USER) == USER
        assert node_asks({"1": LOADER}, extra) == []


def test_settings_of_a_newer_version_are_used_as_far_as_they_are_known(caplog):
    assert of_prompt({"1": LOADER}, in_workflow("low-vram", version=2, swap="nvme"), USER).mode is Mode.LOW_VRAM
    assert "the workflow have version 2, this pack knows 1" in caplog.text


def test_single_nodes_speak_for_themselves_and_a_value_nobody_knows_says_nothing(caplog, monkeypatch):
    monkeypatch.setattr(take_out, "_wrapped", {"ResidencyUNETLoader": Family.LOADER})
    prompt = {
        "1": {"class_type": "ResidencyUNETLoader", "inputs": {"memory_mode": "low-vram"}},  # from an expanded subgraph: never taken out
        "2": {"class_type": "ResidencyUNETLoader", "inputs": {"memory_mode": "turbo"}},
        "3": {"class_type": "Other", "inputs": {"memory_mode": "low-vram"}},  # somebody else's input of the same name
        "4": {"class_type": "ResidencyUNETLoader", "inputs": {"memory_mode": ["1", 0]}},
    }
    assert [(ask.node_id, dict(ask.values)) for ask in node_asks(prompt, {})] == [("1", {"memory_mode": "low-vram"})]
    assert "node 2 (ResidencyUNETLoader) asks for memory_mode 'turbo'" in caplog.text
