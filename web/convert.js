// Turning nodes of ComfyUI's own into ours and back: what becomes of their saved form. Pure: saved nodes and workflows in and out.

export const PREFIX = "Residency";

// ours without a twin: another pack may have a node called "Mode" or "Report"
const ALONE = new Set(["Mode", "Policy", "Keep", "Release", "Prefetch", "Report"].map((name) => PREFIX + name));

// what a node says about its own class, and must not take along into another one
const IDENTITY = ["Node name for S&R", "cnr_id", "aux_id", "ver"];

/** The class that a node of `type` converts to: {type, back}; null when there is none. `moduleOf(type)` is its Python module or undefined. */
export function twinOf(type, moduleOf) {
  if (typeof type !== "string" || ALONE.has(type)) return null;
  const back = type.startsWith(PREFIX) && isOurs(moduleOf(type), moduleOf);
  const twin = back ? type.slice(PREFIX.length) : PREFIX + type;
  const found = moduleOf(twin);
  if (back) return isCore(found) ? { type: twin, back } : null;
  return isCore(moduleOf(type)) && isOurs(found, moduleOf) ? { type: twin, back } : null;
}

const isCore = (module) => module === "nodes" || (module?.startsWith("comfy_extras.") ?? false);

/** A class of this pack: it comes from where the Residency Mode node comes from, whatever the folder is called. */
const isOurs = (module, moduleOf) => module !== undefined && module === moduleOf(`${PREFIX}Mode`);

/** Widget name → value, from a saved node; older front ends save the values without their names. */
function namedValues(saved, names) {
  if (saved.widgets_values_named) return saved.widgets_values_named;
  return Object.fromEntries(names.slice(0, saved.widgets_values?.length ?? 0).map((name, index) => [name, saved.widgets_values[index]]));
}

/** The input that a slot or widget belongs to: "images.image2" grew out of "images". */
const stem = (name) => name.split(".")[0];

/** The names of a node of the new class: in its order, and of an input that grows as many as the old node has. */
function grownNames(oldNames, freshNames) {
  const stems = [...new Set(freshNames.map(stem))];
  const members = (names, of) => names.filter((name) => stem(name) === of);
  return stems.flatMap((of) => (oldNames.some((name) => stem(name) === of) ? members(oldNames, of) : members(freshNames, of)));
}

/**
 * The saved form of `old` as a node of another class. `fresh` is the saved form of a new node of that class; `oldNames` and
 * `freshNames` are the names of the saved widgets, in order. Slots are found again by name, values too; what is new is at its default.
 *
 * Returns {node, slots, dropped}: the saved node, an input's old index → its new one, and the names of linked inputs that are gone.
 */
export function convertedNode(old, oldNames, fresh, freshNames) {
  const values = { ...namedValues(fresh, freshNames), ...namedValues(old, oldNames) };
  const names = grownNames(oldNames, freshNames);
  const before = new Map((old.inputs ?? []).map((input) => [input.name, input]));
  const made = new Map((fresh.inputs ?? []).map((input) => [input.name, input]));
  const inputs = grownNames([...before.keys()], [...made.keys()]).map((name) => ({ ...made.get(name), ...before.get(name) }));
  const outputs = (fresh.outputs ?? []).map((output, index) => ({ ...output, ...old.outputs?.[index] }));
  const kept = Object.entries(old.properties ?? {}).filter(([name]) => !IDENTITY.includes(name));
  const own = Object.entries(fresh.properties ?? {}).filter(([name]) => IDENTITY.includes(name));
  const node = {
    ...old,
    type: fresh.type,
    inputs,
    outputs,
    properties: Object.fromEntries([...kept, ...own]),
    widgets_values: names.map((name) => values[name]),
    widgets_values_named: Object.fromEntries(names.map((name) => [name, values[name]])),
  };
  const at = new Map(inputs.map((input, index) => [input.name, index]));
  const slots = new Map([...before.keys()].flatMap((name, index) => (at.has(name) ? [[index, at.get(name)]] : [])));
  const dropped = [...before.values()].filter((input) => input.link != null && !at.has(input.name)).map((input) => input.name);
  return { node, slots, dropped };
}

export const ROOT = "";

/** The graphs of a saved workflow: ROOT → itself, and the id of each subgraph → its definition. */
export const savedGraphs = (saved) => new Map([[ROOT, saved], ...(saved.definitions?.subgraphs ?? []).map((graph) => [graph.id, graph])]);

// a link is saved as a list in the root and as an object in a subgraph's definition
const targetOf = (link) => (Array.isArray(link) ? [link[3], link[4]] : [link.target_id, link.target_slot]);
const withSlot = (link, slot) => (Array.isArray(link) ? [...link.slice(0, 4), slot, ...link.slice(5)] : { ...link, target_slot: slot });

/** The saved workflow with other nodes. `plans`: ROOT or a subgraph's id → node id, as text → what `convertedNode` returned. */
export function convertedWorkflow(saved, plans) {
  const converted = (key, graph) => {
    const own = plans.get(key);
    if (!own) return graph;
    const moved = (link) => {
      const [node, slot] = targetOf(link);
      return withSlot(link, own.get(String(node))?.slots.get(slot) ?? slot);
    };
    const { nodes, links, floatingLinks } = graph;
    const others = { nodes: nodes.map((node) => own.get(String(node.id))?.node ?? node), links: links?.map(moved) };
    return { ...graph, ...others, ...(floatingLinks && { floatingLinks: floatingLinks.map(moved) }) };
  };
  const workflow = converted(ROOT, saved);
  const subgraphs = saved.definitions?.subgraphs?.map((graph) => converted(graph.id, graph));
  return subgraphs ? { ...workflow, definitions: { ...saved.definitions, subgraphs } } : workflow;
}

/** The saved workflow with nothing on its canvases: its graphs are there, and stay open where they are. */
export function emptied(saved) {
  const empty = (graph) => ({ ...graph, nodes: [], links: [], floatingLinks: [], reroutes: [], groups: [] });
  const unlinked = (slots) => slots?.map((slot) => ({ ...slot, linkIds: [] }));
  const subgraphs = saved.definitions?.subgraphs?.map((graph) => ({ ...empty(graph), inputs: unlinked(graph.inputs), outputs: unlinked(graph.outputs) }));
  const { linkExtensions, reroutes, ...extra } = saved.extra ?? {};
  return { ...empty(saved), extra, ...(subgraphs && { definitions: { ...saved.definitions, subgraphs } }) };
}

const linksOf = (graph) => (graph.links ?? []).map((link) => (Array.isArray(link) ? link.slice(0, 5) : [link.id, link.origin_id, link.origin_slot, ...targetOf(link)]).join(" ")).sort();

/**
 * Where the saved workflow `found` is not the one that was `wanted`, in words; null where it is. Compared are the classes of all nodes,
 * all links, and the values of the nodes in `plans`: places and sizes belong to the front end.
 */
export function difference(wanted, found, plans) {
  const there = savedGraphs(found);
  for (const [key, graph] of savedGraphs(wanted)) {
    const nodes = new Map((there.get(key)?.nodes ?? []).map((node) => [String(node.id), node]));
    for (const node of graph.nodes) {
      const other = nodes.get(String(node.id));
      if (other?.type !== node.type) return `node ${node.id} is ${other ? `a ${other.type}` : "missing"} and not a ${node.type}`;
      if (plans.get(key)?.has(String(node.id))) {
        const [asked, got] = [node, other].map((one) => JSON.stringify(one.widgets_values ?? []));
        if (asked !== got) return `node ${node.id} (${node.type}) has the values ${got} and not ${asked}`;
      }
    }
    if (nodes.size !== graph.nodes.length) return `there are ${nodes.size} nodes and not ${graph.nodes.length}`;
    if (linksOf(there.get(key)).join() !== linksOf(graph).join()) return "the links are not the same";
  }
  return null;
}
