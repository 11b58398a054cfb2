"""Who chose the mode: one line of the precedence, one test."""

from residency.comfyui.settings import Settings, node_modes, of_prompt
from residency.component import Mode

USER = Settings(Mode.BALANCED, "the user's setting")
LOADER = {"class_type": "UNETLoader", "inputs": {"unet_name": "a.safetensors"}}


def node(mode, **more):
    return {"class_type": "ResidencyMode", "inputs": {"mode": mode, **more}}


def in_workflow(mode):
    return {"extra_pnginfo": {"workflow": {"extra": {"residency": {"mode": mode}}}}}


def test_the_node_of_the_workflow_wins_over_everything():
    chosen = of_prompt({"1": LOADER, "7": node("low-vram")}, {"residency": {"mode": "off"}} | in_workflow("off"), USER)
    assert (chosen.mode, chosen.source) == (Mode.LOW_VRAM, "node 7")


def test_extra_data_wins_over_the_workflows_own_and_that_over_the_user():
    both = {"residency": {"mode": "high-vram"}} | in_workflow("low-vram")
    assert of_prompt({"1": LOADER}, both, USER).source == "extra_data"
    assert of_prompt({"1": LOADER}, in_workflow("low-vram"), USER).mode is Mode.LOW_VRAM
    assert of_prompt({"1": LOADER}, {}, USER) == USER


def test_an_unknown_mode_is_named_and_passed_over(caplog):
    chosen = of_prompt({"7": node("warp")}, in_workflow("low-vram"), USER)
    assert chosen.mode is Mode.LOW_VRAM
    assert "node 7 asks for mode 'warp'" in caplog.text and "high-vram" in caplog.text


def test_a_budget_of_nonsense_is_named_and_the_mode_stays(caplog):
    chosen = of_prompt({"7": node("low-vram", host_budget_gib=-3)}, {}, USER)
    assert (chosen.mode, chosen.host_budget_bytes) == (Mode.LOW_VRAM, None)
    assert "host_budget_gib -3" in caplog.text
    assert of_prompt({"7": node("low-vram", host_budget_gib=2)}, {}, USER).host_budget_bytes == 2 * 2**30


def test_malformed_extra_data_is_no_reason_to_fail():
    for extra in ({"residency": "low-vram"}, {"extra_pnginfo": None}, {"extra_pnginfo": {"workflow": {"extra": None}}}):
        assert of_prompt({"1": LOADER}, extra, USER) == USER


def test_single_nodes_speak_for_themselves_unless_they_follow_the_workflow():
    prompt = {
        "1": {"class_type": "ResidencyUNETLoader", "inputs": {"memory_mode": "low-vram"}},
        "2": {"class_type": "ResidencyVAELoader", "inputs": {"memory_mode": "workflow"}},
        "3": {"class_type": "Other", "inputs": {"memory_mode": ["1", 0]}},
        "4": {"class_type": "Other", "inputs": {"memory_mode": "turbo"}},
    }
    assert node_modes(prompt) == {"1": Mode.LOW_VRAM}
