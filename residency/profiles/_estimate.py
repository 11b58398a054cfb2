"""From samples to an estimate that knows how wrong it tends to be. Pure.

A Track holds the last samples of one quantity under one key. Each new sample is first compared with the track's estimate before it: a
predictor that was wrong widens its own margin, one that was right narrows it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from ._keys import Level


class Quantity(Enum):
    DURATION = "duration"  # seconds of computing, stall left out
    PEAK = "peak"  # bytes on the device beside the weights
    LOADED = "loaded"  # bytes of a component as loaded
    RATE = "rate"  # bytes per second of a drive or link


KEPT = 9  # samples: the median follows a lasting change after five runs and shrugs off four odd ones
FORGET = 0.2  # weight of the newest error, once there are five
REACH = 2.0  # mean errors that the margin spans; 86 % where errors are Laplace-distributed. Profiles.summary shows the share reached
MAX_ERROR = 4.0  # |log|: a factor of 55; beyond it wrong is wrong
PEAK_MEMORY = 0.95  # of the worst underprediction, from one sample to the next: it halves in 14
MAX_UNDER = 100.0

# What is assumed before a track has been wrong or right itself, as |log(actual/predicted)|. Chosen, not measured; counts as one sample.
PRIOR_ERROR = {Level.EXACT: 0.25, Level.SHAPE: 0.35, Level.WEIGHTS: 0.7, Level.CLASS: 1.4}
# The same for a peak: the share by which a first sample is taken to be too small.
PRIOR_UNDER = {Level.EXACT: 0.1, Level.SHAPE: 0.3, Level.WEIGHTS: 1.0, Level.CLASS: 3.0}

# Differences below these are noise, whatever their ratio.
_QUANTUM = {Quantity.DURATION: 1e-3, Quantity.PEAK: 2.0**20, Quantity.LOADED: 2.0**20, Quantity.RATE: 2.0**20}


@dataclass(frozen=True, slots=True)
class Estimate:
    """The quantity is expected within `margin` of `value` (same unit); for a peak, below `value + margin`.

    `samples` were seen in all, `spread` is between the least and the largest of the last KEPT, `error` the mean |log(actual/predicted)|.
    """

    value: float
    margin: float
    samples: int
    source: Level
    spread: float
    error: float

    @property
    def low(self) -> float:
        return max(0.0, self.value - self.margin)

    @property
    def high(self) -> float:
        return self.value + self.margin


@dataclass(frozen=True, slots=True)
class Track:
    """`samples`: the last KEPT, newest last. `under`: the worst share by which a sample lay above its prediction, fading."""

    samples: tuple[float, ...]
    count: int
    error: float
    under: float


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The record of one level's answers: how many, their mean |log(actual/predicted)|, how many lay inside the margin."""

    count: int = 0
    error: float = 0.0
    inside: int = 0


def is_sample(value: float) -> bool:
    """Whether a measured value can teach anything."""
    return math.isfinite(value) and value > 0


def typical(quantity: Quantity, samples: tuple[float, ...]) -> float:
    """One value for the samples: the largest for a peak, else the median; of two the lesser.

    A disturbance of a duration (a cold first pass, another program) only ever adds to it, and a peak that is too small costs more than one
    that is too large.
    """
    if quantity is Quantity.PEAK:
        return max(samples)
    return sorted(samples)[(len(samples) - 1) // 2]


def log_error(quantity: Quantity, actual: float, predicted: float) -> float:
    """|log(actual/predicted)|, with differences below the quantity's noise taken for none."""
    noise = _QUANTUM[quantity]
    return min(MAX_ERROR, abs(math.log((actual + noise) / (predicted + noise))))


def learned(track: Track | None, quantity: Quantity, level: Level, actual: float) -> Track:
    """The track with one more sample; `track` is None for the first."""
    if track is None:
        return Track((actual,), 1, PRIOR_ERROR[level], 0.0)
    predicted = typical(quantity, track.samples)
    weight = max(FORGET, 1 / (track.count + 1))
    error = track.error + weight * (log_error(quantity, actual, predicted) - track.error)
    under = min(MAX_UNDER, max(actual / predicted - 1, PEAK_MEMORY * track.under))
    return Track((*track.samples, actual)[-KEPT:], track.count + 1, error, under)


def estimate(track: Track, quantity: Quantity, level: Level) -> Estimate:
    """The estimate of the track as it is now."""
    value = typical(quantity, track.samples)
    if quantity is Quantity.PEAK:
        margin = value * max(track.under, PRIOR_UNDER[level] / track.count)
    else:
        margin = value * math.expm1(REACH * track.error)
    return Estimate(value, margin, track.count, level, max(track.samples) - min(track.samples), track.error)


def answered(accuracy: Accuracy, quantity: Quantity, said: Estimate, actual: float) -> Accuracy:
    """The accuracy with one more answer that has met reality. The error fades with the last fifty."""
    weight = max(0.02, 1 / (accuracy.count + 1))
    error = accuracy.error + weight * (log_error(quantity, actual, said.value) - accuracy.error)
    least = 0.0 if quantity is Quantity.PEAK else said.low
    return Accuracy(accuracy.count + 1, error, accuracy.inside + (least <= actual <= said.high))
