import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { createActions } from "../../web/actions.js";

const locale = (name) => JSON.parse(readFileSync(new URL(`../../locales/en/${name}.json`, import.meta.url), "utf8"));

/** A front end with an open workflow of no nodes; `answers`: path → status of the server. */
function made({ answers = {}, open = false } = {}) {
  const heard = { toasts: [], posted: [], said: [] };
  const app = { extensionManager: { toast: { add: (toast) => heard.toasts.push([toast.severity, toast.detail]) } }, canvas: { selected_nodes: {} }, graphToPrompt: async () => ({ output: {} }) };
  const api = { fetchApi: async (path, { body }) => (heard.posted.push([path, JSON.parse(body)]), { ok: (answers[path] ?? 200) < 400, status: answers[path] ?? 200 }) };
  const shown = (text) => (open && heard.said.push(text), open);
  return { heard, ...createActions(app, api, { ask: async () => ({}), setMode: (mode) => heard.posted.push(["mode", mode]), shown }) };
}

const run = ({ extension }, id) => extension.commands.find((command) => command.id === id).function();

test("every command and menu entry is said as the locales have it", () => {
  const { extension } = made();
  assert.deepEqual(Object.fromEntries(extension.commands.map(({ id, label }) => [id.replace(".", "_"), { label }])), Object.fromEntries(Object.entries(locale("commands")).filter(([id]) => !/Convert|ShowTimeline/.test(id))));
  const labels = locale("main").menuLabels;
  for (const { menubarLabel } of extension.commands) assert.ok(menubarLabel in labels, menubarLabel);
  for (const name of extension.menuCommands.flatMap(({ path }) => path)) assert.ok(name === "Residency" || name in labels, name);
});

test("releasing all is ComfyUI's own; good news stands in an open panel, and is a toast without one", async () => {
  const closed = made();
  await run(closed, "Residency.ReleaseAll");
  assert.deepEqual(closed.heard.posted, [["/free", { unload_models: true, free_memory: true }]]);
  assert.deepEqual(closed.heard.toasts.map(([severity]) => severity), ["info"]);
  const opened = made({ open: true });
  await run(opened, "Residency.ReleaseAll");
  assert.deepEqual([opened.heard.toasts, opened.heard.said.length], [[], 1]);
});

test("what needs attention is a toast, wherever it was asked for", async () => {
  const refused = made({ open: true, answers: { "/free": 500 } });
  await run(refused, "Residency.ReleaseAll");
  await run(refused, "Residency.WarmUp");
  await run(refused, "Residency.PinSelection");
  assert.deepEqual(refused.heard.toasts.map(([severity]) => severity), ["warn", "warn", "warn"]);
});

test("a mode is chosen on the server", async () => {
  const one = made();
  await run(one, "Residency.ModeLowVram");
  assert.deepEqual(one.heard.posted, [["mode", "low-vram"]]);
});
