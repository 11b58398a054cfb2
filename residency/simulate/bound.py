"""The schedule bound: the least time that any schedule could take on the same order of uses.

For every use k: the bytes that must have come by then, over the rate at which they can come, then the compute from use k to
the end; once for each drive and once for the link to the device. The first pass of use k can run while its last bytes arrive, so only its
other passes count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from .machine import Machine
from .workload import Program, Step


@dataclass(frozen=True, slots=True)
class Lane:
    """A channel that bytes come through: a drive or the link. `held_bytes` can have been behind it at the start, whichever bytes those
    are."""

    bytes_per_s: float
    held_bytes: int = 0


def bound_s(program: Program, machine: Machine, start: Mapping[str, int] | None = None) -> float:
    """Seconds for all prompts. `start`: bytes by component that are in the host or on the device already; None is cold.

    The bytes to read are the least that any replacement rule could read for the first k uses with the room that both tiers give together:
    Belady's rule, byte by byte, with streaming allowed.
    """
    steps = list(program.steps())
    sizes = {key: component.size_bytes for key, component in program.components.items()}
    device_bytes = max(0, machine.device_bytes)
    reads = least_reads(steps, sizes, machine.host_bytes + device_bytes, dict(start or {}))
    coming = []
    for number, drive in enumerate(machine.drives):
        mine = [sum(size for key, size in read.items() if program.drive_of.get(key, 0) == number) for read in reads]
        coming.append((Lane(max(drive.read_bytes_per_s, drive.single_bytes_per_s)), mine))
    if start is None:
        crossings = [sum(crossing.values()) for crossing in least_reads(steps, sizes, device_bytes, {})]
        coming.append((Lane(machine.pinned_bytes_per_s), crossings))
    return _least_s(steps, coming)


def bound_once_s(steps: Sequence[Step], sizes: Mapping[str, int], lanes: Iterable[Lane]) -> float:
    """Seconds where each component, of these bytes, comes once over each lane, whatever room it finds; at least all the compute.

    Raises ValueError for a rate that is not positive.
    """
    firsts = [sum(read.values()) for read in least_reads(steps, sizes, sum(sizes.values()), {})]
    return _least_s(steps, [(lane, firsts) for lane in lanes])


def _least_s(steps: Sequence[Step], coming: Sequence[tuple[Lane, Sequence[int]]]) -> float:
    """`coming`: for each lane the bytes that each step cannot avoid bringing over it."""
    if any(lane.bytes_per_s <= 0 for lane, _ in coming):
        raise ValueError(f"a rate must be positive: {[lane.bytes_per_s for lane, _ in coming]}")
    least_s = sum(step.compute_s for step in steps)
    tails_s = _tails(steps)
    for lane, by_step in coming:
        for needed_bytes, tail_s in zip(accumulate(by_step), tails_s, strict=True):
            least_s = max(least_s, max(0, needed_bytes - lane.held_bytes) / lane.bytes_per_s + tail_s)
    return least_s


def least_reads(steps: Sequence[Step], sizes: Mapping[str, int], room: int, held: dict[str, int]) -> list[dict[str, int]]:
    """Bytes by component that each step cannot avoid bringing into a tier of `room` bytes that holds `held` at first."""
    following = _following(steps)
    next_at: dict[str, int] = {}
    for number in range(len(steps) - 1, -1, -1):
        for key in steps[number].components:
            next_at[key] = number
    reads = []
    for number, step in enumerate(steps):
        missing = {key: sizes[key] - held.get(key, 0) for key in step.components}
        reads.append({key: size for key, size in missing.items() if size > 0})
        for key in step.components:
            held[key] = sizes[key]
            next_at[key] = following[number][key]
        # what is needed soonest stays
        free = room
        for key in sorted(held, key=lambda one: next_at.get(one, len(steps))):
            held[key] = min(held[key], free)
            free -= held[key]
    return reads


def _following(steps: Sequence[Step]) -> list[dict[str, int]]:
    """For each step the number of the next step that uses each of its components again; the count of steps where none does."""
    found: list[dict[str, int]] = [{} for _ in steps]
    upcoming: dict[str, int] = {}
    for number in range(len(steps) - 1, -1, -1):
        for key in steps[number].components:
            found[number][key] = upcoming.get(key, len(steps))
        for key in steps[number].components:
            upcoming[key] = number
    return found


def _tails(steps: Sequence[Step]) -> list[float]:
    """Seconds of compute that cannot begin before the last byte of each step's weights is there."""
    tails_s, after_s = [0.0] * len(steps), 0.0
    for number in range(len(steps) - 1, -1, -1):
        step = steps[number]
        tails_s[number] = after_s + step.compute_s * (step.passes - 1) / step.passes
        after_s += step.compute_s
    return tails_s
