"""Seconds of the same work done in two ways, in pairs: the difference, and whether it can be told from chance. Pure functions.

The rule: a difference is told where the confidence interval of the paired differences excludes zero. The interval is the one of the sign
test: its ends are the differences at the same place from either end, and its confidence follows from counting coin tosses, exact for any
noise of independent pairs. Of ten pairs one may point the other way, however far: something else ran on the machine just then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from math import comb
from statistics import median, quantiles

LEVEL = 0.05  # noise alone is told as a difference at most that often; 0.02 with ten pairs, the nearest that they allow


class Verdict(Enum):
    """The second way took LESS time than the first, MORE, NONE that could be measured, or there are TOO_FEW pairs for any answer."""

    LESS = "less"
    MORE = "more"
    NONE = "none"
    TOO_FEW = "too few"


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds of some runs: their median, the middle half of them (`low_s` to `high_s`), the quickest and the slowest."""

    runs: int
    median_s: float
    low_s: float
    high_s: float
    least_s: float
    most_s: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both sides, and by how many seconds the second took less in the median of the pairs (negative: more).

    `interval_s` holds the true median at this `confidence`; None where too few pairs were run. In `quicker` and `slower` pairs the second
    was so. `decimals` is how many a reader is shown: no verdict rests on more than that.
    """

    verdict: Verdict
    first: Spread | None = None
    second: Spread | None = None
    saved_s: float = 0.0
    quicker: int = 0
    slower: int = 0
    interval_s: tuple[float, float] | None = None
    confidence: float = 0.0

    @property
    def decimals(self) -> int:
        quicker_s = min((side.median_s for side in (self.first, self.second) if side), default=0.0)
        return 3 if quicker_s < 1 else 2 if quicker_s < 100 else 1

    @property
    def holds_zero(self) -> bool:
        """Whether the interval, as a reader is shown it, does not exclude that both sides take the same time."""
        low_s, high_s = (round(end, self.decimals) for end in self.interval_s or (0.0, 0.0))
        return low_s <= 0 <= high_s


def spread(seconds: Sequence[float]) -> Spread | None:
    """None of no runs."""
    if not seconds:
        return None
    low_s, _, high_s = quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else (seconds[0],) * 3
    return Spread(len(seconds), median(seconds), low_s, high_s, min(seconds), max(seconds))


def compare(first_s: Sequence[float], second_s: Sequence[float]) -> Comparison:
    """The runs at the same place are a pair. ValueError when a run has no partner."""
    saved = sorted(first - second for first, second in zip(first_s, second_s, strict=True))
    if not saved:
        return Comparison(Verdict.TOO_FEW)
    quicker, slower = sum(one > 0 for one in saved), sum(one < 0 for one in saved)
    counted = Comparison(Verdict.TOO_FEW, spread(first_s), spread(second_s), median(saved), quicker, slower)
    outside, chance = _outside(len(saved))
    if outside == 0:
        return counted
    told = replace(counted, interval_s=(saved[outside - 1], saved[-outside]), confidence=1 - chance)
    return replace(told, verdict=_verdict(told))


def least_pairs() -> int:
    """With fewer, even differences that all point the same way are chance too often."""
    pairs = 1
    while _outside(pairs)[0] == 0:
        pairs += 1
    return pairs


def sentence(compared: Comparison, first: str = "without", second: str = "with the pack") -> str:
    """The conclusion for a reader, with the numbers that it rests on."""
    if compared.first is None or compared.second is None:
        return "Nothing was measured."

    def shown(value_s: float) -> str:
        return f"{value_s:.{compared.decimals}f} s"

    def signed(value_s: float) -> str:
        return f"{shown(abs(value_s))} {'less' if value_s >= 0 else 'more'}"

    pairs = f"{compared.first.runs} pair{'s' if compared.first.runs > 1 else ''}"
    medians = f"{shown(compared.second.median_s)} {second}, {shown(compared.first.median_s)} {first}"
    if compared.interval_s is None:
        return f"{medians} (medians of {pairs}): too few to tell a difference from chance ({least_pairs()} are needed)."
    sure = f"{100 * compared.confidence:.0f} % confidence"
    low_s, high_s = compared.interval_s
    if compared.verdict is Verdict.NONE:
        least_s = min(compared.first.least_s, compared.second.least_s)
        most_s = max(compared.first.most_s, compared.second.most_s)
        scatter = f"single runs {shown(least_s)} to {shown(most_s)}"
        about = f"medians of {pairs}; {scatter}; {sure}: {signed(high_s)} to {signed(low_s)}"
        if not compared.holds_zero:
            about += "; the medians do not bear the pairs out"
        return f"No difference that could be measured: {medians} ({about})."
    share = 100 * abs(compared.saved_s) / compared.first.median_s if compared.first.median_s > 0 else 0.0
    percent = f" ({share:.0f} %)" if share >= 9.5 else f" ({share:.1f} %)" if share >= 0.05 else ""
    ends = sorted((abs(low_s), abs(high_s)))
    word = compared.verdict.value
    agree = compared.quicker if compared.verdict is Verdict.LESS else compared.slower
    about = f"medians of {pairs}, {agree} of them so; {sure}: {shown(ends[0])} to {shown(ends[1])} {word}"
    return f"{shown(abs(compared.saved_s))} {word}{percent}: {medians} ({about})."


def _verdict(told: Comparison) -> Verdict:
    """As it looks once every number is rounded: nobody is shown a difference of 0.00 s, or medians that say the opposite."""
    assert told.first and told.second and told.interval_s
    first_s, second_s = (round(side.median_s, told.decimals) for side in (told.first, told.second))
    if told.holds_zero or first_s == second_s or (first_s > second_s) != (told.interval_s[0] > 0):
        return Verdict.NONE
    return Verdict.LESS if first_s > second_s else Verdict.MORE


def _outside(pairs: int) -> tuple[int, float]:
    """The place inside the sorted differences at which the interval ends, counted from either end, and the chance that the truth lies
    outside.

    (0, 1.0) where even the whole range is not sure enough. The truth lies below the k-th where fewer than k of as many coins show heads.
    """
    places, chance, tail = 0, 1.0, 0.0
    while places < pairs:
        tail += 2 * comb(pairs, places) / 2**pairs
        if tail > LEVEL:
            break
        places, chance = places + 1, tail
    return places, chance
