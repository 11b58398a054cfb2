// @ts-check
// What the open workflow needs and whether it fits: the answer of POST /residency/estimate and what lies where in, sentences and rows out. Pure.

import { formatBytes, formatPercent } from "./format.js";
import { short } from "./sentence.js";
import { say } from "./words.js";

const WEIGHTS = /\.(safetensors|sft|ckpt|pt|pth|bin|gguf|onnx)$/i;

/**
 * Weights that the open workflow names and ComfyUI does not offer: {node, widget, name, choices, url, host, folder}; url and folder are the
 * workflow's own word, empty where it says nothing. @param {any[]} nodes of the open workflow
 */
export function missingFiles(nodes) {
  return nodes.flatMap((node) =>
    (node.widgets ?? [])
      .filter((/** @type {any} */ { value, options }) => typeof value === "string" && WEIGHTS.test(value) && Array.isArray(options?.values) && !options.values.includes(value))
      .map((/** @type {any} */ widget) => {
        const told = (node.properties?.models ?? []).find((/** @type {any} */ one) => one?.name === widget.value) ?? {};
        const url = webAddress(told.url);
        return { node, widget, name: widget.value, choices: widget.options.values.filter((/** @type {any} */ one) => WEIGHTS.test(String(one))), url: url?.href ?? "", host: url?.host ?? "", folder: String(told.directory ?? "") };
      }),
  );
}

/** @param {unknown} text @returns {URL | null} */
function webAddress(text) {
  try {
    const found = new URL(String(text));
    return ["https:", "http:"].includes(found.protocol) ? found : null;
  } catch {
    return null;
  }
}

/** @param {any} one */
function where(one) {
  const held = Math.max(one.pinned_bytes ?? 0, one.cached_bytes ?? 0);
  if ((one.device_bytes ?? 0) >= 0.95 * one.size_bytes) return say("plan.on device");
  if (held >= 0.95 * one.size_bytes) return say("plan.in RAM");
  return held > 0.05 * one.size_bytes ? say("plan.partly", { share: formatPercent(held, one.size_bytes) }) : say("plan.on drive");
}

const TOLD_S = 0.1; // less is no least time worth a word

/** {verdict, time, rows: [{name, size, where}]}. @param {any} estimate @param {any} memory the answer of GET /residency/memory */
export function planOf(estimate, memory) {
  const parts = /** @type {any[]} */ (Object.values(estimate.components));
  if (parts.length === 0) return { verdict: say("plan.empty"), time: "", rows: [] };
  const sizes = new Map(Object.entries(estimate.components).map(([key, one]) => [key, /** @type {any} */ (one).size_bytes]));
  const all_bytes = parts.reduce((sum, one) => sum + one.size_bytes, 0);
  const needs = estimate.steps.map((/** @type {any} */ step) => step.components.reduce((/** @type {number} */ sum, /** @type {string} */ key) => sum + (sizes.get(key) ?? 0), 0));
  const most_bytes = Math.max(0, ...needs);
  const limit_bytes = memory?.device ? (memory.device.limit_bytes ?? memory.device.total_bytes) : null;
  const fit = limit_bytes === null ? "shared" : most_bytes > limit_bytes ? "over" : all_bytes > limit_bytes ? "tight" : "fits";
  const limit = formatBytes(limit_bytes ?? memory?.ram.available_bytes);
  const verdict = say(`plan.${fit}`, { bytes: formatBytes(all_bytes), most: formatBytes(most_bytes), limit });
  const known = !estimate.compute_unknown_nodes ? "plan.time" : estimate.total_s < TOLD_S ? "plan.time unknown" : "plan.time partly";
  const time = say(known, { time: short(estimate.total_s), wait: short(estimate.stall_s) });
  const rows = [...parts].sort((a, b) => b.size_bytes - a.size_bytes).map((one) => ({ name: one.name, size: formatBytes(one.size_bytes), where: where(one) }));
  return { verdict, time, rows };
}
