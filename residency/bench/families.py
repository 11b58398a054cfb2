"""The families that people run on the classes of hardware that they have: the scenarios of `bench --family`.

Files and prompts are those of comfyui/sample_models/families.py, of published size or small. A class is the device memory and RAM that
other processes leave free, with ComfyUI's own reserve of a machine of that size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum

from ..comfyui.sample_models.families import FAMILIES
from .scenarios import GB, GIB, Limits, Precision, Scenario, Target, Temperature, Workflow

NAMES = tuple(FAMILIES)
EVERYTHING = "all"  # the class of hardware with nothing held
CLASSES = {f"{vram}/{ram}": Limits(vram * GIB, ram * GB) for vram, ram in ((8, 16), (8, 32), (12, 32), (16, 64), (24, 64), (32, 128))}
WARM_PROMPTS = 3
IN_QUEUE = 5


class Part(Enum):
    """COLD: the first prompt of a fresh server. TEXT: prompts after it, each with another text. SWITCH: another workflow with a model of
    its own, and back. QUEUE: five prompts at once."""

    COLD = "cold"
    TEXT = "text"
    SWITCH = "switch"
    QUEUE = "queue"


_QUEUES = {
    Part.COLD: (Workflow.FAMILY,),
    Part.TEXT: (Workflow.FAMILY,),
    Part.SWITCH: (Workflow.FAMILY, Workflow.OTHER, Workflow.FAMILY),
    Part.QUEUE: (Workflow.FAMILY,) * IN_QUEUE,
}
_WHAT = {
    Part.COLD: "cold",
    Part.TEXT: "warm, new text",
    Part.SWITCH: "another workflow and back",
    Part.QUEUE: "a queue of five",
}


def scenarios(families: Iterable[str], classes: Sequence[str], parts: Sequence[Part], *, hold: bool = True) -> tuple[Scenario, ...]:
    """Of each family in each class the parts in their order. Without `hold` nothing is held: small files would fit whatever is left.
    Raises ValueError for a family or class that is not known."""
    asked = list(families)
    for name in asked:
        if name not in FAMILIES:
            raise ValueError(f"there is no family {name!r}; choose from {', '.join(FAMILIES)}")
    for name in classes:
        if name not in CLASSES and name != EVERYTHING:
            known = ", ".join([*CLASSES, EVERYTHING])
            raise ValueError(f"there is no class of hardware {name!r}; choose from {known} (GiB of VRAM/GB of RAM)")
    return tuple(_scenario(family, name, part, parts, hold) for family in asked for name in classes for part in Part if part in parts)


def references(families: Iterable[str]) -> tuple[Scenario, ...]:
    """Scenarios that tell each one's compute time with everything on the device."""
    return tuple(_scenario(family, EVERYTHING, Part.TEXT, (Part.TEXT,)) for family in families)


def _scenario(family: str, hardware: str, part: Part, parts: Sequence[Part], hold: bool = True) -> Scenario:
    limits = CLASSES.get(hardware, Limits()) if hold else Limits()
    cold = part is Part.COLD
    first = next(one for one in Part if one in parts) is part
    held = "nothing held" if limits == Limits() else "{} GiB of VRAM, {} GB of RAM".format(*hardware.split("/"))
    return Scenario(
        f"{family}-{hardware.replace('/', '-')}-{part.value}",
        f"{family}, {held}, {_WHAT[part]}",
        Precision.FP8,
        _QUEUES[part],
        limits,
        Temperature.COLD if cold else Temperature.WARM,
        Target(1.5) if part is Part.TEXT and hardware != EVERYTHING else Target(0.99),
        warm_ups=int(first and not cold),
        prompts=WARM_PROMPTS if part is Part.TEXT else 1,
        at_once=part is not Part.SWITCH,
        true_reserve=True,
        family=family,
        hardware=hardware,
    )
