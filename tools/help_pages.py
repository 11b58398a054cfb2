"""Writes what ComfyUI shows about the wrapped nodes: their help pages, and the words for their added inputs in every language.

    python tools/help_pages.py            writes web/docs/Residency<CoreId>.md, …/zh.md and …/ja.md, and the wrapped nodes' part of
                                          locales/*/nodeDefs.json
    python tools/help_pages.py --check    only says which of them are not up to date; status 1 when there are any

The nodes come from residency/workflow/core_nodes.json and the rule in residency/settings/node_inputs.py, the words from
tools/help_words.json; pages of the other nodes are written by hand in each language, and a test compares what they name.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from residency.settings.node_inputs import INPUTS, PREFIX, Family, family, wrapped_id  # noqa: E402
from residency.workflow.core_nodes import GGUF_LOADERS, LANGUAGE_NODES, CoreNode, core_nodes  # noqa: E402

LANGUAGES = ("en", "zh", "ja")

Words = dict[str, Any]

WORDS: Words = json.loads((ROOT / "tools" / "help_words.json").read_text(encoding="utf-8"))


def wrapped() -> Iterator[tuple[str, CoreNode, Family]]:
    """(core id, facts, family) of each core node that has a twin."""
    for core_id, node in core_nodes().items():
        kind = None if core_id.startswith(PREFIX) else family(node.sockets.values(), node.traits.outputs, node.folders.values())
        if kind is not None and core_id not in GGUF_LOADERS:
            yield core_id, node, kind


def page(core_id: str, node: CoreNode, kind: Family, language: str = "en") -> str:
    """The help page of one wrapped node, in Markdown."""
    words = WORDS[language]
    say, labels = words["page"], WORDS["inputs"][language]
    loads = kind is Family.LOADER
    it = say["loader" if loads else "step"]
    rows = [
        say["row"].format(name=name, label=labels[name][0], text=text.format(it=it)) for name, text in words["rows"][kind.value].items()
    ]
    lines = [
        f"# {core_id} (Residency)",
        "",
        say["intro"].format(core_id=core_id) + (_loads(node, words) if loads else _computes(node, words)),
        "",
        f"## {say['added']}",
        "",
        *rows,
        "",
        words["notes"],
        "",
        f"## {say['example']}",
        "",
        words["examples"][_example(node, kind)],
        "",
        f"## {say['back']}",
        "",
        words["convert"].format(core_id=core_id),
    ]
    return "\n".join(lines) + "\n"


def _loads(node: CoreNode, words: Words) -> str:
    say = words["page"]
    carried = [words["carried"].get(kind) or say["other"].format(kind=kind) for kind in node.traits.outputs]
    folders = sorted(set(node.folders.values()))
    where = say["list"][1].join(f"`models/{folder}`" for folder in folders)
    sentence = say["applies" if folders in (["loras"], ["hypernetworks"]) else "loads"]
    return _spaced(sentence.format(what=_listed(carried, say), where=where))


def _computes(node: CoreNode, words: Words) -> str:
    carried = words["carried"]
    used = [carried[kind].removeprefix("a ").removeprefix("an ") for kind in dict.fromkeys(node.sockets.values()) if kind in carried]
    say = words["page"]
    return _spaced(say["computes"].format(what=_listed(used, say))) if used else say["guided"]


def _listed(words: list[str], say: dict[str, Any]) -> str:
    comma, last = say["list"]
    return words[0] if len(words) == 1 else f"{comma.join(words[:-1])}{last}{words[-1]}"


def _spaced(text: str) -> str:
    """With a space between Chinese or Japanese letters and Latin ones, as the rest of the page has them."""
    text = re.sub(r"(?<=[\u3040-\u9fff])(?=[A-Za-z`])", " ", text)
    return re.sub(r"(?<=[A-Za-z`])(?=[\u3040-\u9fff])", " ", text)


def _example(node: CoreNode, kind: Family) -> str:
    outputs, folders = node.traits.outputs, set(node.folders.values())
    if kind is Family.STEP:
        return "text" if "CONDITIONING" in outputs else "pixels" if "VAE" in node.sockets.values() else "samples"
    if folders & {"loras", "hypernetworks", "model_patches"} or "HOOKS" in outputs:
        return "patch"
    if len(outputs) > 1:
        return "checkpoint"
    return outputs[0] if outputs[0] in WORDS["en"]["examples"] else "other"


def node_defs(language: str, before: dict[str, Any]) -> dict[str, Any]:
    """The language's nodeDefs.json: what `before` says of nodes that are not wrapped, and the added inputs of those that are."""
    own = {name: entry for name, entry in before.items() if "display_name" in entry}  # written by hand
    words = WORDS["inputs"][language]
    added = {}
    for core_id, _, kind in wrapped():
        # ComfyUI's front end looks a name up with its dots replaced
        key = wrapped_id(core_id).replace(".", "_")
        added[key] = {"inputs": {name: {"name": words[name][0], "tooltip": words[name][1]} for name in INPUTS[kind]}}
    return {**own, **added}


def page_path(node_id: str, language: str) -> Path:
    """Where ComfyUI's front end looks for it: docs/ID/LANGUAGE.md, then docs/ID.md, which is the English one."""
    docs = ROOT / "web" / "docs"
    return docs / f"{node_id}.md" if language == "en" else docs / node_id / f"{language}.md"


def files() -> dict[Path, str]:
    """Path -> the text that it should have."""
    found = {}
    for core_id, node, kind in wrapped():
        for language in LANGUAGES:
            found[page_path(wrapped_id(core_id), language)] = page(core_id, node, kind, language)
    for language in LANGUAGES:
        path = ROOT / "locales" / language / "nodeDefs.json"
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        found[path] = json.dumps(node_defs(language, before), ensure_ascii=False, indent=1) + "\n"
    return found


def stale() -> list[Path]:
    """Files that are not as they should be; pages of nodes that are wrapped no more among them."""
    wanted = files()
    by_hand = {PREFIX + name for name in ("Mode", "Policy", "Keep", "Release", "Prefetch", "Report")}.union(LANGUAGE_NODES)
    docs = ROOT / "web" / "docs"
    pages = [path for path in docs.rglob("*.md") if (path.stem if path.parent == docs else path.parent.name) not in by_hand]
    left_over = [path for path in pages if path not in wanted]
    return left_over + [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]


def main() -> None:
    if "--check" in sys.argv:
        paths = [str(path.relative_to(ROOT)) for path in stale()]
        sys.exit("not up to date, run tools/help_pages.py: " + ", ".join(paths) if paths else 0)
    wanted = files()
    for path in stale():
        path.unlink(missing_ok=True)
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    print(f"{len(wanted)} files")


if __name__ == "__main__":
    main()
