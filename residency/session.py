"""One host's prompts, one after the other: facts in, events out, in one order. Pure, as the core is.

ComfyUI, the simulator, the local host and a replayed recording all tell a session the facts that they see; no host talks to the manager
itself. The life of a prompt, and which fact is legal in which phase:

    IDLE --PromptBegins--> BETWEEN --NodeBegins--> RUNNING --NodeEnds--> BETWEEN --PromptEnds--> IDLE
                           BETWEEN, RUNNING: OrderChanges, Looks;  any: StandsAside -> IDLE, and every event that passes through

A fact carries all that its host has looked at for it, so that the order in which the manager is told (limits, contents of the tiers, then
the event) is written here once and nowhere else.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import field, replace
from enum import Enum

from .core._frozen import dataclass
from .core.component import Component, Mode, Policy, Tier
from .core.events import (
    BudgetChanged,
    DeviceObserved,
    Event,
    HostObserved,
    NodeFinished,
    NodeStarted,
    Outcome,
    PromptEnded,
    PromptStarted,
    Replanned,
)
from .core.timeline import EMPTY, Timeline


class Phase(Enum):
    """The phase of a session: without a prompt, between two of its nodes, or in one."""

    IDLE = "idle"
    BETWEEN = "between"
    RUNNING = "running"

    __hash__ = object.__hash__  # members are singletons; Enum hashes their names, in Python


class SessionError(Exception):
    """A fact that cannot be true now: the host and the session disagree. Names the fact, the phase and the prompt."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes that the tiers may hold of weights. None: unknown, or not looked at; the host's reserve is kept free beyond its limit.
    `host_headroom_bytes`: the program that computes gives up its own copies of weights where so much is not available."""

    host_bytes: int | None = None
    host_reserve_bytes: int = 0
    device_bytes: int | None = None
    host_headroom_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Sight:
    """The contents of the tiers as a host has found them; None: it has not looked there."""

    host: HostObserved | None = None
    device: DeviceObserved | None = None


NO_LIMITS, NOTHING_SEEN = Limits(), Sight()


@dataclass(frozen=True, slots=True)
class PromptBegins:
    """`timeline` holds the prompt's own visits first, then the queue's."""

    time_s: float
    prompt_id: str
    timeline: Timeline
    components: Mapping[str, Component]
    mode: Mode
    policies: Mapping[str, Policy] = field(default_factory=dict)
    single_reader: frozenset[str] = frozenset()
    limits: Limits = NO_LIMITS
    sight: Sight = NOTHING_SEEN


@dataclass(frozen=True, slots=True)
class OrderChanges:
    """Another order of the remaining visits, the one that runs first, if one does; or another queue behind it, or more known of either."""

    time_s: float
    timeline: Timeline
    components: Mapping[str, Component]
    single_reader: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class NodeBegins:
    """The executor has chosen the node, whatever the order said."""

    time_s: float
    node_id: str
    limits: Limits = NO_LIMITS
    sight: Sight = NOTHING_SEEN


@dataclass(frozen=True, slots=True)
class Looks:
    """The host has looked, between two steps of a node or at any other time."""

    time_s: float
    limits: Limits = NO_LIMITS
    sight: Sight = NOTHING_SEEN


@dataclass(frozen=True, slots=True)
class NodeEnds:
    time_s: float
    limits: Limits = NO_LIMITS
    sight: Sight = NOTHING_SEEN


@dataclass(frozen=True, slots=True)
class PromptEnds:
    time_s: float
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class StandsAside:
    """The pack stands aside: a failure of its own, or the user has switched it off. The prompt goes on as ComfyUI's own."""

    time_s: float
    reason: str
    prompt_id: str | None = None  # only that one, if it has not ended meanwhile; None: whichever runs


Fact = PromptBegins | OrderChanges | NodeBegins | Looks | NodeEnds | PromptEnds | StandsAside | Event

_BEGUN = frozenset({Phase.BETWEEN, Phase.RUNNING})
LEGAL: Mapping[type, frozenset[Phase]] = {
    PromptBegins: frozenset(Phase),
    OrderChanges: _BEGUN,
    NodeBegins: frozenset({Phase.BETWEEN}),
    Looks: frozenset(Phase),
    NodeEnds: frozenset({Phase.RUNNING}),
    PromptEnds: _BEGUN,
    StandsAside: frozenset(Phase),
}


class Session:
    """`take(fact)` returns the events that follow from it. `timeline` and `position` are where the prompt is now."""

    def __init__(self) -> None:
        self.phase = Phase.IDLE
        self.prompt_id = ""
        self.timeline: Timeline = EMPTY
        self.position = -1  # of the visit that runs, or that has run last
        self._runs_at: dict[str, int] = {}  # the last visit of each node of this prompt
        self._limits = NO_LIMITS

    def take(self, fact: Fact) -> list[Event]:
        """Raises SessionError, and changes nothing, when the fact cannot be true now."""
        legal = LEGAL.get(type(fact))
        if legal is not None and self.phase not in legal:
            of = f" of prompt {self.prompt_id}" if self.prompt_id else ""
            raise SessionError(f"{type(fact).__name__} while the session is {self.phase.value}{of}")
        return self._events(fact)

    def next_node(self) -> str | None:
        """The node that is expected to begin next; None at the end of the prompt."""
        following = self.position + 1
        visits = self.timeline.visits
        return visits[following].node_id if following < len(visits) and visits[following].prompt_id == self.prompt_id else None

    def follows(self, node_id: str, pending: Container[str]) -> bool:
        """Whether the node is the next one that was foretold; visits of nodes that do not wait to run any more are passed over."""
        visits, following = self.timeline.visits, self.position + 1
        while following < len(visits) and visits[following].node_id not in pending and visits[following].prompt_id == self.prompt_id:
            following += 1
        return following < len(visits) and visits[following].node_id == node_id and visits[following].prompt_id == self.prompt_id

    def must_replan(self, asked: int | None, pending: Container[str]) -> bool:
        """The node that ran has been put back and waits for `asked` nodes: whether the order of the rest is another than was foretold.

        Of a node that asks for less, those that it does without are passed over; but weights that were to be read for them must not be.
        """
        visits, timeline = self.timeline.visits, self.timeline
        own = visits[self.position]
        if own.asks is None or asked is None or asked > own.asks:
            return True
        if asked == own.asks:
            return False
        first, last = timeline.first_read_number(self.position + 1), timeline.first_read_number(self._runs_at[own.node_id])
        return any(visits[read.position].node_id not in pending for read in timeline.reads[first:last])

    def is_in_tail(self) -> bool:
        """Whether nothing of the prompt uses weights any more, the node at the position included."""
        timeline, position = self.timeline, self.position
        own = (place for place, visit in enumerate(timeline.visits) if place >= position and visit.prompt_id == self.prompt_id)
        return not any(timeline.at(place) for place in own)

    def _follow(self, timeline: Timeline, position: int) -> None:
        self.timeline, self.position = timeline, position
        self._runs_at = {visit.node_id: number for number, visit in enumerate(timeline.visits) if visit.prompt_id == self.prompt_id}

    def _events(self, fact: Fact) -> list[Event]:
        match fact:
            case NodeBegins():
                self.position, self.phase = self.position_of(fact.node_id), Phase.RUNNING
                return [*self._looked(fact.time_s, fact.limits, fact.sight), NodeStarted(fact.time_s, self.position)]
            case NodeEnds():
                self.phase = Phase.BETWEEN
                return [*self._looked(fact.time_s, fact.limits, fact.sight), NodeFinished(fact.time_s, self.position)]
            case Looks():
                return self._looked(fact.time_s, fact.limits, fact.sight, within=self.phase is Phase.RUNNING)
            case OrderChanges():
                runs = self.phase is Phase.RUNNING
                self._follow(fact.timeline, 0 if runs else -1)
                return [Replanned(fact.time_s, fact.timeline, fact.components, fact.single_reader, 0 if runs else None)]
            case PromptBegins():
                lost = self.phase is not Phase.IDLE  # by its host on the way
                ended = [self._end(fact.time_s, Outcome.ABANDONED, "another prompt has begun")] if lost else []
                self.phase, self.prompt_id = Phase.BETWEEN, fact.prompt_id
                self._follow(fact.timeline, -1)
                started = PromptStarted(
                    fact.time_s, fact.prompt_id, fact.timeline, fact.components, fact.mode, fact.policies, fact.single_reader
                )
                return [*ended, *self._looked(fact.time_s, fact.limits, fact.sight), started]
            case PromptEnds():
                return [self._end(fact.time_s, fact.outcome)]
            case StandsAside():
                mine = self.phase is not Phase.IDLE and fact.prompt_id in (None, self.prompt_id)
                return [self._end(fact.time_s, Outcome.ABANDONED, fact.reason)] if mine else []
            case _:
                return [fact]

    def position_of(self, node_id: str) -> int:
        """The position of the node's next visit: it follows, or the executor has preferred it to others of this prompt. Raises
        SessionError."""
        visits, following = self.timeline.visits, self.position + 1
        if following < len(visits) and visits[following].node_id == node_id and visits[following].prompt_id == self.prompt_id:
            return following
        for position in range(following, len(visits)):
            visit = visits[position]
            if visit.prompt_id != self.prompt_id:
                break
            if visit.node_id == node_id:
                return position
        raise SessionError(f"node {node_id} begins, but what is left of prompt {self.prompt_id} does not hold it")

    def _looked(self, time_s: float, limits: Limits, sight: Sight, *, within: bool = False) -> list[Event]:
        """`within`: a node is at work, neither about to start nor over."""
        found: list[Event] = []
        if limits is NO_LIMITS and sight is NOTHING_SEEN:  # most nodes of a prompt come within milliseconds of one another
            return found
        known = self._limits
        host = (limits.host_bytes, limits.host_reserve_bytes)
        if limits.host_bytes is not None and host != (known.host_bytes, known.host_reserve_bytes):
            self._limits = replace(self._limits, host_bytes=limits.host_bytes, host_reserve_bytes=limits.host_reserve_bytes)
            told = limits.host_bytes, limits.host_reserve_bytes, within and sight.host is not None, limits.host_headroom_bytes
            found.append(BudgetChanged(time_s, Tier.HOST, *told))
        if limits.device_bytes is not None and limits.device_bytes != known.device_bytes:
            self._limits = replace(self._limits, device_bytes=limits.device_bytes)
            found.append(BudgetChanged(time_s, Tier.DEVICE, limits.device_bytes))
        if sight.host is not None:
            found.append(sight.host)
        if sight.device is not None:
            found.append(sight.device)
        return found

    def _end(self, time_s: float, outcome: Outcome, reason: str = "") -> PromptEnded:
        ended = PromptEnded(time_s, self.prompt_id, outcome, reason)
        self.phase, self.prompt_id = Phase.IDLE, ""
        return ended
