"""The schedule bound of one prompt: the least time that any schedule could take on the same order of uses.

For every use k: the bytes of components 1..k that cannot have been there at the start, over the rate at which they can come, then the
compute that cannot begin before the last of them has arrived; once for the drive and once for the link. What can have been there is as
much as the tiers hold, whichever bytes those are: nothing when cold. The first pass of use k can run while its last bytes arrive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One node: the seconds it computes with everything in place, in how many passes, with the components of which sizes (by name)."""

    compute_s: float
    uses: Mapping[str, int]
    passes: int = 1


@dataclass(frozen=True, slots=True)
class Lane:
    """Where bytes come through: the drive or the link. `held_bytes` can have been behind it before the prompt began."""

    bytes_per_s: float
    held_bytes: int = 0


def bound_s(steps: Sequence[Step], lanes: Sequence[Lane]) -> float:
    """Seconds; at least all the compute. Raises ValueError for a rate that is not positive."""
    if any(lane.bytes_per_s <= 0 for lane in lanes):
        raise ValueError(f"a rate must be positive: {[lane.bytes_per_s for lane in lanes]}")
    least_s = after_s = sum(step.compute_s for step in steps)
    seen: set[str] = set()
    needed_bytes = 0
    for step in steps:
        after_s -= step.compute_s
        needed_bytes += sum(size for name, size in step.uses.items() if name not in seen)
        seen |= set(step.uses)
        if step.uses:
            tail_s = after_s + step.compute_s * (step.passes - 1) / step.passes
            least_s = max([least_s, *(max(0, needed_bytes - lane.held_bytes) / lane.bytes_per_s + tail_s for lane in lanes)])
    return least_s
