"""A model one of whose weights takes a known time to come, in one forward pass: through ComfyUI's own function for weights before use."""

import time

import comfy.ops
import torch


class Drive:
    """In the place of a virtual device buffer that has no room: what is not resident is asked for anew each time."""

    device = "cpu"
    offset = 1

    def __init__(self, seconds):
        self.seconds = seconds

    def loaded_size(self):
        return 0

    def fault(self, address, size):
        time.sleep(self.seconds)


class SlowWeights:
    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",), "step": ("INT", {"default": 0}), "seconds": ("FLOAT", {"default": 0.0})}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "slow"
    CATEGORY = "slow_weights"

    def slow(self, model, step, seconds):
        passes = []

        def forward(apply_model, given):
            part = torch.nn.Linear(4, 4)
            part._v, part._v_signature, part._pin_state = (Drive(seconds if len(passes) == step else 0.0), 0, 64), None, None
            passes.append(part)
            comfy.ops.cast_modules_with_vbar([part], None, given["input"].device, None, False)
            return apply_model(given["input"], given["timestep"], **given["c"])

        model = model.clone()
        model.set_model_unet_function_wrapper(forward)
        return (model,)


NODE_CLASS_MAPPINGS = {"SlowWeights": SlowWeights}
