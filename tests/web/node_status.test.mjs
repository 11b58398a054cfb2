import assert from "node:assert/strict";
import { test } from "node:test";

import { nodeStatuses } from "../../web/node_status.js";
import { node, trace, transfer } from "./fixtures.mjs";

const GIB = 1024 ** 3;
const said = (of, memory = null) => Object.fromEntries([...nodeStatuses(of, memory)].map(([id, { text }]) => [id, text]));

test("a node that waits says how long, also when it has run", () => {
  const nodes = [node("1", 0, 2, { stall_s: 1 }), node("2", 2, null, { stall_s: 1.24 }), node("3", 2, 3, { stall_s: 0.01 })];
  assert.deepEqual(said(trace({ nodes })), { 1: "waited 1.0 s", 2: "waits 1.2 s" });
});

test("a node to come says how much of its weights is there, or how long it will wait", () => {
  const coming = (id, parts) => ({ ...node(id, 5, 9, parts), unknown: null });
  const ahead = { nodes: [coming("4", { computes: ["unet"], stall_s: 2 }), coming("5", { computes: ["te"], stall_s: 2 })], reads: [], end_s: 9 };
  const transfers = [transfer("unet", 0, null, { present_bytes: 5 * GIB })];
  assert.deepEqual(said(trace({ outcome: "running", nodes: [], transfers, ahead })), { 4: "reading 63 %", 5: "will wait 2.0 s" });
  ahead.nodes[0].unknown = "new"; // what is read behind it comes while it computes, nobody knows for how long
  assert.deepEqual(said(trace({ outcome: "running", nodes: [], transfers, ahead })), { 4: "reading 63 %" });
});

test("what lies on the device is resident; a part of it is not", () => {
  const memory = { components: [{ key: "te", size_bytes: GIB, device_bytes: GIB }, { key: "unet", size_bytes: 8 * GIB, device_bytes: 2 * GIB }] };
  assert.deepEqual(said(trace({ nodes: [node("1", 0, 1, { computes: ["te"] }), node("2", 1, 2, { computes: ["unet"] })] }), memory), { 1: "resident" });
  assert.deepEqual(said(null, memory), {});
});
