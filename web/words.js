// @ts-check
// The panel's sentences in the language that ComfyUI shows. What the server says of its own accord (reasons, refusals, the doctor) is English.

import { EN } from "./words_en.js";
import { JA } from "./words_ja.js";
import { ZH } from "./words_zh.js";

/** @type {Record<string, Record<string, string | string[]>>} */
export const TABLES = { en: EN, zh: ZH, ja: JA };

let table = EN;

/** From now on. English for a language that has no table. @param {unknown} language ComfyUI's Comfy.Locale */
export function speak(language) {
  table = TABLES[String(language)] ?? EN;
}

/** The sentence `id` with its blanks filled in. Of two forms the first is for a `count` of 1. @param {string} id @param {Record<string, unknown>} [values] */
export function say(id, values = {}) {
  const found = table[id];
  if (found === undefined) throw new Error(`no words for ${id}`);
  const words = Array.isArray(found) ? found[values.count === 1 ? 0 : 1] : found;
  return words.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}
