"""The pack's own nodes, as data: which of ComfyUI's nodes are wrapped, which inputs the pack adds, and which values they take.

ComfyUI's editor, its validation and its cache see these inputs like any other. The pack takes their values out of a prompt before
ComfyUI looks at it (residency/settings/take_out.py), so that a memory setting never makes a node run again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ..core.component import Mode, Strategy
from ..graph import is_handle

PREFIX = "Residency"

MODE_NODE = "ResidencyMode"
REPORT_NODE = "ResidencyReport"
POLICY_NODE = "ResidencyPolicy"
KEEP_NODE = "ResidencyKeep"
RELEASE_NODE = "ResidencyRelease"
PREFETCH_NODE = "ResidencyPrefetch"

INHERIT = "workflow"  # the memory mode of a node that follows the workflow
DEVICE, DEVICE_AND_HOST = "device", "device and host"

# inputs of these types are widgets of the editor, not links
WIDGET_TYPES = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3", "COLOR", "CURVE"})

# these "model folders" hold configuration, code and data, never weights that a loader node reads whole
NOT_WEIGHTS = frozenset({"configs", "custom_nodes", "datasets", "embeddings", "diffusers"})


@dataclass(frozen=True, slots=True)
class Choice:
    """An input that takes one of `options`."""

    default: str
    options: tuple[str, ...]

    def parse(self, value: object) -> str:
        """The value itself. Raises ValueError, which lists the choices, for anything else."""
        if isinstance(value, str) and value in self.options:
            return value
        raise ValueError(f"choose one of {', '.join(self.options)}")


@dataclass(frozen=True, slots=True)
class Number:
    """An input that takes a number from `low` to `high`; whole numbers only when `whole`."""

    default: float
    low: float
    high: float
    whole: bool = False

    def parse(self, value: object) -> float:
        """The number. Raises ValueError for anything else."""
        if isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high:
            return int(value) if self.whole else float(value)
        raise ValueError(f"choose a number from {self.low:g} to {self.high:g}")


@dataclass(frozen=True, slots=True)
class Switch:
    """An input that is on or off."""

    default: bool

    def parse(self, value: object) -> bool:
        """The value itself. Raises ValueError for anything that is not true or false."""
        if isinstance(value, bool):
            return value
        raise ValueError("choose true or false")


Input = Choice | Number | Switch
Value = str | float | bool

MEMORY_MODE = Choice(INHERIT, (INHERIT, *(mode.value for mode in Mode if mode is not Mode.OFF)))
STRATEGY = Choice("auto", ("auto", *(strategy.value for strategy in Strategy)))
# input -> value that an earlier version offered -> why it is none any more; such a workflow runs with the default
REMOVED: Mapping[str, Mapping[str, str]] = {
    "strategy": {
        "snapshot": "where models move as a whole, the copy in RAM stays as long as there is room",
        "layerwise": "ComfyUI itself streams what does not fit, and prefetch off (Residency Policy) brings nothing ahead",
    }
}
PRIORITY = Number(0, -100, 100, whole=True)
PREFETCH = Switch(True)
WORKING_SET_GIB = Number(0.0, 0.0, 1024.0)
KEEP_GIB = Number(20.0, 0.0, 4096.0)
BUDGET_GIB = Number(0.0, 0.0, 4096.0)  # of a whole workflow, for one tier; 0: what the machine has
WHERE = Choice(DEVICE, (DEVICE, DEVICE_AND_HOST))


class Family(Enum):
    """The purpose of a node of ours, and so the inputs that it carries."""

    LOADER = "loader"  # wraps a core node that reads weights
    STEP = "step"  # wraps a core node that computes with them
    POLICY = "policy"
    KEEP = "keep"
    RELEASE = "release"
    PREFETCH = "prefetch"


INPUTS: Mapping[Family, Mapping[str, Input]] = {
    Family.LOADER: {"memory_mode": MEMORY_MODE, "strategy": STRATEGY, "priority": PRIORITY},
    Family.STEP: {"memory_mode": MEMORY_MODE, "prefetch": PREFETCH, "working_set_gib": WORKING_SET_GIB},
    Family.POLICY: {"memory_mode": MEMORY_MODE, "strategy": STRATEGY, "priority": PRIORITY, "prefetch": PREFETCH},
    Family.KEEP: {"keep_gib": KEEP_GIB},
    Family.RELEASE: {"where": WHERE},
    Family.PREFETCH: {},
}

# every input of ours, by its name: one name means the same on every node
BY_NAME: Mapping[str, Input] = {name: rule for inputs in INPUTS.values() for name, rule in inputs.items()}

PASSING: Mapping[str, Family] = {
    POLICY_NODE: Family.POLICY,
    KEEP_NODE: Family.KEEP,
    RELEASE_NODE: Family.RELEASE,
    PREFETCH_NODE: Family.PREFETCH,
}

# Inputs that only name a component, or of which ComfyUI's own node asks numbers and no more: what arrives there does not flow on
# through the node, and the node does not compute with it.
ASIDE: Mapping[str, frozenset[str]] = {
    RELEASE_NODE: frozenset({"component"}),
    PREFETCH_NODE: frozenset({"component"}),
    "AddNoise": frozenset({"model"}),
    "LTXVEmptyLatentAudio": frozenset({"audio_vae"}),
    "LTXVLatentUpsampler": frozenset({"vae"}),
    "SeedVR2Conditioning": frozenset({"model"}),
}

_CODED = frozenset({"LATENT", "IMAGE", "AUDIO", "VIDEO"})


def family(sockets: Iterable[str], outputs: Iterable[str], folders: Iterable[str]) -> Family | None:
    """The wrapping of a node of ComfyUI's own, told from its link types and the model folders that its widgets list; None: not at all.

    A loader lists files of a folder of weights and gives out a handle. A step is one of the three kinds that every workflow has: it makes
    CONDITIONING with a text encoder and nothing else, turns latents into pixels or sound with a VAE or back, or samples latents.
    """
    takes, makes = set(sockets), set(outputs)
    if any(folder not in NOT_WEIGHTS for folder in folders):
        return Family.LOADER if any(is_handle(kind) for kind in makes) else None
    if not makes:
        return None
    encodes_text = "CLIP" in takes and makes == {"CONDITIONING"}
    codes_latents = "VAE" in takes and not takes.isdisjoint(_CODED) and takes <= _CODED | {"VAE", "MASK"} and makes <= _CODED
    samples = makes == {"LATENT"} and "LATENT" in takes and ("GUIDER" in takes or takes >= {"MODEL", "CONDITIONING"})
    return Family.STEP if encodes_text or codes_latents or samples else None


def wrapped_id(core_id: str) -> str:
    """The id of our node around a core node."""
    return f"{PREFIX}{core_id}"


def core_inputs(class_type: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The inputs without the pack's own, which change when weights move and not the weights."""
    if not class_type.startswith(PREFIX):
        return inputs
    return {name: value for name, value in inputs.items() if name not in BY_NAME}
