import assert from "node:assert/strict";
import { test } from "node:test";

import { describeItem } from "../../web/describe.js";
import { titleOf } from "../../web/titles.js";
import { node, trace } from "./fixtures.mjs";

const graphOf = (nodes) => ({ getNodeById: (id) => nodes[id] ?? null });
const inner = graphOf({ 4: { comfyClass: "KSampler", title: "in the subgraph" } });
const app = { rootGraph: graphOf({ 3: { comfyClass: "KSampler", title: "low noise" }, 5: { comfyClass: "a subgraph", title: "all of it", subgraph: inner } }) };
const types = { KSampler: { title: "KSampler for people" } };
const titled = (node_id, class_type = "KSampler") => titleOf(app, types, { node_id, class_type });

test("a node has the user's title where the open workflow has it, and else its class's name for people", () => {
  assert.deepEqual([titled("3"), titled("5:4")], ["low noise", "in the subgraph"]);
  assert.deepEqual([titled("9"), titled("3:4"), titled("5:9")], Array(3).fill("KSampler for people"));
  assert.equal(titled("3", "SomebodysNode"), "SomebodysNode"); // another workflow's node 3
});

test("what is told of a node begins with its title and keeps its class", () => {
  const told = describeItem({ kind: "node", records: [{ ...node("7", 0, 4), title: "low noise" }] }, trace());
  assert.deepEqual([told.title, told.lines.at(-1)], ["low noise #7", "KSampler"]);
});
