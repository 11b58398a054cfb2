"""For stories about a fleet: a node that hangs once, and one whose disk is full."""

import os
import time


class HangOnce:
    """Takes the file away and hangs with it; without it, hands the image on."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI asks for it by this name
        return {"required": {"images": ("IMAGE",), "file": ("STRING", {"default": ""})}}

    def run(self, images, file):
        if os.path.exists(file):
            os.remove(file)
            time.sleep(1e6)
        return (images,)


class SaveOnFullDisk:
    """Linux's own full disk."""

    RETURN_TYPES = ()
    FUNCTION = "run"
    CATEGORY = "tests"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI asks for it by this name
        return {"required": {"images": ("IMAGE",)}}

    def run(self, images):
        with open("/dev/full", "wb") as file:
            file.write(images.cpu().numpy().tobytes())
        return {"ui": {}}


NODE_CLASS_MAPPINGS = {"FleetHangOnce": HangOnce, "FleetSaveOnFullDisk": SaveOnFullDisk}
