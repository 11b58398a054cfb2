// The pack's one script with side effects: registers the panel, its command and its place in the menu.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { createPanel } from "./panel.js";
import { createStore } from "./store.js";

const TAB = "residency";
const COMMAND = "Residency.ShowTimeline";

const store = createStore(api);
let panel = null;

function addStyles() {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = new URL("./residency.css", import.meta.url).href;
  document.head.append(link);
}

function unmount() {
  panel?.destroy();
  panel = null;
}

/** ComfyUI calls this again on every redraw of the bottom panel, with the same element. */
function mount(place) {
  if (panel?.element.parentElement === place) return;
  unmount();
  panel = createPanel(store);
  place.style.height = "100%";
  place.replaceChildren(panel.element);
}

function showTimeline() {
  const { bottomPanel } = app.extensionManager;
  if (!panel?.element.isConnected) bottomPanel.toggleBottomPanelTab(TAB);
}

app.registerExtension({
  name: "residency.panel",
  commands: [{ id: COMMAND, label: "Residency: show timeline", menubarLabel: "Residency Timeline", icon: "pi pi-chart-bar", function: showTimeline }],
  menuCommands: [{ path: ["View"], commands: [COMMAND] }],
  bottomPanelTabs: [{ id: TAB, title: "Residency", type: "custom", render: mount, destroy: unmount }],
  init() {
    addStyles();
    store.start(); // before the websocket opens: an event nobody has registered for is dropped
  },
});
