// @ts-check
// What a node's badge says of its weights: waits, reading, resident. Pure: a trace and what lies where in, node id → {text, kind} out.

import { formatPercent } from "./format.js";
import { short } from "./sentence.js";
import { say } from "./words.js";

const SAID_S = 0.1;
const WHOLE = 0.95; // of its bytes: a component is resident

/** @param {any} node */
const keysOf = (node) => [...(node.computes ?? []), ...(node.loads ?? [])];

/** @param {any} trace @param {any} memory @returns {Map<string, {text: string, kind: string}>} */
export function nodeStatuses(trace, memory) {
  const found = new Map();
  if (!trace) return found;
  const whole = new Set((memory?.components ?? []).filter((/** @type {any} */ one) => one.device_bytes >= WHOLE * one.size_bytes).map((/** @type {any} */ one) => one.key));
  const sizes = new Map(trace.components.map((/** @type {any} */ one) => [one.key, one.size_bytes]));
  const reading = new Map(trace.transfers.filter((/** @type {any} */ one) => one.tier === "host" && one.end_s === null && one.moved_bytes > 0).map((/** @type {any} */ one) => [one.component, one.present_bytes]));
  const coming = new Map((trace.ahead?.nodes ?? []).map((/** @type {any} */ node) => [String(node.node_id), node]));
  const all = [...trace.nodes, ...coming.values()];
  let sure = true; // behind a node of unknown length nobody can say how long the next one waits
  for (const [index, node] of all.entries()) {
    const id = String(node.node_id);
    const keys = keysOf(node);
    const key = keys.find((one) => reading.has(one));
    const ran = index < trace.nodes.length;
    if (ran && node.stall_s >= SAID_S) found.set(id, { kind: "waits", text: say(node.end_s === null ? "badge.waits" : "badge.waited", { time: short(node.stall_s) }) });
    else if (key && !ran) found.set(id, { kind: "reading", text: say("badge.reading", { share: formatPercent(reading.get(key), sizes.get(key)) }) });
    else if (!ran && sure && node.unknown !== "drive" && node.stall_s >= SAID_S) found.set(id, { kind: "waits", text: say("badge.will wait", { time: short(node.stall_s) }) });
    else if (keys.length && keys.every((one) => whole.has(one))) found.set(id, { kind: "resident", text: say("badge.resident") });
    sure &&= ran || !node.unknown;
  }
  return found;
}

/** The badge of the node that waits, {id, text, kind}; null when its wait is over. @param {any} told a message "residency.wait" */
export function waitStatus({ node_id, components, present_bytes, size_bytes, over }) {
  if (over) return null;
  const what = components.length > 1 ? say("list.more", { names: components[0], count: components.length - 1 }) : components[0];
  return { id: String(node_id), kind: "reading", text: say("badge.reading what", { share: formatPercent(present_bytes, size_bytes), what }) };
}
