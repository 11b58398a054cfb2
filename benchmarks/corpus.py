"""Stall of realistic workflows on many simulated machines: stock ComfyUI, the pack, and the schedule bound.

    python benchmarks/corpus.py [--all] [--json]

Machine-independent: a virtual clock. 8 workflows x 8/16/24/48 GB of device memory x 16/32/64/128 GB of RAM x hard disk, SATA, NVMe x
PCIe 3x8, 4x16, 5x16. Each workflow runs cold, then warm; stall is all time that is not compute. Sizes are those of the published
files; compute times are those of a middling card, the same on every machine, so that only the moving of weights differs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from residency.cli.machines import machine as machine_of
from residency.core.component import Component
from residency.simulate import GB, OURS, STOCK, Machine, Program, Step, bound_s, run

DEVICE_GB = (8, 16, 24, 48)
HOST_GB = (16, 32, 64, 128)
# Sequential rates of the drive classes, GB/s. A second reader costs a hard disk most of its rate in seeks.
DRIVES = {"HDD": (0.16, 0.01, 0.4), "SATA": (0.53, 0.0, 1.0), "NVMe": (3.5, 0.0, 1.0)}
LINKS = {"PCIe 3x8": 6.5, "PCIe 4x16": 25.0, "PCIe 5x16": 50.0}

SIZES_GB = {
    "sdxl base": 5.1, "sdxl refiner": 4.5, "sdxl clip": 1.6, "refiner clip": 1.4, "sdxl vae": 0.17,
    "flux": 11.9, "t5": 9.8, "flux vae": 0.17,
    "wan high": 14.3, "wan low": 14.3, "umt5": 6.7, "wan vae": 0.25,
    "control depth": 2.5, "control pose": 2.5, "control edge": 2.5, "esrgan": 0.07,
    **{f"lora {number}": 0.25 for number in range(4)},
}  # fmt: skip


def step(name: str, compute_s: float, *components: str, passes: int = 1, working_gb: float = 1.0) -> Step:
    return Step(name, name, compute_s, components, passes, int(working_gb * GB))


def text(*components: str) -> Step:
    return step("text", 0.3, *components, working_gb=0.3)


def sampler(compute_s: float, *components: str, passes: int = 20, working_gb: float = 1.5) -> Step:
    return step("sampler", compute_s, *components, passes=passes, working_gb=working_gb)


SDXL = (text("sdxl clip"), sampler(6, "sdxl base"), step("decode", 0.5, "sdxl vae", working_gb=2))
REFINED = (text("sdxl clip"), sampler(5, "sdxl base"), text("refiner clip"), sampler(2, "sdxl refiner", passes=5), SDXL[-1])
FLUX = (text("t5"), sampler(25, "flux", working_gb=2), step("decode", 0.6, "flux vae", working_gb=2))
WAN = (
    text("umt5"),
    sampler(60, "wan high", passes=10, working_gb=4),
    sampler(60, "wan low", passes=10, working_gb=4),
    step("decode", 6, "wan vae", working_gb=3),
)
CONTROLS = (text("sdxl clip"), sampler(11, "sdxl base", "control depth", "control pose", "control edge"), SDXL[-1])
UPSCALE = (*SDXL, step("upscale", 2, "esrgan"), text("sdxl clip"), sampler(14, "sdxl base", passes=10, working_gb=4), SDXL[-1])
LORAS = tuple((text("sdxl clip"), sampler(6, "sdxl base", f"lora {number}"), SDXL[-1]) for number in range(4))
WORKFLOWS: dict[str, tuple[tuple[Step, ...], ...]] = {
    "single model": (SDXL, SDXL),
    "base + refiner": (REFINED, REFINED),
    "flux + t5": (FLUX, FLUX),
    "wan two experts": (WAN, WAN),
    "three controlnets": (CONTROLS, CONTROLS),
    "lora sweep": LORAS,
    "upscale chain": (UPSCALE, UPSCALE),
    "mixed queue": (FLUX, REFINED, WAN, FLUX),
}


def program(name: str) -> Program:
    """A workflow's prompts, queued all at once."""
    used = {key for prompt in WORKFLOWS[name] for one in prompt for key in one.components}
    parts = {key: Component(key, key, "MODEL", int(SIZES_GB[key] * GB)) for key in SIZES_GB if key in used}
    return Program(name, parts, WORKFLOWS[name])


def machine(device_gb: int, host_gb: int, drive: str, link: str) -> Machine:
    """The rules of the H100 baseline on another machine."""
    rate, latency_s, contended = DRIVES[drive]
    return machine_of(device_gb * GB, host_gb * GB, rate * GB, LINKS[link] * GB, latency_s, contended)


def rows() -> Iterator[dict[str, Any]]:
    """Every workflow on every machine. Seconds of stall; `bound_s` is the bound less the compute."""
    for name in WORKFLOWS:
        work = program(name)
        compute_s = sum(one.compute_s for one in work.steps())
        for device_gb, host_gb, drive, link in itertools.product(DEVICE_GB, HOST_GB, DRIVES, LINKS):
            where = machine(device_gb, host_gb, drive, link)
            stalls = {policy.name: run(work, where, policy).total_s - compute_s for policy in (STOCK, OURS)}
            yield {
                "workflow": name,
                "device_gb": device_gb,
                "host_gb": host_gb,
                "drive": drive,
                "link": link,
                "compute_s": compute_s,
                "stock_s": round(stalls["stock"], 2),
                "ours_s": round(stalls["ours"], 2),
                "bound_s": round(bound_s(work, where) - compute_s, 2),
            }


def summary(found: Iterable[dict[str, Any]], axis: str) -> list[dict[str, Any]]:
    """Means of the stalls over one axis, and on how many machines ours is more than 1 % of the whole slower than stock."""
    groups: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for row in found:
        groups[row[axis]].append(row)
    return [
        {
            axis: value,
            **{key: round(statistics.mean(row[key] for row in group), 1) for key in ("stock_s", "ours_s", "bound_s")},
            "machines": len(group),
            "slower": sum(row["ours_s"] - row["stock_s"] > 0.01 * (row["stock_s"] + row["compute_s"]) for row in group),
        }
        for value, group in groups.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every machine, not only the means")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    found = list(rows())
    means = {axis: summary(found, axis) for axis in ("workflow", "device_gb", "host_gb", "drive", "link")}
    if options.json:
        print(json.dumps({"means": means, "rows": found if options.all else []}, indent=1))
        return
    if options.all:
        for row in found:
            print("  ".join(str(value).rjust(8) for value in row.values()))
    for axis, lines in means.items():
        print(f"\n{axis:<20}{'stock':>8}{'ours':>8}{'bound':>8}   stall, mean s; slower than stock on")
        for line in lines:
            print(f"{line[axis]!s:<20}{line['stock_s']:>8}{line['ours_s']:>8}{line['bound_s']:>8}   {line['slower']} of {line['machines']}")


if __name__ == "__main__":
    main()
