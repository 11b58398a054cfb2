import assert from "node:assert/strict";
import { test } from "node:test";

import { clipped } from "../../web/timeline_paint.js";

const bar = (x, width, stalls) => ({ x, width, stalls, stall_px: stalls[0]?.x === 0 ? stalls[0].width : 0 });

test("a bar's stalls are painted where the bar is, whether or not the window cuts it", () => {
  assert.deepEqual(clipped(bar(100, 50, [{ x: 0, width: 10 }, { x: 20, width: 5 }]), 400).stalls, [{ x: 100, width: 10 }, { x: 120, width: 5 }]);
  assert.deepEqual(clipped(bar(-20, 50, [{ x: 0, width: 30 }]), 400), { x: 0, width: 30, stalls: [{ x: 0, width: 10 }], stall_px: 10 });
  assert.deepEqual(clipped(bar(390, 50, [{ x: 0, width: 30 }]), 400), { x: 390, width: 10, stalls: [{ x: 390, width: 10 }], stall_px: 10 });
  const whole = bar(100, 50, []);
  assert.equal(clipped(whole, 400), whole);
});
