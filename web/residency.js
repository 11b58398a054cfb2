// The pack's one script with side effects: registers the panel, the settings, the conversions and the badges.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { addBadge, showStatuses } from "./badge.js";
import { conversions } from "./convert_menu.js";
import { createPanel } from "./panel.js";
import { createSettings } from "./settings.js";
import { createStore } from "./store.js";
import { selectNode, titleOf } from "./titles.js";

const TAB = "residency";
const COMMAND = "Residency.ShowTimeline";

const refused = (detail) => app.extensionManager.toast.add({ severity: "error", summary: "Residency: the setting was not taken", detail, life: 10_000 });
const store = createStore(api, { onMode: (mode) => settings.showMode(mode), titleOf: (node) => titleOf(app, LiteGraph.registered_node_types, node) });
const settings = createSettings(api, () => app.extensionManager.setting, refused, () => store.refresh());
let panel = null;

function addStyles() {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = new URL("./residency.css", import.meta.url).href;
  document.head.append(link);
}

function onStatuses(nodes) {
  if (showStatuses(nodes)) app.canvas?.setDirty(true, true);
}

function unmount() {
  panel?.destroy();
  panel = null;
}

/** ComfyUI calls this again on every redraw of the bottom panel, with the same element. */
function mount(place) {
  if (panel?.element.parentElement === place) return;
  unmount();
  panel = createPanel(store, { onNode: (node_id) => selectNode(app, node_id), onStatuses });
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
  setup: () => settings.start(),
  nodeCreated: addBadge,
});

app.registerExtension({ name: "residency.settings", settings: settings.settings });
app.registerExtension({ name: "residency.convert", ...conversions(app) });
