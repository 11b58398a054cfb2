import assert from "node:assert/strict";
import { test } from "node:test";

import { createStore } from "../../web/store.js";
import { trace } from "./fixtures.mjs";

const STATUS = { installed: true, mode: "auto", mode_reason: "", features: [], budget: {} };
const settled = () => new Promise((resolve) => setTimeout(resolve, 5));

/** ComfyUI's api: `answers` maps "METHOD path" to [status, body]; `send` plays the websocket. */
function fakeApi(answers) {
  const listeners = {};
  return {
    asked: [],
    told: [],
    clientId: "me",
    async fetchApi(path, options) {
      const key = `${options?.method ?? "GET"} ${path}`;
      this.asked.push(key);
      if (options?.body) this.told.push(JSON.parse(options.body));
      const answer = answers[key];
      if (answer === undefined) throw new Error("no route to the server");
      const [status, body] = answer;
      return new Response(JSON.stringify(body), { status });
    },
    addEventListener: (event, listener) => (listeners[event] = listener),
    send: (event, detail) => listeners[event]({ detail }),
  };
}

const ANSWERS = {
  "GET /residency/status": [200, STATUS],
  "GET /residency/traces": [200, { traces: [] }],
  "GET /residency/trace": [200, null],
  "POST /residency/watch": [200, {}],
};

test("before the first prompt there is a status, no trace and no error", async () => {
  const store = createStore(fakeApi(ANSWERS));
  await store.refresh();
  assert.deepEqual([store.state().status.mode, store.state().trace, store.state().error], ["auto", null, null]);
});

test("updates of the running prompt are shown, unless an earlier one was chosen", async () => {
  const earlier = trace({ prompt_id: "earlier" });
  const api = fakeApi({ ...ANSWERS, "GET /residency/trace?prompt_id=earlier": [200, earlier] });
  const store = createStore(api);
  store.start();
  api.send("residency.update", { running: true, trace: trace({ prompt_id: "now" }) });
  assert.equal(store.state().trace.prompt_id, "now");
  await store.select("earlier");
  api.send("residency.update", { running: true, trace: trace({ prompt_id: "now", duration_s: 20 }) });
  assert.equal(store.state().trace.prompt_id, "earlier");
  await store.select(null);
  assert.deepEqual([store.state().trace.prompt_id, store.state().trace.duration_s], ["now", 20]);
});

test("an answer that was asked for before an update does not replace it", async () => {
  const api = fakeApi({ ...ANSWERS, "GET /residency/trace": [200, trace({ prompt_id: "old" })] });
  const store = createStore(api);
  store.start();
  const asking = store.refresh();
  api.send("residency.update", { running: true, trace: trace({ prompt_id: "new" }) });
  await asking;
  await settled();
  assert.equal(store.state().trace.prompt_id, "new");
});

test("the server is told when somebody looks, as soon as the websocket has a name, and when nobody does any more", async () => {
  const api = fakeApi(ANSWERS);
  api.clientId = undefined;
  const store = createStore(api);
  store.start();
  const looksAway = [store.subscribe(() => {}), store.subscribe(() => {})];
  assert.deepEqual(api.told, []);
  api.clientId = "me";
  api.send("status");
  api.send("status");
  looksAway[0]();
  assert.deepEqual(api.told, [{ client_id: "me", on: true }]);
  api.send("residency.update", { running: true, trace: trace({ prompt_id: "now" }) });
  looksAway[1]();
  assert.deepEqual([api.told.at(-1), store.state().running], [{ client_id: "me", on: false }, false]);
  const again = store.subscribe(() => {});
  assert.deepEqual(api.told.at(-1), { client_id: "me", on: true });
  api.send("reconnected"); // to a server that knows nobody
  await settled();
  assert.equal(api.told.filter(({ on }) => on).length, 3);
  again();
});

test("a mode the server refuses leaves the mode and says why", async () => {
  const store = createStore(fakeApi({ ...ANSWERS, "POST /residency/mode": [400, { error: "'x' is not a mode" }] }));
  await store.refresh();
  assert.equal(await store.setMode("x"), false);
  assert.deepEqual([store.state().status.mode, store.state().error], ["auto", "The mode stays auto: 'x' is not a mode"]);
});

test("a server that does not answer is a sentence, never an exception", async () => {
  const store = createStore(fakeApi({}));
  await store.refresh();
  assert.match(store.state().error, /^Could not ask the server: no route/);
});

test("losing and finding the server is a state", async () => {
  const api = fakeApi(ANSWERS);
  const store = createStore(api);
  store.start();
  api.send("reconnecting");
  assert.equal(store.state().connected, false);
  api.send("reconnected");
  await settled();
  assert.deepEqual([store.state().connected, store.state().status.mode], [true, "auto"]);
});

test("a trace with parts missing is completed, so that drawing never asks", async () => {
  const api = fakeApi(ANSWERS);
  const store = createStore(api);
  store.start();
  api.send("residency.update", { running: true, trace: { prompt_id: "p" } });
  assert.deepEqual([store.state().trace.nodes, store.state().trace.summary.stall_s], [[], 0]);
});

test("the trace downloads under a harmless name", async () => {
  const api = fakeApi({ ...ANSWERS, "GET /residency/trace?format=chrome&prompt_id=..%2Fp": [200, { traceEvents: [] }] });
  const store = createStore(api);
  store.start();
  api.send("residency.update", { running: true, trace: trace({ prompt_id: "../p" }) });
  const { name, blob } = await store.download();
  assert.equal(name, "residency-_p.trace.json");
  assert.equal(await blob.text(), '{"traceEvents":[]}');
});

test("between two messages the time goes on, while the prompt runs and somebody looks", async () => {
  const api = fakeApi(ANSWERS);
  const store = createStore(api);
  store.start();
  const looksAway = store.subscribe(() => {});
  api.send("residency.update", { running: true, trace: trace({ duration_s: 1 }) });
  await new Promise((resolve) => setTimeout(resolve, 300));
  const seen_s = store.state().trace.duration_s;
  assert.ok(seen_s > 1.2 && seen_s < 2, `${seen_s}`);

  looksAway();
  await new Promise((resolve) => setTimeout(resolve, 600));
  assert.ok(store.state().trace.duration_s - seen_s < 0.3);
});

test("in a long silence the trace is asked for once: the last message may have come just before a node began", async () => {
  const path = "/residency/trace?prompt_id=p";
  const api = fakeApi({ ...ANSWERS, [`GET ${path}`]: [200, trace({ outcome: "running", duration_s: 1.1, nodes: [] })] });
  const store = createStore(api);
  store.start();
  const looksAway = store.subscribe(() => {});
  api.send("residency.update", { running: true, trace: trace({ duration_s: 1 }) });
  await new Promise((resolve) => setTimeout(resolve, 2600));
  assert.equal(api.asked.filter((asked) => asked === `GET ${path}`).length, 1);
  assert.deepEqual(store.state().trace.nodes, []);
  assert.ok(Math.abs(store.state().trace.duration_s - 3.5) < 0.5, `${store.state().trace.duration_s}`);
  looksAway();
});
