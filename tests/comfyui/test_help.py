"""What the front end shows about our nodes: help pages in its own panel, words in the user's language."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from comfy_story import two_experts, with_ours
from front_end import NEEDS_A_BROWSER, OUR_NODES, click_on, load, open_graph, setting

pytestmark = NEEDS_A_BROWSER

ROOT = Path(__file__).parents[2]


def test_every_node_has_a_help_page_where_the_front_end_looks_for_it(page: Any, comfy_server: Any) -> None:
    ours = page.evaluate(OUR_NODES)
    assert len(ours) > 2
    for node_id in ours:
        answer = page.request.get(f"{comfy_server.url}/extensions/residency/docs/{node_id}.md")
        assert answer.status == 200 and answer.text().startswith("# "), node_id
        for language in ("zh", "ja"):
            answer = page.request.get(f"{comfy_server.url}/extensions/residency/docs/{node_id}/{language}.md")
            assert answer.status == 200 and answer.text().startswith("# "), (node_id, language)


def test_the_help_panel_shows_the_page(page: Any, comfy_server: Any) -> None:
    prompt = with_ours(two_experts()) | {"20": {"class_type": "ResidencyMode", "inputs": {"mode": "auto"}}}
    open_graph(page, prompt)
    for node_id, heading, sentence in ((1, "UNETLoader (Residency)", "The added inputs"), (20, "Residency Mode", "Who decides")):
        click_on(page, node_id)
        if not page.locator(".node-help-content").is_visible():
            page.get_by_test_id("info-button").click()
        help_panel = page.locator(".node-help-content")
        help_panel.get_by_role("heading", name=heading).wait_for()
        help_panel.get_by_role("heading", name=sentence).wait_for()


@pytest.mark.parametrize(("language", "added"), [("zh", "增加的输入"), ("ja", "加わった入力")])
def test_the_help_panel_speaks_the_users_language(page: Any, comfy_server: Any, language: str, added: str) -> None:
    setting(page, "Comfy.Locale", language)
    load(page, comfy_server.url)
    try:
        open_graph(page, with_ours(two_experts()))
        click_on(page, 1)
        if not page.locator(".node-help-content").is_visible():
            page.get_by_test_id("info-button").click()
        page.locator(".node-help-content").get_by_role("heading", name=added).wait_for()
    finally:
        setting(page, "Comfy.Locale", "en")
        page.wait_for_timeout(500)  # the server has been told


def test_the_server_hands_out_the_words_of_every_language(page: Any, comfy_server: Any) -> None:
    served = page.request.get(f"{comfy_server.url}/i18n").json()
    for language in ("en", "zh", "ja"):
        for file in ("nodeDefs", "settings", "commands"):
            words = json.loads((ROOT / "locales" / language / f"{file}.json").read_text(encoding="utf-8"))
            assert served[language][file] == words
        main = json.loads((ROOT / "locales" / language / "main.json").read_text(encoding="utf-8"))
        assert {key: served[language][key] for key in main} == main
