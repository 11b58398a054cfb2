import assert from "node:assert/strict";
import { test } from "node:test";

import { completeTrace, extendedTrace } from "../../web/store_trace.js";
import { createStore } from "../../web/store.js";
import { node, trace, transfer } from "./fixtures.mjs";

const NOTHING = { components: [2, []], nodes: [2, []], transfers: [0, []], evictions: [0, []], decisions: [0, []], open: {} };
const HEAD = { prompt_id: "p", outcome: "running", duration_s: 11 };

test("what is new goes on from what is known, and what ran is told again", () => {
  const known = completeTrace(trace({ transfers: [transfer("unet", 0, null), transfer("te", 0, 1)] }));
  const done = transfer("unet", 0, 3);
  const told = { ...NOTHING, ...HEAD, nodes: [1, [node("2", 2, 11), node("3", 11, null)]], transfers: [2, [transfer("te", 9, 10)]], open: { 0: done } };
  const next = extendedTrace(known, told, ({ node_id }) => `node ${node_id}`);
  assert.deepEqual(next.nodes.map(({ node_id, end_s, title }) => [node_id, end_s, title]), [["1", 2, "KSampler"], ["2", 11, "node 2"], ["3", null, "node 3"]]);
  assert.deepEqual(next.transfers.map(({ end_s }) => end_s), [3, 1, 10]);
  assert.deepEqual([next.duration_s, next.outcome, known.transfers[0].end_s], [11, "running", null]);
});

test("lists without news stay the same objects: nothing is drawn for them", () => {
  const known = completeTrace(trace());
  const next = extendedTrace(known, { ...NOTHING, ...HEAD });
  for (const name of ["components", "nodes", "transfers", "evictions", "decisions"]) assert.equal(next[name], known[name], name);
});

test("what does not go on from what is known is refused; of decisions only the newest are told", () => {
  const known = completeTrace(trace());
  assert.equal(extendedTrace(known, { ...NOTHING, ...HEAD, nodes: [5, [node("9", 1, 2)]] }), null);
  assert.equal(extendedTrace(known, { ...NOTHING, ...HEAD, decisions: [900, [{ time_s: 1 }]] }).decisions.length, 1);
});

test("what is to come stays until it is told anew", () => {
  const ahead = { nodes: [node("4", 5, 9)], reads: [], end_s: 9 };
  const known = completeTrace(trace({ ahead }));
  assert.equal(extendedTrace(known, { ...NOTHING, ...HEAD }).ahead.nodes.length, 1);
  assert.equal(extendedTrace(known, { ...NOTHING, ...HEAD, ahead: null }).ahead, null);
});

test("a store that has missed a message asks for all of it", async () => {
  const listeners = {};
  const told = [];
  const api = {
    clientId: "me",
    addEventListener: (event, listener) => (listeners[event] = listener),
    async fetchApi(path, options) {
      told.push([path, options?.body ? JSON.parse(options.body) : null]);
      return new Response("{}");
    },
  };
  const store = createStore(api);
  store.start();
  const stop = store.subscribe(() => {});
  const send = (detail) => listeners["residency.update"]({ detail: { prompt_id: "p", running: true, ...detail } });
  send({ trace: trace({ outcome: "running" }) });
  send({ new: { ...NOTHING, ...HEAD, nodes: [2, [node("3", 10, null)]] } });
  assert.equal(store.state().trace.nodes.length, 3);
  const watched = () => told.filter(([path]) => path === "/residency/watch").length;
  const before = watched();
  send({ new: { ...NOTHING, ...HEAD, nodes: [40, []] } });
  assert.equal(watched(), before + 1);
  stop();
  assert.equal(store.state().trace.nodes.length, 3);
});

test("a page that nobody sees is told nothing, and asks when it is seen again", async () => {
  const watched = [];
  let seen = true;
  const api = {
    clientId: "me",
    addEventListener: () => {},
    async fetchApi(path, options) {
      if (path === "/residency/watch") watched.push(JSON.parse(options.body).on);
      return new Response("{}");
    },
  };
  const store = createStore(api, { visible: () => seen });
  const stop = store.subscribe(() => {});
  seen = false;
  store.onVisible();
  seen = true;
  store.onVisible();
  stop();
  assert.deepEqual(watched, [true, false, true, false]);
});
