"""What is asked of a ComfyUI and of its models instead of their version: the kind of a model, and the policy under which it is stored."""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any

import comfy.model_management as model_management
import comfy.ops
import comfy.pinned_memory as pinned_memory
from comfy.cli_args import args

from ..seams.chain import bare
from .proofs import Kind

try:
    import comfy_aimdo.model_vbar as model_vbar
except ImportError:  # a ComfyUI without comfy-aimdo has no dynamic models either
    model_vbar = None

COMPILER_WORDS = ("compiler", "cuda_graph")
GRAPH = "_comfy_graph"  # of a block that has been recorded, and may be replayed


def surroundings() -> str:
    """What holds for all models: the compiler's settings, and the parameters of what the mover calls. It changes with either."""
    settings = [f"{name}={value}" for name, value in sorted(vars(args).items()) if any(word in name for word in COMPILER_WORDS)]
    functions = [comfy.ops.cast_modules_with_vbar, pinned_memory.get_pin, pinned_memory.pin_memory]
    if model_vbar is not None:
        names = ("fault", "unpin", "set_watermark", "free_memory", "get_residency")
        functions += [getattr(model_vbar.ModelVBAR, name) for name in names]
    return "; ".join([*settings, *(_signature(bare(function)) for function in functions)])


@lru_cache(maxsize=64)
def _signature(function: Any) -> str:
    try:
        return f"{function.__qualname__}{inspect.signature(function, follow_wrapped=False)}"
    except (AttributeError, TypeError, ValueError):  # of another language, or of a pack
        return repr(type(function))


def kind_of(patcher: Any, around: str) -> Kind:
    def name(one: Any) -> str:
        return f"{type(one).__module__}.{type(one).__qualname__}"

    return Kind(name(patcher), name(patcher.model), around)


def is_recorded(patcher: Any) -> bool:
    """Whether blocks of the model have been recorded as graphs, which are replayed at the addresses where their weights were."""
    return any(GRAPH in module.__dict__ for module in patcher.model.modules())


def pin_subsets(state: Any, beginning: str) -> list[str]:
    """Names of the pinned buffers of a dynamic model whose bytes are of that sort, however many this ComfyUI has."""
    return [name for name, value in state.items() if isinstance(name, str) and name.startswith(beginning) and isinstance(value, tuple)]


def is_streamed(patcher: Any) -> bool:
    """Whether ComfyUI reads what does not fit on the device from the model's files at each use, and keeps no copy of what does fit."""
    state = patcher.model.dynamic_pins.get(patcher.load_device, {}) if patcher.is_dynamic() else {}
    own = state.get("fast_disk")
    return bool(getattr(model_management.args, "fast_disk", False) if own is None else own)


def streams() -> str:
    """That policy, its reason, and the way out, which is the user's: ComfyUI has no official switch for one model."""
    reason = "as --fast-disk asks" if getattr(args, "fast_disk", False) else "whose drive it takes for a fast one"
    way_out = "--disable-fast-disk" if hasattr(args, "disable_fast_disk") else "a start without --fast-disk"
    return f"ComfyUI reads what does not fit on the device from the file at each use, {reason}; {way_out} keeps it in RAM"
