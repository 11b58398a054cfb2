// The "why" list: what was decided and the reason, newest last.

import { askedOf, componentNames, describeDecision } from "./describe.js";
import { html } from "./dom.js";
import { colourIndex, colourOf } from "./timeline_layout.js";
import { say } from "./words.js";

const SETTLED_MS = 300; // messages come each 100 ms

// 10,000 rows would cost more to lay out than the prompt's timeline; while each message moves all of them, 200 do
const SHOWN = 200;
const SHOWN_RUNNING = 50;

export function createDecisions() {
  const list = html("ol", { class: "residency-decisions", tabindex: 0, "aria-label": say("why.list") });
  const omitted = html("div", { class: "residency-omitted" });
  const element = html("section", { class: "residency-why", "aria-label": say("tab.why") }, omitted, list);
  let shown = { prompt_id: null, count: 0, first: "", most: 0 };
  let follows = false; // the newest one is kept in sight

  const isAtEnd = () => list.scrollHeight - list.scrollTop - list.clientHeight < 24;

  let frame = 0;
  let settling = null;

  /** The end of the list in the next frame, where the page is laid out anyhow: at once that was 0.84 of what a message took. */
  function toEnd() {
    frame ||= requestAnimationFrame(follow);
  }

  function follow() {
    frame = 0;
    if (!follows) return; // another prompt is on show since
    list.scrollTop = list.scrollHeight;
    clearTimeout(settling);
    settling = setTimeout(settle, SETTLED_MS);
  }

  /** Room behind the end, so that the first row in sight is a whole one. */
  function settle() {
    if (!follows || !list.firstElementChild) return;
    list.style.paddingBottom = "0";
    const over = list.scrollHeight - list.clientHeight;
    const tops = [...list.children].map((row) => row.offsetTop - list.firstElementChild.offsetTop);
    list.style.paddingBottom = `${Math.max(0, (tops.find((top) => top >= over) ?? over) - over)}px`;
    list.scrollTop = list.scrollHeight;
  }

  list.addEventListener("scroll", () => (follows &&= isAtEnd()));
  new ResizeObserver(() => follows && toEnd()).observe(list);

  function rowOf(decision, nameOf, colours, asked) {
    const { time, action, name, detail, reason } = describeDecision(decision, nameOf);
    const head = html("div", { class: "residency-decision" }, html("time", {}, time));
    head.append(html("span", { class: `residency-kind is-${decision.kind}` }, action));
    if (name) {
      const chip = html("i", { class: "residency-chip", "aria-hidden": "true" });
      chip.style.background = colourOf(colours, decision.component);
      head.append(chip, html("span", { class: "residency-name", title: name }, name));
    }
    if (detail) head.append(html("span", { class: "residency-detail" }, detail));
    const words = [reason, decision.component && asked(decision.component) && say("why.asked", { what: asked(decision.component) })].filter(Boolean).join(" · ");
    return html("li", {}, head, ...(words ? [html("div", { class: "residency-reason" }, words)] : []));
  }

  return {
    element,
    show(trace) {
      const { prompt_id, decisions } = trace;
      // a message carries only the newest ones: past so many their number stays the same, and the first is another one
      const first = JSON.stringify(decisions[0] ?? "");
      const most = trace.outcome === "running" ? SHOWN_RUNNING : SHOWN;
      const grown = prompt_id === shown.prompt_id && most === shown.most && decisions.length >= shown.count && (first === shown.first || shown.count === 0);
      if (grown && decisions.length === shown.count) return;
      const another = prompt_id !== shown.prompt_id;
      if (another) follows = trace.outcome === "running";
      else follows ||= grown && isAtEnd();
      const nameOf = componentNames(trace);
      const colours = colourIndex(trace);
      const asked = askedOf(trace);
      if (!grown || shown.count === 0) list.replaceChildren();
      const from = Math.max(grown ? shown.count : 0, decisions.length - most);
      list.append(...decisions.slice(from).map((decision) => rowOf(decision, nameOf, colours, asked)));
      while (list.childElementCount > most) list.firstElementChild.remove();
      const hidden = decisions.length - list.childElementCount;
      omitted.textContent = hidden > 0 ? say("why.earlier", { count: hidden }) : "";
      if (decisions.length === 0) list.replaceChildren(html("li", { class: "residency-note" }, say("why.none")));
      shown = { prompt_id, count: decisions.length, first, most };
      if (follows) toEnd();
      else if (another) list.scrollTop = 0;
    },
  };
}
