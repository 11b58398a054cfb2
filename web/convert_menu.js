// "Convert to Residency" and back, in the node's menu, on the selection and for the whole workflow.

import { beforeLoad, convert, everyNode, twin } from "./convert_graph.js";
import { say } from "./words.js";

const TO = "Convert to Residency";
const BACK = "Convert back to ComfyUI's own";

export const COMMANDS = { selection: "Residency.ConvertSelection", back: "Residency.ConvertSelectionBack", all: "Residency.ConvertAll", allBack: "Residency.ConvertAllBack" };

function tell(app, { count, fault, lost }, back) {
  const summary = say(back ? "convert.back" : "convert.to");
  const toast = (severity, detail, life) => app.extensionManager.toast.add({ severity, summary, detail, life });
  const why = say("convert.why", { fault });
  if (lost) toast("error", say("convert.lost", { lost, why }), 60_000);
  else if (fault) toast("error", say("convert.nothing", { why }), 15_000);
  else if (count) toast("success", say("convert.done", { count }), 3000);
  else toast("info", say("convert.no twin"), 3000);
}

const selectedNodes = (app) => Object.values(app.canvas.selected_nodes ?? {});

/** What the extension registers: commands, menu entries and the hooks of the node's menu and the selection's toolbox. */
export function conversions(app) {
  const run = async (nodes, back) => tell(app, await convert(app, nodes, back), back);
  const command = (id, label, icon, nodes, back) => ({ id, label, menubarLabel: label.replace("Residency: c", "C"), icon, function: () => run(nodes(app), back) });
  return {
    commands: [
      command(COMMANDS.selection, "Residency: convert selection to Residency", "pi pi-arrow-right-arrow-left", selectedNodes, false),
      command(COMMANDS.back, "Residency: convert selection back", "pi pi-undo", selectedNodes, true),
      command(COMMANDS.all, "Residency: convert all nodes to Residency", "pi pi-arrow-right-arrow-left", everyNode, false),
      command(COMMANDS.allBack, "Residency: convert all nodes back", "pi pi-undo", everyNode, true),
    ],
    beforeConfigureGraph: (workflow) => beforeLoad(app, workflow),
    menuCommands: [{ path: ["Edit"], commands: [COMMANDS.all, COMMANDS.allBack] }],
    getNodeMenuItems(node) {
      const found = twin(node);
      if (!found) return [];
      const selected = selectedNodes(app);
      const nodes = selected.includes(node) ? selected : [node];
      return [{ content: found.back ? BACK : TO, callback: () => run(nodes, found.back) }];
    },
    getSelectionToolboxCommands(item) {
      const found = item?.type ? twin(item) : null;
      return found ? [found.back ? COMMANDS.back : COMMANDS.selection] : [];
    },
  };
}
