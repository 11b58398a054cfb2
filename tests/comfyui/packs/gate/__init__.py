"""For stories about the queue: a node that ends only when so many prompts wait behind its own."""

import time

from server import PromptServer


class QueueHolds:
    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"prompts": ("INT", {"default": 1}), "after": ("*",)}}

    RETURN_TYPES = ()
    FUNCTION = "wait"
    CATEGORY = "gate"
    OUTPUT_NODE = True

    @classmethod
    def IS_CHANGED(cls, **inputs):  # noqa: N802
        return float("nan")

    def wait(self, prompts, after):
        while PromptServer.instance.prompt_queue.get_tasks_remaining() <= prompts:
            time.sleep(0.01)
        return ()


NODE_CLASS_MAPPINGS = {"QueueHolds": QueueHolds}
