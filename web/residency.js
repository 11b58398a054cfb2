// The pack's one script with side effects: registers the panel, the settings, the actions, the conversions and the badges.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { KEYS, createActions } from "./actions.js";
import { addBadge, redraw, showStatuses, showWait } from "./badge.js";
import { everyNode } from "./convert_graph.js";
import { conversions } from "./convert_menu.js";
import { waitStatus } from "./node_status.js";
import { createPanel, worksOf } from "./panel.js";
import { createSettings } from "./settings.js";
import { createStore } from "./store.js";
import { selectNode, titleOf } from "./titles.js";
import { createTopChip } from "./top_chip.js";
import { say, speak } from "./words.js";

const TAB = "residency";
const COMMAND = "Residency.ShowTimeline";

const refused = (detail) => app.extensionManager.toast.add({ severity: "error", summary: say("settings.refused"), detail, life: 10_000 });
const chip = createTopChip(
  (button) => app.registerExtension({ name: "residency.chip", actionBarButtons: [button] }),
  () => toggleTimeline(),
);
const store = createStore(api, {
  onMode: (mode) => settings.showMode(mode),
  onStatus: (status) => chip.show(worksOf(status)),
  titleOf: (node) => titleOf(app, LiteGraph.registered_node_types, node),
});
const settings = createSettings(api, () => app.extensionManager.setting, refused, () => store.refresh());
let panel = null;

const actions = createActions(app, api, {
  ask: store.ask,
  setMode: store.setMode,
  shown(text) {
    if (!panel?.element.isConnected) return false;
    panel.tell(text);
    return true;
  },
});

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
  speak(app.extensionManager.setting.get("Comfy.Locale"));
  panel = createPanel(store, {
    onNode: (node_id) => selectNode(app, node_id),
    onStatuses: (nodes) => redraw(app, showStatuses(nodes)),
    actions,
    workflow: async () => ({ nodes: everyNode(app), prompt: (await app.graphToPrompt()).output }),
    askText: async (path) => (await api.fetchApi(`/residency/${path}`)).text(),
  });
  place.style.height = "100%";
  place.replaceChildren(panel.element);
}

const toggleTimeline = () => app.extensionManager.bottomPanel.toggleBottomPanelTab(TAB);

function onWait({ detail }) {
  speak(app.extensionManager.setting.get("Comfy.Locale"));
  redraw(app, showWait(waitStatus(detail)));
}

app.registerExtension({
  name: "residency.panel",
  commands: [{ id: COMMAND, label: "Residency: show or hide the timeline", menubarLabel: "Residency Timeline", icon: "pi pi-chart-bar", function: toggleTimeline }],
  menuCommands: [{ path: ["View"], commands: [COMMAND] }],
  bottomPanelTabs: [{ id: TAB, title: "Residency", type: "custom", render: mount, destroy: unmount }],
  init() {
    addStyles();
    store.start(); // before the websocket opens: an event nobody has registered for is dropped
    api.addEventListener("residency.wait", onWait);
  },
  async setup() {
    speak(app.extensionManager.setting.get("Comfy.Locale"));
    await settings.start();
    store.look(); // for the chip
  },
  // what Vue follows while a prompt runs: which node does, and how far it is
  nodeCreated: (node) => addBadge(node, () => [app.runningNodeId, app.progress]),
});

app.registerExtension({ name: "residency.settings", settings: settings.settings });
app.registerExtension({ name: "residency.actions", ...actions.extension });
app.registerExtension({ name: "residency.convert", ...conversions(app) });
// each on its own: where another pack has taken a key, only that one is missing
for (const [commandId, key] of Object.entries({ [COMMAND]: "t", ...KEYS })) app.registerExtension({ name: `${commandId}.key`, keybindings: [{ commandId, combo: { key, shift: true } }] });
