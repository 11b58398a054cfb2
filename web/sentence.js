// @ts-check
// What a prompt was like, in one sentence; and why it waited, in another. Pure: a trace and its assessment in, text out.

import { componentNames, outcomeWords } from "./describe.js";
import { formatBytes, formatRate, formatSeconds } from "./format.js";
import { say } from "./words.js";

const SAID_S = 0.1; // a shorter wait is not worth a word
const HARDLY_S = 0.0005; // as little as the figures show
const SAME = 0.03; // of the time: a smaller difference is none
const WORTH = { share: 0.1, seconds: 0.5 }; // of what an advice must save
const SURE = 0.3; // of the time left: where what is known leaves more open than this, both ends are said
const FREE = 0.8; // a mode costs nothing: it is advised for this share of what the best change saves

/** Seconds for a sentence: 41 s, 3.4 s, 0.52 s. @param {number} time_s */
export function short(time_s) {
  if (time_s < 0.95 || time_s >= 99.5) return formatSeconds(time_s);
  return `${time_s < 9.95 ? time_s.toFixed(1) : Math.round(time_s)} s`;
}

/** @param {number} low_s @param {number} high_s @param {(low: string, high: string) => string} between */
function range(low_s, high_s, between) {
  const [low, high] = [short(low_s), short(high_s)];
  const alike = /^[\d.]+ s$/.test(high); // else the unit of the one is not that of the other: 22 s to 1 min 45 s
  return low === high ? low : between(alike ? low.replace(/ s$/, "") : low, high);
}

/** "; ComfyUI alone about 65 s: 24 s saved". @param {any} trace @param {any} assessment */
function aloneWords(trace, assessment) {
  if (!assessment) return "";
  if (!assessment.alone) return say("alone.unknown", { why: say(`unknown.${assessment.unknown}`) });
  const { low_s, high_s } = assessment.alone;
  const took_s = trace.duration_s;
  const sure = say(`sure.${assessment.alone.sure}`);
  const near_s = Math.max(SAME * took_s, 0.05);
  if (Math.abs(low_s - took_s) <= near_s && Math.abs(high_s - took_s) <= near_s) return say("alone.same", { sure });
  const alone = range(low_s, high_s, (low, high) => say("range", { low, high }));
  if (high_s <= took_s) return say("alone.lost", { sure, alone, lost: range(took_s - high_s, took_s - low_s, (low, high) => say("range", { low, high })) });
  const saved = low_s - took_s <= near_s && high_s - low_s > near_s ? say("range.up to", { high: short(high_s - took_s) }) : range(low_s - took_s, high_s - took_s, (low, high) => say("range", { low, high }));
  return say("alone.saved", { sure, alone, saved });
}

/**
 * For which weights nodes waited longest and what gave them: {stall_s, most_s, name, cause: drive | link | null, size_bytes, bytes_per_s}; null
 * where none waited. @param {any} trace
 */
export function longestWait(trace) {
  const waited = trace.nodes.filter((/** @type {any} */ node) => node.stall_s >= SAID_S);
  if (waited.length === 0) return null;
  const most = waited.reduce((/** @type {any} */ a, /** @type {any} */ b) => (b.stall_s > a.stall_s ? b : a));
  const stall_s = waited.reduce((/** @type {number} */ sum, /** @type {any} */ node) => sum + node.stall_s, 0);
  const keys = [...new Set([...(most.computes ?? []), ...(most.loads ?? [])])];
  const nameOf = componentNames(trace);
  const end_s = most.end_s ?? trace.duration_s;
  /** @param {string} tier */
  const came = (tier) => {
    const during = trace.transfers.filter((/** @type {any} */ one) => one.tier === tier && keys.includes(one.component) && one.start_s < end_s && (one.end_s ?? trace.duration_s) > most.start_s);
    const size_bytes = during.reduce((/** @type {number} */ sum, /** @type {any} */ one) => sum + one.moved_bytes, 0);
    const time_s = during.reduce((/** @type {number} */ sum, /** @type {any} */ one) => sum + (one.end_s ?? trace.duration_s) - one.start_s, 0);
    return { size_bytes, bytes_per_s: time_s > 0 ? size_bytes / time_s : 0, time_s };
  };
  const [drive, link] = [came("host"), came("device")];
  const found = { stall_s, most_s: most.stall_s, node: most, name: keys.map(nameOf).join(say("list.join")) || (most.title ?? most.class_type), several: waited.length > 1 };
  // what took longer is what was waited for
  if (drive.size_bytes > 0 && drive.time_s >= link.time_s) return { ...found, cause: "drive", ...drive };
  if (link.size_bytes > 0) return { ...found, cause: "link", ...link };
  return { ...found, cause: null, size_bytes: 0, bytes_per_s: 0 };
}

/** @param {any} trace */
function waitWords(trace) {
  const wait = longestWait(trace);
  if (!wait) {
    const stall_s = trace.nodes.reduce((/** @type {number} */ sum, /** @type {any} */ node) => sum + node.stall_s, 0);
    if (stall_s >= HARDLY_S) return say("waited.hardly", { time: short(stall_s) }); // the figures and the stripes show it
    return trace.stall_reason || trace.summary.unsplit_s > 0 ? "" : say("waited.none");
  }
  const because = wait.cause && wait.bytes_per_s > 0 ? say(`because.${wait.cause}`, { rate: formatRate(wait.bytes_per_s, 1) }) : "";
  return say(wait.several && wait.most_s < 0.95 * wait.stall_s ? "waited.more" : "waited", { time: short(wait.stall_s), what: wait.name }) + because;
}

/** "Ends in about 12 s." or, where earlier runs or steps differ, "Ends in 10 to 18 s." @param {any} ahead @param {number} now_s */
function leftWords(ahead, now_s) {
  const [low_s, about_s, high_s] = [ahead.low_s, ahead.end_s, ahead.high_s].map((end_s) => Math.max(0, end_s - now_s));
  if (high_s - low_s <= Math.max(SURE * about_s, SAID_S)) return say("ahead.left", { in: short(about_s) });
  return say("ahead.left between", { range: range(low_s, high_s, (low, high) => say("range", { low, high })) });
}

/** While it runs: when it will end, what is read next, how long it will still wait. @param {any} trace */
export function aheadWords({ ahead, duration_s, ...trace }) {
  if (!ahead || ahead.nodes.length === 0) return "";
  const unknown = ahead.nodes.find((/** @type {any} */ node) => node.unknown);
  const said = [unknown ? say(`left.${unknown.unknown}`, { what: unknown.title ?? unknown.class_type }) : leftWords(ahead, duration_s)];
  const next = ahead.reads.find((/** @type {any} */ read) => read.end_s > duration_s);
  if (next) said.push(say("ahead.next", { what: componentNames(/** @type {any} */ (trace))(next.component), bytes: formatBytes(next.size_bytes) }));
  const wait_s = ahead.nodes.reduce((/** @type {number} */ sum, /** @type {any} */ node) => sum + node.stall_s, 0);
  if (!unknown && wait_s >= SAID_S) said.push(say("ahead.wait", { time: short(wait_s) }));
  return said.join(say("sentence.next"));
}

/** The sentence on top. @param {any} trace @param {any} assessment */
export function sentenceOf(trace, assessment) {
  if (trace.outcome === "running") return aheadWords(trace);
  if (trace.outcome !== "success") return say("failed", { time: short(trace.duration_s), outcome: outcomeWords(trace.outcome) });
  return [short(trace.duration_s), aloneWords(trace, assessment), waitWords(trace)].filter(Boolean).join(say("sentence.join")) + say("sentence.end");
}

/** "with 64 GB of RAM" @param {any} variant */
export function wayOf({ what, to }) {
  const value = what === "drive" ? `${to / 1e9} GB/s` : typeof to === "number" ? `${to / 2 ** 30} GB` : to; // as their boxes have it
  return say(`way.${what}`, { to: value });
}

/** The change that helps most, or null where none is worth it. @param {any} assessment */
export function adviceOf(assessment) {
  const saving = (/** @type {any} */ one) => one.instead_s - one.seconds;
  const worth = (assessment?.what_if ?? []).filter((/** @type {any} */ one) => one.what !== "alone" && saving(one) >= Math.max(WORTH.share * one.instead_s, WORTH.seconds));
  if (worth.length === 0) return null;
  const best = worth.reduce((/** @type {any} */ a, /** @type {any} */ b) => (saving(b) > saving(a) ? b : a));
  return worth.find((/** @type {any} */ one) => one.what === "mode" && saving(one) >= FREE * saving(best)) ?? best;
}

/** Why the prompt waited, and the one thing that would change it most; "" where it hardly did. @param {any} trace @param {any} assessment */
export function whyWaiting(trace, assessment) {
  const wait = trace.outcome === "running" ? null : longestWait(trace);
  if (!wait || wait.stall_s < Math.max(0.5, 0.05 * trace.duration_s)) return "";
  const values = { time: short(wait.stall_s), bytes: formatBytes(wait.size_bytes), what: wait.name, rate: formatRate(wait.bytes_per_s, 1) };
  const cause = wait.cause ? say(`stalled.${wait.cause}`, values) : "";
  const best = adviceOf(assessment);
  if (!best) return cause;
  const way = wayOf(best);
  const then = say(assessment.again ? "then.again" : "then.once");
  const advice = say("advice", { way: way[0].toUpperCase() + way.slice(1), then, seconds: short(best.seconds), instead: short(best.instead_s) });
  return [cause, advice].filter(Boolean).join(say("sentence.next"));
}
