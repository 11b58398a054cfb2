import assert from "node:assert/strict";
import { test } from "node:test";
import { badgeText } from "../../web/badge.js";
import { convertedNode, twinOf } from "../../web/convert.js";

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
  assert.deepEqual([...slots], [[11, 0], [12, 2]]);
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

test("the badge names what differs from the workflow's setting", () => {
  const widget = (name, value) => ({ name, value });
  assert.equal(badgeText([widget("memory_mode", "workflow"), widget("strategy", "auto"), widget("steps", 3)]), "");
  assert.equal(badgeText([widget("memory_mode", "low-vram"), widget("strategy", "release")]), "low-vram · release");
  assert.equal(badgeText(undefined), "");
});
