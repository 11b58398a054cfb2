import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";

import { TABLES, say, speak } from "../../web/words.js";

const WEB = new URL("../../web/", import.meta.url);
const blanks = (words) => [...new Set([words].flat().join(" ").match(/\{\w+\}/g) ?? [])].sort();

test("every language says everything, with the same blanks", () => {
  const { en, ...others } = TABLES;
  for (const [language, table] of Object.entries(others)) {
    assert.deepEqual(Object.keys(table).sort(), Object.keys(en).sort(), language);
    for (const [id, words] of Object.entries(table)) assert.deepEqual(blanks(words), blanks(en[id]), `${language} ${id}`);
  }
});

test("no sentence is left in English, but names", () => {
  const names = new Set(["panel.name", "memory.device name", "memory.ram name"]);
  for (const language of ["zh", "ja"]) {
    const same = Object.entries(TABLES[language]).filter(([id, words]) => words === TABLES.en[id] && !names.has(id));
    assert.deepEqual(same, [], language);
  }
});

test("every sentence that a script asks for is there, and every one that is there is asked for", () => {
  const source = readdirSync(WEB).filter((name) => name.endsWith(".js") && !name.startsWith("words")).map((name) => readFileSync(new URL(name, WEB), "utf8")).join("\n");
  const asked = [...source.matchAll(/say\(\s*"([^"]+)"/g)].map(([, id]) => id);
  for (const id of asked) assert.ok(id in TABLES.en, id);
  const family = (id) => id.split(".")[0];
  const mentioned = (id) => source.includes(`"${id}"`) || source.includes(`\`${family(id)}.\${`) || source.includes(`, "${family(id)}", `);
  assert.deepEqual(Object.keys(TABLES.en).filter((id) => !mentioned(id)), []);
});

test("a language without a table is spoken in English, and one is a singular", () => {
  speak("zh");
  assert.equal(say("many.nodes", { count: 1 }), "1 个节点");
  speak("fr");
  assert.equal(say("many.nodes", { count: 1 }), "1 node");
  assert.equal(say("many.nodes", { count: 2 }), "2 nodes");
});
