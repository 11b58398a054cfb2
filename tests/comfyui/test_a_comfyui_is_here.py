"""Where no ComfyUI is found this is the one test of the folder that is collected: one loud line instead of one for each test."""

from residency.installation.locate import ComfyUI, is_comfyui


def test_a_comfyui_was_found(comfyui: ComfyUI):
    assert is_comfyui(comfyui.path)
