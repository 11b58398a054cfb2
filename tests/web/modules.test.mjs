import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";

const WEB = new URL("../../web/", import.meta.url);
const scripts = readdirSync(WEB, { recursive: true }).filter((name) => name.endsWith(".js"));
const source = (name) => readFileSync(new URL(name, WEB), "utf8");

test("ComfyUI imports every script at start-up: all but the entry can be imported without a page", async () => {
  for (const name of scripts.filter((script) => script !== "residency.js")) await import(new URL(name, WEB));
});

test("names come from files: no script turns text into markup", () => {
  for (const name of scripts) assert.doesNotMatch(source(name), /innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function/, name);
});

test("nothing is fetched from elsewhere", () => {
  const addresses = (text) => (text.match(/https?:\/\/[^"'\s)]+/g) ?? []).filter((address) => address !== "http://www.w3.org/2000/svg");
  for (const name of [...scripts, "residency.css"]) assert.deepEqual(addresses(source(name)), [], name);
});
