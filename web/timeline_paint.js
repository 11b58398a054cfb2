// Paints what timeline_layout.js places on a canvas: a run of thousands of nodes costs as little as one of ten, since a lane never holds
// more boxes than pixels.

import { fitText, formatTick } from "./format.js";
import { AXIS_PX } from "./timeline_layout.js";

export const GUTTER_PX = 70; // lane labels
export const END_PX = 10; // air at the right end, so that the last tick is not cut
const LABEL_X = 6; // so that the focus ring does not cut them
const FONT_PX = 11;
const LABELLED_PX = 24; // a narrower bar has room for no three characters
const NAMES = ["text", "muted", "line", "none", "stall", "stall-dark", ...Array.from({ length: 8 }, (_, index) => String(index))];
const OVER = "#4a2800"; // around a label that lies on the stripes: white on it reaches 4.5:1

/** The panel's colours as the theme has them now. */
export function paletteOf(element) {
  const style = getComputedStyle(element);
  const found = new Map(NAMES.map((name) => [name, style.getPropertyValue(`--residency-${name}`).trim()]));
  return { colours: found, focus: style.getPropertyValue("--p-primary-color").trim() || "#60a5fa", family: style.fontFamily };
}

/** The item cut to the plot: a bar that began before the window keeps its label in sight. Its stalls count from the plot's left edge, too. */
export function clipped(item, width_px) {
  if (item.stalls.length === 0 && item.x >= 0 && item.x + item.width <= width_px) return item;
  const left = Math.max(item.x, 0);
  const width = Math.max(Math.min(item.x + item.width, width_px) - left, 0);
  const cut = (stall) => {
    const from = Math.max(item.x + stall.x, 0);
    return { x: from, width: Math.min(item.x + stall.x + stall.width, width_px) - from };
  };
  const stalls = item.stalls.map(cut).filter((stall) => stall.width > 0);
  return { ...item, x: left, width, stalls, stall_px: stalls[0]?.x === left ? stalls[0].width : 0 };
}

function stripes(context, palette) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 8;
  const pen = tile.getContext("2d");
  pen.fillStyle = palette.colours.get("stall-dark");
  pen.fillRect(0, 0, 8, 8);
  pen.strokeStyle = palette.colours.get("stall");
  pen.lineWidth = 3;
  for (const at of [-8, 0, 8]) {
    pen.beginPath();
    pen.moveTo(at - 2, 10);
    pen.lineTo(at + 10, -2);
    pen.stroke();
  }
  return context.createPattern(tile, "repeat");
}

/** Paints on `canvas`: {paint}. `scene` is {layout, colours, palette, focused, laneName, labelOf}; `colourOf(record, kind)` gives a palette name. */
export function createPainter(canvas) {
  const pen = canvas.getContext("2d");
  let [palette, pattern] = [null, null];
  const measure = (text) => pen.measureText(text).width;

  function size(width_px, height_px) {
    const scale = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(width_px * scale), Math.round(height_px * scale)];
    if (canvas.width !== width || canvas.height !== height) {
      [canvas.width, canvas.height] = [width, height];
      canvas.style.height = `${height_px}px`;
    }
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width_px, height_px);
    pen.font = `${FONT_PX}px ${palette.family}`;
    pen.textBaseline = "alphabetic";
  }

  function box(x, y, width, height, radius) {
    pen.beginPath();
    if (radius > 0.5) pen.roundRect(x, y, width, height, radius);
    else pen.rect(x, y, width, height);
  }

  function line(x1, y1, x2, y2, colour, dash = []) {
    pen.strokeStyle = colour;
    pen.lineWidth = 1;
    pen.setLineDash(dash);
    pen.beginPath();
    pen.moveTo(x1, y1);
    pen.lineTo(x2, y2);
    pen.stroke();
    pen.setLineDash([]);
  }

  function axis({ layout }) {
    for (const { time_s, x } of layout.axis.ticks) {
      const at = Math.round(GUTTER_PX + x) + 0.5;
      line(at, AXIS_PX - 3, at, layout.height_px - 4, palette.colours.get("line"));
      pen.fillStyle = palette.colours.get("muted");
      pen.textAlign = x > layout.width_px - 20 ? "end" : x < 14 ? "start" : "center";
      pen.fillText(formatTick(time_s, layout.axis.step_s), at, 12);
    }
    pen.textAlign = "start";
  }

  function label(item, text, colour) {
    const beside = fitText(text, item.width - item.stall_px - 10, measure);
    const whole = beside === text || item.stall_px === 0 ? beside : fitText(text, item.width - 10, measure);
    if (!whole) return;
    const over = whole.length > beside.length; // more of the name fits across the stripes than beside them
    const place = [GUTTER_PX + item.x + (over ? 0 : item.stall_px) + 5, item.y + item.height / 2 + 4];
    if (over) {
      pen.strokeStyle = OVER;
      pen.lineWidth = 4;
      pen.lineJoin = "round";
      pen.strokeText(whole, ...place);
    }
    pen.fillStyle = colour;
    pen.fillText(over ? whole : beside, ...place);
  }

  function bar(whole, { layout, colourOf, labelOf }) {
    const item = clipped(whole, layout.width_px);
    if (item.width <= 0) return;
    const [record] = item.records;
    const many = item.records.length > 1;
    const ahead = item.kind === "ahead" || item.kind === "read";
    const stopped = item.kind === "transfer" && !many && record.status === "stopped";
    const radius = Math.min(3, item.width / 3);
    const width = Math.max(item.width - (item.width > 4 ? 1 : 0), 1);
    pen.globalAlpha = ahead ? 0.35 : stopped ? 0.3 : 1;
    pen.fillStyle = palette.colours.get(many ? "none" : colourOf(record, item.kind));
    box(GUTTER_PX + item.x, item.y, width, item.height, radius);
    pen.fill();
    pen.globalAlpha = 1;
    if (ahead || stopped) {
      pen.globalAlpha = 0.55;
      pen.strokeStyle = palette.colours.get("text");
      pen.lineWidth = 1;
      pen.setLineDash(ahead ? [2, 3] : [3, 2]);
      pen.stroke();
      pen.setLineDash([]);
      pen.globalAlpha = 1;
    }
    for (const { x, width: long } of item.stalls) {
      const most = item.x + width - x;
      pen.globalAlpha = ahead ? 0.5 : 1;
      pen.fillStyle = pattern;
      box(GUTTER_PX + x, item.y, Math.max(Math.min(long, most), 1), item.height, Math.min(radius, long / 3));
      pen.fill();
      pen.globalAlpha = 1;
    }
    if (item.width >= LABELLED_PX) label(item, labelOf(item), ahead || stopped ? palette.colours.get("text") : "#fff");
  }

  function mark(item, { layout, colourOf }) {
    if (item.x < 0 || item.x > layout.width_px) return;
    const [x, y, r] = [GUTTER_PX + item.x, item.y + item.height / 2, 5];
    pen.fillStyle = palette.colours.get(colourOf(item.records[0], item.kind));
    pen.beginPath();
    pen.moveTo(x - r, y - r / 2 - 1);
    pen.lineTo(x + r, y - r / 2 - 1);
    pen.lineTo(x, y + r);
    pen.fill();
    if (item.records.length > 1) {
      pen.fillStyle = palette.colours.get("muted");
      pen.fillText(String(item.records.length), x + r + 2, y + 4);
    }
  }

  function ring(item, { layout }) {
    const cut = clipped(item, layout.width_px);
    const pad = item.kind === "eviction" ? 8 : 2;
    pen.strokeStyle = palette.focus;
    pen.lineWidth = 2;
    box(GUTTER_PX + cut.x - pad, cut.y - 2, Math.max(cut.width, 2) + 2 * pad, cut.height + 4, 4);
    pen.stroke();
  }

  return {
    paint(scene) {
      if (palette !== scene.palette) {
        palette = scene.palette;
        pattern = stripes(pen, palette);
      }
      const { layout, laneName, focused } = scene;
      size(GUTTER_PX + layout.width_px + END_PX, layout.height_px);
      axis(scene);
      for (const lane of layout.lanes) {
        const name = laneName(lane);
        pen.fillStyle = palette.colours.get("muted");
        pen.fillText(fitText(name, GUTTER_PX - LABEL_X - 6, measure) || name.slice(0, 8), LABEL_X, lane.y + lane.label_px + 4);
        for (const item of lane.items) (item.kind === "eviction" ? mark : bar)(item, scene);
      }
      if (layout.now_x !== null && layout.now_x <= layout.width_px + 1) {
        const x = Math.round(GUTTER_PX + layout.now_x) + 0.5;
        line(x, AXIS_PX, x, layout.height_px - 4, palette.colours.get("text"), [2, 3]);
      }
      if (focused) ring(focused, scene);
    },
  };
}
