"""The machine that a simulation runs on, from the user's options: --vram, --ram, --disk, --link. A figure that nobody gives is assumed and
told as such. Everything else follows the machine that the simulator was checked against.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from ..simulate import GB, H100, H100_LATER, Drive, Machine
from ..transfers import host_memory
from ..units import UsageError, parse_rate, parse_size, written

VRAM_BYTES = 24 * GB
DISK_BYTES_PER_S = 1.5 * GB  # between a SATA SSD's 0.53 and an NVMe drive's 3.5
LINK_BYTES_PER_S = 25.0 * GB  # PCIe 4.0 x16
# Of one host with an H100: the rates that depend on its processor more than on what a buyer chooses.
FRESH_PIN_BYTES_PER_S = 2.3 * GB
PAGEABLE_BYTES_PER_S = 7.8 * GB
PAGE_CACHE_BYTES_PER_S = 7.0 * GB
SYSTEM_BYTES = 3 * GB  # of the RAM: ComfyUI, torch and the system
OVERHEAD_BYTES = GB // 2  # of the device: context and allocator
HEADROOM_SHARE = 0.1  # of the RAM: as the ComfyUI host leaves it alone


@dataclass(frozen=True, slots=True)
class Described:
    """A machine and one line for people that says which parts of it were assumed."""

    machine: Machine
    line: str


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that `describe` reads."""
    group = parser.add_argument_group("the machine")
    group.add_argument("--vram", metavar="SIZE", help=f"memory of the device, like 24GB (default: {written(VRAM_BYTES)})")
    group.add_argument("--ram", metavar="SIZE", help="memory of the host, like 64GB (default: what this machine has)")
    group.add_argument("--disk", metavar="RATE", help="what the drive reads with many requests, like 1.5GB/s")
    group.add_argument("--link", metavar="RATE", help=f"host to device, pinned, like 25GB/s (default: {written(LINK_BYTES_PER_S)}/s)")


def describe(options: argparse.Namespace, disk_bytes_per_s: float | None = None, disk_source: str = "") -> Described:
    """The machine. `disk_bytes_per_s` was measured, `disk_source` says where; --disk overrides it. Raises UsageError."""
    vram_bytes = VRAM_BYTES if options.vram is None else parse_size(options.vram, "--vram")
    ram_bytes = host_memory().total_bytes if options.ram is None else parse_size(options.ram, "--ram")
    disk = DISK_BYTES_PER_S if disk_bytes_per_s is None else disk_bytes_per_s
    if options.disk is not None:
        disk = parse_rate(options.disk, "--disk")
    link = LINK_BYTES_PER_S if options.link is None else parse_rate(options.link, "--link")
    if ram_bytes == 0:
        raise UsageError("--ram: a machine with 0 bytes of RAM runs nothing; write a size like 64GB")
    measured = disk_source if disk_bytes_per_s is not None else "assumed"
    parts = [
        f"{written(vram_bytes)} of VRAM{'' if options.vram is not None else ' (assumed)'}",
        f"{written(ram_bytes)} of RAM{'' if options.ram is not None else ' (this machine)'}",
        f"disk {written(disk)}/s{'' if options.disk is not None else f' ({measured})'}",
        f"link {written(link)}/s{'' if options.link is not None else ' (assumed)'}",
    ]
    return Described(machine(vram_bytes, ram_bytes, disk, link), "Machine: " + ", ".join(parts))


def machine(
    vram_bytes: int, ram_bytes: int, disk_bytes_per_s: float, link_bytes_per_s: float, latency_s: float = 0.0, contended_share: float = 1.0
) -> Machine:
    """A machine of these sizes and rates, ComfyUI's floors as in its source; the last two as in Drive.

    The one consumer reads and pins in turn: on the H100 1 / (1/1.65 + 1/2.3) = 0.96 GB/s, where 1.0 was measured.
    """
    floor_bytes = int(ram_bytes * HEADROOM_SHARE)
    single = 1 / (1 / disk_bytes_per_s + 1 / FRESH_PIN_BYTES_PER_S)
    pageable = min(PAGEABLE_BYTES_PER_S, link_bytes_per_s / 2)
    return Machine(
        name=f"{written(vram_bytes)} VRAM, {written(ram_bytes)} RAM",
        drives=(Drive(disk_bytes_per_s, single, latency_s, contended_share),),
        device_bytes=vram_bytes,
        host_bytes=max(ram_bytes // 2, ram_bytes - SYSTEM_BYTES),
        pinned_bytes_per_s=link_bytes_per_s,
        pageable_bytes_per_s=pageable,
        pinned_back_bytes_per_s=link_bytes_per_s,
        pageable_back_bytes_per_s=pageable,
        page_cache_bytes_per_s=PAGE_CACHE_BYTES_PER_S,
        fresh_pin_bytes_per_s=FRESH_PIN_BYTES_PER_S,
        device_overhead_bytes=OVERHEAD_BYTES,
        pin_floor_bytes=min(ram_bytes // 2, max(2 * GB, floor_bytes // 2)),
        idle_floor_bytes=min(ram_bytes // 2, max(2 * GB, min(10 * GB, floor_bytes))),
        budget_floor_bytes=floor_bytes,
        staged_bytes_per_s=H100.staged_bytes_per_s,
        both_ways_share=H100_LATER.both_ways_share,
    )
