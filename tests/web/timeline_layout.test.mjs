import assert from "node:assert/strict";
import { test } from "node:test";

import { WHOLE, colourIndex, colourOf, layoutTimeline, pan, ticksOf, zoom } from "../../web/timeline_layout.js";
import { eviction, node, trace, transfer } from "./fixtures.mjs";

const lane = (layout, id) => layout.lanes.find((candidate) => candidate.id === id);

test("nodes lie where they ran, with the stalled part in pixels", () => {
  const [first, second] = lane(layoutTimeline(trace(), WHOLE, 1000), "nodes").items;
  assert.deepEqual([first.x, first.width, first.stall_px], [0, 200, 100]);
  assert.deepEqual([second.x, second.width, second.stall_px], [200, 800, 0]);
});

test("a node that waited in its steps is striped where it waited; all at its left edge where steps are too narrow", () => {
  const steps = [[2, 1, 1], [2, 0, 1], [2, 1, 1]];
  const sampler = node("1", 0, 8, { stall_s: 2.5, steps });
  const stallsAt = (width_px) => lane(layoutTimeline(trace({ nodes: [sampler] }), WHOLE, width_px), "nodes").items[0].stalls;
  assert.deepEqual(stallsAt(1000), [{ x: 0, width: 100 }, { x: 400, width: 100 }, { x: 600, width: 50 }]);
  assert.deepEqual(stallsAt(10), [{ x: 0, width: 2.5 }]);
});

test("no node gets lost: those too narrow to see are merged, and every record is in exactly one box", () => {
  const nodes = Array.from({ length: 2000 }, (_, index) => node(String(index), index * 0.005, (index + 1) * 0.005));
  const { items } = lane(layoutTimeline(trace({ nodes }), WHOLE, 500), "nodes");
  assert.ok(items.length <= 500);
  assert.ok(items.every((item) => item.width >= 2));
  assert.deepEqual(items.flatMap((item) => item.records.map((record) => record.node_id)), nodes.map((record) => record.node_id));
});

test("a node of no length is still there", () => {
  const { items } = lane(layoutTimeline(trace({ nodes: [node("1", 5, 5)] }), WHOLE, 100), "nodes");
  assert.deepEqual([items.length, items[0].width], [1, 2]);
});

test("transfers that overlap in time get rows of their own; a fifth shares the last", () => {
  const transfers = [0, 1, 2, 3, 4].map((start_s) => transfer("unet", start_s, 9));
  const { items } = lane(layoutTimeline(trace({ transfers }), WHOLE, 1000), "tier-host");
  assert.equal(new Set(items.map((item) => item.y)).size, 4);
  assert.equal(items.length, 5);
});

test("of the announced transfers only the first is moving, since the tier was last busy", () => {
  const transfers = [transfer("te", 0, 3), transfer("unet", 0, null), transfer("te", 1, null)];
  const { items } = lane(layoutTimeline(trace({ transfers, outcome: "running" }), WHOLE, 1000), "tier-host");
  assert.deepEqual(items.map((item) => [item.x, item.width]), [[0, 300], [300, 700]]);
});

test("to the device goes what has moved, when it moved", () => {
  const waits = { tier: "device", moved_bytes: 0 };
  const transfers = [transfer("te", 2, null, waits), transfer("te", 3, 3, waits), transfer("unet", 4, null, { tier: "device" })];
  const { items } = lane(layoutTimeline(trace({ transfers, outcome: "running" }), WHOLE, 1000), "tier-device");
  assert.deepEqual(items.map((item) => [item.x, item.width]), [[400, 600]]);
});

test("a tier with nothing but evictions has a lane, and marks on one spot become one", () => {
  const evictions = [eviction("te", 5, { tier: "device" }), eviction("unet", 5.01, { tier: "device" }), eviction("te", 9, { tier: "device" })];
  const layout = layoutTimeline(trace({ evictions, transfers: [transfer("te", 0, 1)] }), WHOLE, 1000);
  assert.deepEqual(layout.lanes.map(({ id }) => id), ["nodes", "tier-device", "tier-host"]);
  assert.deepEqual(lane(layout, "tier-device").items.map((item) => item.records.length), [2, 1]);
});

test("lanes and the boxes in them never overlap", () => {
  const transfers = [transfer("te", 0, 3), transfer("unet", 2, 9), transfer("unet", 2, 9, { tier: "device" })];
  const { lanes, height_px } = layoutTimeline(trace({ transfers, evictions: [eviction("te", 4)] }), WHOLE, 800);
  const bottoms = lanes.map(({ y, height }) => y + height);
  lanes.slice(1).forEach(({ y }, index) => assert.ok(y > bottoms[index]));
  for (const { y, height, items } of lanes) for (const item of items) assert.ok(item.y >= y && item.y + item.height <= y + height);
  assert.ok(height_px >= bottoms.at(-1));
});

test("zooming in keeps the time under the pointer where it is, zooming out ends at the whole", () => {
  const view = zoom(WHOLE, 10, 0.5, 2);
  assert.deepEqual(view, { from_s: 1, to_s: 6 });
  assert.equal(zoom(view, 10, 4, 2), WHOLE);
});

test("panning stops at both ends, and the whole does not move", () => {
  const view = { from_s: 1, to_s: 6 };
  assert.deepEqual(pan(view, 10, -5), { from_s: 0, to_s: 5 });
  assert.deepEqual(pan(view, 10, 50), { from_s: 5, to_s: 10 });
  assert.equal(pan(WHOLE, 10, 3), WHOLE);
});

test("boxes outside the window are not drawn", () => {
  const { items } = lane(layoutTimeline(trace(), { from_s: 4, to_s: 5 }, 1000), "nodes");
  assert.deepEqual(items.map((item) => item.records[0].node_id), ["2"]);
});

test("ticks are round numbers, in the window, and far enough apart, from microseconds to days", () => {
  for (const to_s of [1e-4, 0.013, 1, 47.2, 599, 4000, 86400, 900000]) {
    const { step_s, ticks } = ticksOf({ from_s: 0, to_s }, 900);
    assert.ok(ticks.length >= 2 && ticks.length <= 12, `${to_s}: ${ticks.length} ticks`);
    assert.ok((step_s / to_s) * 900 >= 79.9);
    assert.ok(ticks.every(({ x }) => x >= 0 && x <= 900.1));
  }
});

test("an empty trace has a layout too", () => {
  const layout = layoutTimeline(trace({ nodes: [], duration_s: 0 }), WHOLE, 900);
  assert.deepEqual(lane(layout, "nodes").items, []);
  assert.ok(Number.isFinite(layout.height_px));
});

test("colours follow the order of the components and come round again", () => {
  const components = Array.from({ length: 10 }, (_, index) => ({ key: `c${index}`, name: "", kind: "MODEL", size_bytes: 1 }));
  const colours = colourIndex(trace({ components }));
  assert.equal(colourOf(colours, "c0"), colourOf(colours, "c8"));
  assert.equal(new Set(components.slice(0, 8).map(({ key }) => colourOf(colours, key))).size, 8);
  assert.equal(colourOf(colours, undefined), "var(--residency-none)");
});

test("what is to come lies behind now, on the same axis, and what runs now does not reach into it", () => {
  const ahead = {
    nodes: [{ ...node("2", 1.5, 4), running: true }, { ...node("3", 4, 8, { stall_s: 1 }) }],
    reads: [{ component: "unet", start_s: 1, end_s: 5, needed_s: 4, size_bytes: 1 }],
    end_s: 8,
  };
  const running = trace({ outcome: "running", duration_s: 2, nodes: [node("1", 0, 1), node("2", 1, null)], transfers: [], ahead });
  const layout = layoutTimeline(running, WHOLE, 800);
  const [nodes, host] = layout.lanes;
  assert.equal(layout.end_s, 8);
  assert.equal(layout.now_x, 200);
  assert.deepEqual(nodes.items.map(({ kind, x, width }) => [kind, x, width]), [["node", 0, 100], ["node", 100, 100], ["ahead", 200, 200], ["ahead", 400, 400]]);
  assert.deepEqual(nodes.items[3].stalls, [{ x: 0, width: 100 }]);
  assert.deepEqual(host.items.map(({ kind, x, width }) => [kind, x, width]), [["read", 200, 300]]);
  const new_ = { ...ahead, nodes: [{ ...node("3", 1.5, 1.5), unknown: "new" }], reads: [], end_s: 1.5 };
  const unknown = layoutTimeline({ ...running, ahead: new_ }, WHOLE, 800);
  assert.deepEqual(unknown.lanes[0].items.at(-1).records.map(({ node_id }) => node_id), ["3"], "a node of unknown length is there all the same");
  const over = layoutTimeline({ ...running, outcome: "success" }, WHOLE, 800);
  assert.deepEqual([over.end_s, over.lanes.length], [2, 1]);
});
