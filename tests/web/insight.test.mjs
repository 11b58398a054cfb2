import assert from "node:assert/strict";
import { test } from "node:test";

import { createInsight } from "../../web/insight.js";
import { trace } from "./fixtures.mjs";

const settled = () => new Promise((resolve) => setTimeout(resolve, 10));
const STATE = { trace: trace({ prompt_id: "a b" }), running: false, connected: true };

function asking(answers, visible = true) {
  const asked = [];
  const ask = async (path) => {
    asked.push(path);
    if (!(path in answers)) throw new Error("404");
    return answers[path];
  };
  let changes = 0;
  return { asked, changes: () => changes, insight: createInsight(ask, () => (changes += 1), () => visible) };
}

test("an assessment is asked for once, when the prompt has ended, also where the server has none", async () => {
  const { asked, insight } = asking({ memory: {} });
  insight.follow({ ...STATE, trace: { ...STATE.trace, outcome: "running" }, running: true });
  for (let time = 0; time < 3; time += 1) {
    insight.follow(STATE);
    await settled();
  }
  insight.stop();
  assert.deepEqual(asked.filter((path) => path.startsWith("assessment")), ["assessment?prompt_id=a%20b"]);
  assert.equal(insight.assessment(STATE.trace), null);
});

test("the answer is that of the prompt on show", async () => {
  const { insight, changes } = asking({ "assessment?prompt_id=a%20b": { alone: 1 }, memory: { ram: 2 } });
  insight.follow(STATE);
  await settled();
  insight.stop();
  assert.deepEqual([insight.assessment(STATE.trace), insight.assessment(trace()), insight.memory()], [{ alone: 1 }, null, { ram: 2 }]);
  assert.equal(changes(), 2);
});

test("nothing is asked of memory while nobody looks at the page", async () => {
  const { asked, insight } = asking({ memory: {} }, false);
  insight.follow({ ...STATE, trace: null });
  await settled();
  insight.stop();
  assert.deepEqual(asked, []);
});
