"""Runs inside ComfyUI's own Python, the pack loaded as ComfyUI loads it: does a LoRA loader's twin keep its object as the original does?

<ComfyUI>/.venv/bin/python tests/comfyui/twin_driver.py <ComfyUI> <scratch folder>
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from pathlib import Path

from inside import REPO, enter


def main() -> None:
    enter(Path(sys.argv[1]), Path(sys.argv[2]))
    sys.path.remove(str(REPO))
    import server  # type: ignore[import-not-found]
    from comfy_execution.utils import CurrentNodeContext  # type: ignore[import-not-found]

    import nodes  # type: ignore[import-not-found]

    server.PromptServer(asyncio.new_event_loop())
    asyncio.run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
    assert asyncio.run(nodes.load_custom_node(str(REPO)))
    twin = nodes.NODE_CLASS_MAPPINGS["ResidencyLoraLoader"]

    def core_object(prompt_id: str, node_id: str) -> int:
        with CurrentNodeContext(prompt_id, node_id):
            return id(twin.PREPARE_CLASS_CLONE(None)._core_object())

    held = {"4": twin()}  # what ComfyUI's cache of objects does
    first = core_object("p", "4")
    held["5"] = twin()
    other = core_object("p", "5")
    same = core_object("q", "4") == first == id(held["4"].core)
    held.clear()
    gc.collect()
    alive = sum(reference() is not None for reference in twin._made.values())
    held["4"] = twin()
    anew = core_object("r", "4") == id(held["4"].core)
    told = {"same node, next prompt": same, "another node": other == first, "made anew after ComfyUI let go": anew, "kept alive": alive}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
