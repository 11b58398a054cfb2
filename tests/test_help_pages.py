"""What ComfyUI shows about the nodes: every one has a help page and words in every language, and what is generated is up to date."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from residency.core.component import Mode
from residency.settings.node_inputs import (
    INPUTS,
    KEEP_NODE,
    MODE_NODE,
    PASSING,
    POLICY_NODE,
    PREFETCH_NODE,
    RELEASE_NODE,
    REPORT_NODE,
    wrapped_id,
)
from residency.settings.user import LIMITS, NAMES, UNSET, UserSettings
from residency.workflow.core_nodes import LANGUAGE_NODES

ROOT = Path(__file__).parents[1]
TOOL = runpy.run_path(str(ROOT / "tools" / "help_pages.py"))
OWN = (MODE_NODE, POLICY_NODE, KEEP_NODE, RELEASE_NODE, PREFETCH_NODE, REPORT_NODE)
LANGUAGES = ("en", "zh", "ja")


def words(language: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "locales" / language / f"{name}.json").read_text(encoding="utf-8"))
    return found


def script(name: str) -> str:
    return (ROOT / "web" / name).read_text(encoding="utf-8")


def shape(value: Any) -> Any:
    """The keys alone; what is said must be said in every language."""
    return {key: shape(inner) for key, inner in value.items()} if isinstance(value, dict) else bool(value)


def test_the_generated_pages_and_words_are_up_to_date():
    assert TOOL["stale"]() == []


def test_every_node_has_a_page_that_names_each_of_its_own_inputs():
    for core_id, _, kind in TOOL["wrapped"]():
        page = (ROOT / "web" / "docs" / f"{wrapped_id(core_id)}.md").read_text(encoding="utf-8")
        assert core_id in page and "## Example" in page and all(f"`{name}`" in page for name in INPUTS[kind])
    for node_id in OWN:
        page = (ROOT / "web" / "docs" / f"{node_id}.md").read_text(encoding="utf-8")
        own = INPUTS[PASSING[node_id]] if node_id in PASSING else ()
        assert "## Example" in page and all(f"`{name}`" in page for name in own)
        assert all(f"`{mode.value}`" in page for mode in Mode) or node_id != MODE_NODE


def named(page: Path) -> tuple[list[str], list[str]]:
    """What a page must have in every language: its headings' levels, and the inputs, values and files that it names, in order."""
    text = page.read_text(encoding="utf-8")
    return [line.partition(" ")[0] for line in text.splitlines() if line.startswith("#")], re.findall("`([^`]+)`", text)


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_every_page_is_there_in_every_language_and_names_the_same(language: str):
    docs = ROOT / "web" / "docs"
    pages = sorted(docs.glob("*.md"))
    assert len(pages) > len(OWN)
    assert {page.parent.name for page in docs.rglob(f"{language}.md")} == {page.stem for page in pages}
    for page in pages:
        other = TOOL["page_path"](page.stem, language)
        assert named(other) == named(page), other
        assert not re.search("[a-z]{3,} [a-z]{3,} [a-z]{3,} [a-z]{3,}", other.read_text(encoding="utf-8")), f"{other} is in English"


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_the_table_of_the_pages_says_in_every_language_what_it_says_in_english(language: str):
    words = TOOL["WORDS"]
    assert shape(words[language]) == shape(words["en"])

    def left_open(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: left_open(inner) for key, inner in value.items()}
        return set(re.findall(r"{(\w+)}", str(value)))

    own, english = left_open(words[language]), left_open(words["en"])
    assert own["page"].pop("row") == english["page"].pop("row") | {"label"}, "the input's name in that language beside its own"
    assert own == english


@pytest.mark.parametrize("file", ["nodeDefs", "settings", "commands", "main"])
def test_every_language_says_everything(file: str):
    english = shape(words("en", file))
    assert all(shape(words(language, file)) == english for language in LANGUAGES)


def test_every_node_input_and_setting_has_words():
    said = words("en", "nodeDefs")
    assert {*OWN, *LANGUAGE_NODES} <= set(said)
    for node_id, kind in PASSING.items():
        assert set(INPUTS[kind]) <= set(said[node_id]["inputs"])
    assert {f"residency_{name}" for name in NAMES} == set(words("en", "settings"))
    assert set(words("en", "settings")["residency_mode"]["options"]) == {UNSET, *(mode.value for mode in Mode)}


def test_every_command_and_menu_entry_has_words():
    ids = set(re.findall(r'"(Residency\.\w+)"', script("residency.js") + script("convert_menu.js") + script("actions.js")))
    assert len(ids) == 15 and {name.replace(".", "_") for name in ids} == set(words("en", "commands"))
    menu = words("en", "main")["contextMenu"]
    assert all(f'"{text}"' in script("convert_menu.js") for text in menu)


def test_the_settings_dialog_has_the_names_choices_and_defaults_that_the_server_takes(node_json: Any):
    shown = {entry["id"].removeprefix("residency."): entry for entry in node_json("settings.js", "SETTINGS")}
    defaults = UserSettings().as_dict()
    assert set(shown) == set(NAMES)
    assert {name: entry["defaultValue"] for name, entry in shown.items()} == {name: defaults[name] for name in NAMES}
    for name, (low, high, whole) in LIMITS.items():
        values = shown[name]["values"]
        assert low == 0 and all(0 < value <= high for value in values) and not (whole and any(value % 1 for value in values))
        assert shown[name]["zero"] in words("en", "settings")[f"residency_{name}"]["options"], "0 is a word, in every language"
    assert shown["mode"]["options"] == [UNSET, *(mode.value for mode in Mode)]
    english = words("en", "settings")
    assert {name: (entry["name"], entry["tooltip"]) for name, entry in shown.items()} == {
        name: (english[f"residency_{name}"]["name"], english[f"residency_{name}"]["tooltip"]) for name in NAMES
    }


@pytest.fixture
def node_json() -> Any:
    """node_json(module, name): an exported value of one of the panel's modules, read by node."""
    import shutil
    import subprocess

    program = shutil.which("node")
    if program is None:
        pytest.skip("NOT TESTED: the panel's modules need node on the PATH")

    def read(module: str, name: str) -> Any:
        source = f"import({json.dumps((ROOT / 'web' / module).as_uri())}).then((all) => console.log(JSON.stringify(all.{name})))"
        run = subprocess.run([program, "-e", source], capture_output=True, encoding="utf-8", check=True, timeout=60)
        return json.loads(run.stdout)

    return read


def test_the_language_nodes_have_pages_and_words_for_every_input():
    said = words("en", "nodeDefs")
    for node_id, node in LANGUAGE_NODES.items():
        assert (ROOT / "web" / "docs" / f"{node_id}.md").read_text(encoding="utf-8").startswith("# ")
        assert {*node.sockets, *(widget for widget in node.widgets if widget)} <= set(said[node_id]["inputs"])
