// @ts-check
// Reading what the open workflow needs before its first run: POST /residency/warm, then how far it is. Pure but for the timer.

import { formatBytes, formatPercent } from "./format.js";
import { say } from "./words.js";

const LOOK_MS = 500;

/** The state of `warming` in words, and whether it goes on. @param {any} warming */
export function warmingWords({ state, reason, asked_bytes, present_bytes, left_out_bytes }) {
  const [bytes, left] = [formatBytes(asked_bytes), formatBytes(left_out_bytes)];
  if (state === "waiting") return { text: say("warm.waiting"), runs: true };
  if (state === "reading") return { text: say("warm.reading", { share: formatPercent(present_bytes ?? 0, asked_bytes), bytes }), runs: true };
  if (state === "stopped") return { text: say("warm.stopped", { why: reason }), runs: false };
  return { text: left_out_bytes > 0 ? say("warm.left", { bytes, left }) : say("warm.done", { bytes }), runs: false };
}

/**
 * Asks for it and tells how far it is until it has ended. `ask(path, options)` answers with JSON or raises; `tell(text, goes on, failed)`.
 * @param {any} prompt @param {(path: string, options?: any) => Promise<any>} ask @param {(text: string, runs: boolean, failed: boolean) => void} tell
 */
export async function warmUp(prompt, ask, tell, pause = (/** @type {number} */ pause_ms) => new Promise((resolve) => setTimeout(resolve, pause_ms))) {
  try {
    let warming = await ask("warm", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ prompt }) });
    for (;;) {
      const { text, runs } = warmingWords(warming);
      tell(text, runs, warming.state === "stopped");
      if (!runs) return;
      await pause(LOOK_MS);
      warming = (await ask("state")).warming;
    }
  } catch (error) {
    tell(say("do.failed", { why: /** @type {Error} */ (error).message }), false, true);
  }
}
