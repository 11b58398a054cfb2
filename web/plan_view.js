// @ts-check
// "This workflow": what it needs, whether it fits, and which files are missing. Looked at when the tab is opened, not before.

import { html } from "./dom.js";
import { missingFiles, planOf } from "./plan.js";
import { say } from "./words.js";

/**
 * `workflow()` gives {nodes, prompt} of the open workflow; `ask(path, options)` answers with JSON.
 * @param {() => Promise<{nodes: any[], prompt: any}>} workflow @param {(path: string, options?: any) => Promise<any>} ask
 */
export function createPlan(workflow, ask) {
  const body = html("div", { class: "residency-plan" });
  const again = html("button", { type: "button", onclick: () => look() }, say("plan.look"));
  const element = html("section", { class: "residency-if" }, body, html("div", { class: "residency-buttons" }, again));
  let turn = 0;

  /** @param {any} one */
  function missing(one) {
    const found = html("li", { class: "is-missing" }, html("span", { class: "residency-way", title: one.name }, one.name));
    if (one.url) found.append(html("a", { href: one.url, target: "_blank", rel: "noopener noreferrer" }, say("plan.get", { host: one.host })));
    if (one.folder) found.append(html("span", {}, say("plan.goes", { folder: one.folder })));
    if (one.choices.length) {
      const choose = /** @type {HTMLSelectElement} */ (html("select", { "aria-label": `${say("plan.choose")}: ${one.name}` }, html("option", { value: "" }, say("plan.choose")), ...one.choices.map((/** @type {string} */ name) => html("option", { value: name }, name))));
      choose.addEventListener("change", () => {
        one.widget.value = choose.value;
        one.widget.callback?.(choose.value);
        one.node.setDirtyCanvas?.(true, true);
        look();
      });
      found.append(choose);
    }
    return found;
  }

  async function look() {
    const mine = (turn += 1);
    body.replaceChildren(html("p", { class: "residency-note" }, say("plan.looking")));
    const parts = [];
    try {
      const { nodes, prompt } = await workflow();
      const lost = missingFiles(nodes);
      if (lost.length) parts.push(html("p", { class: "residency-warning" }, say("plan.missing", { count: lost.length })), html("ul", {}, ...lost.map(missing)));
      const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ prompt }) };
      const [estimate, memory] = await Promise.all([Object.keys(prompt).length ? ask("estimate", options) : { components: {}, steps: [] }, ask("memory")]);
      const { verdict, time, rows } = planOf(estimate, memory);
      parts.push(html("p", {}, html("b", {}, verdict), ` ${time}`));
      parts.push(html("ul", {}, ...rows.map((row) => html("li", {}, html("span", { class: "residency-way", title: row.name }, row.name), html("b", {}, row.size), html("span", {}, row.where)))));
    } catch (error) {
      parts.push(html("p", { class: "residency-warning" }, say("do.failed", { why: /** @type {Error} */ (error).message })));
    }
    if (mine === turn) body.replaceChildren(...parts);
  }

  return { element, look };
}
