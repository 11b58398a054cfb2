"""Runs inside ComfyUI's own Python: is a model of a prompt that is queued while a node runs read ahead, though an earlier prompt left it
loaded? Nodes read at their first use here, as with dynamic VRAM, and the queue is looked at by another thread than the executor's.

<ComfyUI>/.venv/bin/python tests/comfyui/behind_driver.py <ComfyUI> <scratch folder> <models folder>
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from threading import Thread
from typing import Any

from inside import enter


def sampled(name: str) -> dict[str, Any]:
    sampler = {"seed": 1, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    links = {"model": ["1", 0], "positive": ["4", 0], "negative": ["4", 0], "latent_image": ["2", 0]}
    return {
        "1": {"class_type": "UNETLoader", "inputs": {"unet_name": f"residency_expert_{name}.safetensors", "weight_dtype": "default"}},
        "2": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "3": {"class_type": "CLIPLoader", "inputs": {"clip_name": "residency_clip_l.safetensors", "type": "stable_diffusion"}},
        "4": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["3", 0], "text": "a cat"}},
        "5": {"class_type": "KSampler", "inputs": sampler | links},
        "6": {"class_type": "SaveLatent", "inputs": {"samples": ["5", 0], "filename_prefix": "behind"}},
    }


class Nothing:
    """An output cache that holds nothing."""

    def get_local(self, node_id: str) -> None:
        return None


def main() -> None:
    root, scratch, models = map(Path, sys.argv[1:])
    enter(root, scratch)
    import comfy.memory_management
    import folder_paths
    from comfy_execution.graph import DynamicPrompt, ExecutionList  # type: ignore[import-not-found]

    from residency.comfyui.prompt.live_graph import Ahead, LiveGraph

    for folder in models.iterdir():
        folder_paths.add_model_folder_path(folder.name, str(folder))
    comfy.memory_management.aimdo_enabled = True

    def reads(shares: dict[str, float]) -> list[str]:
        """Names of what prompt q, queued while a node of p runs, is expected to read; `shares` of these are loaded."""
        executed = ExecutionList(DynamicPrompt(sampled("a")), Nothing())
        executed.add_node("6")
        by_key = {key: share for name, share in shares.items() for key in keys if name in key}
        graph = LiveGraph(
            "p", executed.dynprompt, lambda key: int(by_key.get(key, 0) * keys.get(key, 0)), None, by_key.__contains__, by_key
        )
        timeline = graph.timeline(executed)
        found: list[str] = []

        def look() -> None:
            behind = graph.continued(timeline, 0, Ahead((("q", sampled("b"), ["6"]),)))
            queued = [use for use in behind.uses if behind.visits[use.position].prompt_id == "q"]
            keys.update((key, component.size_bytes) for key, component in graph.components.items())
            found.extend(graph.components[use.component].name for use in queued if use.reads)

        thread = Thread(target=look)
        thread.start()
        thread.join()
        return found

    keys: dict[str, int] = {}  # component key -> bytes, known after the first look
    answer = {"not loaded": reads({}), "loaded": reads({"expert_b": 1.0}), "half of it": reads({"expert_b": 0.5})}
    print("ANSWER " + json.dumps(answer))


if __name__ == "__main__":
    main()
