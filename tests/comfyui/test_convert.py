"""Our nodes in the editor, in a real browser: converted from ComfyUI's own and back, undone, copied, run, and opened without the pack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from comfy_story import LOADERS, two_experts, with_ours
from front_end import NEEDS_A_BROWSER, OUR_NODES, click_on, command, graph_of, load, open_graph, opened

from residency.installation.server_process import Server
from residency.workflow.core_nodes import LANGUAGE_NODES

pytestmark = NEEDS_A_BROWSER

UNDO_STEPS = "() => window.app.extensionManager.workflow.activeWorkflow.changeTracker.undoQueue.length"
DONE = """() => new Promise((stop) => {
  for (const name of ["execution_success", "execution_error"]) comfyAPI.api.api.addEventListener(name, () => stop(name));
  app.queuePrompt(0);
})"""


def core(name: str) -> str:
    return name.removeprefix("Residency")


def as_api(page: Any) -> dict[str, Any]:
    """The open workflow as it would be queued."""
    prompt = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    return {node_id: {key: node[key] for key in ("class_type", "inputs")} for node_id, node in prompt.items()}


def without_ours(prompt: dict[str, Any]) -> dict[str, Any]:
    """The prompt with ComfyUI's own nodes in place of ours: what a conversion must leave as it is."""
    added = {"memory_mode", "strategy", "priority", "prefetch", "working_set_gib"}
    return {
        node_id: {"class_type": core(node["class_type"]), "inputs": {k: v for k, v in node["inputs"].items() if k not in added}}
        for node_id, node in prompt.items()
    }


def by_id(graph: dict[str, Any]) -> dict[int, dict[str, Any]]:
    return {node["id"]: node for node in graph["nodes"]}


@pytest.fixture
def arranged(editor: Any) -> Any:
    """The editor with a workflow whose first loader the user has arranged."""
    open_graph(editor, two_experts())
    editor.evaluate("""() => {
      const node = app.graph.getNodeById(1);
      Object.assign(node, { title: "mine", color: "#232", bgcolor: "#353", mode: 4 });
      node.pos = [40, 700];
      node.properties.mine = 1;
      const group = new LiteGraph.LGraphGroup("around it");
      group.pos = [20, 640];
      group.size = [500, 300];
      app.graph.add(group);
      app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState();
    }""")
    return editor


def test_a_selection_is_converted_in_one_undo_step_and_keeps_everything_else(arranged: Any) -> None:
    page = arranged
    before, prompt, steps = graph_of(page), as_api(page), page.evaluate(UNDO_STEPS)

    page.evaluate("() => [1, 2].forEach((id) => app.canvas.select(app.graph.getNodeById(id)))")
    command(page, "Residency.ConvertSelection")

    after = graph_of(page)
    changed = {node["id"]: node["type"] for node in after["nodes"] if node["type"] != by_id(before)[node["id"]]["type"]}
    assert changed == {1: "ResidencyUNETLoader", 2: "ResidencyCLIPLoader"}
    for key in ("title", "color", "bgcolor", "mode", "pos", "flags", "outputs"):
        assert by_id(after)[1].get(key) == by_id(before)[1].get(key), key
    assert by_id(after)[1]["properties"]["mine"] == 1
    assert by_id(after)[1]["size"][0] == by_id(before)[1]["size"][0]
    assert after["links"] == before["links"] and after["groups"] == before["groups"]
    assert without_ours(as_api(page)) == prompt
    assert page.evaluate("() => Object.keys(app.canvas.selected_nodes).sort()") == ["1", "2"]

    assert page.evaluate(UNDO_STEPS) == steps + 1
    command(page, "Comfy.Undo")
    page.wait_for_function("() => app.graph.getNodeById(1).type === 'UNETLoader'")
    assert as_api(page) == prompt
    command(page, "Comfy.Redo")
    page.wait_for_function("() => app.graph.getNodeById(1).type === 'ResidencyUNETLoader'")


def test_the_whole_workflow_there_and_back_is_the_workflow_again(arranged: Any) -> None:
    page = arranged
    before, prompt = graph_of(page), as_api(page)

    command(page, "Residency.ConvertAll")
    there = {node["type"] for node in graph_of(page)["nodes"]}
    command(page, "Residency.ConvertAllBack")

    assert {f"Residency{name}" for name in LOADERS | {"KSampler"}} <= there
    after = graph_of(page)
    for key in ("type", "pos", "mode", "inputs", "outputs", "widgets_values", "properties"):
        assert {i: node.get(key) for i, node in by_id(after).items()} == {i: node.get(key) for i, node in by_id(before).items()}, key
    assert after["links"] == before["links"] and as_api(page) == prompt
    assert all(node["size"][0] == by_id(before)[i]["size"][0] for i, node in by_id(after).items())  # Vue nodes measure their own height


def test_the_nodes_own_menu_converts_it_and_the_badge_shows_its_mode(arranged: Any) -> None:
    page = arranged
    click_on(page, 3)
    click_on(page, 3, "right")
    page.get_by_text("Convert to Residency", exact=True).click()
    page.wait_for_function("() => app.graph.getNodeById(3).type === 'ResidencyVAELoader'")

    badges = "() => app.graph.getNodeById(3).badges.map((badge) => (badge.text === undefined ? badge() : badge).text)"
    assert "low-vram" not in page.evaluate(badges)
    page.evaluate("() => { app.graph.getNodeById(3).widgets.find(({ name }) => name === 'memory_mode').value = 'low-vram'; }")
    assert "low-vram" in page.evaluate(badges)
    drawn = page.locator("[data-node-id='3']")
    if drawn.count():
        drawn.get_by_text("low-vram").first.wait_for()


def test_nodes_inside_a_subgraph_are_converted_too(page: Any, comfy_server: Any) -> None:
    open_graph(page, two_experts())
    page.evaluate("() => { app.graph.convertToSubgraph(new Set(['1', '2', '4'].map((id) => app.graph.getNodeById(id)))); }")
    prompt = as_api(page)

    command(page, "Residency.ConvertAll")

    ours = as_api(page)
    inside = {node["class_type"] for node_id, node in ours.items() if ":" in node_id}
    assert {"ResidencyUNETLoader", "ResidencyCLIPLoader"} <= inside
    assert without_ours(ours) == prompt
    command(page, "Residency.ConvertAllBack")
    assert as_api(page) == prompt


def test_copy_and_paste_keeps_the_settings(page: Any, comfy_server: Any) -> None:
    open_graph(page, with_ours(two_experts(), "low-vram"))
    page.evaluate("() => { app.canvas.select(app.graph.getNodeById(7)); app.canvas.copyToClipboard(); app.canvas.pasteFromClipboard(); }")
    experts = [node for node in graph_of(page)["nodes"] if node["type"] == "ResidencyUNETLoader"]
    assert len(experts) == 3
    assert all("low-vram" in node["widgets_values"] for node in experts)


def test_every_node_of_the_pack_can_be_placed_converted_and_saved(page: Any, comfy_server: Any) -> None:
    ours = page.evaluate(OUR_NODES)
    assert {"ResidencyMode", "ResidencyReport", "ResidencyUNETLoader", "ResidencyKSampler"} <= set(ours)
    open_graph(page, {"nodes": [], "links": [], "version": 0.4})
    page.evaluate(
        "types => types.forEach((type, at) => { const n = LiteGraph.createNode(type); n.pos = [0, 300 * at]; app.graph.add(n); })", ours
    )
    placed = graph_of(page)
    assert [node["type"] for node in placed["nodes"]] == ours

    command(page, "Residency.ConvertAllBack")
    alone = {f"Residency{name}" for name in ("Mode", "Policy", "Keep", "Release", "Prefetch", "Report")}.union(LANGUAGE_NODES)
    assert {node["type"] for node in graph_of(page)["nodes"]} == {name if name in alone else core(name) for name in ours}
    command(page, "Residency.ConvertAll")
    values = [{"type": node["type"], "values": node.get("widgets_values")} for node in placed["nodes"]]
    assert [{"type": node["type"], "values": node.get("widgets_values")} for node in graph_of(page)["nodes"]] == values


def test_a_converted_workflow_runs_from_the_browser(page: Any, comfy_server: Any) -> None:
    open_graph(page, two_experts(seed=71))
    command(page, "Residency.ConvertAll")
    page.evaluate(
        """types => {
      const node = LiteGraph.createNode("ResidencyMode");
      node.widgets[0].value = "low-vram";
      app.graph.add(node);
      const report = LiteGraph.createNode("ResidencyReport");
      app.graph.add(report);
      app.graph.getNodeById(9).connect(0, report, 0);
      let [source, slot] = [app.graph.getNodeById(1), 0];
      const along = ["ResidencyPolicy", "ResidencyKeep", "ResidencyPrefetch", "ResidencyRelease"];
      for (const type of along.filter((type) => types.includes(type))) {
        const passing = LiteGraph.createNode(type);
        app.graph.add(passing);
        source.connect(slot, passing, 0);
        source = passing;
      }
      if (source.id != 1) source.connect(0, app.graph.getNodeById(6), 0);
    }""",
        page.evaluate(OUR_NODES),
    )

    assert page.evaluate(DONE) == "execution_success"

    trace = page.request.get(f"{comfy_server.url}/residency/trace").json()
    assert trace["mode"] == "low-vram"
    assert {"ResidencyKSampler", "ResidencyUNETLoader", "ResidencyReport"} <= {node["class_type"] for node in trace["nodes"]}


def test_without_the_pack_comfyui_names_its_nodes_and_the_rest_opens(
    start: Callable[..., Server], browser: Any, comfy_server: Any, front_end: list[str]
) -> None:
    with opened(browser, comfy_server.url) as page:
        open_graph(page, with_ours(two_experts(), "low-vram"))
        saved = graph_of(page)
    bare = start("--disable-all-custom-nodes", *front_end, front_end=True)
    page = browser.new_page()
    page.request.post(f"{bare.url}/settings", data={"Comfy.TutorialCompleted": True})
    load(page, bare.url)

    open_graph(page, saved)

    page.get_by_text("Missing Node Packs").or_(page.get_by_text("Missing Node")).first.wait_for()
    again = graph_of(page)
    missing = page.evaluate("() => app.graph.nodes.filter((node) => node.has_errors).map((node) => node.type)")
    assert set(missing) == {f"Residency{name}" for name in LOADERS | {"KSampler"}}
    assert [node["type"] for node in again["nodes"]] == [node["type"] for node in saved["nodes"]]
    assert [node.get("widgets_values") for node in again["nodes"]] == [node.get("widgets_values") for node in saved["nodes"]]
    page.close()
