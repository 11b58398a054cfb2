"""Fleets of several sizes under every way of choosing a worker: the table and the picture of docs/fleet.md.

    python benchmarks/fleet.py [--requests N] [--seed N] [--others N,N] [--write]

Machine-independent but for the milliseconds of deciding: a virtual clock. Workers have 24 GB of VRAM, 64 GB of RAM and a drive of
1.5 GB/s; the trace is the generated one of `residency fleet simulate`. `--others` are seeds of
which small fleets alone are run. `--write` puts all of it into docs/.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from residency.cli.machines import machine
from residency.fleet.simulation import BOUND, Result, simulate
from residency.fleet.traffic import Traffic, generate
from residency.simulate import GB

DOCS = Path(__file__).resolve().parents[1] / "docs"
SIZES = ((2, 5), (8, 20), (32, 60), (100, 150), (300, 300), (1000, 500))  # workers, base models
OURS = "residency"
SMALL = SIZES[:3]
SMALL_REQUESTS = 8_000
BEGIN, SMALL_BEGIN, END = "<!-- benchmarks/fleet.py -->\n", "<!-- benchmarks/fleet.py, others -->\n", "<!-- end -->\n"
COLOURS = {OURS: "#2f7d4f", BOUND: "#b8b8b8"}
OTHERS = ("#3f6fb0", "#c2843a", "#8a5fa8", "#b04a4a", "#4a9a9a", "#77773a")
WIDTH, BAR, GAP, LEFT, MOST_S = 760, 11, 22, 150, 600.0


def measure(requests: int, seed: int) -> dict[tuple[int, int], list[Result]]:
    """Results by (workers, models)."""
    worker, found = machine(24 * GB, 64 * GB, 1.5 * GB, 25 * GB), {}
    for workers, models in SIZES:
        traffic = Traffic(requests=requests, workers=workers, models=models, seed=seed)
        found[workers, models] = simulate(generate(traffic), worker, workers, seed)
        print(f"{workers} workers done", file=sys.stderr, flush=True)
    return found


def table(found: dict[tuple[int, int], list[Result]], requests: int, seed: int) -> str:
    """Markdown."""
    lines = [
        f"{requests:,} requests a row, seed {seed}; seconds from arrival to end, and of waiting for weights a prompt.",
        "",
        "| workers, models | policy | p50 | p95 | p99 | stall | read | prompts a GPU hour | deciding: p50, p99 |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (workers, models), results in found.items():
        for one in results:
            name = f"**{one.policy}**" if one.policy == OURS else one.policy
            known = one.decision_p50_s is not None and one.decision_p99_s is not None
            deciding = f"{1e3 * one.decision_p50_s:.2f}, {1e3 * one.decision_p99_s:.2f} ms" if known else ""
            seconds = " | ".join(f"{value:.1f}" for value in (one.p50_s, one.p95_s, one.p99_s, one.stall_s_per_prompt))
            rest = f"{one.read_bytes / 1e12:.2f} TB | {one.prompts_per_gpu_hour:.0f} | {deciding}"
            lines.append(f"| {workers}, {models} | {name} | {seconds} | {rest} |")
    return "\n".join(lines) + "\n"


def others(seeds: Sequence[int]) -> str:
    """Markdown: by how many times the 95th percentile of the best other policy is longer than ours and than the bound, where fleets are
    small; the last column is the geometric mean."""
    worker = machine(24 * GB, 64 * GB, 1.5 * GB, 25 * GB)
    lines = [f"| workers | ÷ | {' | '.join(f'seed {seed}' for seed in seeds)} | mean |", f"| ---: | --- |{' ---: |' * (len(seeds) + 1)}"]
    for workers, models in SMALL:
        rows: dict[str, list[float]] = {"ours": [], BOUND: []}
        for seed in seeds:
            traffic = Traffic(requests=SMALL_REQUESTS, workers=workers, models=models, seed=seed)
            seconds = {one.policy: one.p95_s for one in simulate(generate(traffic), worker, workers, seed)}
            ours_s, bound_s = seconds.pop(OURS), seconds.pop(BOUND)
            for name, found_s in (("ours", ours_s), (BOUND, bound_s)):
                rows[name].append(min(seconds.values()) / found_s)
            print(f"{workers} workers, seed {seed} done", file=sys.stderr, flush=True)
        for name, row in rows.items():
            lines.append(f"| {workers} | {name} | {' | '.join(f'{one:.2f}' for one in (*row, geometric_mean(row)))} |")
    return "\n".join(lines) + "\n"


def ratios(found: dict[tuple[int, int], list[Result]]) -> str:
    """Markdown: the same of every size, and of the bound in ours' place."""
    lines = ["| workers | the next one | ÷ ours | ÷ bound: no policy in the order of arrival has more |", "| ---: | --- | ---: | ---: |"]
    for (workers, _), results in found.items():
        seconds = {one.policy: one.p95_s for one in results}
        ours_s, bound_s = seconds.pop(OURS), seconds.pop(BOUND)
        best = min(seconds, key=seconds.__getitem__)
        lines.append(f"| {workers:,} | `{best}` | {seconds[best] / ours_s:.2f} | {seconds[best] / bound_s:.2f} |")
    return "\n".join(lines) + "\n"


def picture(found: dict[tuple[int, int], list[Result]]) -> str:
    """The 95th percentile of every policy as bars; what is longer than MOST_S seconds is cut off and its value written."""
    parts, y = [], 30
    for (workers, models), results in found.items():
        others = iter(OTHERS)
        parts.append(f'<text x="8" y="{y}" font-weight="bold">{workers} workers, {models} models</text>')
        y += 8
        for one in results:
            colour = COLOURS.get(one.policy) or next(others)
            length = (WIDTH - LEFT - 80) * (min(one.p95_s, MOST_S) / MOST_S) ** 0.5
            cut = " ▸" if one.p95_s > MOST_S else ""
            parts.append(f'<text x="{LEFT - 6}" y="{y + BAR - 2}" text-anchor="end">{one.policy}</text>')
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR - 2}" fill="{colour}"/>')
            parts.append(f'<text x="{LEFT + length + 6:.1f}" y="{y + BAR - 2}">{one.p95_s:.0f} s{cut}</text>')
            y += BAR + 2
        y += GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" font-family="sans-serif" font-size="11">'
    title = '<text x="8" y="14">95 % of prompts end within so many seconds (lengths by square root)</text>'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{y}" fill="white"/>', title, *parts, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--others", default="", help="seeds of which small fleets are run, like 3,4,5")
    parser.add_argument("--write", action="store_true", help="into docs/fleet.md and docs/fleet.svg")
    options = parser.parse_args()
    found = measure(options.requests, options.seed)
    told = {BEGIN: ratios(found) + "\n" + table(found, options.requests, options.seed)}
    if options.others:
        told[SMALL_BEGIN] = others([int(seed) for seed in options.others.split(",")])
    print("\n".join(told.values()))
    if options.write:
        page = (DOCS / "fleet.md").read_text(encoding="utf-8")
        for begin, text in told.items():
            before, _, rest = page.partition(begin)
            page = before + begin + text + END + rest.partition(END)[2]
        (DOCS / "fleet.md").write_text(page, encoding="utf-8")
        (DOCS / "fleet.svg").write_text(picture(found), encoding="utf-8")


if __name__ == "__main__":
    main()
