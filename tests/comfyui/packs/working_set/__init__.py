"""For stories about memory that computing takes: a model that takes so much of the device in each of its passes, and gives it back."""

import comfy.model_management as model_management
import torch


class GrowWorkingSet:
    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",), "mib": ("INT", {"default": 0, "max": 1 << 20})}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "grow"
    CATEGORY = "working set"

    def grow(self, model, mib):
        def call(apply, told):
            held = torch.empty(mib << 20, dtype=torch.uint8, device=model_management.get_torch_device())
            out = apply(told["input"], told["timestep"], **told["c"])
            del held
            return out

        copy = model.clone()
        copy.set_model_unet_function_wrapper(call)
        return (copy,)


NODE_CLASS_MAPPINGS = {"GrowWorkingSet": GrowWorkingSet}
