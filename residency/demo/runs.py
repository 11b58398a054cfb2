"""The runs of the demo, the same for every host: their order, and the record kept of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..core.component import Mode
from .paired import least_pairs

MODES = (Mode.OFF, Mode.AUTO)
SCENARIOS = ("cold", "warm")
UNCOUNTED_SEED = 98
MOST_PAIRS = 10  # one of them may point the other way (paired.py)
PATIENCE_S = 150.0
WARM_SHARE = 0.4  # of a cold run's seconds

Progress = Callable[[str, int, int], None]
"""(what is being done, done, total): total 0 when nobody knows."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of the prompt with this seed. `cold_bytes` of the model files were not in the page cache before it, `read_bytes` were read
    from the drive for the process, both None where the system does not tell; `trace` has only nodes when the mode is off."""

    scenario: str
    mode: Mode
    seconds: float
    cold_bytes: int | None
    read_bytes: int | None
    result: str
    trace: Mapping[str, Any]
    seed: int = 0


class RunOnce(Protocol):
    """One run of a host, cold or warm."""

    def __call__(self, scenario: str, mode: Mode, seed: int) -> Measured: ...


def measure(run_once: RunOnce, pairs: int | None, progress: Progress) -> list[Measured]:
    """Every pair of every scenario, after one run of each side that is not counted: the first ones pay for a process's imports.

    `pairs` of each scenario; None: as many as this machine does in PATIENCE_S.
    """
    progress("first runs, not counted", 0, 0)
    began_s = time.monotonic()
    for number, mode in enumerate(MODES):
        run_once("cold", mode, UNCOUNTED_SEED + number)
    pair_s = (1 + WARM_SHARE) * (time.monotonic() - began_s)  # a cold one and a warm one
    pairs = affordable(pair_s) if pairs is None else pairs
    measured: list[Measured] = []
    order = [(scenario, mode, seed) for at, scenario in enumerate(SCENARIOS) for mode, seed in turns(pairs, 1000 * (at + 1))]
    for scenario, mode, seed in order:
        progress(f"{scenario} runs, off and on in turn; {len(order)} runs in about {pairs * pair_s:.0f} s", len(measured), len(order))
        measured.append(run_once(scenario, mode, seed))
    return measured


def affordable(pair_s: float) -> int:
    """Pairs of each scenario within PATIENCE_S, an even number; never so few that they could tell nothing."""
    if MOST_PAIRS * pair_s <= PATIENCE_S:
        return MOST_PAIRS
    return max(least_pairs() + least_pairs() % 2, int(PATIENCE_S / pair_s) // 2 * 2)


def turns(pairs: int, first_seed: int = 0) -> Iterator[tuple[Mode, int]]:
    """(mode, seed) of each run: off, on, on, off. Two runs that follow each other are a pair; every two pairs run the same two seeds.

    Over two pairs a machine that grows steadily slower treats both sides alike; both sides draw the same images; and no seed follows
    itself, which ComfyUI would answer with the result that it has kept.
    """
    for pair in range(pairs):
        seeds = (first_seed + pair // 2 * 2, first_seed + pair // 2 * 2 + 1)
        yield from zip(MODES if pair % 2 == 0 else MODES[::-1], seeds, strict=True)


def name(mode: Mode) -> str:
    """The side in words."""
    return "off" if mode is Mode.OFF else "on"


def of(measured: Iterable[Measured], scenario: str, mode: Mode) -> list[Measured]:
    """The runs of one kind in the order in which they ran: those at the same place of both modes are a pair."""
    return [run for run in measured if run.scenario == scenario and run.mode is mode]


def typical(measured: Iterable[Measured], scenario: str, mode: Mode) -> Measured | None:
    """The run of the median of its kind, of two the quicker; None when there is none."""
    runs = sorted(of(measured, scenario, mode), key=lambda run: run.seconds)
    return runs[(len(runs) - 1) // 2] if runs else None


def identical(measured: Iterable[Measured]) -> bool:
    """Whether every seed that ran with the pack off and on gave the same result."""
    results: dict[tuple[str, int], set[str]] = {}
    for run in measured:
        results.setdefault((run.scenario, run.seed), set()).add(run.result)
    return all(len(found) == 1 for found in results.values())
