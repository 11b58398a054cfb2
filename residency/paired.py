"""Seconds of the same work done in two ways, in pairs: what differs, and what cannot be told from chance. Pure functions.

The rule: a difference is told where the confidence interval of the paired differences excludes zero. The interval is the one of Wilcoxon's
signed-rank test (Hollander, Wolfe, Chicken: Nonparametric Statistical Methods, chapter 3). It is exact for differences that are symmetric
around their centre, as those of equal runs in turn are, whatever the noise: one slow run makes no difference of nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import combinations_with_replacement
from statistics import median, quantiles

LEVEL = 0.01  # the chance that noise alone is told as a difference


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
    """Both sides, and by how many seconds the second took less (negative: more), with the interval that holds the truth at 1 - `level`.

    The interval is None where too few pairs were run, everything is None where none was. `decimals` is how many a reader is shown: no
    verdict rests on more than that.
    """

    verdict: Verdict
    level: float
    first: Spread | None = None
    second: Spread | None = None
    saved_s: float | None = None
    interval_s: tuple[float, float] | None = None

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


def compare(first_s: Sequence[float], second_s: Sequence[float], level: float = LEVEL) -> Comparison:
    """The runs at the same place are a pair. ValueError when a run has no partner."""
    saved = [first - second for first, second in zip(first_s, second_s, strict=True)]
    if not saved:
        return Comparison(Verdict.TOO_FEW, level)
    means = sorted((one + other) / 2 for one, other in combinations_with_replacement(saved, 2))
    left_out = _left_out(len(saved), level)
    sides = spread(first_s), spread(second_s)
    if left_out == 0:
        return Comparison(Verdict.TOO_FEW, level, *sides, median(means))
    told = Comparison(Verdict.NONE, level, *sides, median(means), (means[left_out - 1], means[-left_out]))
    return Comparison(_verdict(told), level, *sides, told.saved_s, told.interval_s)


def least_pairs(level: float = LEVEL) -> int:
    """With fewer, even differences that all point the same way are chance too often."""
    pairs = 1
    while _left_out(pairs, level) == 0:
        pairs += 1
    return pairs


def sentence(compared: Comparison, first: str = "without", second: str = "with the pack") -> str:
    """What a reader may take from it, with the numbers that it rests on."""
    if compared.first is None or compared.second is None or compared.saved_s is None:
        return "Nothing was measured."

    def shown(value_s: float) -> str:
        return f"{value_s:.{compared.decimals}f} s"

    def signed(value_s: float) -> str:
        return f"{shown(abs(value_s))} {'less' if value_s >= 0 else 'more'}"

    pairs = f"{compared.first.runs} pair{'s' if compared.first.runs > 1 else ''}"
    medians = f"{shown(compared.second.median_s)} {second}, {shown(compared.first.median_s)} {first}"
    if compared.interval_s is None:
        needed = least_pairs(compared.level)
        return f"{medians} (medians of {pairs}): too few to tell a difference from chance ({needed} are needed)."
    sure = f"{100 - 100 * compared.level:g} % confidence"
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
    about = f"medians of {pairs}; {sure}: {shown(ends[0])} to {shown(ends[1])} {word}"
    return f"{shown(abs(compared.saved_s))} {word}{percent}: {medians} ({about})."


def _verdict(told: Comparison) -> Verdict:
    """As it looks once every number is rounded: nobody is shown a difference of 0.00 s, or medians that say the opposite."""
    assert told.first and told.second and told.interval_s
    first_s, second_s = (round(side.median_s, told.decimals) for side in (told.first, told.second))
    if told.holds_zero or first_s == second_s or (first_s > second_s) != (told.interval_s[0] > 0):
        return Verdict.NONE
    return Verdict.LESS if first_s > second_s else Verdict.MORE


def _left_out(pairs: int, level: float) -> int:
    """The place, from either end, of the interval's bound among the sorted means of two differences; 0 where no interval is sure enough.

    Of the 2**n ways in which n ranks can be positive, those with the smallest sums may make up half the level.
    """
    ways = [1]
    for rank in range(1, pairs + 1):
        longer = ways + [0] * rank
        for total, count in enumerate(ways):
            longer[total + rank] += count
        ways = longer
    allowed, place, taken = level / 2 * 2**pairs, 0, 0
    for count in ways:
        taken += count
        if taken > allowed:
            break
        place += 1
    return place
