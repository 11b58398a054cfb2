"""The scenarios that were measured: stock ComfyUI as measured and as simulated, the pack, and the schedule bound, side by side."""

from __future__ import annotations

from dataclasses import dataclass

from ..simulate.bound import bound_s
from ..simulate.machine import H100_SLOW_DISK
from ..simulate.policies import OURS, OURS_DEVICE, OURS_EXCHANGING, STOCK, Managed
from ..simulate.run import run
from ..simulate.scenarios import Scenario, two_experts
from ..simulate.workload import Program

SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)
# Measured on the machine with the slower disk, 2026-11-23: held until the end, until half, not held (core/manager.py).
MEASURED_STARTS_S = {1.0: 66.1, 0.5: 59.3, 0.0: 55.7}


@dataclass(frozen=True, slots=True)
class Row:
    """Seconds of one prompt. `error_ratio` is simulated over measured; `device_s` is ours with components brought to the
    device ahead of their use; `bound_s` of a warm prompt is with the best possible start. `exchanging_s`, ours on a device whose pages can
    be exchanged, is held against `pack_measured_s`, where the pack was measured."""

    scenario: str
    what: str
    measured_s: float
    simulated_s: float
    error_ratio: float
    ours_s: float
    device_s: float
    bound_s: float
    exchanging_s: float
    pack_measured_s: float | None
    pack_error_ratio: float | None


def row(scenario: Scenario) -> Row:
    """One scenario under every policy: the last of its prompts."""
    simulated_s = run(scenario.program, scenario.machine, STOCK).prompts_s[-1]
    ours_s = run(scenario.program, scenario.machine, OURS).prompts_s[-1]
    exchanging_s = run(scenario.program, scenario.machine, OURS_EXCHANGING).prompts_s[-1]
    measured_s, pack_s = scenario.measured_s, scenario.pack_measured_s
    return Row(
        scenario.name,
        scenario.what,
        round(measured_s, 2),
        round(simulated_s, 2),
        round(simulated_s / measured_s, 3),
        round(ours_s, 2),
        round(run(scenario.program, scenario.machine, OURS_DEVICE).prompts_s[-1], 2),
        round(_bound_s(scenario), 2),
        round(exchanging_s, 2),
        None if pack_s is None else round(pack_s, 2),
        None if pack_s is None else round(exchanging_s / pack_s, 3),
    )


def start_shares() -> list[dict[str, float | None]]:
    """S1 on the machine with the slower disk, nodes held until each share of the bytes being read ahead for them is there."""
    return [
        {
            "start_share": share,
            "simulated_s": round(run(two_experts(1), H100_SLOW_DISK, Managed(share)).total_s, 2),
            "measured_s": MEASURED_STARTS_S.get(share),
        }
        for share in SHARES
    ]


def starts_as_text(starts: list[dict[str, float | None]]) -> str:
    return "\n".join(f"{one['start_share']:>5.2f}  {one['simulated_s']:5.1f} s  measured {one['measured_s'] or '-'}" for one in starts)


def as_text(rows: list[Row]) -> str:
    lines = ["scenario   measured  simulated  error    ours  device   bound  exchanging  measured  error  what"]
    for one in rows:
        measured = f"{one.scenario:<10} {one.measured_s:>7.1f}s {one.simulated_s:>9.1f}s {one.error_ratio - 1:>+6.0%}"
        ours = f"{one.ours_s:>6.1f}s {one.device_s:>6.1f}s {one.bound_s:>6.1f}s {one.exchanging_s:>10.1f}s"
        pack = " " * 16
        if one.pack_measured_s is not None and one.pack_error_ratio is not None:
            pack = f"{one.pack_measured_s:>8.1f}s {one.pack_error_ratio - 1:>+6.0%}"
        lines.append(f"{measured} {ours} {pack}  {one.what}")
    return "\n".join(lines)


def _bound_s(scenario: Scenario) -> float:
    """Of the measured prompt. Warm: the tiers begin full of the weights that are needed first."""
    program = scenario.program
    if not scenario.warm_up:
        return bound_s(program, scenario.machine)
    room, start = scenario.machine.host_bytes + scenario.machine.device_bytes, {}
    for key, component in program.components.items():
        start[key] = min(component.size_bytes, room)
        room -= start[key]
    last = Program(program.name, program.components, program.prompts[-1:])
    return bound_s(last, scenario.machine, start)
