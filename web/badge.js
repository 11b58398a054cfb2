// Badges: a memory setting that differs from the workflow's, and, while a panel is open, how a node's weights are. The front end asks for it whenever it draws, in both renderers.

const SILENT = { memory_mode: "workflow", strategy: "auto" };

/** What the badge of a setting says: the settings that differ, or nothing. */
export function badgeText(widgets) {
  const told = (widgets ?? []).filter(({ name, value }) => name in SILENT && value !== SILENT[name]);
  return told.map(({ value }) => String(value)).join(" · ");
}

const COLOURS = { setting: "#3b5f8a", waits: "#8a4b00", reading: "#1e5fae", resident: "#1c6b43" }; // white text on each reaches 4.5:1

const NOTHING = { text: "", kind: "setting" };

let statuses = new Map(); // node id → {text, kind}, while a panel is open

/** What the badges say from now on; true where that is something else. `nodes`: what node_status.js has found. Vue draws them with the node. */
export function showStatuses(nodes) {
  const told = (of) => JSON.stringify([...of]);
  const same = told(nodes) === told(statuses);
  statuses = nodes;
  return !same;
}

/** A node in a subgraph has another id in a prompt, and another graph. */
function weightsBadge(node) {
  return badge(() => (node.graph?.isRootGraph === false ? NOTHING : (statuses.get(String(node.id)) ?? NOTHING)));
}

/** A badge that asks `said()` for {text, kind} whenever it is drawn. */
function badge(said) {
  let shown = new LGraphBadge({ text: "" });
  return () => {
    const { text, kind } = said();
    if (shown.text !== text) shown = new LGraphBadge({ text, fgColor: "#fff", bgColor: COLOURS[kind] });
    return shown;
  };
}

/** Gives a node the badge of its memory setting, where it has one, and that of its weights. */
export function addBadge(node) {
  if (!window.LGraphBadge) return;
  if (node.widgets?.some(({ name }) => name in SILENT)) node.badges.push(badge(() => ({ text: badgeText(node.widgets), kind: "setting" })));
  node.badges.push(weightsBadge(node));
}
