// What the user can do: commands, menu entries and the panel's buttons call the same functions here.

import { convert, twin } from "./convert_graph.js";
import { warmUp } from "./warm_up.js";
import { say } from "./words.js";

const LOAD = "strategy"; // a loader's widget; a step has none

export const MODES = { auto: "Residency.ModeAuto", "high-vram": "Residency.ModeHighVram", balanced: "Residency.ModeBalanced", "low-vram": "Residency.ModeLowVram", off: "Residency.ModeOff" };
export const COMMANDS = { warm: "Residency.WarmUp", release: "Residency.ReleaseAll", pin: "Residency.PinSelection", letGo: "Residency.LetGoSelection", usual: "Residency.PlaceAsUsual" };

// With shift: ComfyUI's own keys have none alone, browsers and text fields keep theirs. U as in unload.
export const KEYS = { [COMMANDS.warm]: "w", [COMMANDS.release]: "u" };

const STRATEGIES = { pin: "resident", letGo: "release", usual: "auto" };

/** `ask` is the store's; `setMode(mode)` too; `shown(text)` says it in an open panel and is false where none is. */
export function createActions(app, api, { ask, setMode, shown }) {
  const toast = (severity, detail, life) => app.extensionManager.toast.add({ severity, summary: say("panel.name"), detail, life });
  const fails = (detail) => toast("warn", detail, 10_000);

  /** Good news stands in the panel; without one it is a short toast. */
  function tell(text, failed = false) {
    if (failed) fails(text);
    if (!shown(text) && !failed) toast("info", text, 4000);
  }

  const promptOf = async () => (await app.graphToPrompt()).output;

  async function warm() {
    const prompt = await promptOf();
    if (Object.keys(prompt).length === 0) return fails(say("warm.none"));
    let last = "";
    await warmUp(prompt, ask, (text, runs, failed) => {
      if (runs && !shown(text) && last === "") toast("info", say("warm.waiting"), 3000);
      if (!runs) tell(text, failed);
      last = text;
    });
  }

  async function release() {
    const body = JSON.stringify({ unload_models: true, free_memory: true });
    const response = await api.fetchApi("/free", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    tell(response.ok ? say("do.released") : say("do.failed", { why: say("error.answer", { status: response.status }) }), !response.ok);
  }

  const selectedNodes = () => Object.values(app.canvas.selected_nodes ?? {});

  const widgetOf = (node, name) => node?.widgets?.find((widget) => widget.name === name);

  /** Whether the node, or the one that it converts to, has such an input of ours. */
  function takes(node, name) {
    if (widgetOf(node, name)) return true;
    const found = twin(node);
    return found !== null && !found.back && name in (LiteGraph.registered_node_types[found.type]?.nodeData?.input?.optional ?? {});
  }

  /** Sets an input of ours on these nodes; ComfyUI's own nodes are converted first. */
  async function set(nodes, name, value) {
    const wanted = nodes.filter((node) => takes(node, name));
    if (wanted.length === 0) return fails(say("do.no nodes"));
    const places = wanted.map((node) => [node.graph, node.id]);
    const { fault } = await convert(app, wanted.filter((node) => !widgetOf(node, name)), false);
    if (fault) return fails(say("do.none converted", { why: fault }));
    app.canvas.emitBeforeChange();
    for (const [graph, id] of places) {
      const node = graph.getNodeById(id);
      const widget = widgetOf(node, name);
      if (!widget) continue;
      widget.value = value;
      widget.callback?.(value, app.canvas, node);
    }
    app.canvas.emitAfterChange();
    app.canvas.setDirty(true, true);
  }

  const strategy = (name, nodes = selectedNodes()) => set(nodes, LOAD, STRATEGIES[name]);
  const command = (id, label, icon, run) => ({ id, label: `Residency: ${label}`, menubarLabel: label[0].toUpperCase() + label.slice(1), icon, function: run });

  return {
    warm,
    release,
    extension: {
      commands: [
        command(COMMANDS.warm, "warm up this workflow", "pi pi-bolt", warm),
        command(COMMANDS.release, "release all models", "pi pi-eject", release),
        command(COMMANDS.pin, "keep selection on the device", "pi pi-thumbtack", () => strategy("pin")),
        command(COMMANDS.letGo, "selection out after its last use", "pi pi-sign-out", () => strategy("letGo")),
        command(COMMANDS.usual, "place selection as the workflow says", "pi pi-undo", () => strategy("usual")),
        ...Object.entries(MODES).map(([mode, id]) => command(id, `memory mode ${mode}`, "pi pi-sliders-h", () => setMode(mode))),
      ],
      menuCommands: [
        { path: ["Residency"], commands: [COMMANDS.warm, COMMANDS.release] },
        { path: ["Residency", "Memory mode"], commands: Object.values(MODES) },
      ],
      getNodeMenuItems(node) {
        const selected = selectedNodes();
        const nodes = selected.includes(node) ? selected : [node];
        const items = Object.keys(STRATEGIES).map((name) => ({ content: say({ pin: "do.pin", letGo: "do.let go", usual: "do.as usual" }[name]), callback: () => strategy(name, nodes) }));
        const modes = ["workflow", ...Object.keys(MODES).filter((mode) => mode !== "off")];
        const mode = { content: say("do.mode"), has_submenu: true, submenu: { options: modes.map((value) => ({ content: value, callback: () => set(nodes, "memory_mode", value) })) } };
        return [...(takes(node, LOAD) ? items : []), ...(takes(node, "memory_mode") ? [mode] : [])];
      },
    },
  };
}
