"""A simulated machine: rates, sizes, and the rules by which ComfyUI uses its memory. Frozen data.

Rates are those of the process that uses them, not of the data sheet: one consumer that faults weights in is slower than the drive.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

GB = 10**9
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Drive:
    """`read_bytes_per_s`: many large reads at once (read-ahead); `single_bytes_per_s`: the one consumer that ComfyUI is.

    With both at work the consumer gets at most half of `read_bytes_per_s * contended_share`, the reader the rest.
    """

    read_bytes_per_s: float
    single_bytes_per_s: float
    latency_s: float = 0.0  # before each transfer
    contended_share: float = 1.0  # below 1 where two readers cost seeks


@dataclass(frozen=True, slots=True)
class Machine:
    """One device, its host and its drives. Rates are bytes per second, sizes bytes.

    `fresh_pin_bytes_per_s`: page cache -> newly registered host buffer -> device, the first consumption of weights.
    `device_overhead_bytes`: context and allocator. `host_bytes`: free for weights when nothing is loaded. `pin_floor_bytes`: pins grow
    until this little is available; `idle_floor_bytes`: after each node pins are given up until this much is (both in execution.py and
    ensure_pin_budget of ComfyUI 0.33). `budget_floor_bytes`: left alone by our host. `pins` is false where ComfyUI keeps no pinned copy;
    then weights come from the page cache in every pass. `both_ways_share`: the part of its own rate that each direction of the link reaches
    while both are at work. `freed_bytes_per_s`: of other models' pages that ComfyUI unmaps to make room for one, each of which waits for
    the device. `staged_bytes_per_s`: page cache -> staging buffers -> device with the pack's streams; 0: as with ComfyUI's.
    """

    name: str
    drives: tuple[Drive, ...]
    device_bytes: int
    host_bytes: int
    pinned_bytes_per_s: float
    pageable_bytes_per_s: float
    pinned_back_bytes_per_s: float
    pageable_back_bytes_per_s: float
    page_cache_bytes_per_s: float
    fresh_pin_bytes_per_s: float
    device_overhead_bytes: int = 0
    pin_floor_bytes: int = 0
    idle_floor_bytes: int = 0
    budget_floor_bytes: int = 0
    pins: bool = True
    both_ways_share: float = 1.0
    freed_bytes_per_s: float = math.inf
    staged_bytes_per_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.drives:
            raise ValueError(f"machine {self.name} has no drive; give at least one")
        rates = (self.pinned_bytes_per_s, self.pageable_bytes_per_s, self.page_cache_bytes_per_s, self.fresh_pin_bytes_per_s)
        if min(rates) <= 0 or min(min(d.read_bytes_per_s, d.single_bytes_per_s) for d in self.drives) <= 0:
            raise ValueError(f"machine {self.name} has a rate that is not positive: nothing would ever arrive")

    @property
    def cached_bytes_per_s(self) -> float:
        """Page cache to device without a pinned copy: through a staging buffer, as fast as the slower of the two copies."""
        return min(self.page_cache_bytes_per_s, self.pageable_bytes_per_s)

    @property
    def streamed_bytes_per_s(self) -> float:
        """The same with the pack's streams."""
        return min(self.staged_bytes_per_s, self.pinned_bytes_per_s) or self.cached_bytes_per_s


# Measured 2026-11-23 on one H100 80 GB, 16 cores, 128 GB of RAM, virtual disk. The drive's 1.65 GB/s is the buffered rate of many
# threads; 1.0 GB/s what ComfyUI's own first forward drew from it; 2.3 GB/s its first pass over weights in the page cache.
# 10 GiB is 10 % of RAM, at most 10 GiB (main.py: cache_ram); half of it is ensure_pin_budget's floor.
# Not measured: 0.5 GB of device overhead (CUDA context); pageable device->host, taken as the pageable rate of the other direction; and the
# 28 GB/s of freed pages, 1.2 ms for one of 32 MiB: what stock's S3 takes beyond crossing and computing. It explains S3b and S9 as well.
# Staged: the pack's text encoder out of the page cache, on a machine of the kind, 2026-11-28: 9.6 GB in 0.61 s (S2), 9.3 in 0.70 (C1),
# 9.1 in 0.57 (C2).
H100 = Machine(
    name="H100 80 GB, virtual disk",
    drives=(Drive(1.65 * GB, 1.0 * GB),),
    device_bytes=80 * GB,
    host_bytes=124 * GB,
    pinned_bytes_per_s=42.8 * GB,
    pageable_bytes_per_s=7.8 * GB,
    pinned_back_bytes_per_s=34 * GB,
    pageable_back_bytes_per_s=7.8 * GB,
    page_cache_bytes_per_s=7 * GB,
    fresh_pin_bytes_per_s=2.3 * GB,
    device_overhead_bytes=GB // 2,
    pin_floor_bytes=5 * GIB,
    idle_floor_bytes=10 * GIB,
    budget_floor_bytes=128 * GB // 10,
    freed_bytes_per_s=28 * GB,
    staged_bytes_per_s=14 * GB,
)

# Measured 2026-11-25 on another machine of the kind, as docs/benchmarks.md tells: the drive's best rate, the link each way, and, from the
# trace of one exchange, 22.4 GB in and 23.6 GB out in 0.86 s: both ways at once took as long as one after the other. ComfyUI's own first
# forward drew 1.01 GB/s (S1: 65.0 s, of which 8.2 compute, for 57.5 GB).
H100_LATER = replace(
    H100,
    name="H100 80 GB, virtual disk, two days later",
    drives=(Drive(1.48 * GB, 1.01 * GB),),
    pinned_bytes_per_s=54.2 * GB,
    pageable_bytes_per_s=6.7 * GB,
    pinned_back_bytes_per_s=54.7 * GB,
    both_ways_share=0.5,
)

# Another machine of the same kind, the same day as the first: read-ahead ran at 1.13 GB/s.
H100_SLOW_DISK = replace(H100, name="H100 80 GB, slower virtual disk", drives=(Drive(1.13 * GB, 1.0 * GB),))


def ideal(host_bytes: int, disk_bytes_per_s: float = 1.0) -> Machine:
    """Two tiers and nothing else: one disk, one host that holds `host_bytes`, a device that keeps nothing and is reached in no time.

    The machine of the optimum's search: a use computes once its component is in the host as a whole.
    """
    endless = float("inf")
    return Machine(
        name="two tiers",
        drives=(Drive(disk_bytes_per_s, disk_bytes_per_s),),
        device_bytes=0,
        host_bytes=host_bytes,
        pinned_bytes_per_s=endless,
        pageable_bytes_per_s=endless,
        pinned_back_bytes_per_s=endless,
        pageable_back_bytes_per_s=endless,
        page_cache_bytes_per_s=endless,
        fresh_pin_bytes_per_s=endless,
        pins=False,
    )


def of_rates(
    disk_bytes_per_s: float, link_bytes_per_s: float, device_bytes: int | None, host_bytes: int, reserve_bytes: int = 0
) -> Machine:
    """A machine of which these are known; `device_bytes` None: its device shares the host's memory and is reached in no time.

    The one consumer reads and pins in turn. The rates that depend on the processor are those of H100's host.
    """
    shares = device_bytes is None
    link = math.inf if shares else link_bytes_per_s
    fresh = math.inf if shares else min(H100.fresh_pin_bytes_per_s, link)
    return Machine(
        name="of rates",
        drives=(Drive(disk_bytes_per_s, 1 / (1 / disk_bytes_per_s + 1 / fresh)),),
        device_bytes=device_bytes or 0,
        host_bytes=host_bytes,
        pinned_bytes_per_s=link,
        pageable_bytes_per_s=link,
        pinned_back_bytes_per_s=link,
        pageable_back_bytes_per_s=link,
        page_cache_bytes_per_s=math.inf if shares else H100.page_cache_bytes_per_s,
        fresh_pin_bytes_per_s=fresh,
        budget_floor_bytes=reserve_bytes,
        pins=not shares,
        freed_bytes_per_s=math.inf if shares else H100.freed_bytes_per_s,
        staged_bytes_per_s=math.inf if shares else H100.staged_bytes_per_s,
        both_ways_share=1.0 if shares else H100_LATER.both_ways_share,
    )
