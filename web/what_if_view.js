// @ts-check
// "What if": what the prompt on show would take under other terms, one row each, the most helpful first.

import { html } from "./dom.js";
import { short, wayOf } from "./sentence.js";
import { say } from "./words.js";

const SAME = 0.03; // of the time: a smaller difference is none

/** @param {any} one */
function verdict({ seconds, instead_s }) {
  const change = seconds - instead_s;
  if (Math.abs(change) <= Math.max(SAME * instead_s, 0.05)) return { words: say("if.same"), kind: "same" };
  return change < 0 ? { words: say("if.less", { by: short(-change) }), kind: "less" } : { words: say("if.more", { by: short(change) }), kind: "more" };
}

/** Rows for the list, or the one sentence that says why there are none: {rows, note}. @param {any} trace @param {any} assessment */
export function whatIfRows(trace, assessment) {
  if (trace.outcome === "running") return { rows: [], note: say("if.running") };
  if (!assessment) return { rows: [], note: say("if.none") };
  if (!assessment.alone) return { rows: [], note: say("if.unknown", { why: say(`unknown.${assessment.unknown}`) }) };
  const rows = [...assessment.what_if].sort((a, b) => a.seconds - b.seconds).map((one) => ({ way: wayOf(one), seconds: short(one.seconds), ...verdict(one), share: one.seconds }));
  const most = Math.max(...rows.map(({ share }) => share), assessment.what_if[0]?.instead_s ?? 0, 1e-9);
  const now_s = assessment.what_if[0]?.instead_s;
  const note = say(assessment.again ? "if.again" : "if.once", { now: short(now_s ?? trace.duration_s), sure: say(`sure.${assessment.alone.sure}`) });
  return { rows: rows.map((row) => ({ ...row, share: row.share / most })), note };
}

export function createWhatIf() {
  const element = html("section", { class: "residency-if", "aria-label": say("tab.if") });
  return {
    element,
    /** @param {any} trace @param {any} assessment */
    show(trace, assessment) {
      const { rows, note } = whatIfRows(trace, assessment);
      const text = note + rows.map((row) => row.way + row.seconds).join();
      if (element.dataset.shown === text) return;
      element.dataset.shown = text;
      const row = (/** @type {any} */ one) => {
        const bar = html("i", { "aria-hidden": "true" });
        bar.style.width = `${100 * one.share}%`;
        return html("li", { class: `is-${one.kind}` }, html("span", { class: "residency-way" }, one.way), html("b", {}, one.seconds), html("span", {}, one.words), bar);
      };
      element.replaceChildren(html("p", { class: "residency-note" }, note), html("ul", {}, ...rows.map(row)));
    },
  };
}
