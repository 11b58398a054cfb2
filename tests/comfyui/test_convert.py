"""Our nodes in the editor, in a real browser: converted from ComfyUI's own and back, undone, copied, run, and opened without the pack."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from comfy_story import LOADERS, two_experts, until, with_ours
from front_end import NEEDS_A_BROWSER, OUR_NODES, click_on, command, graph_of, load, open_graph, opened
from PIL import Image
from subgraph_story import OUTER, STORIES, definition, link, node

from residency.installation.server_process import Server
from residency.workflow.core_nodes import LANGUAGE_NODES

pytestmark = NEEDS_A_BROWSER

UNDO_STEPS = "() => window.app.extensionManager.workflow.activeWorkflow.changeTracker.undoQueue.length"
# what a user sees of the view: place, what is selected, the open subgraph
LOOKS = """() => {
  const { ds, graph, selectedItems } = app.canvas;
  const selected = [...selectedItems].map((item) => `${item.constructor.name} ${item.id}`);
  return [ds.scale, ...ds.offset, graph === app.rootGraph || graph.id, ...selected.sort()];
}"""
# graph and node id → class: as saved, as drawn, as queued (by the queued id), as pictures carry it
EVERYWHERE = """async () => {
  const classes = (graphs) => Object.fromEntries(graphs.flatMap((graph) => graph.nodes.map(({ id, type }) => [`${graph.id} ${id}`, type])));
  const inFile = (saved) => classes([saved, ...(saved.definitions?.subgraphs ?? [])]);
  const shown = classes([app.rootGraph, ...app.rootGraph.subgraphs.values()]);
  const { output, workflow } = await app.graphToPrompt();
  const queued = Object.fromEntries(Object.entries(output).map(([id, node]) => [id, node.class_type]));
  return [inFile(app.rootGraph.serialize()), shown, queued, inFile(workflow)];
}"""
SUBGRAPH = "id => [...(app.rootGraph.subgraphs.get(id)?.nodes ?? [])].map((node) => node.type).sort()"  # classes of its nodes
DONE = """() => new Promise((stop) => {
  for (const name of ["execution_success", "execution_error"])
    comfyAPI.api.api.addEventListener(name, ({ detail }) => stop([name, detail.prompt_id]));
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


def assert_one_workflow(page: Any) -> None:
    """The canvas, the saved file, what is queued and what pictures will carry are the same workflow."""
    saved, shown, queued, carried = page.evaluate(EVERYWHERE)
    assert saved == shown == carried
    for node_id, class_type in queued.items():
        assert class_type in [kind for place, kind in saved.items() if place.endswith(f" {node_id.split(':')[-1]}")], node_id


@pytest.fixture
def arranged(editor: Any) -> Any:
    """The editor with a workflow that the user has arranged: a bypassed loader in a group, a rerouted link, a note, another pack's node."""
    open_graph(editor, two_experts())
    graph = graph_of(editor)
    foreign = {"id": 21, "type": "SomebodysNode", "pos": [40, 1200], "size": [200, 60], "mode": 4, "inputs": [], "outputs": []}
    graph["nodes"].append({**foreign, "flags": {}, "order": 20, "properties": {}, "widgets_values": ["theirs"]})
    open_graph(editor, graph)
    editor.evaluate("""() => {
      const node = app.graph.getNodeById(1);
      Object.assign(node, { title: "mine", color: "#232", bgcolor: "#353", mode: 4 });
      node.pos = [40, 700];
      node.properties.mine = 1;
      const group = new LiteGraph.LGraphGroup("around it");
      group.pos = [20, 640];
      group.size = [500, 300];
      app.graph.add(group);
      const note = LiteGraph.createNode("Note");
      app.graph.add(note);
      note.widgets[0].value = "as it was";
      app.graph.createReroute([500, 500], app.graph.getLink(app.graph.getNodeById(9).inputs[1].link));
    }""")
    settle(editor)
    return editor


def settle(page: Any) -> None:
    """Vue nodes measure themselves in the next frames; what is then changed is a step of its own in the front end's undo."""
    page.wait_for_timeout(500)
    page.evaluate("() => app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState()")


def test_a_selection_is_converted_in_one_undo_step_and_keeps_everything_else(arranged: Any) -> None:
    page = arranged
    page.evaluate(
        "() => [app.graph.getNodeById(1), app.graph.getNodeById(2), app.graph.groups[0]].forEach((item) => app.canvas.select(item))"
    )
    page.evaluate("() => { app.canvas.ds.scale = 0.7; app.canvas.ds.offset = [33, 44]; }")
    settle(page)
    before, prompt, steps, looks = graph_of(page), as_api(page), page.evaluate(UNDO_STEPS), page.evaluate(LOOKS)

    command(page, "Residency.ConvertSelection")
    settle(page)

    assert page.evaluate(UNDO_STEPS) == steps + 1 and page.evaluate(LOOKS) == looks
    after = graph_of(page)
    changed = {node["id"]: node["type"] for node in after["nodes"] if node["type"] != by_id(before)[node["id"]]["type"]}
    assert changed == {1: "ResidencyUNETLoader", 2: "ResidencyCLIPLoader"}
    for key in ("title", "color", "bgcolor", "mode", "pos", "flags", "outputs"):
        assert by_id(after)[1].get(key) == by_id(before)[1].get(key), key
    assert by_id(after)[1]["properties"]["mine"] == 1
    assert by_id(after)[1]["size"][0] == by_id(before)[1]["size"][0]
    for key in ("links", "groups", "extra"):
        assert after.get(key) == before.get(key), key
    assert [node for node in after["nodes"] if node["id"] not in changed] == [node for node in before["nodes"] if node["id"] not in changed]
    assert without_ours(as_api(page)) == prompt
    assert_one_workflow(page)

    command(page, "Comfy.Undo")
    page.wait_for_function("() => app.graph.getNodeById(1).type === 'UNETLoader'")
    assert as_api(page) == prompt
    assert_one_workflow(page)
    command(page, "Comfy.Redo")
    page.wait_for_function("() => app.graph.getNodeById(1).type === 'ResidencyUNETLoader'")
    assert_one_workflow(page)


def test_the_whole_workflow_there_and_back_is_the_workflow_again(arranged: Any) -> None:
    page = arranged
    before, prompt = graph_of(page), as_api(page)

    command(page, "Residency.ConvertAll")
    there = {node["type"] for node in graph_of(page)["nodes"]}
    assert_one_workflow(page)
    command(page, "Residency.ConvertAllBack")

    assert {f"Residency{name}" for name in LOADERS | {"KSampler"}} <= there
    after = graph_of(page)
    for key in ("type", "pos", "mode", "inputs", "outputs", "widgets_values", "properties"):
        assert {i: node.get(key) for i, node in by_id(after).items()} == {i: node.get(key) for i, node in by_id(before).items()}, key
    assert after["links"] == before["links"] and after["extra"] == before["extra"] and as_api(page) == prompt
    assert all(node["size"][0] == by_id(before)[i]["size"][0] for i, node in by_id(after).items())  # Vue nodes measure their own height
    assert_one_workflow(page)


def test_the_nodes_own_menu_converts_it_and_the_badge_shows_its_mode_through_undo_and_redo(arranged: Any) -> None:
    page = arranged
    click_on(page, 3)
    click_on(page, 3, "right")
    page.get_by_text("Convert to Residency", exact=True).click()
    page.get_by_text("1 node converted").wait_for()  # the class is there before other extensions have been told and the undo step is made
    assert page.evaluate("() => app.graph.getNodeById(3).type") == "ResidencyVAELoader"

    badges = "() => app.graph.getNodeById(3).badges.map((badge) => (badge.text === undefined ? badge() : badge).text)"
    assert "low-vram" not in page.evaluate(badges)
    page.evaluate("() => { app.graph.getNodeById(3).widgets.find(({ name }) => name === 'memory_mode').value = 'low-vram'; }")
    assert "low-vram" in page.evaluate(badges)
    drawn = page.locator("[data-node-id='3']")
    if drawn.count():
        drawn.get_by_text("low-vram").first.wait_for()

    settle(page)
    for change, class_type in (("Undo", "ResidencyVAELoader"), ("Undo", "VAELoader"), ("Redo", "ResidencyVAELoader")):
        command(page, f"Comfy.{change}")
        page.wait_for_function("type => app.graph.getNodeById(3).type === type", arg=class_type)
        assert "low-vram" not in page.evaluate(badges)
        drawn.get_by_text("low-vram").wait_for(state="detached")


def test_nodes_inside_a_subgraph_are_converted_too_and_it_stays_open(editor: Any) -> None:
    page = editor
    open_graph(page, two_experts())
    page.evaluate("""() => {
      const { subgraph, node } = app.graph.convertToSubgraph(new Set(['1', '2', '4'].map((id) => app.graph.getNodeById(id))));
      app.canvas.openSubgraph(subgraph, node);
    }""")
    settle(page)
    page.evaluate("() => { app.canvas.ds.scale = 0.8; app.canvas.ds.offset = [12, 34]; app.canvas.select(app.canvas.graph.nodes[1]); }")
    settle(page)
    prompt, steps, looks = as_api(page), page.evaluate(UNDO_STEPS), page.evaluate(LOOKS)

    command(page, "Residency.ConvertAll")
    settle(page)

    assert page.evaluate(UNDO_STEPS) == steps + 1 and page.evaluate(LOOKS) == looks
    ours = as_api(page)
    inside = {node["class_type"] for node_id, node in ours.items() if ":" in node_id}
    assert {"ResidencyUNETLoader", "ResidencyCLIPLoader"} <= inside
    assert without_ours(ours) == prompt
    assert_one_workflow(page)
    command(page, "Residency.ConvertAllBack")
    assert as_api(page) == prompt and page.evaluate(LOOKS) == looks
    assert_one_workflow(page)


@pytest.mark.parametrize("name", STORIES)
def test_widgets_that_a_subgraph_shows_keep_their_values(used_page: Any, name: str) -> None:
    page = used_page
    data, _, _ = STORIES[name]
    inner, *others = data["definitions"]["subgraphs"]
    loader = {"id": 90, "type": "VAELoader", "pos": [0, 0], "size": [300, 60], "flags": {}, "order": 0, "mode": 0, "inputs": []}
    loader |= {"outputs": [{"name": "VAE", "type": "VAE", "links": []}], "properties": {}, "widgets_values": ["residency_tae.safetensors"]}
    inner = {**inner, "nodes": [*inner["nodes"], loader]}
    open_graph(page, {**data, "definitions": {"subgraphs": [inner, *others]}})
    prompt = as_api(page)
    command(page, "Residency.ConvertAll")
    assert "ResidencyVAELoader" in {node["class_type"] for node in as_api(page).values()}
    assert without_ours(as_api(page)) == prompt
    assert_one_workflow(page)


def test_a_subgraph_that_no_node_uses_stays_and_is_converted_with_the_rest(used_page: Any) -> None:
    """A file that the front end saves has no such definition: it is in the open workflow only."""
    page = used_page
    loader = node(5, "VAELoader", [], ["residency_tae.safetensors"]) | {"outputs": [{"name": "VAE", "type": "VAE", "links": []}]}
    latent = node(6, "EmptyLatentImage", [], [64, 64, 1])
    data, _, _ = STORIES["the instance's value wins"]
    unused = definition(OUTER, [], 2, [latent, loader], [link(2, 6, 0, -20, 0)])
    subgraphs = [*data["definitions"]["subgraphs"], unused]
    open_graph(page, {**data, "nodes": [*data["nodes"], {**loader, "id": 91}], "definitions": {"subgraphs": subgraphs}})
    prompt = as_api(page)
    command(page, "Residency.ConvertAll")
    assert page.evaluate(SUBGRAPH, OUTER) == ["EmptyLatentImage", "ResidencyVAELoader"]
    assert by_id(graph_of(page))[91]["type"] == "ResidencyVAELoader"
    command(page, "Residency.ConvertAllBack")
    assert page.evaluate(SUBGRAPH, OUTER) == ["EmptyLatentImage", "VAELoader"]
    assert as_api(page) == prompt


def test_every_link_into_an_input_that_grows_is_kept(used_page: Any) -> None:
    """TextEncodeJoyImageEdit has as many image inputs as are linked, and one more."""
    page = used_page
    open_graph(page, {"nodes": [], "links": [], "version": 0.4})
    page.evaluate("""() => {
      const encode = app.graph.add(LiteGraph.createNode("TextEncodeJoyImageEdit"));
      for (const at of [0, 1, 2]) {
        const image = app.graph.add(LiteGraph.createNode("EmptyImage"));
        image.connect(0, encode, encode.inputs.findIndex((input) => input.name.startsWith("images.") && input.link == null));
      }
    }""")
    prompt = as_api(page)
    (encode,) = (node for node in prompt.values() if node["class_type"] == "TextEncodeJoyImageEdit")
    assert len([name for name in encode["inputs"] if name.startswith("images.")]) == 3

    command(page, "Residency.ConvertAll")
    assert without_ours(as_api(page)) == prompt != as_api(page)
    command(page, "Residency.ConvertAllBack")
    assert as_api(page) == prompt
    assert_one_workflow(page)


def test_a_link_that_the_other_class_has_no_input_for_is_taken_out_and_undo_brings_it_back(used_page: Any) -> None:
    page = used_page
    open_graph(page, with_ours(two_experts()))
    page.evaluate("""() => {
      const text = app.graph.add(LiteGraph.createNode("PrimitiveInt"));
      const loader = app.graph.getNodeById(1);
      text.connect(0, loader, loader.inputs.findIndex((input) => input.name === "priority"));
    }""")
    settle(page)
    linked, links = as_api(page), graph_of(page)["links"]
    assert isinstance(linked["1"]["inputs"]["priority"], list)

    command(page, "Residency.ConvertAllBack")
    assert len(graph_of(page)["links"]) == len(links) - 1
    assert_one_workflow(page)
    command(page, "Comfy.Undo")
    page.wait_for_function("() => app.graph.getNodeById(1).type === 'ResidencyUNETLoader'")
    assert as_api(page) == linked and graph_of(page)["links"] == links


# ways in which a front end may not do what a conversion asks of it; `converted` tells such a workflow from the one before it
FORGETFUL = {
    "keeps the old class": """(root, { configure }) => {
      const kept = (node) => (node.id == 2 ? { ...node, type: "CLIPLoader" } : node);
      root.configure = (data) => configure({ ...data, nodes: data.nodes.map(kept) });
    }""",
    "saves the old class": """(root, { serialize }) => {
      const known = new Map(serialize().nodes.map((node) => [node.id, node.type]));
      const kept = (data) => ({ ...data, nodes: data.nodes.map((node) => ({ ...node, type: known.get(node.id) })) });
      root.serialize = (...options) => kept(serialize(...options));
    }""",
    "runs the old class": """(root, { configure }) => {
      root.configure = (data) => {
        configure(data);
        if (converted(data)) Object.defineProperty(root.getNodeById(2), "comfyClass", { value: "CLIPLoader" });
      };
    }""",
    "loses a link": "(root, { configure }) => { root.configure = (data) => configure(converted(data) ? shorter(data) : data); }",
    "mixes up the values": """(root, { configure }) => {
      const mixed = (node) => ({ ...node, widgets_values: [...(node.widgets_values ?? [])].reverse(), widgets_values_named: undefined });
      const turned = (node) => (node.type === "ResidencyCLIPLoader" ? mixed(node) : node);
      root.configure = (data) => configure({ ...data, nodes: data.nodes.map(turned) });
    }""",
    "fails": """(root, { configure }) => {
      root.configure = (data) => {
        if (converted(data)) throw new Error("no such thing as a twin");
        return configure(data);
      };
    }""",
    "never gives a link back": "(root, { configure }) => { root.configure = (data) => configure(shorter(data)); }",
}


@pytest.mark.parametrize("how", FORGETFUL)
def test_a_front_end_that_does_not_take_a_conversion_has_the_workflow_as_it_was_and_the_user_is_told(used_page: Any, how: str) -> None:
    """Each conversion is compared with what was asked for before it stays: nobody knows the front ends to come."""
    page = used_page
    open_graph(page, two_experts())
    page.evaluate("() => ['2', '3'].forEach((id) => app.canvas.select(app.graph.getNodeById(id)))")
    settle(page)
    before, prompt, steps = graph_of(page), as_api(page), page.evaluate(UNDO_STEPS)
    page.evaluate(
        """damage => {
      const root = app.rootGraph;
      const own = { configure: root.configure.bind(root), serialize: root.serialize.bind(root) };
      const converted = (data) => data.nodes.some((node) => node.type.startsWith("Residency"));
      const shorter = (data) => ({ ...data, links: data.links.slice(1) });
      new Function("root", "own", "converted", "shorter", `(${damage})(root, own)`)(root, own, converted, shorter);
      window.mend = () => { Object.assign(root, own); };
    }""",
        FORGETFUL[how],
    )

    given_back = how != "never gives a link back"
    told = page.get_by_text("Nothing was changed" if given_back else "Undo this")
    assert not told.count()

    command(page, "Residency.ConvertSelection")

    told.first.wait_for()
    page.evaluate("() => window.mend()")
    assert page.evaluate("() => Object.keys(app.canvas.selected_nodes).sort()") == ["2", "3"]
    assert page.evaluate(UNDO_STEPS) == steps + (not given_back)
    if not given_back:
        command(page, "Comfy.Undo")
        page.wait_for_function("count => app.graph.links.size === count", arg=len(before["links"]))
    assert [node["type"] for node in graph_of(page)["nodes"]] == [node["type"] for node in before["nodes"]]
    assert graph_of(page)["links"] == before["links"] and as_api(page) == prompt


def test_what_nodes_show_of_their_run_stays_and_other_extensions_are_told(editor: Any) -> None:
    page = editor
    text = {"class_type": "PrimitiveString", "inputs": {"value": "shown again"}}
    open_graph(page, two_experts(seed=72) | {"20": text, "21": {"class_type": "PreviewAny", "inputs": {"source": ["20", 0]}}})
    page.evaluate("""() => app.registerExtension({
      name: "a.story",
      loadedGraphNode: (node) => { node.told = true; },
      afterConfigureGraph: () => { throw new Error("a hook that fails is not ours"); },
    })""")
    assert page.evaluate(DONE)[0] == "execution_success"
    pictures = "() => app.graph.getNodeById(10).imgs?.length || document.querySelectorAll('[data-node-id=\"10\"] img').length"
    click_on(page, 10)  # brings it into view: what is not drawn loads no picture
    page.wait_for_function(pictures)

    command(page, "Residency.ConvertAll")

    page.wait_for_function(pictures)
    assert page.evaluate("() => app.graph.getNodeById(21).widgets.some((widget) => widget.value === 'shown again')")
    assert page.evaluate("() => app.graph.nodes.every((node) => node.told)")


def test_copy_and_paste_keeps_the_settings(used_page: Any) -> None:
    page = used_page
    open_graph(page, with_ours(two_experts(), "low-vram"))
    page.evaluate("() => { app.canvas.select(app.graph.getNodeById(7)); app.canvas.copyToClipboard(); app.canvas.pasteFromClipboard(); }")
    experts = [node for node in graph_of(page)["nodes"] if node["type"] == "ResidencyUNETLoader"]
    assert len(experts) == 3
    assert all("low-vram" in node["widgets_values"] for node in experts)


def test_every_node_of_the_pack_can_be_placed_converted_and_saved(used_page: Any) -> None:
    page = used_page
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

    queued, saved = as_api(page), graph_of(page)
    ended, prompt_id = page.evaluate(DONE)
    assert ended == "execution_success"

    assert until(lambda: comfy_server.get_json(f"/history/{prompt_id}"))  # ComfyUI says success before it writes the history
    (picture,) = comfy_server.images(prompt_id)
    carried = {key: json.loads(text) for key, text in Image.open(io.BytesIO(picture)).info.items()}
    assert {node_id: node["class_type"] for node_id, node in carried["prompt"].items()} == {i: n["class_type"] for i, n in queued.items()}
    assert {i: node["type"] for i, node in by_id(carried["workflow"]).items()} == {i: node["type"] for i, node in by_id(saved).items()}
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
