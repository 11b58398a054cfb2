"""What the pack's nodes look like in ComfyUI, without what depends on the machine: for tests/comfyui/object_info.json and docs/nodes.md.

    COMFYUI_PATH=<ComfyUI> python tests/comfyui/node_snapshot.py

starts that ComfyUI and writes its version's part of both files anew; look at the difference before you commit it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # for the command; the tests have it there

from residency.installation.locate import find_comfyui  # noqa: E402
from residency.installation.server_process import serve  # noqa: E402
from residency.settings.node_inputs import BY_NAME, INPUTS, PREFIX, Family, wrapped_id  # noqa: E402
from residency.workflow.core_nodes import core_nodes  # noqa: E402

SNAPSHOT = Path(__file__).with_name("object_info.json")
TABLE = ROOT / "docs" / "nodes.md"

Nodes = dict[str, dict[str, Any]]


def of_ours(object_info: Nodes) -> Nodes:
    """Our nodes as /object_info shows them: inputs, outputs, category, name. Of a core input only its type: lists of files differ."""
    return {name: _node(info) for name, info in object_info.items() if info["python_module"] == "custom_nodes.residency"}


def _node(info: dict[str, Any]) -> dict[str, Any]:
    inputs = {
        part: {name: _input(name, spec) for name, spec in info["input"].get(part, {}).items()}
        for part in ("required", "optional")
        if info["input"].get(part)
    }
    outputs = [f"{name}:{kind}" for name, kind in zip(info["output_name"], info["output"], strict=True)]
    return {
        "name": info["display_name"],
        "category": info["category"],
        "inputs": inputs,
        "outputs": outputs,
        "is_output": info["output_node"],
    }


def _input(name: str, spec: list[Any]) -> Any:
    if name in BY_NAME:
        options = {key: value for key, value in spec[1].items() if key != "tooltip"}
        return [spec[0], options]
    return "COMBO" if isinstance(spec[0], list) else spec[0]


def table(snapshots: dict[str, Nodes]) -> str:
    """docs/nodes.md: which core nodes have a twin, in which version of ComfyUI."""
    versions = list(snapshots)
    names = sorted({name for nodes in snapshots.values() for name, node in nodes.items() if _family(node) is not None})
    lines = [
        "# Nodes around ComfyUI's own",
        "",
        "Every loader that reads weights, every sampler, text encoder and VAE node of ComfyUI has a twin `Residency<name>` that does the",
        "same and carries memory settings. Which those are is asked from the ComfyUI that is installed, so yours may have more than this",
        "table, which `tests/comfyui/node_snapshot.py` writes and a test compares. `python -m residency convert` takes a workflow there",
        "or back; docs/modes.md says what the settings mean and who is heard.",
    ]
    for family, title in ((Family.LOADER, "Loaders"), (Family.STEP, "Samplers, text encoders, VAE")):
        settings = ", ".join(f"`{name}`" for name in INPUTS[family])
        lines += ["", f"## {title}", "", f"Added inputs: {settings}.", ""]
        lines += ["| ComfyUI's node | reads from | " + " | ".join(versions) + " |", "| --- | --- |" + " --- |" * len(versions)]
        for name in names:
            found = [nodes.get(name) for nodes in snapshots.values()]
            if any(node is not None and _family(node) is family for node in found):
                core_id = name.removeprefix(PREFIX)
                folders = sorted(set(core_nodes()[core_id].folders.values())) if core_id in core_nodes() else []
                ticks = " | ".join("yes" if node is not None else "–" for node in found)
                lines.append(f"| {core_id} | {', '.join(folders)} | {ticks} |")
    return "\n".join(lines) + "\n"


def _family(node: dict[str, Any]) -> Family | None:
    own = set(node["inputs"].get("optional", {}))
    if not node["category"].startswith("residency/"):
        return None
    return next((family for family in (Family.LOADER, Family.STEP) if set(INPUTS[family]) <= own), None)


def predicted() -> set[str]:
    """The twins that the shipped table of core nodes foresees, for the ComfyUI that it was written with."""
    return {wrapped_id(name) for name in core_nodes() if wrapped_id(name) in core_nodes()}


def read() -> dict[str, Nodes]:
    snapshots: dict[str, Nodes] = json.loads(SNAPSHOT.read_text(encoding="utf-8")) if SNAPSHOT.exists() else {}
    return snapshots


def main() -> None:
    comfyui = find_comfyui()
    if comfyui is None:
        sys.exit("no ComfyUI found: set COMFYUI_PATH")
    with tempfile.TemporaryDirectory() as models, serve(comfyui, Path(models), ["--cpu"]) as server:
        snapshots = read() | {comfyui.version: of_ours(server.get_json("/object_info"))}
    newest_first = dict(sorted(snapshots.items(), key=lambda item: [int(part) for part in item[0].split(".")], reverse=True))
    versions = [
        f"{json.dumps(version)}:{{\n" + ",\n".join(f"{json.dumps(name)}:{json.dumps(node)}" for name, node in sorted(nodes.items())) + "\n}"
        for version, nodes in newest_first.items()
    ]
    SNAPSHOT.write_text("{" + ",\n".join(versions) + "}\n", encoding="utf-8")
    TABLE.write_text(table(newest_first), encoding="utf-8")
    print(f"ComfyUI {comfyui.version}: {len(newest_first[comfyui.version])} nodes; {SNAPSHOT}, {TABLE}")


if __name__ == "__main__":
    main()
