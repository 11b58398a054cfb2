import assert from "node:assert/strict";
import { test } from "node:test";

import { askedOf, componentNames, describeDecision, describeItem, describeSummary, waitingWords } from "../../web/describe.js";
import { eviction, node, trace, transfer } from "./fixtures.mjs";

const one = (kind, record) => ({ kind, records: [record] });

test("a node says how long it took, how much of that was stall, and with which weights", () => {
  assert.deepEqual(describeItem(one("node", node("7", 0, 4, { stall_s: 1, computes: ["unet"], loads: ["te"] })), trace()), {
    title: "KSampler #7",
    lines: ["4.00 s (0 s to 4.00 s)", "Waited for weights: 1.00 s (25 %)", "Computes with flux.safetensors", "Loads clip_l.safetensors"],
  });
});

test("a node that waited in some of its steps says in how many; where waiting is not known, nothing is made up", () => {
  const steps = [[1, 0.5, 1], [2, 0, 3], [1, 0.5, 1]];
  const [, waited] = describeItem(one("node", node("7", 0, 4, { stall_s: 1, steps })), trace()).lines;
  assert.equal(waited, "Waited for weights: 1.00 s (25 %), in 2 of 5 steps");
  const [, loading] = describeItem(one("node", node("7", 0, 4, { unsplit_s: 4, steps: [] })), trace()).lines;
  assert.equal(loading, "Loading: 4.00 s; this system does not tell waiting from unpacking");
});

test("one sentence says who waited longest, and that nobody did", () => {
  assert.equal(waitingWords(trace()), "Waited 1.00 s for weights: KSampler #1 (clip_l.safetensors).");
  const nodes = [node("1", 0, 2, { stall_s: 0.5 }), node("2", 2, 10, { stall_s: 3, computes: ["unet"], steps: [[4, 3, 1], [4, 0, 1]] })];
  assert.equal(waitingWords(trace({ nodes })), "Waited 3.50 s for weights, of it 3.00 s in KSampler #2 (flux.safetensors), in 1 of 2 steps.");
  const none = { nodes: [node("1", 0, 2)] };
  assert.equal(waitingWords(trace(none)), "No node waited for weights.");
  assert.equal(waitingWords(trace({ ...none, stall_reason: "replaced by x" })), "No node waited for weights, as far as it is measured (replaced by x).");
});

test("a transfer says bytes, rate, what is there now and why", () => {
  const { title, lines } = describeItem(one("transfer", transfer("unet", 1, 3, { reason: "needed by KSampler #2" })), trace());
  assert.equal(title, "flux.safetensors");
  assert.deepEqual(lines, ["To host memory: done", "Moved 4.00 GiB in 2.00 s: 2.00 GiB/s", "There now: 8.00 GiB of 8.00 GiB", "1.00 s to 3.00 s", "needed by KSampler #2"]);
});

test("what runs is measured up to now", () => {
  const running = trace({ outcome: "running", duration_s: 5 });
  assert.match(describeItem(one("transfer", transfer("unet", 3, null)), running).lines[1], /in 2.00 s: 2.00 GiB\/s/);
  assert.match(describeItem(one("node", node("1", 4, null)), running).lines[0], /^1.00 s so far/);
});

test("an eviction says what it freed and why; several say the sum", () => {
  assert.deepEqual(describeItem(one("eviction", eviction("te", 4)), trace()).lines, ["Evicted from host memory at 4.00 s: 1.00 GiB freed", "room for flux"]);
  const both = describeItem({ kind: "eviction", records: [eviction("te", 4), eviction("unet", 4)] }, trace());
  assert.deepEqual(both, { title: "2 evictions", lines: ["2.00 GiB freed", "clip_l.safetensors, flux.safetensors"] });
});

test("merged nodes are counted, and a long list is cut", () => {
  const records = Array.from({ length: 9 }, (_, index) => node(String(index), index, index + 1));
  const { title, lines } = describeItem({ kind: "node", records }, trace());
  assert.equal(title, "9 nodes");
  assert.match(lines.at(-1), /KSampler and 3 more$/);
});

test("a component or a kind that the trace does not explain is shown by its own word", () => {
  const words = describeDecision({ time_s: 1, kind: "defragment", component: "gone", tier: "device", size_bytes: 0, reason: "" }, componentNames(trace()));
  assert.deepEqual(words, { time: "1.00 s", action: "defragment", name: "gone", detail: "device memory", reason: "" });
});

test("the figures: no stall is said in words, a figure of nothing is left out, and a prompt that failed says so", () => {
  const values = (parts) => Object.fromEntries(describeSummary(trace(parts)).map(({ id, value }) => [id, value]));
  assert.deepEqual(values(), { time: "10.0 s", stall: "1.00 s (10 %)", ahead: "8.00 GiB", evicted: "1.00 GiB" });
  assert.equal(values({ outcome: "error" }).time, "10.0 s · failed");
  const abandoned = { outcome: "abandoned", outcome_reason: "left to ComfyUI: a bug" };
  assert.equal(values(abandoned).time, "10.0 s · left to ComfyUI");
  assert.match(describeSummary(trace(abandoned))[0].title, /left to ComfyUI: a bug$/);
  assert.equal(values({ summary: { ...trace().summary, stall_s: 0 } }).stall, "none");
});

test("what the pack itself took is told beside what was computed, and why it stood aside", () => {
  const title = (parts) => describeSummary(trace(parts))[0].title;
  assert.equal(title(), "Of that, computing: 9.00 s");
  const own = { outcome: "abandoned", outcome_reason: "too many operations", summary: { ...trace().summary, own_s: 0.25 } };
  assert.equal(title(own), "Of that, computing: 9.00 s; the pack itself: 0.25 s; too many operations");
  assert.equal(describeItem(one("node", node("7", 0, 4, { own_s: 0.25 })), trace()).lines[1], "The pack itself: 0.25 s");
});

test("what was asked for a component is said with who asked; where nobody asked nothing is said", () => {
  const policy = { mode: "low-vram", strategy: "release", priority: 0, prefetch: true, keep: false, source: "node 7 (ResidencyPolicy)" };
  const silent = { mode: null, strategy: null, priority: 0, prefetch: true, keep: false, source: "the default" };
  const told = trace();
  told.components = [{ ...told.components[0], policy: silent }, { ...told.components[1], policy }];
  assert.equal(askedOf(told)("unet"), "low-vram, release (node 7 (ResidencyPolicy))");
  assert.deepEqual([askedOf(told)("te"), askedOf(trace())("unet")], ["", ""]);
  assert.equal(describeItem(one("transfer", transfer("unet", 1, 3)), told).lines.at(-1), "Asked for: low-vram, release (node 7 (ResidencyPolicy))");
});
