"""Programs for a simulated ComfyUI: prompts of ordered steps, and pressure from outside. Frozen data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..core.component import Component

STEADY = 1_000_000  # passes of a use that computes only once its component is there: the first pass is negligible


@dataclass(frozen=True, slots=True)
class Step:
    """One node: `compute_s` seconds of work in `passes` equal passes over the weights of all its `components`.

    `working_set_bytes` are activations on the device beside the weights.
    """

    node_id: str
    class_type: str
    compute_s: float
    components: tuple[str, ...] = ()
    passes: int = 1
    working_set_bytes: int = 0

    def __post_init__(self) -> None:
        if self.compute_s < 0 or self.passes < 1:
            raise ValueError(f"step {self.node_id}: {self.compute_s} s in {self.passes} passes cannot be run")


@dataclass(frozen=True, slots=True)
class Pressure:
    """From `time_s` on other programs hold `host_bytes` of the machine's free RAM."""

    time_s: float
    host_bytes: int


@dataclass(frozen=True, slots=True)
class Start:
    """Contents of the tiers before the first prompt, bytes by component, each from its beginning: pinned in host memory, on the device, and
    in the page cache behind the bytes `loaded` of either. Where more is loaded than either of them holds there is one copy over both: the
    pinned bytes are those behind the device's. So are those of a component that hardly lies on the device, where RAM cannot hold all."""

    cached: Mapping[str, int] = field(default_factory=dict)
    loaded: Mapping[str, int] = field(default_factory=dict)
    pinned: Mapping[str, int] = field(default_factory=dict)
    device: Mapping[str, int] = field(default_factory=dict)


COLD = Start()


@dataclass(frozen=True, slots=True)
class Program:
    """Prompts in the order in which they run, all queued before the first starts unless `queued` is false.

    `drive_of` gives the index of the drive that holds a component, 0 where it says nothing. `noise` scatters every step's compute
    time uniformly by that share; the same `seed` gives the same run.
    """

    name: str
    components: Mapping[str, Component]
    prompts: tuple[tuple[Step, ...], ...]
    drive_of: Mapping[str, int] = field(default_factory=dict)
    pressure: tuple[Pressure, ...] = ()
    noise: float = 0.0
    seed: int = 0
    queued: bool = True

    def __post_init__(self) -> None:
        for step in self.steps():
            for key in step.components:
                if key not in self.components:
                    raise ValueError(f"step {step.node_id} of {self.name} uses {key}, which is no component of the program")

    def steps(self) -> Iterable[Step]:
        """Every step of every prompt, in order."""
        return (step for prompt in self.prompts for step in prompt)

    def step_bytes(self, step: Step) -> int:
        """Weights of one step."""
        return sum(self.components[key].size_bytes for key in step.components)


def sequence(name: str, sizes: Mapping[str, int], uses: Iterable[tuple[str, float]]) -> Program:
    """One prompt of uses (component, compute seconds), each computing once its component is there."""
    components = {key: Component(key, key, "MODEL", size) for key, size in sizes.items()}
    steps = tuple(Step(str(index), "Use", compute_s, (key,), STEADY) for index, (key, compute_s) in enumerate(uses))
    return Program(name, components, (steps,))
