"""A server as it stands, as the simulator takes it: its machine, the pack in it, and the places of its weights. Pure.

`lies` has for each component the bytes on the device ("device_bytes"), in host memory ready to cross the link ("pinned_bytes"), on either
("loaded_bytes", each byte once) and in the page cache ("cached_bytes", None where the system does not tell).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..core.component import Component
from ..record.contents import Contents
from .machine import Machine, of_rates
from .policies import OURS, Managed
from .workload import Start

Lies = Mapping[str, Mapping[str, int | None]]


def machine_of(
    contents: Contents,
    device_bytes: int | None,
    available_bytes: int,
    reserve_bytes: int,
    headroom_bytes: int,
    disk_bytes_per_s: float,
    link_bytes_per_s: float,
) -> Machine:
    """`device_bytes` of the device are for weights now; None: it has no memory of its own and is reached in no time.
    `available_bytes` of host memory, beside weights that the process holds; `reserve_bytes` of it reading ahead leaves alone.
    `headroom_bytes`: ComfyUI's own, at which it gives up pins behind each node; they grow until half of it is left."""
    told = contents.device.in_host if contents.device is not None else None
    if told is None:
        told = contents.host.loaded if contents.host is not None else {}
    found = of_rates(disk_bytes_per_s, link_bytes_per_s, device_bytes, available_bytes + sum(told.values()), reserve_bytes)
    return replace(found, pin_floor_bytes=headroom_bytes // 2, idle_floor_bytes=headroom_bytes)


def policy_of(device_bytes: int | None, *, exchanges: bool) -> Managed:
    """The pack as its movers are. `exchanges`: that of the device can keep one copy of a page over two tiers."""
    return replace(OURS, device_prefetch=device_bytes is not None, exchanges=exchanges and device_bytes is not None)


def start_of(components: Mapping[str, Component], lies: Lies) -> Start:
    """The contents of the tiers before the prompt."""
    device = {key: one["device_bytes"] or 0 for key, one in lies.items()}
    pinned = {key: one["pinned_bytes"] or 0 for key, one in lies.items()}
    loaded = {key: min(components[key].size_bytes, max(device[key], pinned[key], lies[key]["loaded_bytes"] or 0)) for key in components}
    cached = {key: max(0, min(components[key].size_bytes - loaded[key], lies[key]["cached_bytes"] or 0)) for key in components}
    return Start(cached=cached, loaded=loaded, pinned=pinned, device=device)


def bytes_from(components: Mapping[str, Component], lies: Lies) -> dict[str, int]:
    """Bytes by the nearest place that they are in."""
    total = {"device": 0, "pinned": 0, "cached": 0, "disk": 0}
    for key, component in components.items():
        left_bytes = component.size_bytes
        for place in ("device", "pinned", "cached"):
            here_bytes = min(left_bytes, lies[key][f"{place}_bytes"] or 0)
            total[place] += here_bytes
            left_bytes -= here_bytes
        total["disk"] += left_bytes
    return total
