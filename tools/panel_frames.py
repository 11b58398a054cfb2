"""How long the panel keeps a page from drawing: a run of 2,000 events streams in, ten messages a second, with the panel open and closed.

    python tools/panel_frames.py      prints milliseconds between frames and of scripts in each frame

The server is real, the run is made up: its messages are handed to the front end as the websocket would. Chromium paints in software here,
on the cores that also run the server: the time between frames is that of the whole page on this machine, the scripts' is the panel's own.
Needs what tools/screenshots.py needs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from screenshots import chromium, page_in, running, show_panel

EVENTS = 2000

SECONDS = 10

STREAM = """async ([events, seconds]) => {
  const { api } = comfyAPI.api;
  const messages = seconds * 10;
  const each = Math.ceil(events / 4 / messages);  // of each four events: a node, its transfer, a decision, an eviction
  const components = Array.from({ length: 40 }, (_, i) => ({ key: `c${i}`, name: `model ${i}`, kind: "MODEL", size_bytes: 1e9 }));
  const head = (now) => ({ version: 1, prompt_id: "frames", mode: "auto", outcome: "running", duration_s: now, started_unix_s: 0,
    summary: { compute_s: now, stall_s: 0, wait_s: 0, prefetched_bytes: now, wasted_bytes: 0, evicted_bytes: 0, nodes: 0 } });
  const node = (i) => ({ node_id: String(i), class_type: "KSampler", start_s: i / 10, end_s: i / 10 + 0.09, stall_s: i % 5 ? 0 : 0.03,
    computes: [`c${i % 40}`], loads: [], steps: [] });
  const of = (i) => `c${i % 40}`;
  const transfer = (i) => ({ component: of(i), tier: i % 2 ? "host" : "device", start_s: i / 10, end_s: i / 10 + 0.2, moved_bytes: 1e8,
    present_bytes: 1e8, status: "done", reason: "next" });
  const decision = (i) => ({ time_s: i / 10, kind: "prefetch", component: of(i), tier: "host", size_bytes: 1e8, reason: `node ${i}` });
  const eviction = (i) => ({ component: `c${i % 40}`, tier: "host", time_s: i / 10, freed_bytes: 1e8, reason: "room" });
  const frames = [];
  let last = performance.now(), going = true;
  const tick = (now) => { frames.push(now - last); last = now; if (going) requestAnimationFrame(tick); };
  requestAnimationFrame(tick);
  const told = (message) => {
    const started = performance.now();
    api.dispatchCustomEvent("residency.update", { prompt_id: "frames", mode: "auto", running: true, ...message });
    return performance.now() - started;
  };
  const own = [told({ trace: { ...head(0), components } })];
  for (let m = 0; m < messages; m += 1) {
    const from = m * each, ids = Array.from({ length: each }, (_, i) => from + i);
    const lists = { components: [40, []], nodes: [from, ids.map(node)], transfers: [from, ids.map(transfer)],
      evictions: [from, ids.map(eviction)], decisions: [from, ids.map(decision)] };
    own.push(told({ new: { ...head((from + each) / 10), ...lists, open: {} } }));
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  going = false;
  return { frames, own, bars: document.querySelector(".residency-drawing")?.dataset.bars ?? "0" };
}"""

# how long one drawing takes: the panel's own frame callback, timed from inside
TIMED = """() => {
  window.drawings = [];
  const own = window.requestAnimationFrame.bind(window);
  window.requestAnimationFrame = (callback) => own((now) => {
    const started = performance.now();
    callback(now);
    if (callback.name === "draw") window.drawings.push(performance.now() - started);
  });
}"""


def told(name: str, values: list[float]) -> str:
    ordered = sorted(values)
    at = [ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.95, 1.0)] if ordered else [0.0] * 3
    return f"{name:<34}{len(ordered):>6}{at[0]:>9.1f}{at[1]:>9.1f}{at[2]:>9.1f}"


def measure(page: Any) -> list[str]:
    """Lines for the page as it is, then with the panel open."""
    lines = []
    page.evaluate(TIMED)
    for name in ("closed", "open"):
        if name == "open":
            show_panel(page)
        found = page.evaluate(STREAM, [EVENTS, SECONDS])
        lines.append(told(f"{name}: between frames, ms", found["frames"][5:]))
        lines.append(told(f"{name}: taking a message, ms", found["own"]))
    return [*lines, told("open: drawing the timeline, ms", page.evaluate("window.drawings")), f"bars at the end: {found['bars']}"]


if __name__ == "__main__":
    with running() as (server, _), chromium() as browser, page_in(browser, server, "dark") as page:
        print(f"{'':<34}{'count':>6}{'p50':>9}{'p95':>9}{'most':>9}")
        print("\n".join(measure(page)))
