// Where everything on the timeline goes. Pure: a trace, a window of time and a width in; lanes of boxes in pixels out.

export const AXIS_PX = 20;
const NODE_PX = 32;
const BAR_PX = 22;
const MARK_PX = 14;
const GAP_PX = 3;
const LANE_GAP_PX = 10;
const MIN_PX = 2; // narrower boxes are merged with their neighbours, so that none gets lost
const MAX_ROWS = 4; // transfers that overlap further share the last row
const TICK_PX = 80;
const MIN_SPAN_S = 1e-4;
const COLOURS = 8; // --residency-0 … --residency-7 in residency.css

export const WHOLE = Object.freeze({ from_s: 0, to_s: null });

/** What is still to come of a running prompt: {nodes, reads, end_s}. A message may be older than the clock, so nothing of it begins before now. */
export function aheadOf(trace) {
  const now_s = nowOf(trace);
  if (trace.outcome !== "running" || !trace.ahead) return { nodes: [], reads: [], end_s: now_s };
  const later = (record) => ({ ...record, start_s: Math.max(record.start_s, now_s), end_s: Math.max(record.end_s, now_s) });
  const left = (records) => records.filter(({ end_s, unknown }) => unknown || end_s > now_s).map(later);
  return { nodes: left(trace.ahead.nodes), reads: left(trace.ahead.reads), end_s: trace.ahead.end_s };
}

/** The end of the time axis: what has happened and what is to come, never zero. */
export const endOf = (trace) => Math.max(nowOf(trace), aheadOf(trace).end_s);

/** The end of what has happened so far, never zero. */
export function nowOf(trace) {
  let end_s = trace.duration_s || 0;
  for (const node of trace.nodes) end_s = Math.max(end_s, node.end_s ?? node.start_s);
  for (const transfer of trace.transfers) end_s = Math.max(end_s, transfer.end_s ?? transfer.start_s);
  return Math.max(end_s, 0.001);
}

/** The window {from_s, to_s} that shows `view` of a prompt that ends at `end_s`; to_s null means: up to the end, and follow it. */
export function windowOf(view, end_s) {
  return { from_s: view.from_s, to_s: view.to_s ?? end_s };
}

/** Zooms by `factor` (< 1 is closer) around `at_s`; the whole prompt again when it would show more than that. */
export function zoom(view, end_s, factor, at_s) {
  const { from_s, to_s } = windowOf(view, end_s);
  const span_s = Math.max((to_s - from_s) * factor, Math.min(MIN_SPAN_S, end_s));
  if (span_s >= end_s) return WHOLE;
  const share = (at_s - from_s) / (to_s - from_s);
  return clamp(at_s - share * span_s, span_s, end_s);
}

/** Moves the window by `by_s` seconds and keeps it inside the prompt. */
export function pan(view, end_s, by_s) {
  if (view.to_s === null) return view;
  return clamp(view.from_s + by_s, view.to_s - view.from_s, end_s);
}

function clamp(from_s, span_s, end_s) {
  const start_s = Math.min(Math.max(from_s, 0), Math.max(end_s - span_s, 0));
  return { from_s: start_s, to_s: start_s + span_s };
}

/** Ticks of 1, 2 or 5 times a power of ten seconds (of 1, 2, 5, 10, 15 or 30 minutes above one), at least TICK_PX apart. */
export function ticksOf(window_s, width_px) {
  const span_s = window_s.to_s - window_s.from_s;
  const least_s = (span_s * TICK_PX) / Math.max(width_px, 1);
  const power = 10 ** Math.floor(Math.log10(least_s));
  const fine = [1, 2, 5, 10].map((step) => step * power).find((step) => step >= least_s * (1 - 1e-9));
  const coarse = [60, 120, 300, 600, 900, 1800, 3600].find((step) => step >= least_s) ?? Math.ceil(least_s / 3600) * 3600;
  const step_s = least_s > 20 ? coarse : fine;
  const ticks = [];
  for (let index = Math.ceil(window_s.from_s / step_s - 1e-9); index * step_s <= window_s.to_s + 1e-9 * span_s; index += 1) {
    ticks.push({ time_s: index * step_s, x: ((index * step_s - window_s.from_s) / span_s) * width_px });
  }
  return { step_s, ticks };
}

/**
 * Boxes on one row, in order of start. Boxes of at least MIN_PX stay as they are; narrower ones are merged while they
 * touch, and drawn MIN_PX wide, so a row never holds more boxes than pixels.
 */
function boxesOf(records, kind, scale, end_s) {
  const boxes = [];
  for (const record of records) {
    const x = scale.x(record.start_s);
    const width = scale.x(record.end_s ?? end_s) - x;
    if (x + width < -1 || x > scale.width_px + 1) continue;
    const last = boxes.at(-1);
    const narrow = width < MIN_PX;
    if (narrow && last?.narrow && x <= last.x + last.width) {
      last.records.push(record);
      last.width = Math.max(last.width, x + width - last.x);
    } else {
      boxes.push({ kind, x, width: Math.max(width, MIN_PX), narrow, records: [record] });
    }
  }
  return boxes;
}

/**
 * Transfers without an end are announced; the mover of a tier takes them one after the other. The first one has been moving
 * since the tier was last busy, the rest have not begun and take no room. Those to the device wait for room there, and tell what
 * they have moved.
 */
function begun(transfers) {
  if (transfers[0]?.tier === "device") return transfers.filter((transfer) => transfer.moved_bytes > 0);
  const ended = transfers.filter((transfer) => transfer.end_s !== null);
  const [moving] = transfers.filter((transfer) => transfer.end_s === null);
  if (!moving) return ended;
  const free_s = ended.reduce((last_s, transfer) => Math.max(last_s, transfer.end_s), 0);
  return [...ended, { ...moving, start_s: Math.max(moving.start_s, free_s) }];
}

/** Transfers of one tier, each on the first row that is free when it starts. */
function rowsOf(transfers, end_s) {
  const rows = [];
  for (const transfer of inOrder(transfers, start)) {
    let row = rows.findIndex((candidate) => candidate.until_s <= transfer.start_s);
    if (row < 0) row = rows.length < MAX_ROWS ? rows.push({ until_s: 0, records: [] }) - 1 : MAX_ROWS - 1;
    rows[row].until_s = Math.max(rows[row].until_s, transfer.end_s ?? end_s);
    rows[row].records.push(transfer);
  }
  return rows.map((row) => row.records);
}

/** Eviction marks; those that would overlap become one. */
function marksOf(evictions, scale) {
  const marks = [];
  for (const record of inOrder(evictions, (one) => one.time_s)) {
    const x = scale.x(record.time_s);
    if (x < -MARK_PX || x > scale.width_px + MARK_PX) continue;
    const last = marks.at(-1);
    if (last && x - last.x < MARK_PX - 4) last.records.push(record);
    else marks.push({ kind: "eviction", x, width: 0, records: [record] });
  }
  return marks;
}

const MIN_STALL_PX = 0.5;

/**
 * Where a box stood still for weights, {x, width} from its left edge: at the beginning of each step that waited. All of it at the left
 * where steps are narrower than can be told apart, or the trace tells none.
 */
function stallsOf(box, scale) {
  const [node] = box.records;
  const steps = box.records.length === 1 ? (node.steps ?? []) : [];
  const whole_px = Math.min(box.records.reduce((sum, record) => sum + (record.stall_s || 0), 0) * scale.px_per_s, box.width);
  if (whole_px < MIN_STALL_PX) return NONE;
  if (steps.length === 0 || box.width < 2 * MIN_PX * steps.length) return [{ x: 0, width: whole_px }];
  let [at_s, told_s] = [0, 0];
  const parts = steps.map(([took_s, stall_s]) => {
    const part = { at_s, stall_s };
    at_s += took_s;
    told_s += stall_s;
    return part;
  });
  parts.push({ at_s, stall_s: Math.max((node.stall_s || 0) - told_s, 0) }); // after the last step
  const places = parts.map((part) => ({ x: part.at_s * scale.px_per_s, width: part.stall_s * scale.px_per_s }));
  return places.filter((place) => place.width >= MIN_STALL_PX).map(({ x, width }) => ({ x, width: Math.min(width, box.width - x) }));
}

const NONE = Object.freeze([]);

/** The box, placed in its lane, with its stalls; `stall_px` is what of them lies at its left edge. Boxes are made for one drawing: they are changed, not copied. */
function placed(box, y, height, stalls = NONE) {
  box.y = y;
  box.height = height;
  box.stalls = stalls;
  box.stall_px = stalls[0]?.x === 0 ? stalls[0].width : 0;
  return box;
}

/** In order of `of`; what is in order already, as mostly, is not copied. */
function inOrder(records, of) {
  for (let index = 1; index < records.length; index += 1) if (of(records[index]) < of(records[index - 1])) return [...records].sort((a, b) => of(a) - of(b));
  return records;
}

const start = (record) => record.start_s;

const TIER_ORDER = ["device", "host", "disk"]; // nearest to the compute first

/**
 * Lanes for a trace in a window of `width_px`: {width_px, height_px, axis: {step_s, ticks}, lanes, now_x}.
 * A lane is {id, tier, y, height, label_px, items}; an item {kind: node|ahead|transfer|read|eviction, x, y, width, height, stalls, stall_px, records}.
 */
export function layoutTimeline(trace, view, width_px) {
  const end_s = endOf(trace);
  const now_s = nowOf(trace);
  const ahead = aheadOf(trace);
  const window_s = windowOf(view, end_s);
  const px_per_s = width_px / (window_s.to_s - window_s.from_s);
  const scale = { width_px, px_per_s, x: (time_s) => (time_s - window_s.from_s) * px_per_s };

  const nodes = inOrder(trace.nodes, start);
  const nodeItems = [...boxesOf(nodes, "node", scale, now_s), ...boxesOf(ahead.nodes, "ahead", scale, end_s)].map((box) => placed(box, 0, NODE_PX, stallsOf(box, scale)));
  const lanes = [{ id: "nodes", tier: null, height: NODE_PX, label_px: NODE_PX / 2, items: nodeItems }];

  const tiers = [...new Set([...trace.transfers, ...trace.evictions].map((record) => record.tier))];
  if (ahead.reads.length && !tiers.includes("host")) tiers.push("host");
  const rank = (tier) => (TIER_ORDER.includes(tier) ? TIER_ORDER.indexOf(tier) : TIER_ORDER.length);
  for (const tier of tiers.sort((a, b) => rank(a) - rank(b))) {
    const rows = rowsOf(begun(trace.transfers.filter((transfer) => transfer.tier === tier)), now_s);
    const evictions = trace.evictions.filter((eviction) => eviction.tier === tier);
    const rows_px = (tier === "host" && ahead.reads.length ? Math.max(rows.length, 1) : rows.length) * (BAR_PX + GAP_PX);
    const bars = rows.flatMap((records, row) =>
      boxesOf(records, "transfer", scale, now_s).map((box) => placed(box, row * (BAR_PX + GAP_PX), BAR_PX)),
    );
    if (tier === "host") bars.push(...boxesOf(ahead.reads, "read", scale, end_s).map((box) => placed(box, 0, BAR_PX)));
    const marks = marksOf(evictions, scale).map((mark) => placed(mark, rows_px, MARK_PX));
    const height = rows_px - (evictions.length ? 0 : GAP_PX) + (evictions.length ? MARK_PX : 0);
    lanes.push({ id: `tier-${tier}`, tier, height, label_px: (rows.length ? BAR_PX : MARK_PX) / 2, items: [...bars, ...marks] });
  }

  let y = AXIS_PX + 4;
  for (const lane of lanes) {
    lane.y = y;
    for (const item of lane.items) item.y += y;
    y += lane.height + LANE_GAP_PX;
  }
  return {
    width_px,
    height_px: y,
    window_s,
    end_s,
    axis: ticksOf(window_s, width_px),
    lanes,
    now_x: trace.outcome === "running" ? scale.x(now_s) : null,
  };
}

/** Component key → index of its colour, in the order in which the prompt needs them. */
export function colourIndex(trace) {
  const indices = new Map();
  for (const component of trace.components) indices.set(component.key, indices.size % COLOURS);
  return indices;
}

/** The name of a component's colour, as residency.css has them; grey for a node that uses none. */
export const colourName = (indices, key) => (indices.has(key) ? String(indices.get(key)) : "none");

/** The CSS colour of a component. */
export const colourOf = (indices, key) => `var(--residency-${colourName(indices, key)})`;
