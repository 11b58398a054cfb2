"""How fast the pack's bulk copies crossed the link, against the machine's rate from pinned memory: one target for all scenarios."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

RATE = "onload_bytes_per_s"
TARGET_SHARE = 0.9

Data = Mapping[str, Any]


def rate(summaries: Iterable[Data]) -> float | None:
    """Of a queue's prompts: all their bytes over all their seconds of copying; None when nothing was copied or nobody measured it.

    Neither a sum nor the largest: a prompt that moved one VAE at full speed must not speak for one that moved 40 GB at half of it.
    """
    copied = [(max(1, one.get("onloaded_bytes", 0)), one[RATE]) for one in summaries if one.get(RATE)]
    return sum(size for size, _ in copied) / sum(size / reached for size, reached in copied) if copied else None


def summary(raw: Data) -> dict[str, float | None]:
    """For a scenario's summary: the median rate of the pack's runs that copied, and its share of the pinned rate of their machine."""
    rates = [found for run in raw["runs"] if (found := rate(run.get("pack", ()))) is not None]
    reached = median(rates) if rates else None
    pinned = raw["machine"].get("pinned_bytes_per_s")
    return {RATE: reached, "onload_share": reached / pinned if reached and pinned else None}


def cell(told: Data) -> str:
    """For a table: GB/s and the share."""
    parts = [] if told[RATE] is None else [f"{told[RATE] / 1e9:.1f} GB/s"]
    if told["onload_share"] is not None:
        parts.append(f"{told['onload_share']:.1%}")
    return ", ".join(parts) or "–"


def line(results: Data) -> str | None:
    """Whether the target is reached: by the scenario that comes off worst. None where no scenario knows its share."""
    shares = {name: raw["summary"]["onload_share"] for name, raw in results["scenarios"].items()}
    known = {name: share for name, share in shares.items() if share is not None}
    if not known:
        return None
    worst = min(known, key=lambda name: known[name])
    fastest = max(known.values())
    told = f"{known[worst]:.1%}" if len(known) == 1 else f"{known[worst]:.1%} ({worst}) to {fastest:.1%}"
    verdict = "reached" if known[worst] >= TARGET_SHARE else "missed"
    return f"link rate reached: {told} of the pinned rate of its machine; target ≥ {TARGET_SHARE:.0%}: {verdict}"
