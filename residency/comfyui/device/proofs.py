"""The behaviours that device features rest on, as seen in this process: a feature is on where its behaviours are proved.

No version number says how a ComfyUI computes with its pages, and a wrong guess is a wrong picture. So each kind of model (`Kind`) runs its
first pass on the safe path, where every copy is waited for as a whole, while the mover watches; pages are compared the first times that
they are exchanged. A feature that has failed is off until the mover is made anew, with a sentence; a kind that has changed is another kind.
Needs no ComfyUI.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from enum import Enum

log = logging.getLogger("residency")

MAX_FAILURES = 3  # of a feature, one after the other: one that always raises is not tried for ever


class Behaviour(Enum):
    """A behaviour of ComfyUI; each value is a sentence."""

    GATED = "every weight of a pass is asked for through the gate before it is used"
    WRITTEN_BACK_EQUAL = "pages that are written back and brought back read equal"
    UNPINNED = "pages that were unpinned are pinned no more"


class Feature(Enum):
    """A feature of the mover; the value is its name for people."""

    BEHIND = "the first pass behind its copies"
    ONLOAD = "weights brought to the device ahead of their use"
    EXCHANGE = "one copy over two tiers"
    EVICT = "room made before a node needs it"
    HOST_COPIES = "host copies that stay"


RESTS_ON = {
    Feature.BEHIND: frozenset({Behaviour.GATED}),
    Feature.ONLOAD: frozenset({Behaviour.UNPINNED}),
    Feature.EXCHANGE: frozenset({Behaviour.WRITTEN_BACK_EQUAL, Behaviour.UNPINNED}),
    Feature.EVICT: frozenset[Behaviour](),
    Feature.HOST_COPIES: frozenset[Behaviour](),
}
# Watched while the feature is at work, on a path that is right whatever shows: off only once it is disproved.
SEEN_AT_WORK = frozenset({Behaviour.WRITTEN_BACK_EQUAL, Behaviour.UNPINNED})
LOST = {
    Feature.BEHIND: "a pass starts when all of its copies have arrived, up to 0.5 s later",
    Feature.ONLOAD: "ComfyUI copies each weight when it is used",
    Feature.EXCHANGE: "what leaves the device is read from its file again where host memory is short",
    Feature.EVICT: "ComfyUI makes room page by page",
    Feature.HOST_COPIES: "a model that leaves the device is copied back",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """Models that behave alike: the class of the patcher and of the model, and their surroundings in ComfyUI: its compiler's settings, and
    the parameters of the functions that the mover calls or wraps."""

    patcher: str
    model: str
    surroundings: str

    def __str__(self) -> str:
        return self.model.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class State:
    """The state of one feature, as people are told. `why` is empty for one that is on."""

    feature: Feature
    on: bool
    why: str


class DisprovedError(Exception):
    """A behaviour that a feature rests on is not there; the message says how that was seen."""

    def __init__(self, behaviour: Behaviour, seen: str) -> None:
        super().__init__(seen)
        self.behaviour = behaviour


class Proofs:
    """The ledger of one mover. On the executor's thread; `states` and `failures` on any."""

    def __init__(self) -> None:
        self.failures: Counter[Feature] = Counter()
        self._proved: set[tuple[Behaviour, Kind]] = set()
        self._disproved: dict[tuple[Behaviour, Kind], str] = {}
        self._in_a_row: Counter[Feature] = Counter()
        self.off: dict[Feature, str] = {}  # after failures
        self._surroundings = ""

    def settle(self, surroundings: str) -> None:
        """A prompt begins with these settings and functions: proofs made with others count no more."""
        if surroundings != self._surroundings:
            self._surroundings = surroundings
            self._proved = {one for one in self._proved if one[1].surroundings == surroundings}
            self._disproved = {one: seen for one, seen in self._disproved.items() if one[1].surroundings == surroundings}

    def prove(self, behaviour: Behaviour, kind: Kind) -> None:
        """It was seen. A disproved behaviour stays so."""
        if (behaviour, kind) not in self._disproved:
            self._proved.add((behaviour, kind))

    def disprove(self, behaviour: Behaviour, kind: Kind, seen: str) -> None:
        if (behaviour, kind) not in self._disproved:
            self._proved.discard((behaviour, kind))
            self._disproved[behaviour, kind] = seen
            for feature in (feature for feature, needed in RESTS_ON.items() if behaviour in needed):
                log.warning("residency: %s is off for %s: %s; %s", feature.value, kind, seen, LOST[feature])

    def is_open(self, behaviour: Behaviour, kind: Kind) -> bool:
        """Whether nothing is known of it yet."""
        return (behaviour, kind) not in self._proved and (behaviour, kind) not in self._disproved

    def why_not(self, feature: Feature, kind: Kind) -> str:
        """Why the feature is not to be used for such a model now; empty where it is."""
        if feature in self.off:
            return self.off[feature]
        for behaviour in Behaviour:
            if behaviour in RESTS_ON[feature]:
                if (behaviour, kind) in self._disproved:
                    return self._disproved[behaviour, kind]
                if behaviour not in SEEN_AT_WORK and (behaviour, kind) not in self._proved:
                    return f"not yet seen with {kind} that {behaviour.value}"
        return ""

    def failed(self, feature: Feature, error: BaseException) -> None:
        """It has raised: that one copy has ended. Counted, and off where it happens again and again."""
        self.failures[feature] += 1
        self._in_a_row[feature] += 1
        if self._in_a_row[feature] >= MAX_FAILURES and feature not in self.off:
            told = f"{MAX_FAILURES} failures one after the other, the last one {type(error).__name__}: {error}"
            self.off[feature] = f"{told}; choose a mode again to retry"
            log.warning("residency: %s is off: %s; %s", feature.value, told, LOST[feature])

    def went_well(self, feature: Feature) -> None:
        if self._in_a_row[feature]:
            self._in_a_row[feature] = 0

    def forgive(self) -> None:
        """Try failed features again; disproved ones stay off."""
        self.off.clear()
        self._in_a_row.clear()

    def states(self) -> list[State]:
        """Every feature; one that is off for some kinds of models is off, and says for which."""
        found = []
        for feature, needed in RESTS_ON.items():
            seen = {str(kind): told for (behaviour, kind), told in list(self._disproved.items()) if behaviour in needed}
            why = self.off.get(feature) or "; ".join(f"{kind}: {told}" for kind, told in sorted(seen.items()))
            found.append(State(feature, not why, f"{why}; {LOST[feature]}" if why else ""))
        return found
