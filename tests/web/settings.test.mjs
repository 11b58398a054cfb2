import assert from "node:assert/strict";
import { test } from "node:test";
import { SETTINGS, createSettings } from "../../web/settings.js";

const answer = (status, body) => ({ ok: status < 400, status, json: () => (body ? Promise.resolve(body) : Promise.reject(new SyntaxError("no JSON"))) });

/** ComfyUI's settings, which tell of each change, and a server that answers what it is told to. */
function place(kept = {}, replies = []) {
  const values = { ...kept };
  const asked = [];
  const told = [];
  const api = {
    async fetchApi(path, options) {
      asked.push([options?.method ?? "GET", path, options && JSON.parse(options.body)]);
      return replies.shift() ?? answer(200, {});
    },
  };
  const store = { get: (id) => values[id] ?? SETTINGS.find((setting) => setting.id === id).defaultValue, set: async (id, value) => (values[id] = value) };
  const link = createSettings(api, () => store, (sentence) => told.push(sentence), () => told.push("changed"));
  return { link, values, asked, told };
}

test("a browser in which nothing was set takes over what the server has kept", async () => {
  const { link, values, asked } = place({}, [answer(200, { mode: "low-vram", queue_depth: 1, console_line: true })]);
  await link.start();
  assert.deepEqual(asked.map(([method]) => method), ["GET"]);
  assert.deepEqual(values, { "residency.mode": "low-vram", "residency.queue_depth": 1 });
});

test("a browser in which something was set tells the server all of it", async () => {
  const { link, asked, told } = place({ "residency.mode": "off" });
  await link.start();
  const [[method, path, body]] = asked;
  assert.deepEqual([method, path, body.mode, body.queue_depth], ["POST", "/residency/settings", "off", 3]);
  assert.equal(Object.keys(body).length, SETTINGS.length);
  assert.deepEqual(told, ["changed"]);
});

test("nothing is sent for the calls that ComfyUI makes while it registers settings", () => {
  const { link, asked } = place();
  for (const { onChange } of link.settings) onChange(1, undefined);
  assert.deepEqual(asked, []);
});

test("a refusal is said in the server's words, and the dialog goes back to what holds", async () => {
  const { link, values, told } = place({ "residency.read_threads": 99 }, [answer(400, { error: "read_threads is 99; choose a whole number from 0 to 64" }), answer(200, { read_threads: 2 })]);
  await link.send();
  assert.deepEqual(told, ["read_threads is 99; choose a whole number from 0 to 64"]);
  assert.equal(values["residency.read_threads"], 2);
});

test("a server that is gone costs one sentence", async () => {
  const { link, told } = place({ "residency.mode": "off" }, [answer(502, undefined), answer(502, undefined)]);
  await link.send();
  assert.deepEqual(told, ["the server answered 502"]);
});

test("a mode that was chosen in the panel is shown in the dialog and not sent again; one chosen there afterwards is", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const { link, values, asked } = place({}, [answer(200, {})]);
  await link.start();
  const { onChange } = link.settings.find(({ id }) => id === "residency.mode");
  await link.showMode("low-vram");
  onChange("low-vram");
  t.mock.timers.tick(10_000);
  assert.equal(values["residency.mode"], "low-vram");
  assert.deepEqual(asked.map(([method]) => method), ["GET"]);
  for (const mode of ["off", "low-vram"]) onChange(mode);
  t.mock.timers.tick(10_000);
  assert.deepEqual(asked.map(([method]) => method), ["GET", "POST"]);
});
