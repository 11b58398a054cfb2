// The panel: header, timeline, "why" list, and what to show when there is nothing to show.

import { createDecisions } from "./decisions_view.js";
import { describeSummary, outcomeWords, waitingWords } from "./describe.js";
import { html } from "./dom.js";
import { formatBytes, formatPercent, formatSeconds } from "./format.js";
import { createInsight } from "./insight.js";
import { createMemory } from "./memory_view.js";
import { nodeStatuses } from "./node_status.js";
import { createPrompts } from "./prompts_view.js";
import { sentenceOf, whyWaiting } from "./sentence.js";
import { createTabs } from "./tabs.js";
import { colourIndex, colourOf } from "./timeline_layout.js";
import { createTimeline } from "./timeline_view.js";
import { createWhatIf } from "./what_if_view.js";
import { say } from "./words.js";

const MODES = {
  auto: "Decides from the graph and the memory at hand",
  "high-vram": "Keeps everything on the device that fits",
  balanced: "Keeps on the device what is needed next",
  "low-vram": "Frees the device early, reads ahead to the host",
  off: "ComfyUI alone: nothing is read ahead or evicted",
};

function save({ name, blob }) {
  const url = URL.createObjectURL(blob);
  html("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Why this mode: what auto came to for the prompt on show, or what the server says of the mode. */
export function modeReasonOf({ status, trace }) {
  if (!trace?.mode_reason || status?.mode === "off") return status?.mode_reason ?? "";
  return trace.mode === status?.mode ? trace.mode_reason : `this prompt: ${trace.mode} (${trace.mode_reason})`;
}

/** The sentence above the timeline, or null: {text, level: "info" | "warning" | "error"}. */
export function noticeOf({ connected, error, status, trace }) {
  if (!connected) return { text: "Not connected to the server. What you see is from before; it comes back by itself.", level: "warning" };
  if (error) return { text: error, level: "error" };
  if (status && !status.installed && status.mode !== "off") {
    const reasons = (status.features ?? []).filter((feature) => !feature.on && feature.reason).map((feature) => feature.reason);
    return { text: `Residency is not active: ${reasons.join("; ") || status.mode_reason || "it could not be installed"}`, level: "warning" };
  }
  if (status?.mode === "off") {
    const rest = trace ? " Below is the last prompt that it followed." : " Choose another mode to see what the next prompt does.";
    return { text: `Residency is off: ComfyUI loads by itself.${rest}`, level: "info" };
  }
  return null;
}

function createHeader(store) {
  const mode = html("select", { "aria-label": "Memory mode", onchange: (event) => store.setMode(event.target.value) });
  for (const [value, title] of Object.entries(MODES)) mode.append(html("option", { value, title }, value));
  const reason = html("span", { class: "residency-mode-reason" });
  const features = html("span", { class: "residency-features" });
  const figures = html("dl", { class: "residency-figures" });
  const prompts = html("select", { "aria-label": "Prompt on show", onchange: (event) => store.select(event.target.value || null) });
  const download = html(
    "button",
    {
      type: "button",
      title: "Download this prompt's trace; open it in ui.perfetto.dev",
      async onclick() {
        const file = await store.download();
        if (file) save(file);
      },
    },
    html("i", { class: "pi pi-download", "aria-hidden": "true" }),
    "Trace",
  );
  const label = html("label", { class: "residency-mode" }, "Mode", mode);
  const side = html("div", { class: "residency-side" }, prompts, download);
  const element = html("header", { class: "residency-header" }, html("div", { class: "residency-row" }, label, reason, side), html("div", { class: "residency-row" }, figures, features));

  function showFigures(trace) {
    const figure = ({ id, label: name, value, title }) =>
      html("div", { title, "data-figure": id }, html("dt", {}, name), html("dd", { class: id === "stall" && value !== "none" ? "is-stall" : "" }, value));
    figures.replaceChildren(...(trace ? describeSummary(trace).map(figure) : []));
  }

  let listed = [];

  function showPrompts({ traces, selected, running }) {
    const same = listed[0] === traces && listed[1] === selected && listed[2] === running;
    if (same || document.activeElement === prompts) return; // an open list must not be rebuilt under the user's hand
    listed = [traces, selected, running];
    const options = [html("option", { value: "" }, running ? "This prompt (running)" : "Last prompt")];
    for (const { prompt_id, outcome, mode: used, started_unix_s, duration_s } of traces.slice(0, 50)) {
      const at = new Date(started_unix_s * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
      options.push(html("option", { value: prompt_id }, `${at} · ${formatSeconds(duration_s)} · ${outcomeWords(outcome)} · ${used}`));
    }
    prompts.replaceChildren(...options);
    prompts.value = selected ?? "";
    prompts.hidden = traces.length === 0;
  }

  return {
    element,
    show(state) {
      const { status, trace } = state;
      mode.disabled = !status || !state.connected;
      if (status) mode.value = status.mode;
      mode.title = MODES[mode.value] ?? "";
      reason.textContent = modeReasonOf(state);
      reason.title = reason.textContent;
      const off = (status?.features ?? []).filter((feature) => !feature.on);
      const held = status?.budget?.host_limit_bytes > 0 ? `Host ${formatBytes(status.budget.host_held_bytes)} of ${formatBytes(status.budget.host_limit_bytes)}` : "";
      features.textContent = [held, off.length ? `${off.length} of ${status.features.length} features off` : ""].filter(Boolean).join(" · ");
      const all = (status?.features ?? []).map((feature) => `${feature.on ? "on" : "off"}: ${feature.name}${feature.reason ? ` (${feature.reason})` : ""}`);
      const share = held ? `Read ahead and held in host memory: ${formatPercent(status.budget.host_held_bytes, status.budget.host_limit_bytes)} of the budget` : "";
      features.title = [share, ...all].filter(Boolean).join("\n");
      download.disabled = !trace || !state.connected;
      showFigures(trace);
      showPrompts(state);
    },
  };
}

function legend() {
  const entry = (name, words) => html("span", {}, html("i", { class: `residency-key is-${name}`, "aria-hidden": "true" }), words);
  const hint = html("span", { class: "residency-hint" }, "Click selects the node, wheel zooms, drag moves, double-click shows all");
  return html("div", { class: "residency-legend" }, entry("weights", "colour = weights in use"), entry("none", "no weights"), entry("stall", "waits for weights"), entry("stopped", "stopped early"), entry("evicted", "evicted"), entry("ahead", "to come"), hint);
}

/** A line that is there only while it says something; a screen reader hears it once. */
function tell(line, text) {
  if (line.textContent !== text) line.textContent = text;
  line.hidden = !text;
}

/** Builds the panel for a store; `onNode(node_id)` selects a node of the workflow, `onStatuses(map)` hears how nodes' weights are; the caller puts `element` on the page and calls destroy() when it leaves. */
export function createPanel(store, { onNode, onStatuses = () => {} } = {}) {
  const header = createHeader(store);
  const notice = html("div", { class: "residency-notice", role: "status", hidden: true });
  const sentence = html("p", { class: "residency-sentence", role: "status" });
  const why = html("p", { class: "residency-waiting" });
  const insight = createInsight(store.ask, () => show(store.state()));
  const timeline = createTimeline(onNode);
  const decisions = createDecisions();
  const empty = html(
    "div",
    { class: "residency-empty" },
    html("strong", {}, "No prompt yet"),
    html("p", {}, "Run a workflow: its nodes, the weights that are read ahead for them and the reasons appear here while it runs."),
  );
  const whatIf = createWhatIf();
  const prompts = createPrompts((prompt_id) => store.select(prompt_id));
  let colours = new Map();
  const memory = createMemory((key) => colourOf(colours, key));
  const side = createTabs(
    [
      { id: "why", name: say("tab.why"), panel: decisions.element },
      { id: "if", name: say("tab.if"), panel: whatIf.element },
      { id: "prompts", name: say("tab.prompts"), panel: prompts.element },
    ],
    "Details",
  );
  const body = html("div", { class: "residency-body" }, html("div", { class: "residency-main" }, timeline.element, legend()), side.element);
  const element = html("section", { class: "residency", "aria-label": "Residency" }, header.element, notice, sentence, why, memory.element, empty, body);

  function show(state) {
    const { trace } = state;
    const message = noticeOf(state);
    notice.hidden = message === null;
    if (message && notice.textContent !== message.text) notice.textContent = message.text;
    notice.className = `residency-notice is-${message?.level}`;
    element.dataset.outcome = trace?.outcome ?? "none";
    element.classList.toggle("is-stale", !state.connected || state.status?.mode === "off");
    empty.hidden = trace !== null;
    body.hidden = trace === null;
    header.show(state);
    insight.follow(state);
    tell(sentence, trace ? sentenceOf(trace, insight.assessment(trace)) : "");
    tell(why, trace ? whyWaiting(trace, insight.assessment(trace)) : "");
    memory.show(insight.memory());
    onStatuses(nodeStatuses(trace, insight.memory()));
    if (trace) {
      sentence.title = `${waitingWords(trace)}\n${say("how")}`;
      timeline.show(trace);
      decisions.show(trace);
      whatIf.show(trace, insight.assessment(trace));
      prompts.show(state.traces, trace);
      colours = colourIndex(trace);
    }
  }

  function destroy() {
    unsubscribe();
    insight.stop();
    onStatuses(new Map());
    timeline.destroy();
    element.remove();
  }

  // A change of tab drops the element without a word from ComfyUI: the next change of state finds it gone.
  const unsubscribe = store.subscribe((state) => (element.isConnected ? show(state) : destroy()));
  show(store.state());
  store.refresh();
  return { element, destroy };
}
