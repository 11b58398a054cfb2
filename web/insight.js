// @ts-check
// What an open panel asks beside the trace: the assessment of a prompt that has ended, once, and what lies where, now and then.

const LOOK_MS = 2000;
const RUNNING_MS = 1000;

/**
 * `ask(path)` answers with JSON; `changed()` is called after each answer. Asks nothing before the first `follow`, and nothing after `stop`.
 * @param {(path: string) => Promise<any>} ask @param {() => void} changed
 */
export function createInsight(ask, changed, visible = () => document.visibilityState === "visible") {
  /** @type {Map<string, any>} */
  const assessments = new Map(); // by prompt; null until it is there, and where it cannot be had
  let memory = /** @type {any} */ (null);
  let timer = /** @type {any} */ (null);
  let stopped = false;
  let running = false;

  /** @param {string} path */
  const attempt = (path) => ask(path).catch(() => null); // the panel says less; the store says that the server is gone

  /** @param {string} prompt_id */
  async function assess(prompt_id) {
    assessments.set(prompt_id, null);
    assessments.set(prompt_id, await attempt(`assessment?prompt_id=${encodeURIComponent(prompt_id)}`)); // asked once, also where it fails
    if (!stopped) changed();
  }

  async function look() {
    if (visible()) {
      const found = await attempt("memory");
      if (found && !stopped) {
        memory = found;
        changed();
      }
    }
    if (!stopped) timer = setTimeout(look, running ? RUNNING_MS : LOOK_MS);
  }

  return {
    memory: () => memory,
    /** @param {any} trace */
    assessment: (trace) => assessments.get(trace?.prompt_id) ?? null,
    /** The panel shows this. @param {{trace: any, running: boolean, connected: boolean}} state */
    follow(state) {
      running = state.running;
      timer ??= setTimeout(look, 0);
      const { trace } = state;
      if (trace && trace.outcome !== "running" && state.connected && !assessments.has(trace.prompt_id)) assess(trace.prompt_id);
    },
    stop() {
      stopped = true;
      clearTimeout(timer);
    },
  };
}
