"""Events, which go into the manager; the instructions that come out are in instructions.py. Plain frozen data, bytes counted in int.

The life of a component in one prompt: PromptStarted -> Prefetch -> TransferMoved* -> TransferDone | TransferStopped -> Wait (if a node is
early) -> NodeStarted -> NodeFinished -> Evict | Release (when the mode or pressure asks) -> PromptEnded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import Enum
from typing import get_args

from ._frozen import dataclass
from .component import Component, Mode, Policy, Tier
from .timeline import Timeline


class Outcome(Enum):
    SUCCESS = "success"
    ERROR = "error"
    INTERRUPTED = "interrupted"
    ABANDONED = "abandoned"  # by the pack: ComfyUI has gone on without it


# --- events: all times are seconds on one monotonic clock, chosen by the host ---


@dataclass(frozen=True, slots=True)
class PromptStarted:
    time_s: float
    prompt_id: str
    timeline: Timeline
    components: Mapping[str, Component]
    mode: Mode
    policies: Mapping[str, Policy] = field(default_factory=dict)  # by component: the wishes of nodes
    single_reader: frozenset[str] = frozenset()  # components on drives that serve one reader at a time (hard disks)


@dataclass(frozen=True, slots=True)
class Replanned:
    """The order of the remaining visits has changed (lazy input, expanded subgraph, queue), or more is known of it. Positions restart at 0.

    `running` is the position of the visit that runs meanwhile; None: between two visits.
    """

    time_s: float
    timeline: Timeline
    components: Mapping[str, Component] = field(default_factory=dict)  # newly found ones
    single_reader: frozenset[str] = frozenset()  # all of them, as in PromptStarted
    running: int | None = None


@dataclass(frozen=True, slots=True)
class NodeStarted:
    """The node at `position` of the current timeline is about to run."""

    time_s: float
    position: int


@dataclass(frozen=True, slots=True)
class NodeFinished:
    time_s: float
    position: int


@dataclass(frozen=True, slots=True)
class TransferMoved:
    """A transfer has moved `moved_bytes` in `duration_s` so far and goes on; `present_bytes` are on the tier now. `read_bytes` were copied
    for that, those beside a gap that were there already included. Where the system does not tell which bytes were there, all bytes read
    count as moved. For the record: nothing is decided by it."""

    time_s: float
    component: str
    tier: Tier
    moved_bytes: int
    present_bytes: int
    duration_s: float
    read_bytes: int = 0


@dataclass(frozen=True, slots=True)
class TransferDone:
    """`moved_bytes` were moved now; `present_bytes` (moved ones included) are on the tier. `read_bytes` as in TransferMoved."""

    time_s: float
    component: str
    tier: Tier
    moved_bytes: int
    present_bytes: int
    duration_s: float
    read_bytes: int = 0


@dataclass(frozen=True, slots=True)
class TransferStopped:
    """Refused, failed or cancelled; the bytes that had moved by then stay accounted in `moved_bytes` and `present_bytes`."""

    time_s: float
    component: str
    tier: Tier
    moved_bytes: int
    present_bytes: int
    duration_s: float
    reason: str
    read_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Evicted:
    time_s: float
    component: str
    tier: Tier
    freed_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class BudgetChanged:
    """The bytes that the tier may hold now (available memory moved, the user changed a setting).

    `reserve_bytes` beyond the limit are kept free for others, not taken yet: nothing is brought there, but bytes that are there may stay.
    `look_follows`: a look of the same moment comes next. Nothing is decided before it: an eviction that goes by the look before would keep
    its component from being seen anew until it has been answered. `headroom_bytes`: the program that computes gives up its own copies of
    weights where so much is not available; nothing is decided by it.
    """

    time_s: float
    tier: Tier
    limit_bytes: int
    reserve_bytes: int = 0
    look_follows: bool = False
    headroom_bytes: int = 0


@dataclass(frozen=True, slots=True)
class RatesMeasured:
    """Bytes per second. `read` by component key: the drives it lies on; `onload` host to device, None: not measured yet."""

    time_s: float
    read: Mapping[str, float]
    onload: float | None = None


@dataclass(frozen=True, slots=True)
class HostObserved:
    """The contents of the host tier by component, whoever put them there. Transfers in flight are not part of it.

    `loaded` is the prefix of each component that the process holds for itself, pinned or on the device, and reads no more; `held` are the
    bytes in the page cache behind that prefix (None: the system does not tell), `surplus` those there of the prefix itself: a second
    copy. `copies`: the process keeps a copy of its own of all that it reads, so a node needs room for both. A host may look at any time, in
    the middle of a node as well.

    The bytes that the process holds need not be the beginning of a file: `laid_out` has the components whose extents stand in another order
    than the host told before, the held ones first.
    """

    time_s: float
    held: Mapping[str, int] | None
    loaded: Mapping[str, int] = field(default_factory=dict)
    surplus: Mapping[str, int] = field(default_factory=dict)
    copies: bool = False
    laid_out: Mapping[str, Component] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Taken:
    """In the middle of a node the process has taken weights into its own memory: `loaded` and `laid_out` as HostObserved has them, of
    components of that node alone. The page cache was not asked: until the next look all that was taken lies there as a second copy.
    """

    time_s: float
    loaded: Mapping[str, int]
    laid_out: Mapping[str, Component] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeviceObserved:
    """The contents of the device by component, and the bytes that weights may take beside all that is there now. Before a node, or while
    one runs: then its working set is part of the contents. `in_host`: bytes of each component with a copy in host memory, ready to cross
    the link; None: the host does not tell.

    `exchanges`: its mover can enact Exchange. `host_copies_bytes`: the most that host copies of weights could take in all, with
    those that are there; None: the host does not tell.
    """

    time_s: float
    held: Mapping[str, int]
    room_bytes: int
    in_host: Mapping[str, int] | None = None
    host_copies_bytes: int | None = None
    exchanges: bool = False


@dataclass(frozen=True, slots=True)
class PrefetchAsked:
    """The user asks for the component now, whatever the order says (a hint: the budgets still hold)."""

    time_s: float
    component: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReleaseAsked:
    """The user gives the component up here: it leaves the device, and the host as well when `host` is set."""

    time_s: float
    component: str
    host: bool
    reason: str


@dataclass(frozen=True, slots=True)
class PromptEnded:
    """`reason` says why the pack has abandoned it; empty for every other outcome."""

    time_s: float
    prompt_id: str
    outcome: Outcome
    reason: str = ""


# --- events for the record: the trace tells them, nothing is decided by them (TransferMoved is one as well) ---


@dataclass(frozen=True, slots=True)
class Stalled:
    """The running node has waited for weights; `waited`: it was held for a read-ahead."""

    time_s: float
    seconds: float
    waited: bool = False


@dataclass(frozen=True, slots=True)
class Waited:
    """Between `since_s` and `time_s` a node has waited for weights while it ran, `seconds` in all; None: the system does not tell how
    much of it was waiting. May be told later than it was: a device answers when it has got that far."""

    time_s: float
    since_s: float
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Stepped:
    """A node has ended a step, or `steps` that were reported together; its work from then on belongs to the next one. May be told later,
    after the waiting that lies before it."""

    time_s: float
    steps: int = 1


@dataclass(frozen=True, slots=True)
class NotMeasured:
    """Waiting for weights inside forward passes is not told of this prompt, and why."""

    time_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Copied:
    """Bytes of a component have crossed the link to the device, between `start_s` and `end_s`; `ahead`: its node was not running yet."""

    time_s: float
    component: str
    size_bytes: int
    present_bytes: int
    ahead: bool
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Crossed:
    """So many bytes have crossed the link to the device in so many seconds of crossing: its full pace."""

    time_s: float
    size_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Kept:
    """A component that its prompt does not use stays loaded."""

    time_s: float
    component: Component
    reason: str


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A component that had stayed loaded for this prompt, or was to stay for a later one, does not."""

    time_s: float
    component: Component
    reason: str


@dataclass(frozen=True, slots=True)
class Spent:
    """The pack itself has worked on the thread that runs the nodes, from `time_s` to `end_s`; `stalled_s` of it counts as stall."""

    time_s: float
    end_s: float
    stalled_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Foretold:
    """Earlier runs say of the whole prompt: `compute_s` within `margin_s`, the sum over `nodes` nodes that they knew."""

    time_s: float
    compute_s: float
    margin_s: float
    nodes: int


Record = TransferMoved | Stalled | Waited | Stepped | NotMeasured | Spent | Copied | Crossed | Kept | GivenUp | Foretold
RECORDS: tuple[type, ...] = get_args(Record)

Event = (
    PromptStarted
    | Replanned
    | NodeStarted
    | NodeFinished
    | TransferDone
    | TransferStopped
    | Evicted
    | BudgetChanged
    | RatesMeasured
    | HostObserved
    | Taken
    | DeviceObserved
    | PrefetchAsked
    | ReleaseAsked
    | PromptEnded
    | Record
)
