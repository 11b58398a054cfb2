import assert from "node:assert/strict";
import { test } from "node:test";

import { promptRows } from "../../web/prompts_view.js";
import { trace } from "./fixtures.mjs";

const head = (prompt_id, duration_s, parts = {}) => ({ prompt_id, duration_s, outcome: "success", mode: "balanced", started_unix_s: 0, summary: { stall_s: 0, read_bytes: 0 }, ...parts });

test("each prompt is compared with the one on show, where both ended well", () => {
  const rows = promptRows([head("c", 7), head("p", 10), head("b", 13, { outcome: "error" }), head("a", 12.5, { summary: { stall_s: 2, read_bytes: 2 ** 30 } })], trace());
  assert.deepEqual(rows.map(({ took, than, waited, read }) => [took, than, waited, read]), [
    ["7.0 s", "3.0 s less", "", ""],
    ["10 s", "on show", "", ""],
    ["failed", "", "", ""],
    ["13 s", "2.5 s more", "waited 2.0 s", "read 1.00 GiB"],
  ]);
});
