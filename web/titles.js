// What the user calls the nodes of a trace.

/** The node of the open workflow, or null. The id of a node in subgraphs names each of them, outermost first. */
export function nodeAt(app, node_id) {
  let node = null;
  let graph = app.rootGraph ?? app.graph;
  for (const id of String(node_id).split(":")) {
    node = graph?.getNodeById(id) ?? null;
    graph = node?.subgraph;
  }
  return node;
}

/** Selects the node and brings it into view; one in a subgraph that is not open selects the subgraph that holds it. */
export function selectNode(app, node_id) {
  const { canvas } = app;
  const [outermost] = String(node_id).split(":");
  const inside = nodeAt(app, node_id);
  const node = inside?.graph === canvas.graph ? inside : nodeAt(app, outermost);
  if (!node || node.graph !== canvas.graph) return;
  canvas.deselectAll();
  canvas.select(node);
  canvas.centerOnNode(node);
}

/**
 * The node's title in the open workflow, where that has such a node of such a class; else what its class is called for people. The id of a
 * node in subgraphs names each of them, outermost first.
 */
export function titleOf(app, types, { node_id, class_type }) {
  const node = nodeAt(app, node_id);
  const found = node?.comfyClass === class_type ? node.title : null;
  return found || types[class_type]?.title || class_type;
}
