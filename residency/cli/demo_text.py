"""The demo's text on its runs, pure, from the same numbers for every host."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from ..core.component import Mode
from ..demo.paired import Comparison, Verdict, compare, least_pairs, sentence
from ..demo.runs import MODES, MOST_PAIRS, SCENARIOS, Measured, identical, name, of
from ..units import size, written
from .tables import table

COLD_SHARE = 0.95  # of the files' bytes have to be out of the page cache for a run to be called cold
WIDTH = 100


@dataclass(frozen=True, slots=True)
class Setting:
    """The place of the runs. `drive_bytes_per_s` is 0 where it could not be measured; `results` names the results compared."""

    host: str
    results: str
    file_bytes: int
    drive_bytes_per_s: float

    @property
    def reading_s(self) -> float | None:
        """Seconds that the drive needs for all the files; None where its rate is not known."""
        return self.file_bytes / self.drive_bytes_per_s if self.drive_bytes_per_s > 0 else None


def beforehand(pairs: int | None, making_bytes: int, place: str) -> str:
    """The announcement of the demo: its steps, their time, and that all stays on this machine."""
    count = f"{least_pairs()} to {MOST_PAIRS}" if pairs is None else f"{pairs}"
    about_min = max(1, round((MOST_PAIRS if pairs is None else pairs) * 13 / 60))  # a pair of each kind takes 8 to 15 s on two cores
    made = f" Before that, once, {size(making_bytes)} of models with random weights are written to {place}." if making_bytes else ""
    minutes = f"about {about_min} minute{'s' if about_min > 1 else ''}"
    return f"Two experts, the pack off and on in turn: {count} pairs of cold runs, as many of warm ones, {minutes}.{made}"


def told(setting: Setting, measured: Sequence[Measured], width: int = WIDTH) -> list[str]:
    """Lines of at most `width` columns: the table, a paragraph for the cold and one for the warm runs, whether the results are the same."""
    facts = f"Two experts on {setting.host}: {size(setting.file_bytes)} of files"
    if setting.reading_s is not None:
        facts += f"; the drive reads {written(setting.drive_bytes_per_s)}/s, which makes at least {setting.reading_s:.2f} s of reading"
    lines = [*textwrap.wrap(facts + ".", width), "", *_table(measured), ""]
    for scenario, expected in (("cold", _cold(setting, of_scenario(measured, "cold"))), ("warm", _WARM)):
        compared = comparison(measured, scenario)
        why = _why(setting, compared) if scenario == "cold" else ""
        lines += textwrap.wrap(f"{scenario}  {expected}", width, subsequent_indent="      ")
        lines += textwrap.wrap(sentence(compared) + why, width, initial_indent="      ", subsequent_indent="      ")
    if _restless(measured):
        lines += textwrap.wrap(_RESTLESS, width)
    same = "identical" if identical(measured) else "DIFFERENT: please report this"
    return [*lines, f"{setting.results} with the pack on and off: {same}"]


_WARM = "Everything is in RAM already, so there is nothing to gain here; this shows what the pack costs."
_RESTLESS = "Runs of the same kind differ much: other programs are at work here. On a quiet machine smaller differences can be measured."
RESTLESS_SHARE = 0.2  # of the median, the middle half of warm runs
RULE = "A difference is told only where the confidence interval of the differences within the pairs (sign test, exact) excludes zero."


def comparison(measured: Iterable[Measured], scenario: str) -> Comparison:
    """Off against on; a last run without its partner does not count."""
    runs = list(measured)
    off_s, on_s = ([run.seconds for run in of(runs, scenario, mode)] for mode in MODES)
    both = min(len(off_s), len(on_s))
    return compare(off_s[:both], on_s[:both])


def _restless(measured: Iterable[Measured]) -> bool:
    """Whether warm runs, which read nothing, differ all the same."""
    compared = comparison(measured, "warm")
    return any(side.high_s - side.low_s > RESTLESS_SHARE * side.median_s for side in (compared.first, compared.second) if side)


def of_scenario(measured: Iterable[Measured], scenario: str) -> list[Measured]:
    return [run for run in measured if run.scenario == scenario]


def _table(measured: Sequence[Measured]) -> list[str]:
    rows = []
    for scenario in SCENARIOS:
        compared = comparison(measured, scenario)
        for mode, side in zip(MODES, (compared.first, compared.second), strict=True):
            if side is None:
                continue
            runs = of(measured, scenario, mode)
            rows.append(
                (
                    scenario if mode is Mode.OFF else "",
                    f"pack {name(mode)}",
                    f"{side.median_s:.{compared.decimals}f} s",
                    f"{side.low_s:.{compared.decimals}f}–{side.high_s:.{compared.decimals}f} s",
                    f"{side.least_s:.{compared.decimals}f}–{side.most_s:.{compared.decimals}f} s",
                    _middle(run.read_bytes for run in runs),
                    _middle(int(run.trace["summary"]["prefetched_bytes"]) for run in runs),
                )
            )
    return table(("", "", "median", "middle half", "all runs", "read from drive", "read ahead"), rows, left=2)


def _middle(counts: Iterable[int | None]) -> str:
    known = [count for count in counts if count is not None]
    return size(median(known)) if known else "not told"


def _cold(setting: Setting, runs: Sequence[Measured]) -> str:
    """The words on whether the cold runs were cold."""
    counts = [run.cold_bytes for run in runs]
    known = [count for count in counts if count is not None]
    if len(known) < len(counts) or not counts:
        return "The models are loaded again; this system does not tell what its page cache holds, so nobody knows whether they were cold."
    least = min(known)
    if least >= setting.file_bytes:
        return "Every file has to be read: nothing of them was in the page cache, checked before each run."
    share = 100 * least / setting.file_bytes
    if share >= 100 * COLD_SHARE:
        return f"The files have to be read: {share:.1f} % of them or more was out of the page cache, checked before each run."
    kept = size(setting.file_bytes - least)
    return f"NOT COLD: the system kept up to {kept} of the files in its page cache, so that these runs are partly warm."


def _why(setting: Setting, compared: Comparison) -> str:
    """The words where nothing could be measured: the reading that there was to hide, beside the runs' differences by chance."""
    if compared.verdict is not Verdict.NONE or compared.interval_s is None or setting.reading_s is None:
        return ""
    doubt_s = (compared.interval_s[1] - compared.interval_s[0]) / 2
    if setting.reading_s >= doubt_s:
        return ""
    return f" The drive needs {setting.reading_s:.2f} s for the files: less than what chance makes of these runs (±{doubt_s:.2f} s)."
