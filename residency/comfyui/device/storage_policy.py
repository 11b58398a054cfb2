"""Models stay in host memory that ComfyUI would read from their fast drive at each use, where the plan says that host memory lasts.

ComfyUI decides the policy by model when it is made, writes it into the state of the model's pinned buffers, and reads it there whenever
a weight is cast: pinned copies are made of streamed weights only, or of all. So the entry of that one model is all that is
changed, before it is loaded: the copies themselves, their budget and who of them leaves stay ComfyUI's, as with --disable-fast-disk.
Every weight is read from the same file in either case. The user's choice on the command line stays as it is.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Any

import comfy.model_management as model_management
from comfy.cli_args import args

from ...core.device_placement import Copies, Placement
from ...transfers import memory
from ...units import size
from .kinds import STREAMED, is_streamed, streams
from .memory_usage import device_bytes, pinned_bytes, pinned_in_all
from .proofs import Kind

log = logging.getLogger("residency")

FAST = "-fast"  # how the names of pinned buffers of streamed models end


class StoragePolicy:
    """Of all models of one mover. `plan()`: where the running prompt's weights lie. On the executor's thread; `give_back` and `states` on
    any."""

    def __init__(self, plan: Callable[[], Placement]) -> None:
        self._plan = plan
        self._kept: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()  # model -> why, for people
        self._in_vain: weakref.WeakSet[Any] = weakref.WeakSet()  # models that were loaded, and of which ComfyUI pinned nothing
        self._told: dict[str, tuple[bool, str]] = {}  # by component, of those streamed or to be streamed: whether it is kept, and why

    def before_load(self, patcher: Any) -> None:
        """ComfyUI is about to load the model: as the plan is now."""
        model, state = patcher.model, _state(patcher)
        if model in self._kept and not state.get(STREAMED) and device_bytes(patcher) and not sum(pinned_bytes(patcher)):
            self._in_vain.add(model)
        why_not = self.why_not(patcher)
        if why_not:
            self._stream(model, state)
        elif is_streamed(patcher):
            state[STREAMED] = False
            self._kept[model] = f"{self._plan().reason}: RAM is preferred to reading what does not fit on the device at each use"

    def loaded(self, key: str, patcher: Any, kind: Kind) -> None:
        """ComfyUI has loaded a model of the component: people are told where it streams the model, or would."""
        kept, why_not = self.kept(patcher), self.why_not(patcher) if is_streamed(patcher) else ""
        before = self._told.pop(key, None)
        if not key or not (kept or why_not):
            return
        self._told[key] = bool(kept), kept or why_not
        if before is None or before[0] is not bool(kept):
            log.info("residency: %s: %s; %s of RAM are available", kind, kept or why_not, size(memory.available_bytes()))

    def states(self) -> list[tuple[str, bool, str]]:
        """(name, on, why) of keeping weights in host memory; none where ComfyUI streams no model, and would stream none."""
        told = sorted(self._told.items())
        if not told:
            return []
        why = "; ".join(f"{key}: {why}" for key, (_, why) in told)
        return [("weights kept in host memory", all(kept for _, (kept, _) in told), why)]

    def kept(self, patcher: Any) -> str:
        """Why the model is kept in host memory although ComfyUI would stream it; empty for every other one."""
        return self._kept.get(patcher.model, "") if not is_streamed(patcher) else ""

    def why_not(self, patcher: Any) -> str:
        """Why a model that ComfyUI streams, or would, is left to it; empty where it is not."""
        if getattr(args, "fast_disk", False) or _state(patcher).get(STREAMED) is None:
            return streams()
        plan, limit_bytes = self._plan(), int(model_management.MAX_PINNED_MEMORY)
        if patcher.model in self._in_vain:
            return f"{streams()}; kept in RAM, nothing of it was pinned"
        if plan.copies is not Copies.BOTH or not plan.fits:
            return f"{streams()}; {plan.reason or 'no plan says yet that RAM lasts'}"
        if patcher.model not in self._kept and _holds_fast_pins(patcher):
            return f"{streams()}; what it streams is pinned already"
        if pinned_in_all() - sum(pinned_bytes(patcher)) + patcher.model_size() > limit_bytes:
            return f"{streams()}; ComfyUI pins no more than {max(0, limit_bytes) / 10**9:.1f} GB"
        return ""

    def give_back(self) -> None:
        """Every model is stored as ComfyUI has decided."""
        for model in list(self._kept):
            for state in list(model.dynamic_pins.values()):
                self._stream(model, state)

    def _stream(self, model: Any, state: dict[Any, Any]) -> None:
        if self._kept.pop(model, None) is not None and state.get(STREAMED) is False:
            state[STREAMED] = True


def _state(patcher: Any) -> dict[Any, Any]:
    found: dict[Any, Any] = patcher.model.dynamic_pins.get(patcher.load_device, {}) if patcher.is_dynamic() else {}
    return found


def _holds_fast_pins(patcher: Any) -> bool:
    """Pins of one name are not found under another: the same bytes would be held twice."""
    named = (value for name, value in _state(patcher).items() if isinstance(name, str) and name.endswith(FAST))
    return any(isinstance(value, tuple) and value[0].size for value in named)
