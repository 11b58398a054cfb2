// @ts-check
// A trace as the panel holds it: complete, with a title for each node, and carried on by what the server says is new. Pure.

/** @type {(node: any) => string} */
const className = ({ class_type }) => class_type;

const LISTS = ["components", "nodes", "transfers", "evictions", "decisions"];

/** A trace with every list and figure present, so that drawing never has to ask. @param {any} trace */
export function completeTrace(trace, titleOf = className) {
  const lists = { components: [], nodes: [], transfers: [], evictions: [], decisions: [] };
  const figures = { compute_s: 0, stall_s: 0, wait_s: 0, prefetched_bytes: 0, wasted_bytes: 0, evicted_bytes: 0, nodes: 0 };
  return { duration_s: 0, outcome: "running", ...lists, ...trace, nodes: titled(trace.nodes, titleOf), ahead: titledAhead(trace.ahead, titleOf), summary: { ...figures, ...trace.summary } };
}

/** @param {any[] | undefined} nodes @param {(node: any) => string} titleOf */
const titled = (nodes, titleOf) => (nodes ?? []).map((node) => ({ ...node, title: titleOf(node) }));

/** @param {any} ahead @param {(node: any) => string} titleOf */
const titledAhead = (ahead, titleOf) => (ahead ? { ...ahead, nodes: titled(ahead.nodes, titleOf) } : null);

/**
 * The trace with what is new, or null where that does not go on from what is known: then all of it has to be asked for. Decisions are
 * only the newest ones, so of them a gap is none. What has not changed stays the same object.
 * @param {any} trace @param {any} told
 */
export function extendedTrace(trace, told, titleOf = className) {
  const { open = {}, ahead, components: _components, nodes: _nodes, transfers: _transfers, evictions: _evictions, decisions: _decisions, ...head } = told;
  const lists = /** @type {Record<string, any[]>} */ ({});
  for (const name of LISTS) {
    const known = trace[name];
    const [first, more] = told[name];
    if (first > known.length && name !== "decisions") return null;
    const fresh = name === "nodes" ? titled(more, titleOf) : more;
    lists[name] = fresh.length === 0 ? known : [...known.slice(0, first), ...fresh];
  }
  const changed = Object.entries(open);
  if (changed.length) {
    const transfers = [...lists.transfers];
    for (const [index, record] of changed) transfers[Number(index)] = record;
    lists.transfers = transfers;
  }
  return { ...trace, ...head, ...lists, summary: { ...trace.summary, ...head.summary }, ahead: ahead === undefined ? trace.ahead : titledAhead(ahead, titleOf) };
}
