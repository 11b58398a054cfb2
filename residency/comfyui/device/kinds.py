"""The kind of a model and the policy under which it is stored, asked of ComfyUI instead of its version."""

from __future__ import annotations

import inspect
import weakref
from functools import lru_cache
from typing import Any

import comfy.model_management as model_management
import comfy.ops
from comfy.cli_args import args

from ..seams.chain import bare
from .proofs import Kind

try:
    import comfy.model_prefetch as model_prefetch
except ImportError:  # 0.26 has none
    model_prefetch = None

try:
    import comfy.pinned_memory as pinned_memory
    import comfy_aimdo.model_vbar as model_vbar
except ImportError:  # a ComfyUI without comfy-aimdo has no dynamic models either
    pinned_memory = model_vbar = None

STREAMED = "fast_disk"  # of the state of a model's pinned buffers: whether ComfyUI streams it from its drive
COMPILER_WORDS = ("compiler", "cuda_graph")
BLOCK = "_v_block"  # of a block, next to the `_v` of a module: where its weights are
GRAPH = "_comfy_graph"  # of a block that has been recorded, and may be replayed
RECORDED = "ComfyUI has recorded it as a graph that it replays where its weights are now"  # why nothing of a model is moved


def surroundings() -> str:
    """The compiler's settings and the parameters of the functions that the mover calls, in words: they hold for all models."""
    settings = [f"{name}={value}" for name, value in sorted(vars(args).items()) if any(word in name for word in COMPILER_WORDS)]
    owners = [(comfy.ops, ("cast_modules_with_vbar",)), (pinned_memory, ("get_pin", "pin_memory"))]
    owners += [(getattr(model_vbar, "ModelVBAR", None), ("fault", "unpin", "set_watermark", "free_memory", "get_residency"))]
    functions = [getattr(owner, name) for owner, own in owners for name in own if hasattr(owner, name)]
    return "; ".join([*settings, *(_signature(bare(function)) for function in functions)])


@lru_cache(maxsize=64)
def _signature(function: Any) -> str:
    try:
        return f"{function.__qualname__}{inspect.signature(function, follow_wrapped=False)}"
    except (AttributeError, TypeError, ValueError):  # of another language, or of a pack
        return repr(type(function))


def allocates_beside_torch(device: Any) -> bool:
    """Whether ComfyUI's compiler keeps working sets in memory that torch's allocator does not tell of."""
    enabled = getattr(model_prefetch, "malloc_graph_enabled", None)
    return enabled is not None and bool(enabled(device))


def kind_of(patcher: Any, around: str) -> Kind:
    def name(one: Any) -> str:
        return f"{type(one).__module__}.{type(one).__qualname__}"

    return Kind(name(patcher), name(patcher.model), around)


class Blocks:
    """The blocks of each model whose pages ComfyUI asks for as a whole, as they were when it was loaded last: only those are recorded.
    Going through all modules of a model takes as long as announcing copies does."""

    def __init__(self) -> None:
        self._blocks: weakref.WeakKeyDictionary[Any, list[weakref.ReferenceType[Any]]] = weakref.WeakKeyDictionary()

    def loaded(self, patcher: Any) -> None:
        """Its blocks may be others from now on."""
        self._blocks.pop(patcher.model, None)

    def is_recorded(self, patcher: Any) -> bool:
        """Whether some have been recorded as graphs, which are replayed at the addresses where their weights were."""
        blocks = self._blocks.get(patcher.model)
        if blocks is None:
            blocks = [weakref.ref(module) for module in patcher.model.modules() if BLOCK in module.__dict__]
            self._blocks[patcher.model] = blocks
        return any(GRAPH in module.__dict__ for module in (one() for one in blocks) if module is not None)


def pin_subsets(state: Any, beginning: str) -> list[str]:
    """Names of the pinned buffers of a dynamic model whose bytes are of that sort, however many this ComfyUI has."""
    return [name for name, value in state.items() if isinstance(name, str) and name.startswith(beginning) and isinstance(value, tuple)]


def is_streamed(patcher: Any) -> bool:
    """Whether ComfyUI reads weights that do not fit on the device from the model's files at each use, and keeps no copy of those that
    do."""
    state = patcher.model.dynamic_pins.get(patcher.load_device, {}) if patcher.is_dynamic() else {}
    own = state.get(STREAMED)
    return bool(getattr(model_management.args, "fast_disk", False) if own is None else own)


def streams() -> str:
    """That policy, its reason, and the way out, which is the user's: ComfyUI has no official switch for one model."""
    reason = "as --fast-disk asks" if getattr(args, "fast_disk", False) else "whose drive it takes for a fast one"
    way_out = "--disable-fast-disk" if hasattr(args, "disable_fast_disk") else "a start without --fast-disk"
    return f"ComfyUI reads what does not fit on the device from the file at each use, {reason}; {way_out} keeps it in RAM"
