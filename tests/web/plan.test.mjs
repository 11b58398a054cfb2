import assert from "node:assert/strict";
import { test } from "node:test";

import { missingFiles, planOf } from "../../web/plan.js";
import { warmUp, warmingWords } from "../../web/warm_up.js";

const GB = 2 ** 30;
const combo = (value, values) => ({ name: "unet_name", value, options: { values } });
const part = (size_bytes, more = {}) => ({ name: `of ${size_bytes / GB}`, kind: "MODEL", size_bytes, device_bytes: 0, pinned_bytes: 0, cached_bytes: 0, ...more });
const estimate = (components, steps, more = {}) => ({ components, steps: steps.map((keys) => ({ components: keys })), compute_unknown_nodes: 0, total_s: 41, stall_s: 3, ...more });
const memory = (limit_bytes) => ({ device: limit_bytes && { total_bytes: limit_bytes, limit_bytes }, ram: { available_bytes: 20 * GB } });

test("a file that ComfyUI does not offer is missing, with where the workflow says it comes from", () => {
  const told = { models: [{ name: "a.safetensors", url: "https://example.org/x/a.safetensors", directory: "diffusion_models" }] };
  const [found, ...more] = missingFiles([{ widgets: [combo("a.safetensors", ["b.safetensors", "default"])], properties: told }, { widgets: [combo("b.safetensors", ["b.safetensors"]), combo("euler", ["dpm"])] }, {}]);
  assert.deepEqual([found.name, found.choices, found.host, found.folder, more.length], ["a.safetensors", ["b.safetensors"], "example.org", "diffusion_models", 0]);
});

test("a link of a workflow that is no web address is none", () => {
  const [found] = missingFiles([{ widgets: [combo("a.safetensors", [])], properties: { models: [{ name: "a.safetensors", url: "javascript:alert(1)" }] } }]);
  assert.deepEqual([found.url, found.host], ["", ""]);
});

test("whether it fits is said of all, of the most at once, and of memory that is shared", () => {
  const parts = { a: part(4 * GB), b: part(6 * GB) };
  const verdict = (limit, steps = [["a"], ["b"]]) => planOf(estimate(parts, steps), memory(limit)).verdict;
  assert.match(verdict(12 * GB), /needs 10.0 GiB of weights; 12.0 GiB of VRAM hold 6.00 GiB at once: it fits/);
  assert.match(verdict(8 * GB), /what is needed next takes the place of what was/);
  assert.match(verdict(5 * GB), /crosses the link again/);
  assert.match(verdict(8 * GB, [["a", "b"]]), /One step needs 10.0 GiB/);
  assert.match(verdict(null), /20.0 GiB of RAM are free/);
  assert.match(planOf(estimate({}, []), memory(null)).verdict, /no node that uses weights/);
});

test("rows say where each lies, the largest first; an unknown time is a least time", () => {
  const parts = { a: part(4 * GB, { device_bytes: 4 * GB }), b: part(8 * GB, { cached_bytes: 4 * GB }), c: part(2 * GB, { pinned_bytes: 2 * GB }), d: part(GB, { cached_bytes: null }) };
  const { rows, time } = planOf(estimate(parts, [["a"]], { compute_unknown_nodes: 2 }), memory(12 * GB));
  assert.deepEqual(rows.map(({ where }) => where), ["50 % in RAM", "on the device", "in RAM", "on the drive"]);
  assert.match(time, /^At least 41 s/);
  const nothing = planOf(estimate(parts, [["a"]], { compute_unknown_nodes: 2, total_s: 0, stall_s: 0 }), memory(12 * GB));
  assert.equal(nothing.time, "How long it takes is not known yet: nodes have to run once.");
});

test("warming up tells how far it is until it has ended, and why it was refused", async () => {
  const states = ["reading", "reading", "done"].map((state, index) => ({ state, reason: "", asked_bytes: 10 * GB, present_bytes: index * 5 * GB, left_out_bytes: 0 }));
  const said = [];
  const ask = async (path) => (path === "warm" ? states.shift() : { warming: states.shift() });
  await warmUp({}, ask, (text, runs) => said.push([text, runs]), async () => {});
  assert.deepEqual(said, [["Warming up: 0 % of 10.0 GiB", true], ["Warming up: 50 % of 10.0 GiB", true], ["Warm: 10.0 GiB are in RAM", false]]);
  await warmUp({}, async () => Promise.reject(new Error("a prompt runs")), (text, runs, failed) => said.push([text, failed]));
  assert.deepEqual(said.at(-1), ["That did not work: a prompt runs", true]);
  assert.match(warmingWords({ state: "done", reason: "", asked_bytes: GB, present_bytes: GB, left_out_bytes: GB }).text, /1.00 GiB found no room/);
});
