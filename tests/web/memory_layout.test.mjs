import assert from "node:assert/strict";
import { test } from "node:test";

import { memoryBars } from "../../web/memory_layout.js";

const part = (key, parts) => ({ key, name: key, size_bytes: 40, device_bytes: 0, pinned_bytes: 0, cached_bytes: 0, coming_bytes: 0, ...parts });
const ram = { total_bytes: 100, available_bytes: 60, limit_bytes: 50 };

test("each memory adds up to all of it, whatever was told", () => {
  const told = [
    { components: [part("a", { device_bytes: 30, pinned_bytes: 20, cached_bytes: 25 }), part("b", { cached_bytes: null })], device: { total_bytes: 80, limit_bytes: 70, room_bytes: 40 }, ram },
    { components: [part("a", { cached_bytes: 90 })], device: null, ram }, // a look at the cache and one at what is available are two moments
    { components: [], device: { total_bytes: 80, limit_bytes: null, room_bytes: null }, ram },
  ];
  for (const memory of told) {
    for (const bar of memoryBars(memory)) assert.equal(bar.segments.reduce((sum, { size_bytes }) => sum + size_bytes, 0), bar.total_bytes, bar.said);
  }
});

test("weights first, then what others hold, then what is free; the page cache is no one else's", () => {
  const [device, host] = memoryBars({ components: [part("a", { device_bytes: 30, pinned_bytes: 20, cached_bytes: 25 })], device: { total_bytes: 80, limit_bytes: 70, room_bytes: 40 }, ram });
  assert.deepEqual(device.segments.map(({ id, size_bytes }) => [id, size_bytes]), [["device", 30], ["other", 10], ["free", 40]]);
  assert.deepEqual(host.segments.map(({ id, size_bytes }) => [id, size_bytes]), [["pinned", 20], ["cached", 25], ["other", 20], ["free", 35]]);
});

test("a device that shares the host's memory has no bar of its own", () => {
  assert.deepEqual(memoryBars({ components: [], device: null, ram }).map(({ id }) => id), ["ram"]);
});
