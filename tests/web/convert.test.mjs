import assert from "node:assert/strict";
import { test } from "node:test";
import { badgeText } from "../../web/badge.js";
import { convertedNode, convertedWorkflow, difference, emptied, ROOT, twinOf } from "../../web/convert.js";

const modules = {
  KSampler: "nodes",
  Mode: "custom_nodes.other",
  UNETLoader: "nodes",
  Foreign: "custom_nodes.other",
  VAEDecodeAudio: "comfy_extras.nodes_audio",
  ResidencyMode: "custom_nodes.residency",
  ResidencyUNETLoader: "custom_nodes.residency",
  ResidencyVAEDecodeAudio: "custom_nodes.residency",
  ResidencyForeign: "custom_nodes.residency",
  ResidencyKSampler: "custom_nodes.somebody",
};
const moduleOf = (type) => modules[type];

test("a core node converts to its twin, and the twin back", () => {
  assert.deepEqual(twinOf("UNETLoader", moduleOf), { type: "ResidencyUNETLoader", back: false });
  assert.deepEqual(twinOf("ResidencyUNETLoader", moduleOf), { type: "UNETLoader", back: true });
  assert.deepEqual(twinOf("VAEDecodeAudio", moduleOf), { type: "ResidencyVAEDecodeAudio", back: false });
});

test("nothing converts to or from another pack's node, and nodes without a twin stay", () => {
  for (const type of ["Foreign", "ResidencyForeign", "KSampler", "ResidencyKSampler", "ResidencyMode", "Mode", "Note", undefined]) assert.equal(twinOf(type, moduleOf), null);
});

const slot = (name, link = null) => ({ name, type: "*", link });
const core = () => ({
  id: 7,
  type: "KSampler",
  pos: [3, 4],
  size: [300, 200],
  mode: 4,
  color: "#222",
  title: "mine",
  flags: { collapsed: true },
  inputs: [slot("model", 11), slot("seed", 12)],
  outputs: [{ name: "LATENT", type: "LATENT", links: [13, 14], label: "out" }],
  properties: { "Node name for S&R": "KSampler", cnr_id: "comfy-core", ver: "0.33.0", mine: 1 },
  widgets_values: [5, "fixed", 20],
  widgets_values_named: { seed: 5, control_after_generate: "fixed", steps: 20 },
});
const names = ["seed", "control_after_generate", "steps"];
const fresh = () => ({
  type: "ResidencyKSampler",
  inputs: [slot("model"), slot("memory_mode"), slot("seed")],
  outputs: [{ name: "LATENT", type: "LATENT", links: null }],
  properties: { "Node name for S&R": "ResidencyKSampler", aux_id: "me/residency" },
  widgets_values: [0, "randomize", 20, "workflow"],
});
const freshNames = [...names, "memory_mode"];

test("place, size, title, colours, bypass, flags, links and values stay; what is new is at its default", () => {
  const { node, slots, dropped } = convertedNode(core(), names, fresh(), freshNames);
  for (const key of ["id", "pos", "size", "mode", "color", "title", "flags"]) assert.deepEqual(node[key], core()[key]);
  assert.equal(node.type, "ResidencyKSampler");
  assert.deepEqual(node.widgets_values, [5, "fixed", 20, "workflow"]);
  assert.deepEqual(node.inputs.map(({ name, link }) => [name, link]), [["model", 11], ["memory_mode", null], ["seed", 12]]);
  assert.deepEqual([...slots], [[0, 0], [1, 2]]); // old index, new index
  assert.deepEqual(node.outputs, core().outputs);
  assert.deepEqual(dropped, []);
});

test("a node does not take along what it says about its class", () => {
  const { node } = convertedNode(core(), names, fresh(), freshNames);
  assert.deepEqual(node.properties, { mine: 1, "Node name for S&R": "ResidencyKSampler", aux_id: "me/residency" });
});

test("values without names are told apart by the order of the widgets", () => {
  const { widgets_values_named, ...old } = core();
  assert.deepEqual(convertedNode(old, names, fresh(), freshNames).node.widgets_values, [5, "fixed", 20, "workflow"]);
});

test("there and back is the same node, and a link into an input that is gone is named", () => {
  const there = convertedNode(core(), names, fresh(), freshNames).node;
  const bare = { ...core(), widgets_values: [0, "randomize", 1], properties: { "Node name for S&R": "KSampler", cnr_id: "comfy-core", ver: "0.33.0" } };
  assert.deepEqual(convertedNode(there, freshNames, bare, names).node, core());
  there.inputs[1].link = 99;
  assert.deepEqual(convertedNode(there, freshNames, bare, names).dropped, ["memory_mode"]);
});

test("inputs and widgets that grow are as many as they were", () => {
  const old = { ...core(), inputs: [slot("images.image0", 1), slot("images.image1", 2), slot("clip", 3)], widgets_values: ["big", 7], widgets_values_named: { model: "big", "model.tokens": 7 } };
  const young = { ...fresh(), inputs: [slot("images.image0"), slot("memory_mode"), slot("clip")], widgets_values: ["small", 0.5, "workflow"] };
  const { node, slots, dropped } = convertedNode(old, ["model", "model.tokens"], young, ["model", "model.heat", "memory_mode"]);
  assert.deepEqual(node.inputs.map(({ name, link }) => [name, link]), [["images.image0", 1], ["images.image1", 2], ["memory_mode", null], ["clip", 3]]);
  assert.deepEqual(node.widgets_values, ["big", 7, "workflow"]);
  assert.deepEqual([[...slots], dropped], [[[0, 0], [1, 1], [2, 3]], []]);
});

const workflow = () => ({
  id: "root",
  nodes: [core(), { id: 8, type: "Note", widgets_values: ["hello"] }],
  links: [[11, 3, 0, 7, 0, "MODEL"], [12, 4, 0, 7, 1, "INT"], [13, 7, 0, 8, 0, "LATENT"]],
  groups: [{ id: 1 }],
  extra: { reroutes: [{ id: 1, linkIds: [11] }], linkExtensions: [{ id: 11, parentId: 1 }], mine: 1 },
  definitions: {
    subgraphs: [
      {
        id: "inner",
        nodes: [core()],
        links: [{ id: 12, origin_id: -10, origin_slot: 0, target_id: 7, target_slot: 1, type: "INT" }],
        floatingLinks: [{ id: 1, origin_id: -1, origin_slot: -1, target_id: 7, target_slot: 1, type: "INT", parentId: 2 }],
        inputs: [{ name: "seed", linkIds: [12] }],
        reroutes: [{ id: 2 }],
      },
    ],
  },
});
const planned = (...graphs) => new Map(graphs.map((key) => [key, new Map([["7", convertedNode(core(), names, fresh(), freshNames)]])]));

test("a workflow is converted in the graphs that are asked for, and its links lead to the inputs' new places", () => {
  const saved = workflow();
  const root = convertedWorkflow(saved, planned(ROOT));
  assert.deepEqual(root.nodes.map(({ type }) => type), ["ResidencyKSampler", "Note"]);
  assert.deepEqual(root.links, [[11, 3, 0, 7, 0, "MODEL"], [12, 4, 0, 7, 2, "INT"], [13, 7, 0, 8, 0, "LATENT"]]);
  assert.deepEqual(root.definitions, saved.definitions);
  const inner = convertedWorkflow(saved, planned("inner"));
  const [definition] = inner.definitions.subgraphs;
  assert.equal(definition.nodes[0].type, "ResidencyKSampler");
  assert.deepEqual([definition.links[0].target_slot, definition.floatingLinks[0].target_slot], [2, 2]);
  assert.deepEqual([inner.nodes, inner.links, saved], [saved.nodes, saved.links, workflow()]);
});

test("a result is right when classes, links and values are those that were asked for, wherever and however large the nodes are", () => {
  const plans = planned(ROOT, "inner");
  const wanted = convertedWorkflow(workflow(), plans);
  const found = (change) => {
    const other = structuredClone(wanted);
    change(other);
    return difference(wanted, other, plans);
  };
  assert.equal(found((other) => { other.nodes.reverse(); other.links.reverse(); Object.assign(other.nodes[0], { pos: [0, 0], size: [1, 1] }); }), null);
  assert.match(found((other) => { other.nodes[0].type = "KSampler"; }), /node 7 is a KSampler and not a ResidencyKSampler/);
  assert.match(found((other) => { other.nodes.pop(); }), /node 8 is missing/);
  assert.match(found((other) => { other.nodes.push({ id: 9 }); }), /3 nodes and not 2/);
  assert.match(found((other) => { other.nodes[0].widgets_values[0] = 6; }), /node 7 .* the values \[6,/);
  assert.equal(found((other) => { other.nodes[1].widgets_values = ["else"]; }), null);
  assert.match(found((other) => { other.links[1][4] = 1; }), /links/);
  assert.match(found((other) => { other.definitions.subgraphs[0].nodes[0].type = "KSampler"; }), /node 7/);
  assert.match(found((other) => { other.definitions.subgraphs = []; }), /node 7 is missing/);
});

test("an emptied workflow has its graphs, and nothing in them that leads anywhere", () => {
  const saved = workflow();
  const empty = emptied(saved);
  const [inner] = empty.definitions.subgraphs;
  for (const graph of [empty, inner]) for (const list of ["nodes", "links", "floatingLinks", "reroutes", "groups"]) assert.deepEqual(graph[list], []);
  assert.deepEqual([empty.id, empty.extra, inner.id, inner.inputs], ["root", { mine: 1 }, "inner", [{ name: "seed", linkIds: [] }]]);
  assert.deepEqual(saved, workflow());
});

test("the badge names what differs from the workflow's setting", () => {
  const widget = (name, value) => ({ name, value });
  assert.equal(badgeText([widget("memory_mode", "workflow"), widget("strategy", "auto"), widget("steps", 3)]), "");
  assert.equal(badgeText([widget("memory_mode", "low-vram"), widget("strategy", "release")]), "low-vram · release");
  assert.equal(badgeText(undefined), "");
});
