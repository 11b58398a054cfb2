"""What the panel costs, open and closed: a page while a run of 2,000 events streams in, ten messages a second; a server while prompts run.

    python tools/panel_frames.py            prints milliseconds between frames, and what of them the page's thread computes
    python tools/panel_frames.py --server   prints milliseconds of processor time that a prompt takes in the server

The server is real. The streamed run is made up: its messages are handed to the front end as the websocket would. Chromium paints in
software here, on the cores that also run the server. The time between frames is what a user of this machine sees, beside all else that it
does; a frame's processor time is that of the page's main thread (scripts, styles, layout, painting; ComfyUI's part too), from Chromium's
own trace. The server's prompts are one chain of 200 nodes that do little, each run anew, the panel closed and open in turn. Prints the
machine's load before and after. Needs what tools/screenshots.py needs.
"""

from __future__ import annotations

import bisect
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from screenshots import chromium, page_in, running, show_panel

EVENTS = 2000

SECONDS = 10

NODES = 200

ROUNDS = 6

PROMPTS = 4

FRAME_MS = 1000 / 60

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

TRACED = ["-*", "devtools.timeline", "disabled-by-default-devtools.timeline"]


def processor_of_frames(trace: bytes) -> list[float]:
    """Milliseconds of processor time of the page's main thread in each frame: its tasks up to and with the one that commits the frame."""
    events = json.loads(trace)["traceEvents"]
    main = {(one["pid"], one["tid"]) for one in events if one["name"] == "thread_name" and one["args"]["name"] == "CrRendererMain"}
    own = sorted((one for one in events if (one["pid"], one["tid"]) in main and "ts" in one), key=lambda one: one["ts"])
    commits = [one["ts"] for one in own if one["name"] == "Commit"]
    frames = [0.0] * len(commits)
    for one in own:
        if one["name"] == "RunTask" and (index := bisect.bisect_left(commits, one["ts"])) < len(commits):
            frames[index] += one["tdur"] / 1000
    return frames


def told(name: str, values: list[float]) -> str:
    ordered = sorted(values)
    at = [ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.95, 1.0)] if ordered else [0.0] * 3
    return f"{name:<46}{len(ordered):>6}{at[0]:>9.1f}{at[1]:>9.1f}{at[2]:>9.1f}"


def measure(browser: Any, page: Any) -> list[str]:
    """Lines for the page as it is, then with the panel open."""
    lines = []
    for name in ("closed", "open"):
        if name == "open":
            show_panel(page)
        page.wait_for_timeout(1000)
        browser.start_tracing(page=page, categories=TRACED)
        found = page.evaluate(STREAM, [EVENTS, SECONDS])
        computed = processor_of_frames(browser.stop_tracing())
        lines.append(told(f"{name}: between frames, ms", found["frames"][5:]))
        lines.append(told(f"{name}: processor time of a frame, ms", computed))
        lines.append(told(f"{name}: taking a message, ms", found["own"]))
        late = sum(spent > FRAME_MS for spent in computed)
        lines.append(f"{name}: {late} of {len(computed)} frames compute longer than a sixtieth of a second")
    return [*lines, f"bars at the end: {found['bars']}"]


def chain(seed: int) -> dict[str, Any]:
    """NODES nodes that hand on an image of 8 × 8; another `seed` makes all of them run."""
    graph: dict[str, Any] = {"0": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": seed}}}
    for index in range(1, NODES):
        graph[str(index)] = {"class_type": "ImageInvert", "inputs": {"image": [str(index - 1), 0]}}
    graph[str(NODES)] = {"class_type": "PreviewImage", "inputs": {"images": [str(NODES - 1), 0]}}
    return graph


def processor_s(pid: int) -> float:
    """Processor time that a process has taken, of all its threads: /proc/PID/stat (proc(5)), in its ticks of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cost(server: Any, page: Any) -> list[str]:
    """What a prompt takes in the server, the panel closed and open in turn; PROMPTS together, because the system counts in 10 ms."""
    took: dict[str, list[float]] = {"closed": [], "open": []}
    wall: dict[str, list[float]] = {"closed": [], "open": []}
    shown = False
    seed = 0
    for _ in range(ROUNDS):
        for name, samples in took.items():
            if shown != (name == "open"):
                page.evaluate("window.app.extensionManager.bottomPanel.toggleBottomPanelTab('residency')")
                page.wait_for_timeout(1500)  # the server has been told
                shown = not shown
            started_s, before_s = time.perf_counter(), processor_s(server.process.pid)
            for _ in range(PROMPTS):
                server.run(chain(seed := seed + 1))
            samples.append((processor_s(server.process.pid) - before_s) * 1000 / PROMPTS)
            wall[name].append((time.perf_counter() - started_s) * 1000 / PROMPTS)
    lines = [told(f"{name}: processor time of a prompt, ms", samples) for name, samples in took.items()]
    lines += [told(f"{name}: a prompt, ms", samples) for name, samples in wall.items()]
    differences = [opened - closed for closed, opened in zip(took["closed"], took["open"], strict=True)]
    return [*lines, f"open less closed, median of {ROUNDS} pairs: {statistics.median(differences):.1f} ms a prompt of {NODES + 1} nodes"]


def load() -> str:
    return f"load of {os.cpu_count()} cores over a minute: {os.getloadavg()[0]:.1f}, {time.strftime('%H:%M:%S')}"


if __name__ == "__main__":
    print(load())
    with running() as (server, _), chromium() as browser, page_in(browser, server, "dark") as page:
        print(f"{'':<46}{'count':>6}{'p50':>9}{'p95':>9}{'most':>9}")
        print("\n".join(cost(server, page) if "--server" in sys.argv else measure(browser, page)))
    print(load())
