// @ts-check
// What lies where, drawn: one stacked bar a memory. Redrawn only where something has changed.

import { html } from "./dom.js";
import { memoryBars } from "./memory_layout.js";

/** @param {(key: string) => string} colourOf */
export function createMemory(colourOf) {
  const element = html("div", { class: "residency-memory" });
  let drawn = "";

  /** @param {import("./memory_layout.js").Segment} segment */
  function part(segment) {
    const found = html("i", { class: `residency-part is-${segment.id}`, title: segment.title });
    found.style.flexGrow = String(segment.share);
    if (segment.key) found.style.setProperty("--residency-part", colourOf(segment.key));
    if (segment.share > 0.1) found.append(html("span", {}, segment.name));
    return found;
  }

  return {
    element,
    /** @param {any} memory */
    show(memory) {
      element.hidden = !memory;
      if (!memory) return;
      const bars = memoryBars(memory);
      const now = JSON.stringify(bars);
      if (now === drawn) return;
      drawn = now;
      element.replaceChildren(
        ...bars.map((bar) => {
          const stack = html("div", { class: "residency-stack", role: "img", "aria-label": [bar.said, ...bar.segments.map(({ title }) => title)].join(". ") }, ...bar.segments.map(part));
          return html("div", { class: "residency-store", title: bar.said }, html("span", {}, bar.name), stack);
        }),
      );
    },
  };
}
