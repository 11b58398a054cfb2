// The timeline as SVG: lanes, hover and keyboard, zoom and pan. Draws what timeline_layout.js places.

import { describeItem, tierWords } from "./describe.js";
import { html, svg } from "./dom.js";
import { fitText, formatTick } from "./format.js";
import { AXIS_PX, WHOLE, colourIndex, colourOf, layoutTimeline, pan, zoom } from "./timeline_layout.js";

const GUTTER_PX = 70; // lane labels
const LABEL_X = 6; // so that the focus ring does not cut them
const END_PX = 10; // air at the right end, so that the last tick is not cut
const FONT_PX = 11;
const LABELLED_PX = 24; // a narrower bar has room for no three characters
const CLICK_PX = 4; // a pointer that has moved further drags
const LANE_NAMES = { nodes: "Nodes", "tier-device": "To VRAM", "tier-host": "To RAM", "tier-disk": "To drive" };

let patterns = 0;

/** `onNode(node_id)`: a bar of that node was clicked, or chosen with Enter. */
export function createTimeline(onNode = () => {}) {
  const stripes = `residency-stall-${(patterns += 1)}`;
  const drawing = svg("svg", {
    class: "residency-drawing",
    tabindex: 0,
    role: "application",
    "aria-roledescription": "timeline",
    "aria-label": "Timeline. Arrow keys move between bars, plus and minus zoom, Shift with left and right moves the window, 0 shows all, Enter selects the node.",
  });
  const tooltip = html("div", { class: "residency-tooltip", role: "tooltip", hidden: true });
  const spoken = html("div", { class: "residency-spoken", "aria-live": "polite" });
  const element = html("div", { class: "residency-timeline" }, drawing, spoken);

  const measuring = document.createElement("canvas").getContext("2d");
  const measure = (text) => measuring.measureText(text).width;

  let trace = null;
  let view = WHOLE;
  let layout = null;
  let focus = null; // {lane, index} of the bar that the keyboard is on
  let pointer = null; // {x, y} over the drawing
  let drag = null; // {x, view} while the window is being dragged
  let frame = 0;

  const plotWidth = () => Math.max(element.clientWidth - GUTTER_PX - END_PX, 50);
  const schedule = () => {
    frame ||= requestAnimationFrame(draw);
  };

  function fillOf(record, colours, kind) {
    const key = kind === "node" || kind === "ahead" ? (record.computes?.[0] ?? record.loads?.[0]) : record.component;
    return colourOf(colours, key);
  }

  function drawLabel(group, item, text) {
    const beside = fitText(text, item.width - item.stall_px - 10, measure);
    const whole = beside === text || item.stall_px === 0 ? beside : fitText(text, item.width - 10, measure);
    if (!whole) return;
    const over = whole.length > beside.length; // more of the name fits across the stripes than beside them
    const x = item.x + (over ? 0 : item.stall_px) + 5;
    const label = { x: GUTTER_PX + x, y: item.y + item.height / 2 + 4, class: over ? "residency-label is-over" : "residency-label" };
    group.append(svg("text", label, over ? whole : beside));
  }

  /** The item cut to the plot: a bar that began before the window keeps its label in sight. */
  function clipped(item) {
    const left = Math.max(item.x, 0);
    const width = Math.max(Math.min(item.x + item.width, layout.width_px) - left, 0);
    const cut = (stall) => {
      const from = Math.max(item.x + stall.x, 0);
      return { x: from, width: Math.min(item.x + stall.x + stall.width, layout.width_px) - from };
    };
    const stalls = item.stalls.map(cut).filter((stall) => stall.width > 0);
    return { ...item, x: left, width, stalls, stall_px: stalls[0]?.x === left ? stalls[0].width : 0 };
  }

  function drawMark(item, colours) {
    if (item.x < 0 || item.x > layout.width_px) return svg("g");
    const [x, y, r] = [GUTTER_PX + item.x, item.y + item.height / 2, 5];
    const group = svg("g", { class: "residency-mark" });
    group.append(svg("path", { d: `M${x - r} ${y - r / 2 - 1}H${x + r}L${x} ${y + r}Z`, fill: fillOf(item.records[0], colours, item.kind) }));
    if (item.records.length > 1) group.append(svg("text", { x: x + r + 2, y: y + 4, class: "residency-tick" }, String(item.records.length)));
    return group;
  }

  function drawBar(whole, colours) {
    const item = clipped(whole);
    const [record] = item.records;
    const many = item.records.length > 1;
    const group = svg("g", { class: `residency-bar ${item.kind === "transfer" && !many ? `is-${record.status}` : item.kind === "ahead" || item.kind === "read" ? "is-ahead" : ""}` });
    if (item.width <= 0) return group;
    const box = { x: GUTTER_PX + item.x, y: item.y, height: item.height, rx: Math.min(3, item.width / 3) };
    group.append(svg("rect", { ...box, width: Math.max(item.width - (item.width > 4 ? 1 : 0), 1), fill: many ? "var(--residency-none)" : fillOf(record, colours, item.kind) }));
    for (const { x, width } of item.stalls) {
      const most = item.x + item.width - (item.width > 4 ? 1 : 0) - x;
      const place = { ...box, x: GUTTER_PX + x, rx: Math.min(box.rx, width / 3), width: Math.max(Math.min(width, most), 1) };
      group.append(svg("rect", { ...place, fill: `url(#${stripes})`, class: "residency-stall" }));
    }
    if (item.width >= LABELLED_PX) drawLabel(group, item, record.title && !many ? record.title : describeItem(item, trace).title);
    return group;
  }

  function drawAxis() {
    const group = svg("g", { "aria-hidden": "true" });
    for (const { time_s, x } of layout.axis.ticks) {
      const at = Math.round(GUTTER_PX + x) + 0.5;
      group.append(svg("line", { x1: at, x2: at, y1: AXIS_PX - 3, y2: layout.height_px - 4, class: "residency-grid" }));
      const anchor = x > layout.width_px - 20 ? "end" : x < 14 ? "start" : "middle";
      group.append(svg("text", { x: at, y: 12, "text-anchor": anchor, class: "residency-tick" }, formatTick(time_s, layout.axis.step_s)));
    }
    return group;
  }

  function draw() {
    frame = 0;
    if (!trace || !element.isConnected || element.clientWidth === 0) return;
    measuring.font = `${FONT_PX}px ${getComputedStyle(element).fontFamily}`;
    layout = layoutTimeline(trace, view, plotWidth());
    const colours = colourIndex(trace);
    const pattern = svg(
      "pattern",
      { id: stripes, width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      svg("rect", { width: 6, height: 6, fill: "var(--residency-stall-dark)" }),
      svg("rect", { width: 3, height: 6, fill: "var(--residency-stall)" }),
    );
    const parts = [svg("defs", {}, pattern), drawAxis()];
    for (const lane of layout.lanes) {
      const name = LANE_NAMES[lane.id] ?? lane.tier;
      const middle = lane.y + lane.label_px + 4;
      const label = svg("text", { x: LABEL_X, y: middle, class: "residency-lane" }, fitText(name, GUTTER_PX - LABEL_X - 6, measure) || name.slice(0, 8));
      label.append(svg("title", {}, lane.tier ? `Moved to and evicted from ${tierWords(lane.tier)}` : "Nodes in the order in which they ran"));
      parts.push(label);
      for (const item of lane.items) parts.push(item.kind === "eviction" ? drawMark(item, colours) : drawBar(item, colours));
    }
    if (layout.now_x !== null && layout.now_x <= layout.width_px + 1) {
      const x = GUTTER_PX + layout.now_x;
      parts.push(svg("line", { x1: x, x2: x, y1: AXIS_PX, y2: layout.height_px - 4, class: "residency-now" }));
    }
    const chosen = focused();
    if (chosen) {
      const box = clipped(chosen);
      const pad = chosen.kind === "eviction" ? 8 : 2;
      const width = Math.max(box.width, 2) + 2 * pad;
      parts.push(svg("rect", { x: GUTTER_PX + box.x - pad, y: box.y - 2, width, height: box.height + 4, rx: 4, class: "residency-focus" }));
    }
    drawing.setAttribute("width", element.clientWidth);
    drawing.setAttribute("height", layout.height_px);
    drawing.classList.toggle("is-zoomed", view.to_s !== null);
    drawing.replaceChildren(...parts);
    if (pointer) hover();
    else if (chosen) showTooltip(chosen, GUTTER_PX + clipped(chosen).x + 12, chosen.y + chosen.height);
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
    if (item) showTooltip(item, pointer.x, pointer.y);
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
    /** Shows a trace; the window stays where it is while the prompt stays the same. */
    show(next) {
      if (next?.prompt_id !== trace?.prompt_id) {
        view = WHOLE;
        focus = null;
        tooltip.hidden = true;
      }
      trace = next;
      schedule();
    },
    destroy() {
      resized.disconnect();
      tooltip.remove();
      cancelAnimationFrame(frame);
    },
  };
}
