// @ts-check
// The doctor's text, asked when its tab is opened, and a button that copies it for a bug report.

import { html } from "./dom.js";
import { say } from "./words.js";

/** Puts text on the clipboard. Browsers keep the clipboard from pages without https on another machine: there a selection is copied. @param {string} text @param {HTMLElement} shown */
async function copy(text, shown) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const range = document.createRange();
  range.selectNodeContents(shown);
  const selection = /** @type {Selection} */ (window.getSelection());
  selection.removeAllRanges();
  selection.addRange(range);
  if (!document.execCommand("copy")) throw new Error("clipboard");
}

/** `askText()` gives the server's text. @param {() => Promise<string>} askText */
export function createDoctor(askText) {
  const text = html("pre", { class: "residency-doctor", tabindex: 0, "aria-label": say("tab.doctor") });
  const copied = html("span", { role: "status" });
  const button = html("button", { type: "button", onclick: () => copy(text.textContent ?? "", text).then(() => (copied.textContent = say("doctor.copied")), (error) => (copied.textContent = say("do.failed", { why: error.message }))) }, html("i", { class: "pi pi-copy", "aria-hidden": "true" }), say("doctor.copy"));
  const again = html("button", { type: "button", onclick: () => look() }, say("doctor.look"));
  const element = html("section", { class: "residency-if" }, html("p", { class: "residency-note" }, say("doctor.text")), text, html("div", { class: "residency-buttons" }, button, again, copied));

  async function look() {
    copied.textContent = "";
    try {
      text.textContent = await askText();
    } catch (error) {
      text.textContent = say("do.failed", { why: /** @type {Error} */ (error).message });
    }
  }

  return { element, look };
}
