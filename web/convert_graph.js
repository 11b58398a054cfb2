// Exchanges nodes of the open workflow for their twins; everything else stays, and one undo takes it back.
//
// A front end keeps nodes, links and widget values in stores of its own, of which an extension may know nothing. So nothing is exchanged in
// the open graph: the workflow is saved, converted in its saved form, and loaded in place of itself, as undo does it. The result is saved
// again and compared with what was asked for; where that differs, the workflow as it was is loaded again.

import { convertedNode, convertedWorkflow, difference, emptied, PREFIX, ROOT, savedGraphs, twinOf } from "./convert.js";

const moduleOf = (type) => LiteGraph.registered_node_types[type]?.nodeData?.python_module;

/** What a node of the open workflow converts to, as `twinOf` says it. */
export const twin = (node) => (node?.graph ? twinOf(node.type, moduleOf) : null);

const rootOf = (app) => app.rootGraph ?? app.graph;

const graphsOf = (root) => [root, ...(root.subgraphs?.values() ?? [])];

const keyOf = (graph, root) => (graph === root ? ROOT : graph.id);

const copied = (value) => JSON.parse(JSON.stringify(value));

/** The workflow as its file would have it, and the definitions of subgraphs as well that no node uses: a file has none of those, but here
 *  the workflow goes and comes, and they would be gone with it. */
function saved(root) {
  const workflow = copied(root.serialize());
  const used = new Set(workflow.definitions?.subgraphs?.map((graph) => graph.id));
  const unused = [...(root.subgraphs?.values() ?? [])].filter((graph) => !used.has(graph.id)).map((graph) => copied(graph.asSerialisable()));
  if (unused.length === 0) return workflow;
  return { ...workflow, definitions: { ...workflow.definitions, subgraphs: [...(workflow.definitions?.subgraphs ?? []), ...unused] } };
}

const savedNames = (node) => (node.widgets ?? []).filter((widget) => widget.serialize !== false).map((widget) => widget.name);

const WIDTH = "residency width"; // a property of a converted node: its width before it grew

/** What a conversion does to one node: {node, slots, dropped} of `convertedNode`, and the size that the node should have. */
function planned(node, type) {
  const fresh = LiteGraph.createNode(type);
  const plan = convertedNode(copied(node.serialize()), savedNames(node), copied(fresh.serialize()), savedNames(fresh));
  const width = plan.node.properties[WIDTH] ?? node.size[0]; // a node that had to grow has its width back when it is converted back
  delete plan.node.properties[WIDTH];
  return { ...plan, width, tight: node.size[1] <= node.computeSize()[1] }; // a node as small as its rows stays so, in both directions
}

function fit(node, { width, tight }) {
  const [least, rows] = node.computeSize();
  if (least > width) node.properties = { ...node.properties, [WIDTH]: width };
  const height = LiteGraph.vueNodesMode ? Math.min(rows, node.size[1]) : rows; // Vue lets a node grow, and hides some of the rows
  node.setSize([Math.max(width, least), tight ? height : Math.max(node.size[1], height)]);
}

/** The lists of what can be selected, in the same order for each graph. */
const selectable = (graph) => [graph.nodes, graph.groups, [...(graph.reroutes?.values() ?? [])]];

/** Remembers what is selected; returns what selects the same again, once the graph has been loaded anew. */
function keptSelection(canvas) {
  const kept = [...(canvas.selectedItems ?? [])].map((item) => [selectable(canvas.graph).findIndex((list) => list.includes(item)), String(item.id)]);
  return () => {
    const lists = selectable(canvas.graph);
    for (const [list, id] of kept) {
      const item = lists[list]?.find((one) => String(one.id) === id);
      if (item) canvas.select(item);
    }
  };
}

/** Calls a hook of all extensions, as the front end does for a workflow that it has loaded. */
async function invoke(app, hook, ...values) {
  for (const extension of app.extensions ?? []) {
    try {
      await extension[hook]?.(...values, app);
    } catch (error) {
      console.error(`Residency: ${hook} of ${extension.name} failed after a conversion`, error);
    }
  }
}

/** Vue keeps the component of a node that goes and comes under one id in one turn, with the old node's badges: all go for a turn. */
function takeOut(app, workflow) {
  rootOf(app).configure(structuredClone(emptied(workflow)));
}

/** Loads a workflow in place of the open one. */
async function load(app, workflow) {
  takeOut(app, workflow);
  await null;
  rootOf(app).configure(structuredClone(workflow));
}

/** Converts [node, class] pairs; returns what was wrong with the result, in words, or null. */
async function exchange(app, wanted) {
  const root = rootOf(app);
  const plans = new Map();
  for (const [node, type] of wanted) {
    const plan = planned(node, type);
    for (const name of plan.dropped) node.disconnectInput(node.inputs.findIndex((input) => input.name === name));
    const key = keyOf(node.graph, root);
    plans.set(key, (plans.get(key) ?? new Map()).set(String(node.id), plan));
  }
  const workflow = convertedWorkflow(saved(root), plans);
  await load(app, workflow);
  for (const graph of graphsOf(root)) {
    for (const [id, plan] of plans.get(keyOf(graph, root)) ?? []) {
      const node = graph.getNodeById(id);
      if (node?.comfyClass !== plan.node.type) return `node ${id} would run as a ${node?.comfyClass} and not a ${plan.node.type}`;
      fit(node, plan);
    }
  }
  return difference(workflow, saved(root), plans);
}

/** What a step returns, or its failure in words. */
async function attempt(step) {
  try {
    return await step();
  } catch (error) {
    console.error(error);
    return String(error);
  }
}

/**
 * Converts the nodes that have a twin in that direction, as one undo step.
 *
 * Returns {count, fault, lost}: how many there are; why they were not converted; what is not as it was although they were not.
 */
export async function convert(app, nodes, back) {
  const wanted = nodes.map((node) => [node, twin(node)]).filter(([, found]) => found?.back === back).map(([node, { type }]) => [node, type]);
  if (wanted.length === 0) return { count: 0 };
  const { canvas } = app;
  const before = saved(rootOf(app));
  const select = keptSelection(canvas);
  let fault, lost;
  canvas.emitBeforeChange();
  try {
    fault = await attempt(() => exchange(app, wanted));
    if (fault) lost = await attempt(() => load(app, before).then(() => difference(before, saved(rootOf(app)), new Map())));
    for (const node of everyNode(app)) await invoke(app, "loadedGraphNode", node);
    await invoke(app, "afterConfigureGraph", []);
    app.nodeOutputs = { ...app.nodeOutputs }; // shown again on the new nodes, pictures and texts
    select();
  } finally {
    canvas.setDirty(true, true);
    canvas.emitAfterChange();
  }
  return { count: wanted.length, fault, lost };
}

const ours = (type) => type !== undefined && moduleOf(type) === moduleOf(`${PREFIX}Mode`);

/** Whether a node of ours is in the open workflow or in the one to be loaded, and one of the same id in the other: as in undo and redo. */
function sharesOurs(app, workflow) {
  const root = rootOf(app);
  const incoming = savedGraphs(workflow);
  return graphsOf(root).some((graph) => {
    const types = new Map(incoming.get(keyOf(graph, root))?.nodes?.map((node) => [String(node.id), node.type]));
    return graph.nodes.some((node) => types.has(String(node.id)) && [node.type, types.get(String(node.id))].some(ours));
  });
}

/** The hook before any workflow is loaded, a turn before it is: else Vue would draw our badges as they were. */
export function beforeLoad(app, workflow) {
  if (LiteGraph.vueNodesMode && sharesOurs(app, workflow)) takeOut(app, workflow);
}

/** Every node of the open workflow, in subgraphs too. */
export const everyNode = (app) => graphsOf(rootOf(app)).flatMap((graph) => [...graph.nodes]);
