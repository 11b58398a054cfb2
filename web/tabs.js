// @ts-check
// Tabs as the ARIA practices have them: left and right move between them, one panel is on show.

import { html } from "./dom.js";

/** `opened()` is called each time that its tab is chosen. @param {{id: string, name: string, panel: HTMLElement, opened?: () => void}[]} tabs @param {string} label */
export function createTabs(tabs, label) {
  const buttons = tabs.map(({ id, name }) => html("button", { type: "button", role: "tab", id: `residency-tab-${id}`, "aria-controls": `residency-panel-${id}` }, name));
  const bar = html("div", { role: "tablist", class: "residency-tabs", "aria-label": label }, ...buttons);
  const panels = tabs.map(({ id, panel }) => html("div", { role: "tabpanel", id: `residency-panel-${id}`, "aria-labelledby": `residency-tab-${id}`, class: "residency-tabpanel" }, panel));

  let shown = -1;
  let byHand = false; // what somebody has chosen stays

  /** @param {number} chosen */
  function choose(chosen) {
    shown = chosen;
    tabs[chosen].opened?.();
    buttons.forEach((button, index) => {
      button.setAttribute("aria-selected", String(index === chosen));
      button.tabIndex = index === chosen ? 0 : -1;
      panels[index].hidden = index !== chosen;
    });
  }

  buttons.forEach((button, index) => {
    button.addEventListener("click", () => {
      byHand = true;
      choose(index);
    });
    button.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      const next = (index + step + buttons.length) % buttons.length;
      byHand = true;
      choose(next);
      buttons[next].focus();
    });
  });
  choose(0);
  const indexOf = (/** @type {string} */ id) => tabs.findIndex((tab) => tab.id === id);
  return {
    /** @param {string} id */
    choose(id) {
      byHand = true;
      choose(indexOf(id));
    },
    /** Shows it unless somebody has chosen another one. @param {string} id */
    suggest(id) {
      if (!byHand && shown !== indexOf(id)) choose(indexOf(id));
    },
    element: html("div", { class: "residency-side-panel" }, bar, ...panels),
  };
}
