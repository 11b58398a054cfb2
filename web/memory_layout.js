// @ts-check
// What lies where, as stacked bars: the answer of GET /residency/memory in, segments as shares of each memory out. Pure.

import { formatBytes, formatPercent } from "./format.js";
import { say } from "./words.js";

/**
 * @typedef {{id: string, key: string | null, name: string, size_bytes: number, share: number, title: string}} Segment
 * @typedef {{id: string, name: string, total_bytes: number, limit_share: number | null, said: string, segments: Segment[]}} Bar
 */

/** @param {any[]} parts @param {string} field @param {string} kind @param {number} total_bytes @returns {Segment[]} */
function weights(parts, field, kind, total_bytes) {
  return parts
    .filter((part) => part[field] > 0)
    .map((part) => {
      const title = say(`memory.${kind}`, { name: part.name, bytes: formatBytes(part[field]), whole: formatBytes(part.size_bytes) });
      return { id: kind, key: part.key, name: part.name, size_bytes: part[field], share: part[field] / total_bytes, title };
    });
}

/** @param {string} id @param {number} size_bytes @param {number} total_bytes @returns {Segment[]} */
function rest(id, size_bytes, total_bytes) {
  if (size_bytes <= 0) return [];
  const share = size_bytes / total_bytes;
  return [{ id, key: null, name: say(`memory.${id}`), size_bytes, share, title: `${say(`memory.${id}`)}: ${formatBytes(size_bytes)} (${formatPercent(size_bytes, total_bytes)})` }];
}

/** @param {Segment[]} segments */
const sum = (segments) => segments.reduce((all, segment) => all + segment.size_bytes, 0);

/** @param {string} id @param {number} total_bytes @param {Segment[]} mine @param {number} free_bytes @param {number | null} limit_bytes @returns {Bar} */
function bar(id, total_bytes, mine, free_bytes, limit_bytes) {
  const free = Math.max(0, Math.min(free_bytes, total_bytes - sum(mine)));
  const segments = [...mine, ...rest("other", total_bytes - sum(mine) - free, total_bytes), ...rest("free", free, total_bytes)];
  const name = say(`memory.${id} name`);
  const said = say("memory.said", { name, used: formatBytes(sum(mine)), free: formatBytes(free), total: formatBytes(total_bytes) });
  return { id, name, total_bytes, limit_share: limit_bytes === null ? null : Math.min(1, Math.max(0, limit_bytes / total_bytes)), said, segments };
}

/** The device where it has memory of its own, then RAM. @param {any} memory @returns {Bar[]} */
export function memoryBars(memory) {
  const parts = memory.components;
  const bars = [];
  if (memory.device) {
    const { total_bytes, limit_bytes, room_bytes } = memory.device;
    const mine = weights(parts, "device_bytes", "device", total_bytes);
    bars.push(bar("device", total_bytes, mine, room_bytes ?? (limit_bytes ?? total_bytes) - sum(mine), limit_bytes));
  }
  const { total_bytes, available_bytes } = memory.ram;
  const pinned = weights(parts, "pinned_bytes", "pinned", total_bytes);
  const cached = weights(parts, "cached_bytes", "cached", total_bytes);
  // the page cache counts as available, as the system itself has it
  bars.push(bar("ram", total_bytes, [...pinned, ...cached], available_bytes - sum(cached), null));
  return bars;
}
