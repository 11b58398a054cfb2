// The panel: header, timeline, "why" list, and what to show when there is nothing to show.

import { createDecisions } from "./decisions_view.js";
import { describeSummary, outcomeWords, waitingWords } from "./describe.js";
import { createDoctor } from "./doctor_view.js";
import { html } from "./dom.js";
import { formatSeconds } from "./format.js";
import { createInsight } from "./insight.js";
import { createMemory } from "./memory_view.js";
import { nodeStatuses } from "./node_status.js";
import { createPlan } from "./plan_view.js";
import { createPrompts } from "./prompts_view.js";
import { sentenceOf, whyWaiting } from "./sentence.js";
import { createTabs } from "./tabs.js";
import { colourIndex, colourOf } from "./timeline_layout.js";
import { createTimeline } from "./timeline_view.js";
import { createWhatIf } from "./what_if_view.js";
import { say } from "./words.js";

const MODES = ["auto", "high-vram", "balanced", "low-vram", "off"];

function save({ name, blob }) {
  const url = URL.createObjectURL(blob);
  html("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Why this mode: what auto came to for the prompt on show, or what the server says of the mode. */
export function modeReasonOf({ status, trace }) {
  if (!trace?.mode_reason || status?.mode === "off") return status?.mode_reason ?? "";
  return trace.mode === status?.mode ? trace.mode_reason : say("mode.this prompt", { mode: trace.mode, reason: trace.mode_reason });
}

/** The sentence above the timeline, or null: {text, level: "info" | "warning" | "error"}. */
export function noticeOf({ connected, error, status, trace }) {
  if (!connected) return { text: say("notice.lost"), level: "warning" };
  if (error) return { text: error, level: "error" };
  if (status && !status.installed && status.mode !== "off") {
    const reasons = (status.features ?? []).filter((feature) => !feature.on && feature.reason).map((feature) => feature.reason);
    return { text: say("notice.inactive", { why: reasons.join("; ") || status.mode_reason || say("notice.not installed") }), level: "warning" };
  }
  if (status?.mode === "off") return { text: [say("notice.off"), say(trace ? "notice.off before" : "notice.off next")].join(say("sentence.next")), level: "info" };
  return null;
}

/** How much of the pack works here, for the chip: {id: full | ahead | part | off, reason}; the server's line begins with one of four words. */
export function worksOf(status) {
  const line = status?.works ?? "";
  const found = [["full", "full"], ["reads ahead only", "ahead"], ["in part", "part"], ["off", "off"]].find(([begins]) => line.startsWith(begins));
  return found ? { id: found[1], reason: line } : null;
}

function createHeader(store, { actions, openDoctor }) {
  const mode = html("select", { "aria-label": say("mode.label"), onchange: (event) => store.setMode(event.target.value) });
  for (const value of MODES) mode.append(html("option", { value, title: say(`mode.${value}`) }, value));
  const sentence = html("p", { class: "residency-sentence", role: "status" });
  const works = html("button", { type: "button", class: "residency-works", hidden: true, onclick: openDoctor });
  const reason = html("span", { class: "residency-mode-reason" });
  const news = html("span", { class: "residency-news", role: "status" });
  const figures = html("dl", { class: "residency-figures" });
  const prompts = html("select", { "aria-label": say("prompt.on show"), onchange: (event) => store.select(event.target.value || null) });
  const download = html(
    "button",
    {
      type: "button",
      title: say("trace.title"),
      async onclick() {
        const file = await store.download();
        if (file) save(file);
      },
    },
    html("i", { class: "pi pi-download", "aria-hidden": "true" }),
    say("trace"),
  );
  const act = (id, icon, run) => html("button", { type: "button", title: say(`do.${id} title`), "data-do": id, onclick: run }, html("i", { class: `pi ${icon}`, "aria-hidden": "true" }), say(`do.${id}`));
  const buttons = actions ? [act("warm", "pi-bolt", () => actions.warm()), act("release", "pi-eject", () => actions.release())] : [];
  const label = html("label", { class: "residency-mode" }, say("mode"), mode);
  const side = html("div", { class: "residency-side" }, ...buttons, prompts, download);
  const element = html("header", { class: "residency-header" }, html("div", { class: "residency-row" }, sentence, works), html("div", { class: "residency-row" }, label, reason, side), html("div", { class: "residency-row" }, figures, news));
  let shownFigures = "";

  function showFigures(trace) {
    const list = trace ? describeSummary(trace) : [];
    const now = JSON.stringify(list);
    if (now === shownFigures) return;
    shownFigures = now;
    const figure = ({ id, label: name, value, title, alarming }) => html("div", { title, "data-figure": id }, html("dt", {}, name), html("dd", { class: alarming ? "is-stall" : "" }, value));
    figures.replaceChildren(...list.map(figure));
  }

  let listed = [];

  function showPrompts({ traces, selected, running }) {
    const same = listed[0] === traces && listed[1] === selected && listed[2] === running;
    if (same || document.activeElement === prompts) return; // an open list must not be rebuilt under the user's hand
    listed = [traces, selected, running];
    const options = [html("option", { value: "" }, say(running ? "prompt.running" : "prompt.last"))];
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
    sentence,
    /** What an action has to say, until the next prompt begins. */
    tell: (text) => tell(news, text),
    show(state) {
      const { status, trace } = state;
      mode.disabled = !status || !state.connected;
      if (status) mode.value = status.mode;
      mode.title = MODES.includes(mode.value) ? say(`mode.${mode.value}`) : "";
      for (const button of buttons) button.disabled = !state.connected;
      tell(reason, modeReasonOf(state));
      reason.title = reason.textContent;
      const found = worksOf(status);
      works.hidden = !found;
      if (found) {
        tell(works, say(`works.${found.id}`));
        works.title = say("works.title", { words: found.reason });
        works.dataset.works = found.id;
      }
      download.disabled = !trace || !state.connected;
      showFigures(trace);
      showPrompts(state);
    },
  };
}

function legend(pause) {
  const entry = (name) => html("span", {}, html("i", { class: `residency-key is-${name}`, "aria-hidden": "true" }), say(`legend.${name}`));
  const hint = html("span", { class: "residency-hint" }, say("legend.hint"));
  return html("div", { class: "residency-legend" }, ...["weights", "none", "stall", "stopped", "evicted", "ahead"].map(entry), pause, hint);
}

/** A line that is there only while it says something; a screen reader hears it once. */
function tell(line, text) {
  if (line.textContent !== text) line.textContent = text;
  line.hidden = !text;
}

/**
 * Builds the panel for a store. `onNode(node_id)` selects a node of the workflow, `onStatuses(map)` hears how nodes' weights are, `actions`
 * are what the buttons do, `workflow()` gives {nodes, prompt} of the open workflow, `askText(path)` the server's text. The caller puts
 * `element` on the page and calls destroy() when it leaves.
 */
export function createPanel(store, { onNode, onStatuses = () => {}, actions = null, workflow, askText }) {
  const doctor = createDoctor(() => askText("doctor"));
  const plan = createPlan(workflow, store.ask);
  const header = createHeader(store, { actions, openDoctor: () => side.choose("doctor") });
  const { sentence } = header;
  const notice = html("div", { class: "residency-notice", role: "status", hidden: true });
  const why = html("p", { class: "residency-waiting" });
  const insight = createInsight(store.ask, () => show(store.state()));
  const timeline = createTimeline(onNode);
  const decisions = createDecisions();
  const empty = html("div", { class: "residency-empty" }, html("strong", {}, say("empty.head")), html("p", {}, say("empty")));
  const whatIf = createWhatIf();
  const prompts = createPrompts((prompt_id) => store.select(prompt_id));
  let colours = new Map();
  const memory = createMemory((key) => colourOf(colours, key));
  const side = createTabs(
    [
      { id: "why", name: say("tab.why"), panel: decisions.element },
      { id: "if", name: say("tab.if"), panel: whatIf.element },
      { id: "prompts", name: say("tab.prompts"), panel: prompts.element },
      { id: "plan", name: say("tab.plan"), panel: plan.element, opened: plan.look },
      { id: "doctor", name: say("tab.doctor"), panel: doctor.element, opened: doctor.look },
    ],
    say("details"),
  );
  const main = html("div", { class: "residency-main" }, empty, timeline.element, legend(timeline.pause));
  const body = html("div", { class: "residency-body" }, main, side.element);
  const element = html("section", { class: "residency", "aria-label": say("panel.name") }, header.element, notice, why, memory.element, body);

  function show(state) {
    const { trace } = state;
    const message = noticeOf(state);
    notice.hidden = message === null;
    if (message && notice.textContent !== message.text) notice.textContent = message.text;
    notice.className = `residency-notice is-${message?.level}`;
    element.dataset.outcome = trace?.outcome ?? "none";
    element.classList.toggle("is-stale", !state.connected || state.status?.mode === "off");
    empty.hidden = trace !== null;
    main.classList.toggle("is-empty", trace === null);
    if (trace) colours = colourIndex(trace);
    if (state.running) header.tell("");
    header.show(state);
    insight.follow(state);
    tell(sentence, trace ? sentenceOf(trace, insight.assessment(trace)) : "");
    tell(why, trace ? whyWaiting(trace, insight.assessment(trace)) : "");
    memory.show(insight.memory());
    onStatuses(nodeStatuses(trace, insight.memory()));
    if (trace) {
      if (trace.outcome !== "running") sentence.title = `${waitingWords(trace)}\n${say("how")}`;
      timeline.show(trace);
      side.suggest("why");
      decisions.show(trace);
      whatIf.show(trace, insight.assessment(trace));
      prompts.show(state.traces, trace);
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
  store.refresh().then(() => {
    if (element.isConnected && store.state().trace === null) side.suggest("plan"); // the first look: what would run is all there is to see
  });
  return { element, destroy, tell: header.tell };
}
