"""The scenarios, each with its queue, its memory and its target. One table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

GB, GIB = 10**9, 2**30


class Size(Enum):
    """How big the models are. FULL: flux-dev with T5-XXL; SMALL: 300 MiB experts; TINY: 12 MiB experts, for a CPU."""

    TINY = "tiny"
    SMALL = "small"
    FULL = "full"


class Precision(Enum):
    """The experts' number format."""

    BF16 = "bf16"
    FP8 = "fp8"


class Workflow(Enum):
    """ONE_A, ONE_B: text to image with one expert. TWO: expert a draws, expert b refines. LORA: TWO with a LoRA on expert a.

    FAMILY: that of the scenario's family. OTHER: a smaller model of another kind, to switch to.
    """

    ONE_A = "one expert, a"
    ONE_B = "one expert, b"
    TWO = "two experts"
    LORA = "two experts, LoRA"
    FAMILY = "the family's workflow"
    OTHER = "another workflow"

    @property
    def computes_like(self) -> Workflow:
        """The workflow whose resident run tells how long this one computes at least."""
        return {Workflow.ONE_B: Workflow.ONE_A, Workflow.LORA: Workflow.TWO}.get(self, self)


_RESIDENT = ((Workflow.ONE_A,), (Workflow.TWO,), (Workflow.FAMILY,))


class Temperature(Enum):
    """COLD: fresh server, page cache dropped, first prompt. WARM: after warm-up prompts, each prompt with a new text."""

    COLD = "cold"
    WARM = "warm"


@dataclass(frozen=True, slots=True)
class Target:
    """The figures to reach: all that are not None. `ratio`: stock over pack at least; `over_bound`: pack over the bound at most;
    `stall_gone`: the share of stock's stall that is gone at least; `pack_s`: the pack's seconds at most, on one H100 with models of size
    full; `drive_bytes`: bytes that the pack reads from the drive at most, queue by queue. `every`: ratio and seconds hold for each prompt
    by its place on the server, not for the medians."""

    ratio: float
    over_bound: float | None = None
    stall_gone: float | None = None
    pack_s: float | None = None
    drive_bytes: int | None = None
    every: bool = False

    def __str__(self) -> str:
        told = [f"≥ {self.ratio:g}×"]
        if self.pack_s is not None:
            told.append(f"≤ {self.pack_s:g} s")
        if self.every:
            told.append("every prompt")
        if self.over_bound is not None:
            told.append(f"≤ {self.over_bound:g} of the bound")
        if self.stall_gone is not None:
            told.append(f"≥ {self.stall_gone:.0%} of the stall gone")
        if self.drive_bytes is not None:
            told.append(f"{self.drive_bytes / GB:.1f} GB read")
        return ", ".join(told)


@dataclass(frozen=True, slots=True)
class Limits:
    """Memory that other processes leave free; None: all there is."""

    device_free_bytes: int | None = None
    host_free_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """`queue` is posted at once and measured as a whole; without `at_once` each prompt of it when the one before has ended, as by somebody
    who looks at the picture first. `true_reserve`: ComfyUI keeps as much RAM free as it would on a machine of that size, and not a share of
    all RAM that it sees past the holders. `warm_ups` queues run first on each warm server and are not counted, then `prompts` that are.
    `family` and `hardware` are names of families.py."""

    name: str
    what: str
    precision: Precision
    queue: tuple[Workflow, ...]
    limits: Limits
    temperature: Temperature
    target: Target
    arguments: tuple[str, ...] = ()
    warm_ups: int = 2
    prompts: int = 3
    at_once: bool = True
    true_reserve: bool = False
    family: str | None = None
    hardware: str | None = None

    @property
    def weights(self) -> str:
        """The name of its files: scenarios that share it share a server, and tell one another's least compute time."""
        return self.family or self.precision.value

    @property
    def server_arguments(self) -> tuple[str, ...]:
        """The arguments of both sides' servers."""
        host_bytes = self.limits.host_free_bytes
        if host_bytes is None or not self.true_reserve:
            return self.arguments
        host_gib = host_bytes / GIB  # ComfyUI 0.33's main.py: a tenth, 2 to 10 GiB; while no prompt runs all, at most 128 GiB
        return (*self.arguments, "--cache-ram", f"{min(10.0, max(2.0, host_gib / 10)):.1f}", f"{min(128.0, host_gib):.1f}")

    @property
    def resident(self) -> bool:
        """Whether its warm prompts find everything on the device, so that they tell the compute time."""
        return self.temperature is Temperature.WARM and self.limits == Limits() and self.queue in _RESIDENT


_BF16, _FP8, _COLD, _WARM = Precision.BF16, Precision.FP8, Temperature.COLD, Temperature.WARM
_ONE, _TWO = (Workflow.ONE_A,), (Workflow.TWO,)
_ALL, _SHORT, _SCARCE, _TIGHT = Limits(), Limits(24 * GIB), Limits(24 * GIB, 42 * GB), Limits(16 * GIB)
_NOTHING_READ = 49_999_999  # the most that a table shows as 0.0 GB
_NO_COST = Target(0.99)
_QUICKER = Target(1.4, drive_bytes=_NOTHING_READ, every=True)
_LEGACY = ("--disable-dynamic-vram",)

_CLASS_1 = Scenario(
    "C1",
    "fp8 experts, 12 GB of VRAM, 32 GB of RAM, warm, new text",
    _FP8,
    _TWO,
    Limits(12 * GIB, 32 * GB),
    _WARM,
    Target(2.3, pack_s=12.5, drive_bytes=_NOTHING_READ, every=True),
    warm_ups=1,
    prompts=5,
)

# S: what a mechanism gains. C: classes of hardware that users have, with every prompt from the second to the sixth.
# In an order in which the fp8 files come last: 58 GB of bf16 files and they do not fit a small disk together.
SCENARIOS: tuple[Scenario, ...] = (
    Scenario("S4", "all fits, warm, new text", _BF16, _TWO, _ALL, _WARM, _NO_COST),
    Scenario("S8", "one model that fits, warm, new text", _BF16, _ONE, _ALL, _WARM, _NO_COST),
    Scenario("S9", "one model larger than the device, 16 GB of VRAM, warm, new text", _BF16, _ONE, _TIGHT, _WARM, Target(0.99, pack_s=5.2)),
    Scenario("S3", "24 GB of VRAM, warm, new text", _BF16, _TWO, _SHORT, _WARM, Target(0.99, stall_gone=0.7)),
    Scenario("S6", "a LoRA's strength changes from prompt to prompt, warm", _BF16, (Workflow.LORA,), _ALL, _WARM, _NO_COST),
    Scenario(
        "S7",
        "a queue: two models alternating, then both; 24 GB of VRAM, warm",
        _BF16,
        (Workflow.ONE_A, Workflow.ONE_B, Workflow.ONE_A, Workflow.ONE_B, Workflow.TWO),
        _SHORT,
        _WARM,
        _NO_COST,
        warm_ups=1,
    ),
    Scenario("S1", "cold, first prompt, 24 GB of VRAM", _BF16, _TWO, _SHORT, _COLD, Target(1.7, over_bound=1.25)),
    Scenario(
        "S2",
        "42 GB of RAM and 24 GB of VRAM, warm, new text",
        _BF16,
        _TWO,
        _SCARCE,
        _WARM,
        Target(2.0, pack_s=11.5, drive_bytes=_NOTHING_READ, every=True),
        warm_ups=1,
        prompts=5,
    ),
    Scenario(
        "C6",
        "one workflow, another with another model, the first again, each when the one before has ended; 64 GB of RAM, 24 GB of VRAM, warm",
        _BF16,
        (Workflow.ONE_A, Workflow.ONE_B, Workflow.ONE_A),
        Limits(24 * GIB, 64 * GB),
        _WARM,
        Target(0.99, drive_bytes=_NOTHING_READ),
        warm_ups=1,
        prompts=2,
        at_once=False,
    ),
    Scenario("S4b", "fp8 experts, all fits, warm, new text", _FP8, _TWO, _ALL, _WARM, _NO_COST),
    Scenario("S8b", "one fp8 expert, all fits, warm, new text", _FP8, _ONE, _ALL, _WARM, _NO_COST),
    Scenario("S3b", "fp8 experts, 24 GB of VRAM, warm, new text", _FP8, _TWO, _SHORT, _WARM, Target(0.99, over_bound=1.1, stall_gone=0.7)),
    Scenario("S5", "as S3b, without dynamic VRAM", _FP8, _TWO, _SHORT, _WARM, Target(2.3), _LEGACY),
    _CLASS_1,
    replace(
        _CLASS_1,
        name="C2",
        what="one fp8 expert, 8 GB of VRAM, 24 GB of RAM, warm, new text",
        queue=_ONE,
        limits=Limits(8 * GIB, 24 * GB),
        target=replace(_CLASS_1.target, pack_s=8.0),
    ),
    Scenario(
        "C3", "fp8 experts, cold, 16 GB of VRAM, 64 GB of RAM", _FP8, _TWO, Limits(16 * GIB, 64 * GB), _COLD, Target(0.99, over_bound=1.05)
    ),
    replace(_CLASS_1, name="C1b", what="as C1, with ComfyUI's reserve of a machine with 32 GB", target=_QUICKER, true_reserve=True),
    replace(_CLASS_1, name="C4", what="as C1, without dynamic VRAM", target=_NO_COST, arguments=_LEGACY),
    replace(
        _CLASS_1,
        name="C5",
        what="fp8 experts, 12 GB of VRAM, 70 GB of RAM, warm, new text",
        limits=Limits(12 * GIB, 70 * GB),
        target=Target(0.99, pack_s=10.3, every=True),
    ),
)


def choose(names: Iterable[str], table: Sequence[Scenario] = SCENARIOS) -> tuple[Scenario, ...]:
    """The scenarios of these names, in the table's order. Raises ValueError for a name that is not in it."""
    asked = list(names)
    known = {scenario.name for scenario in table}
    for name in asked:
        if name not in known:
            raise ValueError(f"there is no scenario {name!r}; choose from {', '.join(scenario.name for scenario in table)}")
    return tuple(scenario for scenario in table if scenario.name in asked)


def references(chosen: Sequence[Scenario], table: Sequence[Scenario] = SCENARIOS) -> tuple[Scenario, ...]:
    """The scenarios that are not chosen and tell the least compute time of the chosen ones, in the table's order."""

    def told(scenarios: Iterable[Scenario]) -> set[tuple[Precision, Workflow]]:
        return {(scenario.precision, scenario.queue[0]) for scenario in scenarios if scenario.resident}

    missing = {(one.precision, workflow.computes_like) for one in chosen for workflow in one.queue} - told(chosen)
    return tuple(one for one in table if one.resident and one not in chosen and (one.precision, one.queue[0]) in missing)
