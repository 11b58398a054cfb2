"""The bytes of a file that are in the page cache, told by how long samples of it take to read, where the system cannot be asked.

A sample is read twice: the second time its bytes are cached for certain, so that a first reading that took no longer was of cached bytes
too. 16 samples of 1 MiB, 2 cores, virtual disk: cold 1.7 to 9 ms, cached 0.5 to 1 ms, again 0.6 to 0.9 ms; one in four took up to 9 ms more
for want of a processor, which makes a cached sample look cold and costs a second reading, never a missing one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

from ._chunks import Chunk, Reader

SAMPLE_BYTES = 1024**2
MOST_SAMPLES = 16  # of one stretch: a disk that seeks needs 0.2 s for them
APART_BYTES = 16 * 1024**2  # at least: bytes that the system reads along with one sample are not under the next
ALIKE = 1.5  # first reading against a second one
# A second reading that takes longer waited for something else, mostly the interpreter (5 ms): nothing can be told from the first one then.
SLOWEST_AGAIN_S = 0.002


class Found(Enum):
    CACHED = "cached"
    COLD = "cold"
    UNKNOWN = "not known"


@dataclass(frozen=True, slots=True)
class Sample:
    """Of the chunk with that index; seconds that reading took at first, and again once it was cached."""

    index: int
    first_s: float
    again_s: float


def places(sizes: Sequence[int]) -> list[int]:
    """The indices, of chunks of those sizes, that are sampled: the first, the last, and others evenly between; none of a small stretch."""
    count = min(MOST_SAMPLES, len(sizes), sum(sizes) // APART_BYTES)
    if count < 2:
        return []
    return [at * (len(sizes) - 1) // (count - 1) for at in range(count)]


def infer(count: int, samples: Sequence[Sample]) -> list[Found]:
    """Each of `count` chunks as the samples on both of its sides say, not known where they differ, or say nothing. A chunk whose own
    sample was cached may be cold from there on where the next one was."""
    if not samples:
        return [Found.UNKNOWN] * count
    cached_s = sorted(sample.again_s for sample in samples)[len(samples) // 4]
    if cached_s > SLOWEST_AGAIN_S:
        return [Found.UNKNOWN] * count
    found = [Found.UNKNOWN] * count
    told = [(sample.index, Found.CACHED if sample.first_s <= ALIKE * cached_s else Found.COLD) for sample in samples]
    for (left, one), (right, other) in pairwise(told):
        if one is other:
            found[left + 1 : right] = [one] * (right - left - 1)
    for (_, before), (index, own), (_, after) in zip([told[0], *told], told, [*told[1:], told[-1]], strict=False):
        if own is Found.COLD or before is own is after:
            found[index] = own
    return found


def sampled(run: Sequence[Chunk], reader: Reader, clock: Callable[[], float]) -> list[Found]:
    """Each chunk of one stretch of a file, by samples from the chunks' middles. OSError like Reader.read."""

    def seconds(index: int) -> float:
        sample = run[index].middle(SAMPLE_BYTES)
        reader.open(sample)
        before_s = clock()
        reader.read(sample)
        return clock() - before_s

    at = places([chunk.size_bytes for chunk in run])
    first = [seconds(index) for index in at]
    again = [seconds(index) for index in at]
    return infer(len(run), [Sample(*one) for one in zip(at, first, again, strict=True)])
