"""Runs inside ComfyUI's own Python: takes away what an older ComfyUI lacks, loads the pack as ComfyUI does, and prints what it changed.

<ComfyUI>/.venv/bin/python tests/comfyui/older_driver.py <ComfyUI> <scratch folder> <module | name | call | method | nothing>
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import logging
import sys
from pathlib import Path
from typing import Any

from inside import REPO
from seams_driver import run_prompt, start


def lack(what: str) -> None:
    if what == "module":
        sys.modules["comfy.memory_management"] = None  # type: ignore[assignment]  # of dynamic VRAM
    elif what == "name":
        del importlib.import_module("comfy_execution.progress").ProgressHandler
    elif what == "call":  # of on_load, which the real function makes
        core = importlib.import_module("nodes")
        source = inspect.getsource(core.load_custom_node)
        assert source.count("await extension.on_load()") == 1
        exec(source.replace("await extension.on_load()", "pass"), core.__dict__)  # noqa: S102 - ComfyUI's own function without one line
    elif what == "method":  # found missing when hooks are in place already
        del importlib.import_module("server").PromptServer.add_on_prompt_handler


def functions() -> list[Any]:
    """The functions that the pack would wrap, as they stand: looked up without a part of the pack that rests on ComfyUI."""
    targets = [
        ("execution", "PromptExecutor.execute_async"),
        ("comfy_execution.graph", "ExecutionList.stage_node_execution"),
        ("comfy_execution.graph", "ExecutionList.complete_node_execution"),
        ("comfy.model_management", "load_models_gpu"),
        ("comfy.ops", "cast_modules_with_vbar"),
        ("execution", "PromptQueue.put"),
    ]
    found = []
    for module, path in targets:
        owner: Any = importlib.import_module(module)
        for part in path.split("."):
            owner = getattr(owner, part)
        found.append(owner)
    return found


class Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self.lines.append(record.getMessage())


def main() -> None:
    root, scratch, lacks = sys.argv[1:4]  # before they are ComfyUI's
    start(Path(root), Path(scratch))
    import folder_paths  # type: ignore[import-not-found]
    import server  # type: ignore[import-not-found]

    import nodes  # type: ignore[import-not-found]

    routes, handlers = server.PromptServer.instance.routes, server.PromptServer.instance.on_prompt_handlers
    before = functions(), set(nodes.NODE_CLASS_MAPPINGS), len(routes), len(handlers), dict(folder_paths.folder_names_and_paths)
    lack(lacks)
    heard = Heard()
    logging.getLogger().addHandler(heard)
    loaded = asyncio.run(nodes.load_custom_node(str(REPO), module_parent="custom_nodes"))
    after = functions(), set(nodes.NODE_CLASS_MAPPINGS), len(routes), len(handlers), dict(folder_paths.folder_names_and_paths)
    same = [a is b for a, b in zip(before[0], after[0], strict=True)]
    answer = {
        "loaded": loaded,
        "untouched": all(same),
        "wrapped": same.count(False),
        "unchanged": before[1:] == after[1:],
        "lines": heard.lines,
    }
    answer["ran"] = run_prompt()
    print("ANSWER " + json.dumps(answer))


if __name__ == "__main__":
    main()
