"""Write residency/workflow/core_nodes.json: what a prediction needs to know of ComfyUI's own nodes, without their code.

    <ComfyUI>/.venv/bin/python tools/core_nodes.py <ComfyUI> residency/workflow/core_nodes.json

Runs inside ComfyUI's Python and asks the registered node classes: /object_info says neither which nodes are async nor which folder a file
list comes from. The folders are found by pointing ComfyUI at models folders that hold one file each, named after the folder.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import runpy
import sys
import tempfile
from pathlib import Path
from typing import Any

_MARK = "residency-"
_WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3", "COLOR", "CURVE"}


def _load_nodes(root: Path, models: Path) -> dict[str, Any]:
    os.chdir(root)
    sys.path.insert(0, str(root))
    sys.argv = ["main.py", "--cpu", "--database-url", "sqlite:///:memory:"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import folder_paths

    for name, (_, extensions) in list(folder_paths.folder_names_and_paths.items()):
        if name in ("custom_nodes", "configs"):
            continue
        folder = models / name
        folder.mkdir()
        suffix = ".safetensors" if not extensions or ".safetensors" in extensions else min(extensions)
        (folder / f"{_MARK}{name}{suffix}").touch()
        folder_paths.folder_names_and_paths[name] = ([str(folder)], extensions)

    async def register() -> dict[str, Any]:
        import server

        import nodes

        server.PromptServer(asyncio.get_running_loop())
        await nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=True)
        return dict(nodes.NODE_CLASS_MAPPINGS)

    return asyncio.run(register())


def _inputs(class_def: Any) -> dict[str, tuple[Any, dict[str, Any]]]:
    found = {}
    valid = class_def.INPUT_TYPES()
    for part in ("required", "optional"):
        for name, spec in valid.get(part, {}).items():
            found[name] = (spec[0], spec[1] if len(spec) > 1 else {})
    return found


def _folder(kind: Any, options: dict[str, Any]) -> str | None:
    for value in kind if isinstance(kind, list) else options.get("options") or ():
        if isinstance(value, str) and value.startswith(_MARK):
            return Path(value[len(_MARK) :]).stem
    return None


def _is_widget(kind: Any, options: dict[str, Any]) -> bool:
    if options.get("forceInput"):
        return False
    return isinstance(kind, list) or kind in _WIDGETS or options.get("widgetType") in _WIDGETS


def _widget(name: str, kind: Any, options: dict[str, Any]) -> list[Any]:
    """Entries for one widget; a dynamic combo is [name, {choice: entries of the widgets that it adds}]."""
    if kind == "COMFY_DYNAMICCOMBO_V3":
        choices = {}
        for choice in options.get("options", ()):
            entries = [
                entry
                for part in ("required", "optional")
                for inner, spec in (choice.get("inputs") or {}).get(part, {}).items()
                if _is_widget(spec[0], spec[1] if len(spec) > 1 else {})
                for entry in _widget(inner, spec[0], spec[1] if len(spec) > 1 else {})
            ]
            choices[choice["key"]] = entries
        return [[name, {key: entries for key, entries in choices.items() if entries}]]
    if options.get("control_after_generate") or (kind == "INT" and name in ("seed", "noise_seed")):
        return [name, None]  # the editor saves its "control after generate" choice behind the value
    return [name]


def _describe(class_def: Any) -> dict[str, Any]:
    """The shortest form: empty and false entries are left out. Keys are documented in residency/workflow/core_nodes.py."""
    inputs = _inputs(class_def)
    folders = {name: folder for name, (kind, options) in inputs.items() if (folder := _folder(kind, options))}
    sockets = [f"{name}:{kind}" for name, (kind, options) in inputs.items() if not _is_widget(kind, options)]
    outputs = ["COMBO" if isinstance(kind, list) else str(kind) for kind in class_def.RETURN_TYPES]
    if any(" " in entry for entry in [*sockets, *outputs]):
        raise ValueError(f"a space in {sockets} or {outputs} would split it")
    facts = {
        "out": " ".join(outputs),
        "is_output": bool(getattr(class_def, "OUTPUT_NODE", False)),
        "is_async": inspect.iscoroutinefunction(getattr(class_def, class_def.FUNCTION)),
        "lazy": [name for name, (_, options) in inputs.items() if options.get("lazy")],
        "sockets": " ".join(sockets),
        "widgets": [
            entry for name, (kind, options) in inputs.items() if _is_widget(kind, options) for entry in _widget(name, kind, options)
        ],
        "folders": folders,
    }
    return {key: value for key, value in facts.items() if value}


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    root, target = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        classes = _load_nodes(root, Path(folder))
        table = {name: _describe(classes[name]) for name in sorted(classes)}
    version = runpy.run_path(str(root / "comfyui_version.py"))
    lines = [f"{json.dumps(name)}:{json.dumps(facts, separators=(',', ':'))}" for name, facts in table.items()]
    target.write_text('{"comfyui":"' + version["__version__"] + '","nodes":{\n' + ",\n".join(lines) + "\n}}\n", encoding="utf-8")
    print(f"{len(table)} node classes, {target.stat().st_size} bytes: {target}")


if __name__ == "__main__":
    main()
