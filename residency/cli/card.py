"""The demo's workflow with models of real size on a card of 12 GB, simulated: stock ComfyUI and the pack."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..simulate import GB, OURS, STOCK, run
from ..simulate.scenarios import FP8_SAMPLER_S, FP8_SIZES, two_experts
from .machines import DISK_BYTES_PER_S, LINK_BYTES_PER_S, machine

VRAM_BYTES, RAM_BYTES = 12 * GB, 32 * GB
TIMES_H100 = 10.0  # assumed, not measured: the compute times of the workflow were measured on an H100 only


@dataclass(frozen=True, slots=True)
class OnCard:
    """Simulated seconds of the first prompt, nothing in RAM, and of the third, with another text."""

    cold_s: float
    warm_s: float


def simulate() -> dict[str, OnCard]:
    """By policy: "stock" and "ours"."""
    program = two_experts(3, FP8_SIZES, FP8_SAMPLER_S)
    slower = tuple(tuple(replace(step, compute_s=step.compute_s * TIMES_H100) for step in prompt) for prompt in program.prompts)
    card = machine(VRAM_BYTES, RAM_BYTES, DISK_BYTES_PER_S, LINK_BYTES_PER_S)
    outcomes = [run(replace(program, prompts=slower), card, policy) for policy in (STOCK, OURS)]
    return {one.policy: OnCard(one.prompts_s[0], one.prompts_s[-1]) for one in outcomes}


def lines() -> list[str]:
    """The simulated machine and its assumptions, then one line for the cold and one for the warm prompt."""
    told = simulate()
    expert, text = FP8_SIZES["expert A"] / GB, FP8_SIZES["text encoder"] / GB
    head = (
        f"On a card of {VRAM_BYTES // GB} GB, simulated and not run: the same workflow with two fp8 experts of {expert:.1f} GB and a text "
        f"encoder of {text:.1f} GB, {RAM_BYTES // GB} GB of RAM, a drive of {DISK_BYTES_PER_S / GB:.1f} GB/s, computing assumed "
        f"{TIMES_H100:.0f} times as long as was measured on an H100."
    )
    stock, ours = told["stock"], told["ours"]
    return [head, _line("cold", stock.cold_s, ours.cold_s), _line("warm", stock.warm_s, ours.warm_s)]


def _line(scenario: str, stock_s: float, ours_s: float) -> str:
    same = ": no difference" if f"{stock_s:.0f}" == f"{ours_s:.0f}" else ""
    return f"{scenario}, simulated: {stock_s:.0f} s with stock ComfyUI, {ours_s:.0f} s with the pack{same}"
