// Badges: a memory setting that differs from the workflow's; what a node waits for; and, while a panel is open, how its weights are.
//
// The front end asks a badge for its text whenever it draws the node. The canvas is drawn again on request. Vue draws a node again when
// something reactive that the badge has read changes: which node runs, and how far it is. Between prompts nothing of that changes: a badge
// says there what it said last. (1.49.6 and 1.58.1 draw nothing anew for a node that says that its badges have changed.)

const SILENT = { memory_mode: "workflow", strategy: "auto" };

/** What the badge of a setting says: the settings that differ, or nothing. */
export function badgeText(widgets) {
  const told = (widgets ?? []).filter(({ name, value }) => name in SILENT && value !== SILENT[name]);
  return told.map(({ value }) => String(value)).join(" · ");
}

const COLOURS = { setting: "#3b5f8a", waits: "#8a4b00", reading: "#1e5fae", resident: "#1c6b43" }; // white text on each reaches 4.5:1

const NOTHING = { text: "", kind: "setting" };
const CHANGED = "node:property:changed";

let statuses = new Map(); // node id → {text, kind}, while a panel is open
let wait = null; // {id, text, kind} of the node that waits now

const said = (id) => (wait?.id === id ? wait : (statuses.get(id) ?? NOTHING));

/** Ids of nodes whose badge says something else than before `change`. */
function differing(change) {
  const ids = () => new Set([...statuses.keys(), ...(wait ? [wait.id] : [])]);
  const before = new Map([...ids()].map((id) => [id, said(id)]));
  change();
  const text = (one) => JSON.stringify(one ?? NOTHING);
  return [...new Set([...before.keys(), ...ids()])].filter((id) => text(before.get(id)) !== text(said(id)));
}

/** The weights of these nodes from now on, as node_status.js has found them; returns the ids whose badge has changed. */
export const showStatuses = (nodes) => differing(() => (statuses = nodes));

/** The node that waits now, {id, text, kind}, or null; returns the ids whose badge has changed. */
export const showWait = (one) => differing(() => (wait = one));

/** Has the front end draw these nodes of the graph again. */
export function redraw(app, ids) {
  if (ids.length === 0) return;
  const graph = app.rootGraph ?? app.graph;
  for (const id of ids) {
    const node = graph?.getNodeById(id);
    if (node?.badges) graph.trigger?.(CHANGED, { type: CHANGED, nodeId: node.id, property: "badges", oldValue: node.badges, newValue: node.badges });
  }
  app.canvas?.setDirty(true, true);
}

/** A badge that asks `told()` for {text, kind} whenever it is drawn. */
function badge(told) {
  let shown = new LGraphBadge({ text: "" });
  return () => {
    const { text, kind } = told();
    if (shown.text !== text) shown = new LGraphBadge({ text, fgColor: "#fff", bgColor: COLOURS[kind] });
    return shown;
  };
}

/** Gives a node the badge of its memory setting, where it has one, and that of its weights. `reads()` reads what changes while prompts run. */
export function addBadge(node, reads = () => {}) {
  if (!window.LGraphBadge) return;
  if (node.widgets?.some(({ name }) => name in SILENT)) node.badges.push(badge(() => ({ text: badgeText(node.widgets), kind: "setting" })));
  // a node in a subgraph has another id in a prompt, and another graph
  node.badges.push(badge(() => (reads(), node.graph?.isRootGraph === false ? NOTHING : said(String(node.id)))));
}
