// What a bar, a mark or a decision means, in plain words. Pure: trace records in, {title, lines} of text out.

import { formatBytes, formatPercent, formatRate, formatSeconds } from "./format.js";
import { say } from "./words.js";

const KINDS = new Set(["prefetch", "onload", "exchange", "evict", "wait", "cancel", "keep", "give up"]);
const STATES = new Set(["announced", "running", "done", "stopped"]);
const TIERS = new Set(["disk", "host", "device"]);
const OUTCOMES = new Set(["running", "success", "error", "interrupted", "abandoned"]);
export const NOTICED_S = 0.0005; // a shorter stall is only the measuring
const SAID_S = 0.01; // a shorter one is not worth a sentence
const LISTED = 6; // names a tooltip shows before it says how many more there are

const worded = (known, of, value) => (known.has(value) ? say(`${of}.${value}`) : String(value)); // a newer server may say more
export const kindWords = (kind) => worded(KINDS, "kind", kind);
export const tierWords = (tier) => worded(TIERS, "tier", tier);
export const outcomeWords = (outcome) => worded(OUTCOMES, "outcome", outcome);
const stateWords = (state) => worded(STATES, "state", state);

/** Component key → its name; the key itself where the trace does not know it. */
export function componentNames(trace) {
  const names = new Map(trace.components.map((component) => [component.key, component.name || component.key]));
  return (key) => names.get(key) ?? String(key);
}

/** Component key → who asked what for it, where a node or the workflow did; else "". Older traces do not say. */
export function askedOf(trace) {
  const words = ({ mode, strategy, priority, prefetch, keep, source }) => {
    const asked = [mode, strategy, priority && say("asked.priority", { number: priority }), prefetch === false && say("asked.not ahead"), keep && say("asked.keep")].filter(Boolean);
    return asked.length && source ? `${asked.join(say("list.join"))} (${source})` : "";
  };
  const asked = new Map(trace.components.filter(({ policy }) => policy).map(({ key, policy }) => [key, words(policy)]));
  return (key) => asked.get(key) ?? "";
}

const titleOf = (node) => node.title ?? node.class_type;

function listed(words) {
  const names = words.slice(0, LISTED).join(say("list.join"));
  return words.length <= LISTED ? names : say("list.more", { names, count: words.length - LISTED });
}

const span = (start_s, end_s) => say("span", { from: formatSeconds(start_s), to: formatSeconds(end_s) });

/** ", in 3 of 20 steps"; "" where the trace tells no steps, or none of them waited. */
function inSteps(node) {
  const steps = node.steps ?? []; // older traces have none
  const count = (of) => of.reduce((sum, [, , together]) => sum + together, 0);
  const waited = count(steps.filter(([, stall_s]) => stall_s >= NOTICED_S));
  return waited ? say("steps", { some: waited, all: count(steps) }) : "";
}

/** One sentence: how long nodes have waited for weights, and which of them longest. */
export function waitingWords(trace) {
  const waited = trace.nodes.filter((node) => node.stall_s >= SAID_S);
  const unsplit = trace.summary.unsplit_s >= SAID_S ? say("waiting.unsplit") : "";
  const why = [trace.stall_reason, unsplit].filter(Boolean).join("; "); // older traces have neither
  const known = why ? say("waiting.known", { why }) : say("waiting.end");
  if (waited.length === 0) return say("waiting.none") + known;
  const nameOf = componentNames(trace);
  const most = waited.reduce((a, b) => (b.stall_s > a.stall_s ? b : a));
  const names = [...new Set([...(most.computes ?? []), ...(most.loads ?? [])].map(nameOf))];
  const longest = `${titleOf(most)} #${most.node_id}${names.length ? ` (${listed(names)})` : ""}${inSteps(most)}`;
  const time = formatSeconds(waited.reduce((sum, node) => sum + node.stall_s, 0));
  return (waited.length === 1 ? say("waiting.one", { time, longest }) : say("waiting.many", { time, most: formatSeconds(most.stall_s), longest })) + known;
}

function describeNode(node, now_s, nameOf) {
  const end_s = node.end_s ?? now_s;
  const took_s = end_s - node.start_s;
  const lines = [say(node.end_s == null ? "node.so far" : "node.took", { time: formatSeconds(took_s), span: span(node.start_s, end_s) })];
  if (node.stall_s >= NOTICED_S) lines.push(say("node.waited", { time: formatSeconds(node.stall_s), share: formatPercent(node.stall_s, took_s), steps: inSteps(node) }));
  if (node.unsplit_s >= NOTICED_S) lines.push(say("node.unsplit", { time: formatSeconds(node.unsplit_s) }));
  if (node.own_s >= NOTICED_S) lines.push(say("node.own", { time: formatSeconds(node.own_s) }));
  if (node.computes?.length) lines.push(say("node.computes", { names: listed(node.computes.map(nameOf)) }));
  if (node.loads?.length) lines.push(say("node.loads", { names: listed(node.loads.map(nameOf)) }));
  if (titleOf(node) !== node.class_type) lines.push(node.class_type);
  return { title: `${titleOf(node)} #${node.node_id}`, lines };
}

function describeTransfer(transfer, now_s, nameOf, sizes, asked) {
  const end_s = transfer.end_s ?? now_s;
  const took_s = end_s - transfer.start_s;
  const size_bytes = sizes.get(transfer.component);
  const bytes = formatBytes(transfer.present_bytes);
  const lines = [
    say("transfer.to", { tier: tierWords(transfer.tier), state: stateWords(transfer.status) }),
    say("transfer.moved", { bytes: formatBytes(transfer.moved_bytes), time: formatSeconds(took_s), rate: formatRate(transfer.moved_bytes, took_s) }),
    size_bytes ? say("transfer.of", { bytes, whole: formatBytes(size_bytes) }) : say("transfer.there", { bytes }),
    span(transfer.start_s, end_s),
  ];
  if (transfer.reason) lines.push(transfer.reason);
  if (asked(transfer.component)) lines.push(say("asked", { what: asked(transfer.component) }));
  return { title: nameOf(transfer.component), lines };
}

function describeEviction(eviction, nameOf) {
  const lines = [say("eviction", { tier: tierWords(eviction.tier), at: formatSeconds(eviction.time_s), bytes: formatBytes(eviction.freed_bytes) })];
  if (eviction.reason) lines.push(eviction.reason);
  return { title: nameOf(eviction.component), lines };
}

function describeAhead(node, now_s, nameOf) {
  const lines = [node.running ? say("ahead.runs") : say("ahead.begins", { in: formatSeconds(node.start_s - now_s) })];
  if (node.stall_s >= NOTICED_S) lines.push(say("ahead.waits", { time: formatSeconds(node.stall_s) }));
  lines.push(node.unknown ? say(`length.${node.unknown}`) : say("ahead.ends", { in: formatSeconds(node.end_s - now_s) }));
  if (node.computes?.length) lines.push(say("node.computes", { names: listed(node.computes.map(nameOf)) }));
  return { title: `${titleOf(node)} #${node.node_id}`, lines };
}

function describeRead(read, now_s, nameOf) {
  const lines = [say("ahead.reads", { bytes: formatBytes(read.size_bytes), in: formatSeconds(read.start_s - now_s) })];
  const late_s = read.end_s - read.needed_s;
  lines.push(late_s >= NOTICED_S ? say("ahead.late", { time: formatSeconds(late_s) }) : say("ahead.early", { time: formatSeconds(-late_s) }));
  return { title: nameOf(read.component), lines };
}

function describeMany(item, now_s, nameOf) {
  const { records } = item;
  const count = records.length;
  const sum = (of) => records.reduce((total, record) => total + (of(record) ?? 0), 0);
  if (item.kind === "eviction") {
    const lines = [say("many.freed", { bytes: formatBytes(sum((record) => record.freed_bytes)) })];
    return { title: say("many.evictions", { count }), lines: [...lines, listed(records.map((record) => nameOf(record.component)))] };
  }
  const start_s = records[0].start_s;
  const end_s = records.reduce((last, record) => Math.max(last, record.end_s ?? now_s), start_s);
  if (item.kind === "ahead" || item.kind === "read") return { title: say("ahead.many", { count }), lines: [listed(records.map((record) => (item.kind === "read" ? nameOf(record.component) : titleOf(record))))] };
  if (item.kind === "transfer") {
    const lines = [say("many.moved", { bytes: formatBytes(sum((record) => record.moved_bytes)) }), span(start_s, end_s)];
    return { title: say("many.transfers", { count }), lines: [...lines, listed(records.map((record) => nameOf(record.component)))] };
  }
  const stall_s = sum((record) => record.stall_s);
  const lines = [say("node.took", { time: formatSeconds(end_s - start_s), span: span(start_s, end_s) }), say("many.zoom")];
  if (stall_s >= NOTICED_S) lines.push(say("many.waited", { time: formatSeconds(stall_s) }));
  return { title: say("many.nodes", { count }), lines: [...lines, listed(records.map(titleOf))] };
}

/** The words for one item of the layout: {title, lines}. */
export function describeItem(item, trace) {
  const now_s = trace.duration_s;
  const nameOf = componentNames(trace);
  if (item.records.length > 1) return describeMany(item, now_s, nameOf);
  const [record] = item.records;
  if (item.kind === "node") return describeNode(record, now_s, nameOf);
  if (item.kind === "eviction") return describeEviction(record, nameOf);
  if (item.kind === "ahead") return describeAhead(record, now_s, nameOf);
  if (item.kind === "read") return describeRead(record, now_s, nameOf);
  const sizes = new Map(trace.components.map((component) => [component.key, component.size_bytes]));
  return describeTransfer(record, now_s, nameOf, sizes, askedOf(trace));
}

/** One row of the "why" list: {time, action, name, detail, reason}. */
export function describeDecision(decision, nameOf) {
  const where = decision.tier ? ` · ${worded(TIERS, "tier", decision.tier)}` : "";
  return {
    time: formatSeconds(decision.time_s),
    action: kindWords(decision.kind),
    name: decision.component ? nameOf(decision.component) : "",
    detail: decision.size_bytes > 0 ? `${formatBytes(decision.size_bytes)}${where}` : where.slice(3),
    reason: decision.reason ?? "",
  };
}

/** The figures of the header: [{id, label, value, title}]. */
export function describeSummary(trace) {
  const { summary, duration_s, outcome, outcome_reason } = trace;
  const shares = [say("figure.compute", { time: formatSeconds(summary.compute_s) })];
  if (summary.own_s != null) shares.push(say("figure.own", { time: formatSeconds(summary.own_s) })); // older traces do not say
  if (summary.other_s != null) shares.push(say("figure.other", { time: formatSeconds(summary.other_s) }));
  if (outcome_reason) shares.push(outcome_reason);
  const stalled = summary.stall_s >= NOTICED_S;
  const figures = [
    { id: "time", label: say("figure.time"), value: outcome === "success" ? formatSeconds(duration_s) : `${formatSeconds(duration_s)} · ${outcomeWords(outcome)}`, title: shares.join("; ") },
    {
      id: "stall",
      label: say("figure.stall"),
      value: stalled ? `${formatSeconds(summary.stall_s)} (${formatPercent(summary.stall_s, duration_s)})` : say("figure.none"),
      title: say("figure.stall title", { time: formatSeconds(summary.wait_s) }),
      alarming: stalled,
    },
  ];
  const bytes = [["ahead", summary.prefetched_bytes], ["waste", summary.wasted_bytes], ["evicted", summary.evicted_bytes]];
  // a figure of nothing only takes room
  return [...figures, ...bytes.filter(([, size_bytes]) => size_bytes > 0).map(([id, size_bytes]) => ({ id, label: say(`figure.${id}`), value: formatBytes(size_bytes), title: say(`figure.${id} title`) }))];
}
