// @ts-check
// The chip in ComfyUI's top bar: how much of the pack works here, in a word; a click opens the panel.
//
// The front end makes the button of an extension's `actionBarButtons` when the extension is registered, and asks its label again only when
// it makes the bar anew. So the first status registers it, and later ones write into the button that is there.

import { say } from "./words.js";

const CLASS = "residency-top";

/** `register(button)` puts it into the bar, `open()` is the click. @param {(button: any) => void} register @param {() => void} open */
export function createTopChip(register, open) {
  /** @type {{id: string, reason: string} | null} */
  let works = null;
  let registered = false;

  const label = () => say("chip", { works: say(`works.${works?.id}`) });
  const tooltip = () => say("chip.title", { words: works?.reason ?? "" });

  const button = {
    icon: "pi pi-circle-fill",
    get label() {
      return label();
    },
    get tooltip() {
      return tooltip();
    },
    get class() {
      return `${CLASS} is-${works?.id}`;
    },
    onClick: open,
  };

  return {
    /** @param {{id: string, reason: string} | null} found as worksOf of panel.js gives it; null where the server does not say */
    show(found) {
      if (!found || (works?.id === found.id && works.reason === found.reason)) return;
      const before = works;
      works = found;
      if (!registered) {
        registered = true;
        register(button);
        return;
      }
      for (const element of document.querySelectorAll(`.${CLASS}`)) {
        element.classList.replace(`is-${before?.id}`, `is-${works.id}`);
        element.setAttribute("aria-label", tooltip());
        const text = element.querySelector("span"); // none in a narrow window
        if (text) text.textContent = label();
      }
    },
  };
}
