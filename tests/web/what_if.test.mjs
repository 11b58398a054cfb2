import assert from "node:assert/strict";
import { test } from "node:test";

import { whatIfRows } from "../../web/what_if_view.js";
import { trace } from "./fixtures.mjs";

const one = (what, to, seconds) => ({ what, to, seconds, instead_s: 20 });

test("the most helpful comes first, and what changes nothing says so", () => {
  const assessment = { alone: { low_s: 1, high_s: 1, sure: "about" }, again: true, what_if: [one("alone", "", 25), one("ram", 64 * 2 ** 30, 11), one("mode", "low-vram", 20.1)] };
  const { rows, note } = whatIfRows(trace(), assessment);
  assert.deepEqual(rows.map(({ way, seconds, words }) => [way, seconds, words]), [
    ["with 64 GB of RAM", "11 s", "9.0 s less"],
    ["in mode low-vram", "20 s", "no difference"],
    ["ComfyUI alone", "25 s", "5.0 s more"],
  ]);
  assert.match(note, /runs again, about 20 s/);
});

test("where there is nothing to tell the list says why", () => {
  assert.deepEqual(whatIfRows({ ...trace(), outcome: "running" }, null).rows, []);
  assert.match(whatIfRows(trace(), { alone: null, unknown: "drive", what_if: [] }).note, /drive has not been measured/);
});
