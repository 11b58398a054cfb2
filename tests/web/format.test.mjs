import assert from "node:assert/strict";
import { test } from "node:test";

import { fitText, formatBytes, formatPercent, formatRate, formatSeconds, formatTick } from "../../web/format.js";

test("bytes are printed with three digits and never as 1024 of a unit", () => {
  const cases = [
    [0, "0 B"],
    [1023, "1023 B"],
    [1024, "1.00 KiB"],
    [1024 ** 2 - 1, "1.00 MiB"],
    [9.996 * 1024 ** 3, "10.0 GiB"],
    [99.96 * 1024 ** 3, "100 GiB"],
    [15.3 * 1024 ** 3, "15.3 GiB"],
    [5000 * 1024 ** 4, "5000 TiB"],
    [-1024, "−1.00 KiB"],
    [undefined, "–"],
    [NaN, "–"],
  ];
  for (const [size_bytes, text] of cases) assert.equal(formatBytes(size_bytes), text);
});

test("seconds get the unit that suits them, without a jump at the seams", () => {
  const cases = [
    [0, "0 s"],
    [0.0001, "<1 ms"],
    [0.0994, "99 ms"],
    [0.0996, "0.10 s"],
    [9.999, "10.0 s"],
    [99.96, "1 min 40 s"],
    [123.4, "2 min 03 s"],
    [3599.6, "1 h 00 min"],
    [7290, "2 h 02 min"],
    [null, "–"],
  ];
  for (const [time_s, text] of cases) assert.equal(formatSeconds(time_s), text);
});

test("a rate or a share of nothing is a dash, not a number", () => {
  assert.equal(formatRate(1024 ** 3, 0.5), "2.00 GiB/s");
  assert.equal(formatRate(1024, 0), "–");
  assert.equal(formatPercent(1, 0), "–");
  assert.equal(formatPercent(1, 4), "25 %");
  assert.equal(formatPercent(0.004, 1), "0.4 %");
});

test("ticks show the decimals that tell them apart", () => {
  assert.deepEqual([formatTick(1.5, 0.5), formatTick(5, 5), formatTick(0.25, 0.05), formatTick(0.0025, 0.0005)], ["1.5 s", "5 s", "0.25 s", "2.5 ms"]);
  assert.deepEqual([formatTick(0.004, 0.002), formatTick(120, 60)], ["4 ms", "2 min 00 s"]);
});

test("text is cut to the room it has, or left out", () => {
  const measure = (text) => text.length * 6;
  assert.equal(fitText("flux", 24, measure), "flux");
  assert.equal(fitText("flux1-dev", 36, measure), "flux1…");
  assert.equal(fitText("flux1-dev", 18, measure), "");
});
