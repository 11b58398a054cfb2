// What the user calls the nodes of a trace.

/**
 * The node's title in the open workflow, where that has such a node of such a class; else what its class is called for people. The id of a
 * node in subgraphs names each of them, outermost first.
 */
export function titleOf(app, types, { node_id, class_type }) {
  let node = null;
  let graph = app.rootGraph ?? app.graph;
  for (const id of String(node_id).split(":")) {
    node = graph?.getNodeById(id);
    graph = node?.subgraph;
  }
  const found = node?.comfyClass === class_type ? node.title : null;
  return found || types[class_type]?.title || class_type;
}
