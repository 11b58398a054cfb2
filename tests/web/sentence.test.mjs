import assert from "node:assert/strict";
import { test } from "node:test";

import { adviceOf, sentenceOf, wayOf, whyWaiting } from "../../web/sentence.js";
import { node, trace, transfer } from "./fixtures.mjs";

const GB = 1e9;
const alone = (low_s, high_s, sure = "about") => ({ alone: { low_s, high_s, sure }, unknown: null, what_if: [], again: true });
const quiet = trace({ duration_s: 41, nodes: [node("1", 0, 41)] });
const waits = trace({
  duration_s: 41,
  nodes: [node("1", 0, 2), node("2", 2, 41, { stall_s: 3, computes: ["unet"] })],
  transfers: [transfer("unet", 0, 4, { moved_bytes: 6 * GB })],
});

test("seconds, what ComfyUI alone would have taken, what was won and what was waited for", () => {
  assert.equal(sentenceOf(waits, alone(65, 65)), "41 s; ComfyUI alone about 65 s: 24 s saved; waited 3.0 s for flux.safetensors, because the drive gives 1.40 GiB/s.");
});

test("what is not sure is a range, and what was lost is said as well", () => {
  const told = (assessment) => sentenceOf(quiet, assessment).replace("; no node waited for weights.", "");
  assert.equal(told(alone(50, 65, "roughly")), "41 s; ComfyUI alone roughly 50 to 65 s: 9.0 to 24 s saved");
  assert.equal(told(alone(41, 65, "roughly")), "41 s; ComfyUI alone roughly 41 to 65 s: up to 24 s saved");
  assert.equal(told(alone(36, 36)), "41 s; ComfyUI alone about 36 s: 5.0 s lost");
  assert.equal(told(alone(41.2, 41.4)), "41 s; ComfyUI alone about as long");
});

test("nothing is made up: without an assessment no word of it, and what cannot be known says why", () => {
  assert.equal(sentenceOf(quiet, null), "41 s; no node waited for weights.");
  const told = sentenceOf(quiet, { alone: null, unknown: "drive", what_if: [] });
  assert.equal(told, "41 s; what ComfyUI alone would take is not known: the drive has not been measured yet; no node waited for weights.");
  assert.equal(sentenceOf({ ...quiet, outcome: "running" }, null), "");
  assert.equal(sentenceOf({ ...quiet, outcome: "interrupted" }, null), "41 s, then interrupted.");
});

test("while it runs: how long it takes is said as surely as it is known, and where it is not, of which node", () => {
  const next = { ...node("7", 4, 12), title: "high noise", unknown: null };
  const ahead = (parts, unknown = null) => sentenceOf(trace({ outcome: "running", duration_s: 2, ahead: { nodes: [{ ...next, unknown }], reads: [], end_s: 12, low_s: 11, high_s: 13, ...parts } }), null);
  assert.equal(ahead({}), "Ends in about 10 s.");
  assert.equal(ahead({ low_s: 8, high_s: 20 }), "Ends in 6.0 to 18 s.");
  assert.equal(ahead({ low_s: 24, high_s: 107 }), "Ends in 22 s to 1 min 45 s.");
  assert.equal(ahead({}, "new"), "Runs; when it ends is not known yet: high noise has not run at this size before.");
  assert.equal(ahead({}, "longer"), "Runs; when it ends is not known: high noise takes longer than it did before.");
  assert.equal(ahead({}, "drive"), "Runs; when it ends is not known yet: the drive that high noise is read from has not been measured.");
});

test("every reason that the server may give has words", () => {
  for (const unknown of ["failed", "old", "long", "waiting", "cache", "drive", "link", "model"]) sentenceOf(quiet, { alone: null, unknown, what_if: [] });
});

test("one advice, the one that saves most; a mode, which costs nothing, where it saves nearly as much; none where little is saved", () => {
  const one = (what, to, seconds) => ({ what, to, seconds, instead_s: 20 });
  const ram = one("ram", 64 * 2 ** 30, 11);
  assert.deepEqual(adviceOf({ what_if: [one("alone", "", 5), ram, one("drive", 3.5 * GB, 15)] }), ram);
  assert.equal(adviceOf({ what_if: [ram, one("mode", "low-vram", 12)] }).what, "mode");
  assert.equal(adviceOf({ what_if: [one("ram", 64 * 2 ** 30, 19)] }), null);
  assert.deepEqual([wayOf(ram), wayOf(one("drive", 3.5 * GB, 1)), wayOf(one("mode", "low-vram", 1))], ["with 64 GB of RAM", "with a drive of 3.5 GB/s", "in mode low-vram"]);
});

test("a prompt that stalled says why and what would help; one that did not says nothing", () => {
  const assessment = { ...alone(65, 65), what_if: [{ what: "ram", to: 64 * 2 ** 30, seconds: 11, instead_s: 20 }] };
  assert.equal(
    whyWaiting(waits, assessment),
    "Most of the 3.0 s were the drive: 5.59 GiB of flux.safetensors came at 1.40 GiB/s. With 64 GB of RAM: about 11 s instead of 20 s.",
  );
  assert.equal(whyWaiting(quiet, assessment), "");
});
