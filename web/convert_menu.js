// "Convert to Residency" and back, in the node's menu, on the selection and for the whole workflow: one undo step each.

import { convertedNode, twinOf } from "./convert.js";

const TO = "Convert to Residency";
const BACK = "Convert back to ComfyUI's own";

export const COMMANDS = { selection: "Residency.ConvertSelection", back: "Residency.ConvertSelectionBack", all: "Residency.ConvertAll", allBack: "Residency.ConvertAllBack" };

const moduleOf = (type) => LiteGraph.registered_node_types[type]?.nodeData?.python_module;

const twin = (node) => (node?.graph ? twinOf(node.type, moduleOf) : null);

const savedNames = (node) => (node.widgets ?? []).filter((widget) => widget.serialize !== false).map((widget) => widget.name);

const WIDTH = "residency width"; // a property of a converted node: its width before it grew

/**
 * Puts a node of another class in the place of `node`: the same id, so that links, reroutes, groups, promoted widgets and what the canvas
 * knows of its place go on being its own. Returns the new node; null when the class cannot be made.
 */
function replace(node, type) {
  const { graph } = node;
  const fresh = LiteGraph.createNode(type);
  if (!fresh) return null;
  const plan = convertedNode(node.serialize(), savedNames(node), fresh.serialize(), savedNames(fresh));
  for (const name of plan.dropped) node.disconnectInput(node.inputs.findIndex((input) => input.name === name));
  node.onRemoved?.();
  fresh.id = node.id;
  fresh.pos = [...node.pos];
  fresh.size = [...node.size];
  graph._nodes[graph._nodes.indexOf(node)] = fresh;
  graph._nodes_by_id[node.id] = fresh;
  fresh.graph = graph;
  for (const widget of fresh.widgets ?? []) widget.setNodeId?.(fresh.id);
  fresh.onAdded?.(graph);
  fresh.configure(plan.node);
  const tight = node.size[1] <= node.computeSize()[1]; // a node as small as its rows stays so, in both directions
  const [width, height] = fresh.computeSize();
  const wanted = fresh.properties?.[WIDTH] ?? node.size[0]; // a node that had to grow has its width back when it is converted back
  delete fresh.properties?.[WIDTH];
  if (width > wanted) fresh.properties = { ...fresh.properties, [WIDTH]: wanted };
  fresh.setSize([Math.max(wanted, width), tight ? height : Math.max(node.size[1], height)]);
  for (const [link, slot] of plan.slots) graph.getLink(link).target_slot = slot;
  node.graph = null;
  if (LiteGraph.vueNodesMode) {
    // Vue keeps the component, and with it the badges and the class, of a node that goes and comes under one id in the same turn
    graph.onNodeRemoved?.(node);
    setTimeout(() => graph._nodes_by_id[fresh.id] === fresh && graph.onNodeAdded?.(fresh));
  } else graph.onNodeAdded?.(fresh);
  return fresh;
}

/** Converts the nodes that have a twin in that direction, as one undo step; returns how many. */
function convert(app, nodes, back) {
  const wanted = nodes.map((node) => [node, twin(node)]).filter(([, found]) => found?.back === back);
  if (wanted.length === 0) return 0;
  const { canvas } = app;
  canvas.emitBeforeChange();
  try {
    for (const [node, { type }] of wanted) {
      const selected = canvas.selectedItems?.has(node) ?? false;
      if (selected) canvas.deselect(node);
      const fresh = replace(node, type);
      if (selected) canvas.select(fresh ?? node);
    }
    for (const graph of new Set(wanted.map(([node]) => node.graph).filter(Boolean))) graph.updateExecutionOrder();
  } finally {
    canvas.setDirty(true, true);
    canvas.emitAfterChange();
  }
  return wanted.length;
}

const selectionOf = (app) => Object.values(app.canvas.selected_nodes ?? {});

function everyNode(app) {
  const root = app.rootGraph ?? app.graph;
  return [root, ...(root.subgraphs?.values() ?? [])].flatMap((graph) => [...graph.nodes]);
}

function tell(app, count, back) {
  const detail = count ? `${count} ${count === 1 ? "node" : "nodes"} converted` : "No node here has a twin to convert to";
  app.extensionManager.toast.add({ severity: count ? "success" : "info", summary: back ? BACK : TO, detail, life: 3000 });
}

/** What the extension registers: commands, menu entries and the hooks of the node's menu and the selection's toolbox. */
export function conversions(app) {
  const command = (id, label, icon, nodes, back) => ({ id, label, menubarLabel: label.replace("Residency: c", "C"), icon, function: () => tell(app, convert(app, nodes(app), back), back) });
  return {
    commands: [
      command(COMMANDS.selection, "Residency: convert selection to Residency", "pi pi-arrow-right-arrow-left", selectionOf, false),
      command(COMMANDS.back, "Residency: convert selection back", "pi pi-undo", selectionOf, true),
      command(COMMANDS.all, "Residency: convert all nodes to Residency", "pi pi-arrow-right-arrow-left", everyNode, false),
      command(COMMANDS.allBack, "Residency: convert all nodes back", "pi pi-undo", everyNode, true),
    ],
    menuCommands: [{ path: ["Edit"], commands: [COMMANDS.all, COMMANDS.allBack] }],
    getNodeMenuItems(node) {
      const found = twin(node);
      if (!found) return [];
      const selected = selectionOf(app);
      const nodes = selected.includes(node) ? selected : [node];
      return [{ content: found.back ? BACK : TO, callback: () => convert(app, nodes, found.back) }];
    },
    getSelectionToolboxCommands(item) {
      const found = item?.type ? twin(item) : null;
      return found ? [found.back ? COMMANDS.back : COMMANDS.selection] : [];
    },
  };
}
