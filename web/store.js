// What the panel knows: the server's status, the trace being shown and whether the server answers.
// Pure until start(): no request, no listener. `api` is ComfyUI's (fetchApi, addEventListener, clientId).

import { completeTrace, extendedTrace } from "./store_trace.js";
import { say } from "./words.js";

const EMPTY = Object.freeze({
  status: null, // GET /residency/status; null until it has answered
  trace: null, // the trace on show
  traces: [], // earlier prompts, newest first
  selected: null, // prompt_id of an earlier prompt on show; null follows the last one
  running: false,
  connected: true,
  error: null, // one sentence for the user, or null
});

const TICK_MS = 250;
const SILENCE_MS = 1500;

async function answerOf(response) {
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.error ?? say("error.answer", { status: response.status }));
  return body;
}

const wait = (pause_ms) => new Promise((resolve) => setTimeout(resolve, pause_ms));

/**
 * The panel's state and everything that changes it. `state()` is the current one; `subscribe(listener)` calls back after
 * every change and returns how to stop; the rest are what the user and the server can do.
 */
export function createStore(api, { onMode = () => {}, onStatus = () => {}, titleOf, visible = () => globalThis.document?.visibilityState !== "hidden" } = {}) {
  let state = EMPTY;
  let live = null; // the last prompt's trace, kept while an earlier one is on show
  let lived_ms = 0; // when `live` came, on the browser's clock
  let caughtUp = false; // asked for what the server had no reason to say yet
  let ticking = null;
  let watchedAs = null; // the client id under which the server knows that somebody looks
  let asked = 0; // latest request for a trace: an older answer that arrives late is dropped
  const listeners = new Set();

  function change(part) {
    state = { ...state, ...part };
    if (part.status) onStatus(part.status);
    for (const listener of listeners) listener(state);
  }

  const ask = async (path, options) => answerOf(await api.fetchApi(`/residency/${path}`, options));

  /** Runs a request; a failure becomes one sentence in `error`, and nothing is thrown. */
  async function attempt(action, what, values = {}) {
    try {
      await action();
    } catch (error) {
      change({ error: say(what, { why: error.message, ...values }) });
    }
  }

  async function loadTrace(prompt_id) {
    const turn = (asked += 1);
    const query = prompt_id ? `?prompt_id=${encodeURIComponent(prompt_id)}` : "";
    const response = await api.fetchApi(`/residency/trace${query}`);
    const answer = await answerOf(response);
    if (answer === null) return; // no prompt yet
    const trace = completeTrace(answer, titleOf);
    if (turn !== asked) return;
    if (!prompt_id) {
      if (state.running) return; // the websocket is ahead of this answer
      live = trace;
    }
    change({ trace });
  }

  async function refresh() {
    await attempt(async () => {
      const status = await ask("status");
      change({ status, error: null });
      const { traces } = await ask("traces");
      change({ traces: traces ?? [] });
      if (state.selected === null) await loadTrace(null);
    }, "error.status");
  }

  /** What works and in which mode; where the server does not answer, what was known stays. */
  async function look() {
    const status = await ask("status").catch(() => null);
    if (status) change({ status });
  }

  async function select(prompt_id) {
    change({ selected: prompt_id, error: null, ...(prompt_id ? {} : { trace: live }) });
    await attempt(() => loadTrace(prompt_id), "error.prompt");
  }

  /** Asks for another memory mode; true when the server took it. */
  async function setMode(mode) {
    let accepted = false;
    await attempt(async () => {
      const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ mode }) };
      change({ status: await ask("mode", options), error: null });
      accepted = true;
      onMode(mode); // the settings dialog shows it too
    }, "error.mode", { mode: state.status?.mode ?? say("as it was") });
    if (!accepted) change({}); // the select shows the mode that still holds
    return accepted;
  }

  /** The trace on show as Chrome trace events: {name, blob}; null when it could not be had. */
  async function download() {
    let file = null;
    await attempt(async () => {
      const { prompt_id } = state.trace;
      const response = await api.fetchApi(`/residency/trace?format=chrome&prompt_id=${encodeURIComponent(prompt_id)}`);
      if (!response.ok) await answerOf(response);
      const safe = String(prompt_id).replace(/[^\w-]+/g, "_").slice(0, 40);
      file = { name: `residency-${safe}.trace.json`, blob: await response.blob() };
    }, "error.download");
    return file;
  }

  /** The running trace after a message; null where the message does not go on from what is known. */
  function told({ prompt_id, trace, new: more }) {
    if (trace) return completeTrace(trace, titleOf);
    return extendedTrace(live?.prompt_id === prompt_id ? live : completeTrace({ prompt_id }, titleOf), more, titleOf);
  }

  function onUpdate({ detail }) {
    const next = told(detail);
    if (next === null) {
      watchedAs = null; // watching anew brings all of it
      watch();
      return;
    }
    live = next;
    lived_ms = performance.now();
    caughtUp = false;
    const shown = state.selected === null ? { trace: live } : {};
    asked += state.selected === null ? 1 : 0;
    const begun = detail.running && !state.running;
    if (listeners.size > 0) ticking ??= setTimeout(tick, TICK_MS);
    change({ running: detail.running, connected: true, ...shown });
    if (begun || !detail.running) refresh(); // the mode that auto resolved to, the list of prompts
  }

  /** Messages are rationed: what began just after the last one may not have been sent. Asked once in every silence. */
  async function catchUp() {
    caughtUp = true;
    const { prompt_id, duration_s } = live;
    const response = await api.fetchApi(`/residency/trace?prompt_id=${encodeURIComponent(prompt_id)}`);
    const trace = completeTrace(await answerOf(response), titleOf);
    if (live.prompt_id !== prompt_id || live.duration_s !== duration_s || !state.running) return;
    lived_ms += (trace.duration_s - duration_s) * 1000;
    live = trace;
  }

  /** The server speaks when something happens; while one node computes for a minute, the time axis goes on by itself. */
  function tick() {
    ticking = null;
    if (!state.running || !state.connected || listeners.size === 0) return;
    if (!caughtUp && performance.now() - lived_ms > SILENCE_MS) attempt(catchUp, "error.status");
    if (state.selected === null) change({ trace: { ...live, duration_s: live.duration_s + (performance.now() - lived_ms) / 1000 } });
    ticking ??= setTimeout(tick, TICK_MS);
  }

  /** Tells the server whether somebody looks: it sends the running trace to nobody else. */
  async function watch() {
    const on = listeners.size > 0 && visible();
    const client_id = on ? api.clientId : watchedAs;
    if (!client_id || (on && watchedAs === client_id)) return; // not connected yet: asked again once it is
    watchedAs = on ? client_id : null;
    const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ client_id, on }) };
    await api.fetchApi("/residency/watch", options).catch(() => (watchedAs = null));
  }

  /** Comes back after a restart: the routes may answer a little later than the websocket. */
  async function onReconnected() {
    change({ connected: true, running: false });
    watchedAs = null;
    for (const pause_ms of [0, 1000, 4000]) {
      await wait(pause_ms);
      await refresh();
      await watch();
      if (state.error === null) return;
    }
  }

  /** A page behind another one is told nothing, and asks once it is in front again. */
  function onVisible() {
    watch();
    if (listeners.size > 0 && visible()) refresh();
  }

  function start() {
    globalThis.document?.addEventListener("visibilitychange", onVisible);
    api.addEventListener("residency.update", onUpdate);
    api.addEventListener("reconnecting", () => change({ connected: false }));
    api.addEventListener("reconnected", onReconnected);
    api.addEventListener("status", watch); // the first one brings the client id
  }

  const subscribe = (listener) => {
    listeners.add(listener);
    ticking ??= setTimeout(tick, TICK_MS);
    watch();
    return () => {
      listeners.delete(listener);
      if (listeners.size > 0) return;
      state = { ...state, running: false }; // nobody tells any more
      watch();
    };
  };

  return { state: () => state, subscribe, start, look, refresh, select, setMode, download, ask, onVisible };
}
