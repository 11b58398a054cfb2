// The timeline: lanes, hover and keyboard, zoom and pan. timeline_layout.js places, timeline_paint.js paints.

import { describeItem, tierWords } from "./describe.js";
import { html } from "./dom.js";
import { WHOLE, colourIndex, colourName, layoutTimeline, pan, zoom } from "./timeline_layout.js";
import { END_PX, GUTTER_PX, clipped, createPainter, paletteOf } from "./timeline_paint.js";
import { say } from "./words.js";

const CLICK_PX = 4; // a pointer that has moved further drags
const THEME_MS = 1000; // how long the colours are taken to stay

/** `onNode(node_id)`: a bar of that node was clicked, or chosen with Enter. */
export function createTimeline(onNode = () => {}) {
  const drawing = html("canvas", { class: "residency-drawing", tabindex: 0, role: "application", "aria-roledescription": say("timeline"), "aria-label": say("timeline.keys") });
  const tooltip = html("div", { class: "residency-tooltip", role: "tooltip", hidden: true });
  const spoken = html("div", { class: "residency-spoken", "aria-live": "polite" });
  const element = html("div", { class: "residency-timeline" }, drawing, spoken);
  const pause = html("button", { type: "button", class: "residency-pause", title: say("pause.title"), "aria-pressed": "false", hidden: true, onclick: () => hold(!held) }, say("pause"));
  const painter = createPainter(drawing);

  let trace = null;
  let held = false; // the picture stands still, also while its prompt runs on
  let behind = null; // what came of the prompt meanwhile
  let view = WHOLE;
  let layout = null;
  let focus = null; // {lane, index} of the bar that the keyboard is on
  let pointer = null; // {x, y} over the drawing
  let drag = null; // {x, view} while the window is being dragged
  let frame = 0;
  let palette = null;
  let palette_ms = -Infinity;

  const plotWidth = () => Math.max(element.clientWidth - GUTTER_PX - END_PX, 50);
  const schedule = () => {
    frame ||= requestAnimationFrame(draw);
  };

  const laneName = (lane) => (lane.tier === null ? say("lane.nodes") : ["device", "host", "disk"].includes(lane.tier) ? say(`lane.${lane.tier}`) : lane.tier);

  function labelOf(item) {
    const [record] = item.records;
    return record.title && item.records.length === 1 ? record.title : describeItem(item, trace).title;
  }

  function colours() {
    const now_ms = performance.now();
    if (now_ms - palette_ms > THEME_MS) {
      palette_ms = now_ms;
      const found = paletteOf(element);
      if (JSON.stringify([...found.colours.values(), found.focus]) !== JSON.stringify(palette && [...palette.colours.values(), palette.focus])) palette = found;
    }
    return palette;
  }

  function draw() {
    frame = 0;
    if (!trace || !element.isConnected || element.clientWidth === 0) return;
    layout = layoutTimeline(trace, view, plotWidth());
    const indices = colourIndex(trace);
    const colourOf = (record, kind) => colourName(indices, kind === "node" || kind === "ahead" ? (record.computes?.[0] ?? record.loads?.[0]) : record.component);
    const chosen = focused();
    painter.paint({ layout, palette: colours(), focused: chosen, laneName, labelOf, colourOf });
    const items = layout.lanes.flatMap((lane) => lane.items);
    drawing.dataset.bars = String(items.length);
    drawing.dataset.ahead = String(items.filter(({ kind }) => kind === "ahead" || kind === "read").length);
    drawing.classList.toggle("is-zoomed", view.to_s !== null);
    if (pointer) hover();
    else if (chosen) showTooltip(chosen, GUTTER_PX + clipped(chosen, layout.width_px).x + 12, chosen.y + chosen.height);
  }

  // --- tooltip ---

  function itemAt(x, y) {
    const lane = layout?.lanes.find((candidate) => y >= candidate.y - 2 && y <= candidate.y + candidate.height + 2);
    const near = (item) => (item.kind === "eviction" ? 7 : 1);
    const hits = lane?.items.filter((item) => x >= item.x - near(item) && x <= item.x + item.width + near(item) && y >= item.y - 1 && y <= item.y + item.height + 1);
    return hits?.at(-1) ?? null;
  }

  function showTooltip(item, x, y) {
    const { title, lines } = describeItem(item, trace);
    show(title, lines, x, y);
  }

  function show(title, lines, x, y) {
    tooltip.replaceChildren(html("strong", {}, title), ...lines.map((line) => html("div", {}, line)));
    tooltip.hidden = false;
    if (!tooltip.isConnected) document.body.append(tooltip); // a bottom panel may be lower than the tooltip is high
    const origin = drawing.getBoundingClientRect();
    const { width, height } = tooltip.getBoundingClientRect();
    const left = Math.min(origin.left + x + 12, window.innerWidth - width - 8);
    const below = origin.top + y + 14;
    const top = below + height > window.innerHeight - 8 ? origin.top + y - height - 10 : below;
    tooltip.style.left = `${Math.max(left, 8)}px`;
    tooltip.style.top = `${Math.max(top, 8)}px`;
  }

  function hover() {
    const item = drag ? null : itemAt(pointer.x - GUTTER_PX, pointer.y);
    const lane = pointer.x < GUTTER_PX && layout?.lanes.find(({ y, height }) => pointer.y >= y && pointer.y <= y + height);
    if (item) showTooltip(item, pointer.x, pointer.y);
    else if (lane) show(laneName(lane), [lane.tier ? say("lane.title", { tier: tierWords(lane.tier) }) : say("lane.nodes title")], pointer.x, pointer.y);
    else tooltip.hidden = true;
  }

  // --- pointer: hover, wheel, drag, double-click ---

  const timeAt = (x) => layout.window_s.from_s + ((x - GUTTER_PX) / layout.width_px) * (layout.window_s.to_s - layout.window_s.from_s);

  function look(next) {
    view = next;
    schedule();
  }

  function panBy(by_px) {
    look(pan(view, layout.end_s, (by_px / layout.width_px) * (layout.window_s.to_s - layout.window_s.from_s)));
  }

  drawing.addEventListener("pointermove", (event) => {
    pointer = { x: event.offsetX, y: event.offsetY };
    if (drag && layout) {
      const span_s = layout.window_s.to_s - layout.window_s.from_s;
      look(pan(drag.view, layout.end_s, ((drag.x - event.offsetX) / layout.width_px) * span_s));
    }
    hover();
  });
  drawing.addEventListener("pointerleave", () => {
    pointer = null;
    tooltip.hidden = true;
  });
  drawing.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    focus = null;
    drag = { x: event.offsetX, view };
    drawing.setPointerCapture(event.pointerId);
    drawing.classList.add("is-dragged");
  });
  /** The node behind one bar: its own, or the first that uses the weights. */
  function nodeOf(item) {
    const [record] = item?.records ?? [];
    if (record?.node_id !== undefined) return record.node_id;
    const uses = ({ computes = [], loads = [] }) => [...computes, ...loads].includes(record?.component);
    return (trace.nodes.find(uses) ?? trace.ahead?.nodes.find(uses))?.node_id;
  }

  function choose(item) {
    const node_id = item && nodeOf(item);
    if (node_id !== undefined && node_id !== null) onNode(node_id);
  }

  const release = (event) => {
    if (drag && event.type === "pointerup" && Math.abs(event.offsetX - drag.x) < CLICK_PX) choose(itemAt(event.offsetX - GUTTER_PX, event.offsetY));
    drag = null;
    drawing.classList.remove("is-dragged");
  };
  drawing.addEventListener("pointerup", release);
  drawing.addEventListener("pointercancel", release);
  drawing.addEventListener("dblclick", () => look(WHOLE));
  drawing.addEventListener(
    "wheel",
    (event) => {
      if (!layout) return;
      event.preventDefault(); // needs passive: false
      event.stopPropagation();
      const sideways = event.shiftKey ? event.deltaY || event.deltaX : event.deltaX;
      if (Math.abs(sideways) > Math.abs(event.shiftKey ? 0 : event.deltaY)) panBy(sideways);
      else look(zoom(view, layout.end_s, Math.exp(event.deltaY * 0.002), timeAt(Math.max(event.offsetX, GUTTER_PX))));
    },
    { passive: false },
  );

  // --- keyboard ---

  function focused() {
    const items = focus && layout.lanes[focus.lane]?.items;
    return items?.length ? items[Math.min(focus.index, items.length - 1)] : null;
  }

  function moveFocus(lanes, steps) {
    const filled = layout.lanes.map((lane, index) => ({ lane, index })).filter(({ lane }) => lane.items.length);
    if (!filled.length) return;
    const current = focused();
    if (!current) {
      focus = { lane: filled[0].index, index: 0 };
    } else if (lanes) {
      const at = filled.findIndex(({ index }) => index === focus.lane);
      const { lane, index } = filled[Math.min(Math.max(at + lanes, 0), filled.length - 1)];
      const distance = (item) => Math.abs(item.x - current.x);
      const nearest = lane.items.reduce((best, item, i) => (distance(item) < distance(lane.items[best]) ? i : best), 0);
      if (index !== focus.lane) focus = { lane: index, index: nearest };
    } else {
      const { items } = layout.lanes[focus.lane];
      focus = { lane: focus.lane, index: Math.min(Math.max(Math.min(focus.index, items.length - 1) + steps, 0), items.length - 1) };
    }
    pointer = null;
    const { title, lines } = describeItem(focused(), trace);
    spoken.textContent = [title, ...lines].join(". ");
    schedule();
  }

  function hold(on) {
    if (on && pause.hidden) return;
    held = on;
    pause.setAttribute("aria-pressed", String(held));
    pause.textContent = say(held ? "pause.over" : "pause");
    if (!held && behind) trace = behind;
    behind = null;
    pause.hidden = !held && trace?.outcome !== "running";
    schedule();
  }

  const middle = () => (layout.window_s.from_s + layout.window_s.to_s) / 2;
  const keys = {
    ArrowRight: (event) => (event.shiftKey ? panBy(layout.width_px / 8) : moveFocus(0, 1)),
    ArrowLeft: (event) => (event.shiftKey ? panBy(-layout.width_px / 8) : moveFocus(0, -1)),
    ArrowDown: () => moveFocus(1, 0),
    ArrowUp: () => moveFocus(-1, 0),
    "+": () => look(zoom(view, layout.end_s, 0.7, middle())),
    "=": () => look(zoom(view, layout.end_s, 0.7, middle())),
    "-": () => look(zoom(view, layout.end_s, 1 / 0.7, middle())),
    0: () => look(WHOLE),
    p: () => hold(!held),
    Enter: () => choose(focused()),
    Escape: () => {
      focus = null;
      tooltip.hidden = true;
      schedule();
    },
  };
  drawing.addEventListener("keydown", (event) => {
    const act = event.ctrlKey || event.metaKey || event.altKey ? undefined : keys[event.key];
    if (!act || !layout) return;
    event.preventDefault();
    event.stopPropagation(); // ComfyUI binds some of these to the canvas
    act(event);
  });
  drawing.addEventListener("blur", () => {
    focus = null;
    tooltip.hidden = true;
    schedule();
  });

  const resized = new ResizeObserver(() => {
    if (element.isConnected) schedule();
    else tooltip.remove(); // the tab changed under the pointer
  });
  resized.observe(element);

  return {
    element,
    /** The button that holds the picture still; there while a prompt runs. */
    pause,
    /** Shows a trace; the window stays where it is while the prompt stays the same. */
    show(next) {
      if (held && next?.prompt_id === trace?.prompt_id) {
        behind = next;
        return;
      }
      if (held) hold(false);
      if (next?.prompt_id !== trace?.prompt_id) {
        view = WHOLE;
        focus = null;
        tooltip.hidden = true;
      }
      trace = next;
      pause.hidden = trace?.outcome !== "running";
      schedule();
    },
    destroy() {
      resized.disconnect();
      tooltip.remove();
      cancelAnimationFrame(frame);
    },
  };
}
