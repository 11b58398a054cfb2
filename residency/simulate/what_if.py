"""A recorded run, simulated under other terms: ComfyUI alone, another mode, more memory, a faster drive. Pure.

ComfyUI alone is simulated twice, since nobody has measured how fast its own single reader is: as fast as many large reads at once, and as
much slower as on machine.H100. The run itself is simulated as well: how far that is from the recording says how sure the rest is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..core.component import Mode
from .machine import GB, GIB, H100, Drive
from .policies import STOCK, Managed
from .recorded import MOST_SHARE_READ, Recorded, Unknown, recorded
from .run import Policy, run

SHARES = (1.0, H100.drives[0].single_bytes_per_s / H100.drives[0].read_bytes_per_s)
SURE, FAIR = 0.1, 0.25  # share of the run by which the simulated one may be off for "about" and for "roughly"

RAM_GIB = (16, 32, 64, 96, 128, 192, 256, 512)
VRAM_GIB = (8, 12, 16, 24, 32, 48, 80, 96, 141)
# sequential reads as their sheets have it: SATA, PCIe 3, 4 and 5
DRIVES_BYTES_PER_S = (0.55 * GB, 3.5 * GB, 7 * GB, 14 * GB)
FASTER = 1.3  # a drive that is faster by less is none


@dataclass(frozen=True, slots=True)
class Installed:
    """Memory of the machine, used or not, in bytes. None: it has no such memory, or nobody knows."""

    ram_bytes: int | None = None
    vram_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Variant:
    """One other way: `what` is alone, drive, ram, vram or mode, `to` its value (bytes, bytes per second, or the mode's name)."""

    what: str
    to: float | str
    run: Recorded
    policy: Policy


def assessed(trace: Mapping[str, Any], installed: Installed) -> dict[str, Any]:
    """JSON-ready: `alone` {low_s, high_s, sure: about | roughly}, or `unknown` with the reason; `what_if` [{what, to, seconds, instead_s}],
    each the same prompt when it runs again where `again` is true, else from the same start."""
    found: dict[str, Any] = {"prompt_id": trace["prompt_id"], "alone": None, "unknown": None, "what_if": [], "again": False}
    trusted: list[tuple[float, Recorded, float]] = []  # how far off it is, the run, seconds of ComfyUI alone
    for share in SHARES:
        one = recorded(trace, share)
        if isinstance(one, Unknown):
            return {**found, "unknown": one.value}
        ours_s, alone_s = _last_s(one, policy_of(trace, one), 1), _last_s(one, STOCK, 1)
        if ours_s is None or alone_s is None:
            return {**found, "unknown": Unknown.DRIVE.value}
        off = abs(ours_s - one.duration_s) / max(one.duration_s, 1e-3)
        if off <= FAIR:
            trusted.append((off, one, max(0.0, one.duration_s + alone_s - ours_s)))
    if not trusted:
        return {**found, "unknown": Unknown.MODEL.value}
    off, nearest, _ = min(trusted, key=lambda one: one[0])
    low_s, high_s = min(alone for *_, alone in trusted), max(alone for *_, alone in trusted)
    sure = off <= SURE and high_s - low_s <= SURE * high_s
    found["alone"] = {"low_s": low_s, "high_s": high_s, "sure": "about" if sure else "roughly"}
    found["again"] = nearest.repeats
    found["what_if"] = list(_what_if(trace, nearest, installed))
    return found


def policy_of(trace: Mapping[str, Any], run: Recorded, mode: str | None = None) -> Managed:
    """The pack as it ran: what auto has found gives back less than the same mode that somebody asked for."""
    exchanges = run.has_device and trace["copies"] == "one"
    return Managed(mode=Mode(mode or trace.get("mode_asked", trace["mode"])), device_prefetch=run.has_device, exchanges=exchanges)


def _what_if(trace: Mapping[str, Any], base: Recorded, installed: Installed) -> Iterator[dict[str, Any]]:
    prompts = 2 if base.repeats else 1
    instead_s = _last_s(base, policy_of(trace, base), prompts)
    if instead_s is None:
        return
    for variant in _variants(trace, base, installed):
        seconds = _last_s(variant.run, variant.policy, prompts)
        if seconds is not None:
            yield {"what": variant.what, "to": variant.to, "seconds": seconds, "instead_s": instead_s}


def _last_s(one: Recorded, policy: Policy, prompts: int) -> float | None:
    """Seconds of the last prompt of those that are run; None where that depends on a drive that nobody has measured."""
    outcome = run(one.program(prompts), one.machine, policy, start=one.start)
    read_bytes = outcome.read_ahead_bytes + outcome.consumer_bytes
    weights_bytes = sum(component.size_bytes for component in one.components.values())
    if not one.drive_known and read_bytes > MOST_SHARE_READ * weights_bytes:
        return None
    return outcome.prompts_s[-1] + one.rest_s


def _variants(trace: Mapping[str, Any], base: Recorded, installed: Installed) -> Iterator[Variant]:
    """The next size of each thing above the present one, ComfyUI alone, and the other modes where there is a device to manage."""
    policy, machine = policy_of(trace, base), base.machine
    yield Variant("alone", "", base, STOCK)
    ram_bytes, vram_bytes = installed.ram_bytes, installed.vram_bytes
    more = next((size * GIB for size in RAM_GIB if ram_bytes and size * GIB > 1.1 * ram_bytes), None)
    if more and ram_bytes:
        yield Variant("ram", more, replace(base, machine=replace(machine, host_bytes=machine.host_bytes + more - ram_bytes)), policy)
    more = next((size * GIB for size in VRAM_GIB if vram_bytes and size * GIB > 1.1 * vram_bytes), None)
    if more and vram_bytes and base.has_device:
        yield Variant("vram", more, replace(base, machine=replace(machine, device_bytes=machine.device_bytes + more - vram_bytes)), policy)
    fastest = max(drive.read_bytes_per_s for drive in machine.drives)
    faster = next((rate for rate in DRIVES_BYTES_PER_S if rate > FASTER * fastest), None)
    if faster and base.components and base.drive_known:
        drives = tuple(Drive(faster, faster * drive.single_bytes_per_s / drive.read_bytes_per_s) for drive in machine.drives)
        yield Variant("drive", faster, replace(base, machine=replace(machine, drives=drives)), policy)
    if base.has_device:
        for mode in (Mode.HIGH_VRAM, Mode.BALANCED, Mode.LOW_VRAM):
            if mode.value != trace["mode"]:
                yield Variant("mode", mode.value, base, policy_of(trace, base, mode.value))
