// @ts-check
// The last prompts, and each compared with the one on show: seconds, waiting, bytes read. A click shows it.

import { outcomeWords } from "./describe.js";
import { html } from "./dom.js";
import { formatBytes } from "./format.js";
import { short } from "./sentence.js";
import { say } from "./words.js";

const LISTED = 20;
const SAME_S = 0.05;

/** @param {number} mine @param {number} other */
function against(mine, other) {
  const change = other - mine;
  if (Math.abs(change) < SAME_S) return "";
  return say(change < 0 ? "if.less" : "if.more", { by: short(Math.abs(change)) });
}

/** Rows, newest first: {prompt_id, at, took, waited, read, outcome, than, shown}. @param {any[]} traces @param {any} trace */
export function promptRows(traces, trace) {
  return traces.slice(0, LISTED).map((one) => {
    const shown = one.prompt_id === trace?.prompt_id;
    return {
      prompt_id: one.prompt_id,
      at: new Date(one.started_unix_s * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" }),
      took: one.outcome === "success" ? short(one.duration_s) : outcomeWords(one.outcome),
      waited: one.summary.stall_s >= SAME_S ? say("prompts.waited", { time: short(one.summary.stall_s) }) : "",
      read: one.summary.read_bytes > 0 ? say("prompts.read", { bytes: formatBytes(one.summary.read_bytes) }) : "",
      mode: one.mode,
      than: shown ? say("prompts.shown") : one.outcome === "success" && trace?.outcome === "success" ? against(trace.duration_s, one.duration_s) : "",
      shown,
    };
  });
}

/** @param {(prompt_id: string) => void} select */
export function createPrompts(select) {
  const list = html("ol", { class: "residency-prompts", "aria-label": say("tab.prompts") });
  const empty = html("p", { class: "residency-note" }, say("prompts.none"));
  const element = html("section", { class: "residency-if" }, empty, list);
  let drawn = "";
  let of = /** @type {any[]} */ ([]);
  return {
    element,
    /** @param {any[]} traces @param {any} trace */
    show(traces, trace) {
      const what = [traces, trace.prompt_id, trace.outcome]; // a running prompt is in no row yet, or has no time in it
      if (what.every((one, index) => one === of[index])) return;
      of = what;
      const rows = promptRows(traces, trace);
      const now = JSON.stringify(rows);
      if (now === drawn) return;
      drawn = now;
      empty.hidden = rows.length > 0;
      const held = list.contains(document.activeElement) ? [...list.querySelectorAll("button")].indexOf(/** @type {any} */ (document.activeElement)) : -1;
      list.replaceChildren(
        ...rows.map((row) => {
          const cells = [row.at, row.took, row.than, [row.waited, row.read].filter(Boolean).join(" · "), row.mode].map((text) => html("span", {}, text));
          return html("li", {}, html("button", { type: "button", "aria-pressed": String(row.shown), onclick: () => select(row.prompt_id) }, ...cells));
        }),
      );
      if (held >= 0) list.querySelectorAll("button")[held]?.focus();
    },
  };
}
