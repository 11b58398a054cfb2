"""The inputs that the pack adds, as ComfyUI shows them: settings/node_inputs.py has the values they take, here are the words for them."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..residency.settings.node_inputs import BY_NAME, Choice, Switch

TOOLTIPS = {
    "memory_mode": "How these weights are placed. 'workflow' follows the Residency Mode node or your settings; 'auto' chooses from what "
    "fits; 'high-vram' keeps them on the device; 'balanced' lets them leave when room is needed; 'low-vram': out after the last use.",
    "strategy": "Where these weights live around their uses; it overrules the memory mode. resident: stay on the device. offload: leave it "
    "as a whole when room is needed. release: out after the last use.",
    "priority": "When something has to leave, the lower number goes first.",
    "prefetch": "Read these weights ahead of this step. Off: they are read when the step needs them, as ComfyUI does.",
    "working_set_gib": "What this step needs on the device beside its weights, in GiB; 0 means: as measured in earlier runs.",
    "keep_gib": "Up to this many GiB of models stay in RAM across prompts and workflows, as far as the memory budget allows.",
    "where": "device: the weights leave the device, RAM keeps its copy. device and host: RAM is given back as well.",
}


SHOWN = ("memory_mode", "where", "keep_gib")  # what most need; the others are folded away as advanced


def own_input(name: str) -> Any:
    """One input of ours: optional, so that a prompt without it is whole; most are advanced, so that a node stays small."""
    rule = BY_NAME[name]
    words = {"optional": True, "tooltip": TOOLTIPS[name]}
    if isinstance(rule, Choice):
        return io.Combo.Input(name, options=list(rule.options), default=rule.default, advanced=name not in SHOWN, **words)
    if isinstance(rule, Switch):
        return io.Boolean.Input(name, default=rule.default, advanced=True, **words)
    number = io.Int.Input if rule.whole else io.Float.Input
    kind = int if rule.whole else float
    step = {"step": 1 if rule.whole else 0.5}
    bounds = {"default": kind(rule.default), "min": kind(rule.low), "max": kind(rule.high), **step}
    return number(name, advanced=name not in SHOWN, **bounds, **words)
