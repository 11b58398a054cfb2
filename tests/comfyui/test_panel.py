"""The panel in a real browser against a real ComfyUI: opened, watched while a prompt runs, used."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comfy_story import drop_pages, forget, two_experts, with_ours
from front_end import NEEDS_A_BROWSER, command, load, open_graph, opened

from residency.installation.server_process import Server

SHOW = "window.app.extensionManager.command.execute('Residency.ShowTimeline')"
MODE = ".residency select[aria-label='Memory mode']"

pytestmark = NEEDS_A_BROWSER


def open_panel(page: Any) -> Any:
    page.evaluate(SHOW)
    panel = page.locator(".residency")
    panel.wait_for(timeout=20_000)
    return panel


def drawn(page: Any, what: str = "bars", at_least: int = 1) -> None:
    """So many bars, or of what is "ahead", are on the timeline."""
    page.wait_for_function(
        "([what, count]) => Number(document.querySelector('.residency-drawing')?.dataset[what] ?? 0) >= count",
        arg=[what, at_least],
        timeout=20_000,
    )


def small_prompt(size: int) -> dict[str, Any]:
    """No models: runs anywhere. `size` keeps ComfyUI from answering out of its cache."""
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": size, "height": 64, "batch_size": 1, "color": 0}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }


def spoken_bars(page: Any, keys: int) -> list[str]:
    """Texts that a screen reader gets on the way along the node lane with the right arrow."""
    page.locator(".residency-drawing").focus()
    said = []
    for _ in range(keys):
        page.keyboard.press("ArrowRight")
        said.append(page.locator(".residency-spoken").text_content())
    return said


def test_a_prompt_shows_up_in_the_open_panel_with_its_nodes_and_mode(page: Any, comfy_server: Any) -> None:
    panel = open_panel(page)

    comfy_server.run(small_prompt(72))

    drawn(page)
    page.wait_for_function("document.querySelector('.residency').dataset.outcome === 'success'")
    told = " ".join(spoken_bars(page, 3))
    assert all(class_type in told for class_type in ("EmptyImage", "ImageInvert", "PreviewImage")), told
    status = page.request.get(f"{comfy_server.url}/residency/status").json()
    assert page.locator(MODE).input_value() == status["mode"] == "auto"
    assert panel.locator("[data-figure=time] dd").text_content().endswith("s")


def test_before_the_first_prompt_the_panel_says_what_to_do_and_no_request_fails(
    start: Callable[..., Server], browser: Any, front_end: list[str]
) -> None:
    fresh = start("--preview-size", "256", *front_end, front_end=True)
    assert fresh.get_json("/residency/trace") is None
    assert fresh.get_json("/residency/assessment") is None
    assert fresh.get_json("/residency/memory")["components"] == []
    with opened(browser, fresh.url) as page:
        failed: list[str] = []
        page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
        open_graph(page, two_experts(seed=84))
        panel = open_panel(page)
        panel.get_by_text("No prompt yet").wait_for()
        panel.locator(".residency-plan li", has_text="residency_expert_b").wait_for()  # what the open workflow needs, unasked
        panel.get_by_text("the default: no other mode has been chosen").wait_for()
        panel.locator(".residency-works", has_text="reads ahead only").wait_for()
        page.wait_for_function("selector => !document.querySelector(selector).disabled", arg=MODE)
        assert [url for url in failed if "residency" in url] == []

        fresh.run(small_prompt(72))
        panel.get_by_role("tab", name="Why", selected=True).wait_for()


def test_a_chip_in_the_top_bar_says_what_works_and_opens_the_panel(page: Any) -> None:
    chip = page.locator(".residency-top")
    chip.get_by_text("Residency: reads ahead only").wait_for(timeout=20_000)
    assert "computes on the CPU" in chip.get_attribute("aria-label")
    chip.click()
    page.wait_for_function("selector => !document.querySelector(selector)?.disabled", arg=MODE)
    page.locator(MODE).select_option("off")
    chip.get_by_text("Residency: off").wait_for()
    assert "is-off" in chip.get_attribute("class")
    page.locator(MODE).select_option("auto")
    chip.get_by_text("Residency: reads ahead only").wait_for()
    chip.click()
    page.locator(".residency").wait_for(state="detached")


def test_nothing_is_sent_to_a_page_whose_panel_is_closed(page: Any, comfy_server: Any) -> None:
    page.evaluate("""() => {
      window.sent = { updates: 0, ended: 0 };
      comfyAPI.api.api.addEventListener("residency.update", () => { window.sent.updates += 1; });
      comfyAPI.api.api.addEventListener("status", ({ detail }) => { window.sent.ended += detail?.exec_info?.queue_remaining === 0; });
    }""")
    ended = "count => window.sent.ended > count"
    comfy_server.run(small_prompt(104))
    page.wait_for_function(ended, arg=0)  # it comes behind whatever was sent of the prompt
    assert page.evaluate("window.sent.updates") == 0

    with page.expect_response("**/residency/watch"):
        open_panel(page)
    comfy_server.run(small_prompt(112))
    page.wait_for_function("window.sent.updates > 0")
    page.wait_for_function("document.querySelector('.residency').dataset.outcome === 'success'")

    with page.expect_response("**/residency/watch") as answer:
        page.evaluate("window.app.extensionManager.bottomPanel.toggleBottomPanelTab('residency')")
        comfy_server.run(small_prompt(120))  # a panel that was taken off the page finds out at the next message
    assert json.loads(answer.value.request.post_data)["on"] is False


def test_a_node_has_the_title_that_the_user_gave_it(page: Any, comfy_server: Any) -> None:
    open_graph(page, small_prompt(128))
    page.evaluate("() => { app.graph.getNodeById(2).title = 'upside down'; }")
    open_panel(page)
    comfy_server.run(small_prompt(128))
    page.wait_for_function("document.querySelector('.residency').dataset.outcome === 'success'")
    drawn(page)
    said = spoken_bars(page, 3)
    assert "upside down #2" in said[1] and "ImageInvert" in said[1], said


def test_a_panel_opened_later_shows_the_last_prompt(page: Any, comfy_server: Any) -> None:
    comfy_server.run(small_prompt(80))

    open_panel(page)

    drawn(page)
    assert "EmptyImage" in " ".join(spoken_bars(page, 3))


def test_the_mode_is_switched_from_the_panel(page: Any, comfy_server: Any) -> None:
    panel = open_panel(page)
    page.wait_for_function("selector => !document.querySelector(selector).disabled", arg=MODE)

    for mode in ("low-vram", "off"):
        with page.expect_response("**/residency/mode"):
            page.locator(MODE).select_option(mode)
        assert page.request.get(f"{comfy_server.url}/residency/status").json()["mode"] == mode

    panel.locator(".residency-notice", has_text="Residency is off").wait_for()


def test_the_trace_downloads_in_a_format_that_perfetto_opens(page: Any, comfy_server: Any) -> None:
    comfy_server.run(small_prompt(88))
    panel = open_panel(page)
    drawn(page)

    with page.expect_download() as download:
        panel.get_by_role("button", name="Trace").click()

    assert download.value.suggested_filename.endswith(".trace.json")
    assert '"traceEvents"' in download.value.path().read_text()


def test_switching_tabs_and_back_leaves_one_panel_and_no_tooltip(page: Any, comfy_server: Any) -> None:
    comfy_server.run(small_prompt(96))
    open_panel(page)
    drawn(page)
    spoken_bars(page, 1)

    for tab in ("logs-terminal", "residency"):
        page.evaluate("tab => window.app.extensionManager.bottomPanel.toggleBottomPanelTab(tab)", tab)
        page.locator(".residency").wait_for(state="attached" if tab == "residency" else "detached")
        assert page.locator(".residency-tooltip:visible").count() == 0

    assert page.locator(".residency").count() == 1


def test_a_hostile_name_is_text(page: Any, comfy_server: Any) -> None:
    """Names come from files and workflows that were downloaded."""
    name = '<img src=x onerror="window.owned = 1"><script>window.owned = 1</script>.safetensors'
    moved = {"component": "c", "tier": "host", "start_s": 0, "end_s": 1, "moved_bytes": 9, "present_bytes": 9, "status": "done"}
    trace = {
        "version": 1,
        "prompt_id": name,
        "mode": "auto",
        "mode_reason": name,
        "outcome": "success",
        "duration_s": 1,
        "components": [{"key": "c", "name": name, "kind": "MODEL", "size_bytes": 9}],
        "nodes": [{"node_id": name, "class_type": name, "start_s": 0, "end_s": 1, "stall_s": 0, "loads": [], "computes": ["c"]}],
        "transfers": [{**moved, "reason": name}],
        "evictions": [{"component": "c", "tier": name, "time_s": 1, "freed_bytes": 9, "reason": name}],
        "decisions": [{"time_s": 0, "kind": "prefetch", "component": "c", "tier": "host", "size_bytes": 9, "reason": name}],
    }
    page.route("**/residency/trace", lambda route: route.fulfill(json=trace))

    panel = open_panel(page)

    panel.locator(".residency-decisions li").wait_for(timeout=20_000)
    assert name in panel.locator(".residency-decisions").text_content()
    assert name in spoken_bars(page, 1)[0]
    assert page.locator(".residency img, .residency script, .residency-tooltip img").count() == 0
    assert page.evaluate("window.owned") is None


def test_a_server_that_is_gone_is_said_and_nothing_can_be_pressed(page: Any, comfy_server: Any) -> None:
    panel = open_panel(page)
    page.wait_for_function("selector => !document.querySelector(selector).disabled", arg=MODE)

    page.evaluate("window.comfyAPI.api.api.dispatchCustomEvent('reconnecting')")
    assert "Not connected" in panel.locator(".residency-notice").text_content()
    assert page.locator(MODE).is_disabled()

    page.evaluate("window.comfyAPI.api.api.dispatchCustomEvent('reconnected')")
    page.wait_for_function("selector => !document.querySelector(selector).disabled", arg=MODE)


def test_when_a_prompt_has_ended_one_sentence_says_what_it_took_and_what_comfyui_alone_would_have(
    page: Any, comfy_server: Server, models: Path
) -> None:
    panel = open_panel(page)
    forget(comfy_server)
    drop_pages(models)
    comfy_server.run(two_experts(seed=71))
    page.wait_for_function("/ComfyUI alone/.test(document.querySelector('.residency-sentence').textContent)", timeout=20_000)
    told = panel.locator(".residency-sentence").text_content()
    assert "wait" in told and told.endswith("."), told

    panel.get_by_role("tab", name="What if").click()
    rows = panel.locator(".residency-if li").all_text_contents()
    assert any(row.startswith("ComfyUI alone") for row in rows), rows
    # between prompts too: what was read lies in the page cache
    panel.locator(".residency-part.is-cached").first.wait_for(timeout=10_000)


# every sentence that has stood on top, in order
SENTENCES = """() => {
  window.sentences = [];
  const line = document.querySelector(".residency-sentence");
  new MutationObserver(() => window.sentences.push(line.textContent)).observe(line, { childList: true });
}"""


def test_while_a_prompt_runs_what_is_to_come_stands_on_the_same_axis(page: Any, comfy_server: Server) -> None:
    open_panel(page)
    comfy_server.run(two_experts(seed=72, size=128, steps=2))
    page.evaluate(SENTENCES)
    running = threading.Thread(target=comfy_server.run, args=[two_experts(seed=73, size=256, steps=20)])
    running.start()
    by_steps = False
    try:
        drawn(page, "ahead")
        while running.is_alive() and not by_steps:
            ahead = (comfy_server.get_json("/residency/trace") or {}).get("ahead") or {"nodes": []}
            by_steps = any(node["running"] and node["unknown"] is None and node["end_s"] > node["start_s"] for node in ahead["nodes"])
    finally:
        running.join()
    assert by_steps, "its steps tell how long a node takes at a size at which it has not run"
    page.wait_for_function("document.querySelector('.residency').dataset.outcome === 'success'")
    page.wait_for_function("document.querySelector('.residency-drawing').dataset.ahead === '0'")
    at_another_size = page.evaluate("window.sentences.splice(0)")
    assert any("has not run at this size before" in told for told in at_another_size), at_another_size

    comfy_server.run(two_experts(seed=74, size=256, steps=20))
    again = [told for told in page.evaluate("window.sentences") if told.startswith(("Runs", "Ends in"))]
    assert any(told.startswith("Ends in") for told in again), again
    assert not any("has not run" in told for told in again), again


def test_a_click_on_a_bar_selects_its_node(page: Any, comfy_server: Server) -> None:
    open_graph(page, small_prompt(136))
    open_panel(page)
    comfy_server.run(small_prompt(136))
    page.wait_for_function("document.querySelector('.residency').dataset.outcome === 'success'")
    drawn(page)
    spoken_bars(page, 2)
    page.keyboard.press("Enter")
    assert page.evaluate("[...app.canvas.selectedItems].map((node) => node.type)") == ["ImageInvert"]
    page.evaluate("app.canvas.deselectAll()")
    box = page.locator(".residency-drawing").bounding_box()
    for x in range(74, int(box["width"]) - 10, 4):  # how wide a bar is depends on the run
        page.mouse.move(box["x"] + x, box["y"] + 40)
        page.evaluate("new Promise(requestAnimationFrame)")  # or the bar's that the keys have chosen is still on show
        if page.locator(".residency-tooltip:visible").count():
            break
    else:
        pytest.fail("no bar under the pointer")
    page.mouse.down()
    page.mouse.up()
    assert page.evaluate("app.canvas.selectedItems.size") == 1


BADGES = "app.graph.getNodeById(2).badges.map((badge) => (typeof badge === 'function' ? badge() : badge).text).filter(Boolean)"
# what the server would say of a prompt whose second node will wait, and of one whose second node has not
TOLD = """(waits) => comfyAPI.api.api.dispatchCustomEvent("residency.update", { prompt_id: "told", mode: "auto", running: true, trace: {
  version: 1, prompt_id: "told", mode: "auto", outcome: "running", duration_s: 1, started_unix_s: 0,
  ahead: { nodes: [{ node_id: "2", class_type: "ImageInvert", start_s: 5, end_s: 9, stall_s: waits, computes: [], loads: [] }],
           reads: [], end_s: 9, low_s: 9, high_s: 9 },
} })"""


def test_a_badge_says_that_a_node_will_wait_and_no_longer(page: Any, comfy_server: Server) -> None:
    open_graph(page, small_prompt(144))
    open_panel(page)
    for waits_s, told in ((2, ["will wait 2.0 s"]), (3, ["will wait 3.0 s"]), (0, [])):
        page.evaluate(TOLD, waits_s)
        page.wait_for_function(f"told => JSON.stringify({BADGES}) === JSON.stringify(told)", arg=told)


# what the server sends while a node waits: the words, and its progress
WAITS = """(share) => {
  const { api } = comfyAPI.api;
  const bytes = { present_bytes: share, size_bytes: 100 };
  api.dispatchCustomEvent("residency.wait", { prompt_id: "p", node_id: "2", components: ["wan"], ...bytes, over: share === 100 });
  api.dispatchCustomEvent("progress", { value: share, max: 100, prompt_id: "p", node: "2" });
}"""


def test_the_node_that_waits_says_what_is_read_in_each_renderer(editor: Any, comfy_server: Server) -> None:
    """Also where no panel is open. In Vue the text is on the page; on the canvas it is what the badge draws."""
    open_graph(editor, small_prompt(160))
    vue = editor.evaluate("LiteGraph.vueNodesMode === true")
    for share, told in ((12, "reading 12 % of wan"), (63, "reading 63 % of wan"), (100, "")):
        editor.evaluate(WAITS, share)
        if vue:
            node = "document.querySelector('[data-node-id=\"2\"]')"
            shown = f"told => told ? {node}?.textContent.includes(told) : {node} && !{node}.textContent.includes('reading')"
            editor.wait_for_function(shown, arg=told, timeout=10_000)
        else:
            editor.wait_for_function(f"told => JSON.stringify({BADGES}) === JSON.stringify(told ? [told] : [])", arg=told)


def test_badges_of_settings_and_of_what_is_to_come_show_in_each_renderer(editor: Any, comfy_server: Server) -> None:
    """In Vue with the next message about progress: nothing else makes it ask a badge again."""
    open_graph(editor, with_ours(two_experts(seed=86)))
    open_panel(editor)
    editor.evaluate("() => { app.graph.getNodeById(2).widgets.find(({ name }) => name === 'strategy').value = 'release'; }")
    editor.evaluate(TOLD, 2)
    editor.evaluate("() => comfyAPI.api.api.dispatchCustomEvent('progress', { value: 1, max: 9, prompt_id: 'told', node: '1' })")
    if editor.evaluate("LiteGraph.vueNodesMode === true"):
        leaves = """[...document.querySelectorAll("[data-node-id='2'] *")].filter((one) => !one.children.length)"""
        badges = f"{leaves}.map((one) => one.textContent.trim())"
    else:
        badges = BADGES
    editor.wait_for_function(f"['release', 'will wait 2.0 s'].every((told) => {badges}.includes(told))", timeout=10_000)


def test_the_doctors_text_is_in_the_panel_and_goes_on_the_clipboard(page: Any, comfy_server: Server) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    panel = open_panel(page)
    panel.locator(".residency-works").click()
    panel.locator(".residency-doctor", has_text="works here").wait_for()
    panel.get_by_role("button", name="Copy for a bug report").click()
    panel.get_by_text("Copied", exact=True).wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == page.locator(".residency-doctor").text_content()


def test_this_workflow_says_what_it_needs_and_what_is_missing(page: Any, comfy_server: Server) -> None:
    workflow = two_experts(seed=81)
    open_graph(page, workflow)
    page.evaluate("() => { app.graph.getNodeById(7).widgets[0].value = 'gone.safetensors'; }")
    panel = open_panel(page)
    panel.get_by_role("tab", name="This workflow").click()
    plan = panel.locator(".residency-plan")
    plan.locator(".is-missing", has_text="gone.safetensors").wait_for()
    plan.get_by_text("of weights").wait_for()
    plan.locator(".is-missing select").select_option("residency_expert_b.safetensors")
    plan.locator("li", has_text="residency_expert_b").wait_for()
    assert plan.locator(".is-missing").count() == 0
    assert page.evaluate("app.graph.getNodeById(7).widgets[0].value") == "residency_expert_b.safetensors"


def test_warming_up_reads_what_the_open_workflow_needs(page: Any, comfy_server: Server, models: Path) -> None:
    forget(comfy_server)
    drop_pages(models)
    open_graph(page, two_experts(seed=82))
    panel = open_panel(page)
    panel.get_by_role("button", name="Warm up").click()
    panel.locator(".residency-news", has_text="are in RAM").wait_for(timeout=20_000)
    files = {one["name"]: one for one in comfy_server.get_json("/residency/state")["files"]}
    expert = files["residency_expert_a.safetensors"]
    assert expert["cached_bytes"] >= 0.95 * expert["size_bytes"]


def test_a_selected_loader_is_kept_on_the_device_by_a_command(page: Any, comfy_server: Server) -> None:
    open_graph(page, two_experts(seed=83))
    page.evaluate("() => { app.canvas.deselectAll(); app.canvas.select(app.graph.getNodeById(1)); }")
    command(page, "Residency.PinSelection")
    told = "(({ type, widgets }) => [type, widgets.find(({ name }) => name === 'strategy')?.value])(app.graph.getNodeById(1))"
    page.wait_for_function(f"JSON.stringify({told}) === JSON.stringify(['ResidencyUNETLoader', 'resident'])")


def test_the_panel_speaks_the_language_of_the_page(page: Any, comfy_server: Server) -> None:
    for language, word in (("ja", "ウォームアップ"), ("zh", "预热"), ("en", "Warm up")):
        page.request.post(f"{comfy_server.url}/settings", data={"Comfy.Locale": language})
        load(page, comfy_server.url)
        open_panel(page).locator("[data-do=warm]", has_text=word).wait_for()


MANY = """(from) => comfyAPI.api.api.dispatchCustomEvent("residency.update", { prompt_id: "many", mode: "auto", running: true, trace: {
  version: 1, prompt_id: "many", mode: "auto", outcome: "running", duration_s: from + 200, started_unix_s: 0,
  decisions: Array.from({ length: 200 }, (_, index) => ({
    time_s: from + index, kind: "keep", component: "", tier: "", size_bytes: 0, reason: `number ${from + index}` })),
} })"""


def test_the_list_of_decisions_goes_on_where_a_message_carries_only_the_newest(page: Any) -> None:
    panel = open_panel(page)
    page.evaluate(MANY, 0)
    panel.get_by_text("number 199", exact=True).wait_for()
    page.evaluate(MANY, 50)
    panel.get_by_text("number 249", exact=True).wait_for()
    assert panel.get_by_text("number 49", exact=True).count() == 0


# rows of the list whose top is cut, and how far it is scrolled
CUT = """() => {
  const list = document.querySelector(".residency-decisions");
  const top = list.getBoundingClientRect().top;
  const boxes = [...list.children].map((row) => row.getBoundingClientRect());
  return { cut: boxes.filter((box) => box.top < top - 1 && box.bottom > top + 1).length, scrolled: list.scrollTop };
}"""

WHOLE_ROWS = f"() => {{ const {{ cut, scrolled }} = ({CUT})(); return cut === 0 && scrolled > 0; }}"


def test_the_list_of_decisions_opens_at_its_top_and_follows_a_running_prompt_by_whole_rows(page: Any) -> None:
    panel = open_panel(page)
    for first in (0, 7):
        page.evaluate(MANY, first)
        panel.get_by_text(f"number {first + 199}", exact=True).wait_for()
        page.wait_for_function(WHOLE_ROWS)
    page.evaluate("() => { document.querySelector('.residency-decisions').parentElement.style.maxHeight = '71px'; }")
    page.wait_for_function(WHOLE_ROWS)

    over = """() => {
      const decisions = Array.from({ length: 50 }, (_, time_s) => ({ time_s, kind: "keep", size_bytes: 0, reason: `over ${time_s}` }));
      const trace = { version: 1, prompt_id: "over", mode: "auto", outcome: "success", duration_s: 1, started_unix_s: 0, decisions };
      comfyAPI.api.api.dispatchCustomEvent("residency.update", { prompt_id: "over", mode: "auto", running: false, trace });
    }"""
    page.evaluate(over)
    panel.get_by_text("over 49", exact=True).wait_for()
    assert page.evaluate(CUT) == {"cut": 0, "scrolled": 0}


RUNS_ON = """(count) => comfyAPI.api.api.dispatchCustomEvent("residency.update", { prompt_id: "long", mode: "auto", running: true, trace: {
  version: 1, prompt_id: "long", mode: "auto", outcome: "running", duration_s: count, started_unix_s: 0,
  nodes: Array.from({ length: count }, (_, index) => ({
    node_id: String(index), class_type: "KSampler", start_s: index, end_s: index + 1, stall_s: 0 })),
} })"""


def test_the_picture_of_a_running_prompt_can_be_held_still_and_goes_on(page: Any) -> None:
    panel = open_panel(page)
    page.evaluate(RUNS_ON, 2)
    drawn(page, at_least=2)
    button = panel.locator(".residency-pause")
    button.click()
    page.evaluate(RUNS_ON, 5)
    page.wait_for_timeout(700)  # some ticks of the clock, too
    assert page.locator(".residency-drawing").get_attribute("data-bars") == "2"
    assert button.get_attribute("aria-pressed") == "true"
    page.locator(".residency-drawing").focus()
    page.keyboard.press("p")
    drawn(page, at_least=5)
    assert button.get_attribute("aria-pressed") == "false"


KEYS = {"Residency: show or hide the timeline": "t", "Residency: warm up this workflow": "w", "Residency: release all models": "u"}


def test_the_main_commands_have_keys_that_nothing_else_has_and_the_settings_list_them(
    page: Any, comfy_server: Server, models: Path
) -> None:
    forget(comfy_server)
    open_graph(page, two_experts(seed=85))
    assert page.locator(".p-toast-message").count() == 0, "a key that ComfyUI has itself is refused with a toast"
    page.locator("#graph-canvas").focus()
    page.keyboard.press("Shift+T")
    panel = page.locator(".residency")
    panel.wait_for()
    page.keyboard.press("Shift+W")
    panel.locator(".residency-news", has_text="are in RAM").wait_for(timeout=20_000)
    with page.expect_response("**/free"):
        page.keyboard.press("Shift+U")
    page.keyboard.press("Shift+T")
    panel.wait_for(state="detached")

    command(page, "Comfy.ShowSettingsDialog")
    page.get_by_text("Keybinding", exact=True).first.click()
    for name, key in KEYS.items():
        page.get_by_placeholder("Search Keybindings...").fill(name)
        row = page.get_by_role("row").filter(has_text=name)
        row.wait_for(timeout=20_000)
        told = row.inner_text().lower().split()
        assert {"shift", key} <= set(told), told
