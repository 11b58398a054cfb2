// Turning a node of ComfyUI's own into ours and back: what becomes of its saved form. Pure: saved nodes in, a saved node out.

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

/**
 * The saved form of `old` as a node of another class. `fresh` is the saved form of a new node of that class; `oldNames` and
 * `freshNames` are the names of the saved widgets, in order. Slots are found again by name, values too; what is new is at its default.
 *
 * Returns {node, slots, dropped}: the saved node, link id → its input's new index, and the names of linked inputs that are gone.
 */
export function convertedNode(old, oldNames, fresh, freshNames) {
  const values = namedValues(old, oldNames);
  const widgets_values = freshNames.map((name, index) => (name in values ? values[name] : fresh.widgets_values?.[index]));
  const before = new Map((old.inputs ?? []).map((input) => [input.name, input]));
  const inputs = (fresh.inputs ?? []).map((input) => ({ ...input, ...before.get(input.name) }));
  const outputs = (fresh.outputs ?? []).map((output, index) => ({ ...output, ...old.outputs?.[index] }));
  const kept = Object.entries(old.properties ?? {}).filter(([name]) => !IDENTITY.includes(name));
  const own = Object.entries(fresh.properties ?? {}).filter(([name]) => IDENTITY.includes(name));
  const node = {
    ...old,
    type: fresh.type,
    inputs,
    outputs,
    properties: Object.fromEntries([...kept, ...own]),
    widgets_values,
    widgets_values_named: Object.fromEntries(freshNames.map((name, index) => [name, widgets_values[index]])),
  };
  const slots = new Map(inputs.flatMap((input, index) => (input.link == null ? [] : [[input.link, index]])));
  const dropped = [...before.values()].filter((input) => input.link != null && !slots.has(input.link)).map((input) => input.name);
  return { node, slots, dropped };
}
