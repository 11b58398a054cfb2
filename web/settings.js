// The pack's page in ComfyUI's settings dialog. ComfyUI keeps the values; the server is told at the start and after each change.
// Names and limits are those of residency/settings/user.py.

const PREFIX = "residency.";
const PAUSE_MS = 150; // several changes at once, like "reset", become one request

const MODES = ["default", "auto", "high-vram", "balanced", "low-vram", "off"];

/** The current value is always among the choices: a program may have set any that the server takes. */
const worded = (store, id, zero, values, unit) => {
  const current = store()?.get(id) ?? 0;
  const numbers = [...new Set([...values, ...(Number.isFinite(current) && current ? [current] : [])])].sort((a, b) => a - b);
  return [{ text: zero, value: 0 }, ...numbers.map((value) => ({ text: `${value} ${unit}`, value }))];
};

/** A number of which 0 means something else: that is a word in the list, never a 0. */
const choice = (name, group, label, tooltip, zero, values, unit, defaultValue = 0) => ({
  id: PREFIX + name,
  name: label,
  category: ["Residency", group, name],
  tooltip,
  type: "combo",
  defaultValue,
  zero,
  values,
  unit,
});

const GIB = [1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256];

/** Every setting as ComfyUI's registerExtension takes it, without what happens on a change. The dialog lists the last one first. */
export const SETTINGS = [
  choice("idle_release_min", "Memory", "Release VRAM when idle", "When nothing has run for so long, models leave the device, for other programs; ComfyUI loads them again for the next prompt.", "never", [1, 5, 10, 15, 30, 60, 120], "min"),
  {
    id: `${PREFIX}console_line`,
    name: "One line in the console per prompt",
    category: ["Residency", "Reporting", "console_line"],
    tooltip: "After each prompt: where its time went, what was read ahead, and the memory mode with its reason.",
    type: "boolean",
    defaultValue: true,
  },
  choice("queue_depth", "Reading ahead", "Queue look-ahead", "How many queued prompts behind the running one are read ahead for.", "off", [1, 2, 3, 4, 5, 8, 16, 32, 64], "prompts", 3),
  choice("read_threads", "Reading ahead", "Read threads per drive", "How many files' parts are read from one drive at a time. automatic: chosen for this machine.", "automatic", [1, 2, 4, 8, 16, 32], "threads"),
  choice("pin_budget_gib", "Memory", "Pin budget", "The most RAM that ComfyUI may pin for fast copies to the GPU. It can only be lowered. automatic: ComfyUI's own limit.", "automatic", GIB, "GiB"),
  choice("ram_budget_gib", "Memory", "RAM budget", "The most RAM that files may be read ahead into. automatic: what is measured to be free.", "automatic", GIB, "GiB"),
  choice("vram_headroom_gib", "Memory", "VRAM headroom", "Device memory that models leave free for other programs, beside what ComfyUI keeps free itself.", "off", [0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16], "GiB"),
  {
    id: `${PREFIX}mode`,
    name: "Memory mode",
    category: ["Residency", "Memory", "mode"],
    tooltip: "For workflows that do not say it themselves. default: what RESIDENCY_MODE says, else auto.",
    type: "combo",
    options: MODES,
    defaultValue: "default",
  },
];

const MODE = `${PREFIX}mode`;

const nameOf = (id) => id.slice(PREFIX.length);

/**
 * Joins ComfyUI's settings and the server. `store` has get(id) and set(id, value); `tell(sentence)` shows a refusal; `changed()` is called
 * after each time that the server has taken the settings.
 *
 * Returns {settings, start, send}: what to register, and what to call once the page is up.
 */
export function createSettings(api, store, tell, changed) {
  let started = false;
  let timer = null;
  let shown = null; // a mode on its way into the dialog: sent back later, it would undo what was chosen since

  const values = () => Object.fromEntries(SETTINGS.map(({ id }) => [nameOf(id), store().get(id)]));

  async function ask(body) {
    const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
    const response = await api.fetchApi("/residency/settings", options);
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error(answer.error ?? `the server answered ${response.status}`);
    return answer;
  }

  /** The dialog shows what holds on the server. */
  async function adopt(answer) {
    for (const { id } of SETTINGS) {
      const value = answer[nameOf(id)];
      if (value !== undefined && value !== store().get(id)) await store().set(id, value);
    }
  }

  async function send() {
    clearTimeout(timer);
    timer = null;
    try {
      await ask(values());
      changed();
    } catch (error) {
      tell(error.message);
      await ask().then(adopt, () => {}); // a server that is gone has nothing to say
      clearTimeout(timer);
      timer = null;
    }
  }

  function onChange(id, value) {
    if (!started) return; // ComfyUI calls this for each setting that is registered
    const known = id === MODE && value === shown;
    if (id === MODE) shown = null;
    if (known) return;
    clearTimeout(timer);
    timer = setTimeout(send, PAUSE_MS);
  }

  /** A browser in which nothing was ever set takes over what the server has kept; any other tells the server. */
  async function start() {
    const untouched = SETTINGS.every(({ id, defaultValue }) => store().get(id) === defaultValue);
    if (untouched) await ask().then(adopt, () => {});
    else await send();
    started = true;
  }

  /** The mode chosen elsewhere: the server has it already. */
  function showMode(mode) {
    shown = mode;
    return store().set(MODE, mode);
  }

  const settings = SETTINGS.map(({ zero, values, unit, ...setting }) => ({
    ...setting,
    ...(zero && { options: () => worded(store, setting.id, zero, values, unit) }),
    onChange: (value) => onChange(setting.id, value),
  }));
  return { settings, start, send, showMode };
}
