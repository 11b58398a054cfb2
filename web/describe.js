// What a bar, a mark or a decision means, in plain words. Pure: trace records in, {title, lines} of text out.

import { formatBytes, formatCount, formatPercent, formatRate, formatSeconds } from "./format.js";
import { say } from "./words.js";

const KINDS = { prefetch: "Read ahead", onload: "Bring over", exchange: "Exchange", evict: "Evict", wait: "Wait for", cancel: "Stop reading", keep: "Keep", "give up": "Give up" };
const STATES = { running: "moving now", done: "done", stopped: "stopped early" };
const TIERS = { disk: "disk", host: "host memory", device: "device memory" };
const OUTCOMES = { running: "running", success: "done", error: "failed", interrupted: "interrupted", abandoned: "left to ComfyUI" };
const NOTICED_S = 0.0005; // a shorter stall is only the measuring
const SAID_S = 0.01; // a shorter one is not worth a sentence
const LISTED = 6; // names a tooltip shows before it says how many more there are

export const kindWords = (kind) => KINDS[kind] ?? String(kind);
export const tierWords = (tier) => TIERS[tier] ?? String(tier);
export const outcomeWords = (outcome) => OUTCOMES[outcome] ?? String(outcome);

/** Component key → its name; the key itself where the trace does not know it. */
export function componentNames(trace) {
  const names = new Map(trace.components.map((component) => [component.key, component.name || component.key]));
  return (key) => names.get(key) ?? String(key);
}

/** Component key → who asked what for it, where a node or the workflow did; else "". Older traces do not say. */
export function askedOf(trace) {
  const words = ({ mode, strategy, priority, prefetch, keep, source }) => {
    const asked = [mode, strategy, priority && `priority ${priority}`, prefetch === false && "not read ahead", keep && "kept in RAM"].filter(Boolean);
    return asked.length && source ? `${asked.join(", ")} (${source})` : "";
  };
  const asked = new Map(trace.components.filter(({ policy }) => policy).map(({ key, policy }) => [key, words(policy)]));
  return (key) => asked.get(key) ?? "";
}

const titleOf = (node) => node.title ?? node.class_type;

const listed = (words) =>
  words.length <= LISTED
    ? words.join(", ")
    : `${words.slice(0, LISTED).join(", ")} and ${formatCount(words.length - LISTED, "more").replace(/s$/, "")}`;

const span = (start_s, end_s) => `${formatSeconds(start_s)} to ${formatSeconds(end_s)}`;

/** ", in 3 of 20 steps"; "" where the trace tells no steps, or none of them waited. */
function inSteps(node) {
  const steps = node.steps ?? []; // older traces have none
  const count = (of) => of.reduce((sum, [, , together]) => sum + together, 0);
  const waited = count(steps.filter(([, stall_s]) => stall_s >= NOTICED_S));
  return waited ? `, in ${waited} of ${formatCount(count(steps), "step")}` : "";
}

/** One sentence: how long nodes have waited for weights, and which of them longest. */
export function waitingWords(trace) {
  const waited = trace.nodes.filter((node) => node.stall_s >= SAID_S);
  const unsplit = trace.summary.unsplit_s >= SAID_S ? "a loader's waiting is not told on this system" : "";
  const unknown = [trace.stall_reason, unsplit].filter(Boolean).join("; "); // older traces have neither
  const known = unknown ? `, as far as it is measured (${unknown}).` : ".";
  if (waited.length === 0) return `No node waited for weights${known}`;
  const nameOf = componentNames(trace);
  const most = waited.reduce((a, b) => (b.stall_s > a.stall_s ? b : a));
  const names = [...new Set([...(most.computes ?? []), ...(most.loads ?? [])].map(nameOf))];
  const longest = `${titleOf(most)} #${most.node_id}${names.length ? ` (${listed(names)})` : ""}${inSteps(most)}`;
  const total_s = waited.reduce((sum, node) => sum + node.stall_s, 0);
  return waited.length === 1 ? `Waited ${formatSeconds(total_s)} for weights: ${longest}${known}` : `Waited ${formatSeconds(total_s)} for weights, of it ${formatSeconds(most.stall_s)} in ${longest}${known}`;
}

function describeNode(node, now_s, nameOf) {
  const end_s = node.end_s ?? now_s;
  const took_s = end_s - node.start_s;
  const lines = [`${formatSeconds(took_s)}${node.end_s == null ? " so far" : ""} (${span(node.start_s, end_s)})`];
  if (node.stall_s >= NOTICED_S) lines.push(`Waited for weights: ${formatSeconds(node.stall_s)} (${formatPercent(node.stall_s, took_s)})${inSteps(node)}`);
  if (node.unsplit_s >= NOTICED_S) lines.push(`Loading: ${formatSeconds(node.unsplit_s)}; this system does not tell waiting from unpacking`);
  if (node.own_s >= NOTICED_S) lines.push(`The pack itself: ${formatSeconds(node.own_s)}`);
  if (node.computes?.length) lines.push(`Computes with ${listed(node.computes.map(nameOf))}`);
  if (node.loads?.length) lines.push(`Loads ${listed(node.loads.map(nameOf))}`);
  if (titleOf(node) !== node.class_type) lines.push(node.class_type);
  return { title: `${titleOf(node)} #${node.node_id}`, lines };
}

function describeTransfer(transfer, now_s, nameOf, sizes, asked) {
  const end_s = transfer.end_s ?? now_s;
  const took_s = end_s - transfer.start_s;
  const size_bytes = sizes.get(transfer.component);
  const lines = [
    `To ${tierWords(transfer.tier)}: ${STATES[transfer.status] ?? transfer.status}`,
    `Moved ${formatBytes(transfer.moved_bytes)} in ${formatSeconds(took_s)}: ${formatRate(transfer.moved_bytes, took_s)}`,
    `There now: ${formatBytes(transfer.present_bytes)}${size_bytes ? ` of ${formatBytes(size_bytes)}` : ""}`,
    span(transfer.start_s, end_s),
  ];
  if (transfer.reason) lines.push(transfer.reason);
  if (asked(transfer.component)) lines.push(`Asked for: ${asked(transfer.component)}`);
  return { title: nameOf(transfer.component), lines };
}

function describeEviction(eviction, nameOf) {
  const lines = [`Evicted from ${tierWords(eviction.tier)} at ${formatSeconds(eviction.time_s)}: ${formatBytes(eviction.freed_bytes)} freed`];
  if (eviction.reason) lines.push(eviction.reason);
  return { title: nameOf(eviction.component), lines };
}

function describeAhead(node, now_s, nameOf) {
  const lines = [node.running ? say("ahead.runs") : say("ahead.begins", { in: formatSeconds(node.start_s - now_s) })];
  if (node.stall_s >= NOTICED_S) lines.push(say("ahead.waits", { time: formatSeconds(node.stall_s) }));
  lines.push(node.known ? say("ahead.ends", { in: formatSeconds(node.end_s - now_s) }) : say("ahead.unknown"));
  if (node.computes?.length) lines.push(`Computes with ${listed(node.computes.map(nameOf))}`);
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
  const sum = (of) => records.reduce((total, record) => total + (of(record) ?? 0), 0);
  if (item.kind === "eviction") {
    const lines = [`${formatBytes(sum((record) => record.freed_bytes))} freed`];
    return { title: formatCount(records.length, "eviction"), lines: [...lines, listed(records.map((record) => nameOf(record.component)))] };
  }
  const start_s = records[0].start_s;
  const end_s = records.reduce((last, record) => Math.max(last, record.end_s ?? now_s), start_s);
  if (item.kind === "ahead" || item.kind === "read") return { title: say("ahead.many", { count: records.length }), lines: [listed(records.map((record) => (item.kind === "read" ? nameOf(record.component) : titleOf(record))))] };
  if (item.kind === "transfer") {
    const lines = [`Moved ${formatBytes(sum((record) => record.moved_bytes))}`, span(start_s, end_s)];
    return { title: formatCount(records.length, "transfer"), lines: [...lines, listed(records.map((record) => nameOf(record.component)))] };
  }
  const stall_s = sum((record) => record.stall_s);
  const lines = [`${formatSeconds(end_s - start_s)} (${span(start_s, end_s)})`, "Zoom in to tell them apart"];
  if (stall_s >= NOTICED_S) lines.push(`Waited for weights: ${formatSeconds(stall_s)}`);
  return { title: formatCount(records.length, "node"), lines: [...lines, listed(records.map(titleOf))] };
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
  const where = decision.tier ? ` · ${decision.tier}` : "";
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
  const shares = [`Of that, computing: ${formatSeconds(summary.compute_s)}`];
  if (summary.own_s != null) shares.push(`the pack itself: ${formatSeconds(summary.own_s)}`); // older traces do not say
  if (summary.other_s != null) shares.push(`neither computing nor waiting, the pack's part included: ${formatSeconds(summary.other_s)}`);
  if (outcome_reason) shares.push(outcome_reason);
  return [
    { id: "time", label: "Time", value: outcome === "success" ? formatSeconds(duration_s) : `${formatSeconds(duration_s)} · ${outcomeWords(outcome)}`, title: shares.join("; ") },
    {
      id: "stall",
      label: "Stall",
      value: summary.stall_s >= NOTICED_S ? `${formatSeconds(summary.stall_s)} (${formatPercent(summary.stall_s, duration_s)})` : "none",
      title: `Time in which compute waited for weights. Nodes held for a running read-ahead: ${formatSeconds(summary.wait_s)}`,
    },
    { id: "ahead", label: "Read ahead", value: formatBytes(summary.prefetched_bytes), title: "Bytes moved before a node asked for them" },
    {
      id: "waste",
      label: "Wasted / evicted",
      value: `${formatBytes(summary.wasted_bytes)} / ${formatBytes(summary.evicted_bytes)}`,
      title: "Read ahead but not used in this prompt / given back to make room",
    },
  ];
}
