// @ts-check
// The panel's sentences, one table for all of them: {name} is filled in. Pure.

/** @type {Record<string, string>} */
export const WORDS = {
  "alone.saved": "ComfyUI alone {sure} {alone}: {saved} saved",
  "alone.lost": "ComfyUI alone {sure} {alone}: {lost} lost",
  "alone.same": "ComfyUI alone {sure} as long",
  "alone.unknown": "what ComfyUI alone would take is not known: {why}",
  "sure.about": "about",
  "sure.roughly": "roughly",
  "range": "{low} to {high}",
  "range.up to": "up to {high}",
  "unknown.failed": "the prompt did not end well",
  "unknown.old": "an older version recorded it",
  "unknown.long": "it has too many nodes to be simulated",
  "unknown.waiting": "this system does not tell how long nodes waited",
  "unknown.cache": "this system does not tell what lay in RAM",
  "unknown.drive": "the drive has not been measured yet",
  "unknown.link": "the link to the device has not been measured yet",
  "unknown.model": "a simulation of this run is too far from what it took",
  "waited.none": "no node waited for weights",
  "waited": "waited {time} for {what}",
  "waited.more": "waited {time}, most of it for {what}",
  "because.drive": "because the drive gives {rate}",
  "because.link": "because the link to the device gives {rate}",
  "failed": "{time}, then {outcome}",
  "how": "Simulated from this run's own bytes, rates and compute times, from the same start. ComfyUI's own reader is taken to be as fast as the read-ahead at best, and at 0.6 of it at worst, as on a host where that was measured.",
  "stalled.drive": "Most of the {time} were the drive: {bytes} of {what} came at {rate}.",
  "stalled.link": "Most of the {time} were the link to the device: {bytes} of {what} crossed at {rate}.",
  "advice": "{way}: {then} {seconds} instead of {instead}.",
  "then.again": "about",
  "then.once": "this prompt about",
  "way.alone": "ComfyUI alone",
  "way.ram": "with {to} of RAM",
  "way.vram": "with {to} of VRAM",
  "way.drive": "with a drive of {to}",
  "way.mode": "in mode {to}",
};

/** The sentence `id` with its blanks filled in. @param {string} id @param {Record<string, unknown>} [values] */
export function say(id, values = {}) {
  const words = WORDS[id];
  if (words === undefined) throw new Error(`no words for ${id}`);
  return words.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}
