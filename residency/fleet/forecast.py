"""The seconds that a prompt takes on a worker, told by the simulator's host: the session and manager of `plan`, on a virtual clock.

A simulated prompt takes milliseconds, a decision looks at a thousand workers: answers are kept by the shape of the prompt and by where its
components lie. A component lies in one place as a whole, those of one step that lie in one place count as one, and sizes are rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from ..core.component import Component
from ..simulate import Machine, Managed, Program, Start, Step, run


class Place(IntEnum):
    """The place of a component's bytes on a worker, the nearest first."""

    DEVICE = 0
    PINNED = 1
    CACHED = 2
    DISK = 3


@dataclass(frozen=True, slots=True)
class Job:
    """A prompt as a fleet sees it. `sizes` are bytes by component, named by content; `steps` name them.

    `model` is the largest component of the step that computes longest; servers that know one model only go by it. `upload_bytes` must reach
    a worker that does not have them. `wants`: the classes of nodes and the names of files that a worker must have (`seats.wants`).
    """

    steps: tuple[Step, ...]
    sizes: Mapping[str, int]
    model: str
    upload_bytes: int = 0
    wants: frozenset[str] = frozenset()
    keys: tuple[str, ...] = field(init=False)
    compute_s: float = field(init=False)
    required_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        keys = tuple(dict.fromkeys(key for step in self.steps for key in step.components))
        for key in keys:
            if key not in self.sizes:
                raise ValueError(f"a step uses {key}, whose size nobody has told; sizes are known of {', '.join(self.sizes) or 'nothing'}")
        object.__setattr__(self, "keys", keys)
        object.__setattr__(self, "compute_s", sum(step.compute_s for step in self.steps))
        object.__setattr__(self, "required_bytes", sum(self.sizes[key] for key in keys))


@dataclass(frozen=True, slots=True)
class Expected:
    """Beside its computing: seconds in which the prompt waits for weights, and bytes that come from a drive."""

    stall_s: float
    read_bytes: int


SIZE_DIGITS = 3
ASKED = 20_000  # answers that are kept by the prompt itself: finding its shape takes most of an answer's time
ONCE = -1  # the number of components that no other step uses

Shape = tuple[tuple[float, int, int, tuple[tuple[int, Place, int], ...]], ...]
"""Of each step: seconds, passes, working set in bytes, and of each component its number, place, and bytes."""


class Forecast:
    """Of one kind of machine, with the pack as `policy` has it. Not thread-safe: a fleet decides on one thread."""

    def __init__(self, machine: Machine, policy: Managed) -> None:
        self.machine, self.policy = machine, policy
        self._known: dict[Shape, tuple[float, float]] = {}
        self._asked: dict[tuple[int, tuple[Place | None, ...]], tuple[Job, Expected]] = {}  # by the job itself, which is kept: ids return

    @property
    def simulated(self) -> int:
        """The number of prompts that were simulated so far."""
        return len(self._known)

    def of(self, job: Job, places: Mapping[str, Place]) -> Expected:
        """A component that `places` does not name lies on the drive."""
        asked = id(job), (*map(places.get, job.keys),)
        before = self._asked.get(asked)
        if before is not None:
            return before[1]
        if len(self._asked) >= ASKED:
            self._asked.clear()
        self._asked[asked] = job, (expected := self._of(job, places))
        return expected

    def _of(self, job: Job, places: Mapping[str, Place]) -> Expected:
        shape = _shape(job, places)
        found = self._known.get(shape)
        if found is None:
            found = self._known[shape] = _simulated(shape, self.machine, self.policy)
        stall_s, read_times = found
        return Expected(stall_s, round(read_times * sum(job.sizes[key] for key in job.keys if places.get(key, Place.DISK) is Place.DISK)))


def _shape(job: Job, places: Mapping[str, Place]) -> Shape:
    """The prompt's shape: components that one step alone uses and that lie in one place count as one, numbers stand for the others."""
    uses: dict[str, int] = {}
    for step in job.steps:
        for key in step.components:
            uses[key] = uses.get(key, 0) + 1
    numbers: dict[str, int] = {}
    shape = []
    for step in job.steps:
        together: dict[tuple[int, Place], int] = {}
        for key in step.components:
            number = ONCE if uses[key] == 1 else numbers.setdefault(key, len(numbers))
            lies = number, places.get(key, Place.DISK)
            together[lies] = together.get(lies, 0) + job.sizes[key]
        parts = sorted((number, place, rounded(size_bytes)) for (number, place), size_bytes in together.items())
        shape.append((step.compute_s, step.passes, step.working_set_bytes, tuple(parts)))
    return tuple(shape)


def rounded(size_bytes: int) -> int:
    """To three binary digits: by 7 % at most."""
    low = max(0, size_bytes.bit_length() - SIZE_DIGITS)
    return (size_bytes + (1 << low >> 1)) >> low << low


def _simulated(shape: Shape, machine: Machine, policy: Managed) -> tuple[float, float]:
    """Seconds of stall, and how many times the components on the drive are read: more than once where memory is short."""
    components: dict[str, Component] = {}
    lies: dict[Place, dict[str, int]] = {place: {} for place in Place}
    steps = []
    for index, (compute_s, passes, working_set_bytes, parts) in enumerate(shape):
        names = []
        for number, place, size_bytes in parts:
            name = str(number) if number != ONCE else f"{index}, {place.name}"
            components[name] = Component(name, name, "MODEL", size_bytes)
            lies[place][name] = size_bytes
            names.append(name)
        steps.append(Step(str(index), "Step", compute_s, tuple(names), passes, working_set_bytes))
    device, pinned = lies[Place.DEVICE], lies[Place.PINNED]
    start = Start(cached=lies[Place.CACHED], loaded={**device, **pinned}, pinned={**device, **pinned}, device=device)
    outcome = run(Program("prompt", components, (tuple(steps),)), machine, policy, start=start)
    disk_bytes = sum(lies[Place.DISK].values())
    return outcome.stall_s, (outcome.read_ahead_bytes + outcome.consumer_bytes) / disk_bytes if disk_bytes else 0.0
