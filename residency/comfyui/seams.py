"""Every monkeypatch of the pack, in one place.

A seam names one function of ComfyUI, says which parameters it must have, and wraps it. It is chained (the original, or whatever
another pack put there, is called), reversible, and fails alone: a seam that does not fit this ComfyUI is off and says so.

Why seams and not the official caching provider for the start and end of a prompt: a registered provider makes ComfyUI serialise
and hash each node's whole ancestry; with v0.33 a chain of 100 trivial nodes took 1,818 ms instead of 76 ms, one of 300 nodes 19.6 s
instead of 1.5 s. Wrapping the executor's own methods costs microseconds and works with every cache option.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

log = logging.getLogger("residency")

Wrapper = Callable[..., Any]  # original -> replacement


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether a seam can be used with this ComfyUI; `reason` says why not."""

    name: str
    fits: bool
    reason: str


class Seam:
    """One function of ComfyUI: `target` is "module:attribute.path"; `parameters` are the leading ones it must have."""

    def __init__(self, name: str, target: str, parameters: tuple[str, ...], *, asynchronous: bool = False) -> None:
        self.name = name
        self.target = target
        self._parameters = parameters
        self._asynchronous = asynchronous
        self._replacement: Any = None
        self._original: Any = None
        self._active = False

    def fit(self) -> Fit:
        """Look at the function as it is now; nothing is changed."""
        try:
            owner, attribute = self._resolve()
            function = getattr(owner, attribute)
            unwrapped = inspect.unwrap(function)
            found = tuple(inspect.signature(unwrapped).parameters)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            return Fit(self.name, False, f"{self.target} is not there: {error}")
        if found[: len(self._parameters)] != self._parameters:
            return Fit(self.name, False, f"{self.target} takes {found}, expected {self._parameters} first")
        if inspect.iscoroutinefunction(unwrapped) is not self._asynchronous:
            return Fit(self.name, False, f"{self.target} should {'' if self._asynchronous else 'not '}be a coroutine function")
        return Fit(self.name, True, "")

    def install(self, wrapper: Wrapper) -> Fit:
        """Put the wrapper in place if the seam fits. Installing twice is refused."""
        if self._active:
            return Fit(self.name, True, "already installed")
        fit = self.fit()
        if not fit.fits:
            log.warning("residency: %s is off: %s", self.name, fit.reason)
            return fit
        owner, attribute = self._resolve()
        self._active = True
        if self._replacement is not None and _chain_holds(getattr(owner, attribute), self._replacement):
            self._wrapped = wrapper(self._original)  # another pack chained on top of us earlier: wake our link up
            return fit
        original = self._original = getattr(owner, attribute)
        self._wrapped = wrapper(original)
        if self._asynchronous:

            @functools.wraps(original)
            async def replacement(*args: Any, **kwargs: Any) -> Any:
                return await (self._wrapped if self._active else original)(*args, **kwargs)
        else:

            @functools.wraps(original)
            def replacement(*args: Any, **kwargs: Any) -> Any:
                return (self._wrapped if self._active else original)(*args, **kwargs)

        self._replacement = replacement
        setattr(owner, attribute, replacement)
        return fit

    def remove(self) -> None:
        """Restore the original; when another pack has wrapped us meanwhile our link stays in the chain and only passes on."""
        if not self._active:
            return
        self._active = False
        owner, attribute = self._resolve()
        if getattr(owner, attribute) is self._replacement:
            setattr(owner, attribute, self._original)
            self._replacement = self._original = None

    def _resolve(self) -> tuple[Any, str]:
        module_name, _, path = self.target.partition(":")
        owner: Any = importlib.import_module(module_name)
        *parents, attribute = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        return owner, attribute


def _chain_holds(function: Any, link: Any) -> bool:
    while function is not None:
        if function is link:
            return True
        function = getattr(function, "__wrapped__", None)
    return False


PROMPT = Seam(
    "prompt start and end",
    "execution:PromptExecutor.execute_async",
    ("self", "prompt", "prompt_id", "extra_data", "execute_outputs"),
    asynchronous=True,
)
STAGE = Seam("node start", "comfy_execution.graph:ExecutionList.stage_node_execution", ("self",), asynchronous=True)
PICK = Seam("node choice", "comfy_execution.graph:ExecutionList.ux_friendly_pick_node", ("self", "node_list"))
UNSTAGE = Seam("node put back", "comfy_execution.graph:ExecutionList.unstage_node_execution", ("self",))
COMPLETE = Seam("node finish", "comfy_execution.graph:ExecutionList.complete_node_execution", ("self",))
OUTPUTS = Seam("node outputs", "comfy_execution.graph:ExecutionList.cache_update", ("self", "node_id", "value"))
LOAD = Seam("model load", "comfy.model_management:load_models_gpu", ("models", "memory_required"))
UNLOAD = Seam("model unload", "comfy.model_patcher:ModelPatcher.unpatch_model", ("self", "device_to", "unpatch_weights"))
CAST = Seam("weights before use", "comfy.ops:cast_modules_with_vbar", ("comfy_modules", "dtype", "device", "bias_dtype", "non_blocking"))
PIN = Seam("pinned host copies", "comfy.pinned_memory:pin_memory", ("module", "subset", "size"))
CACHED = Seam("cached results", "comfy_execution.caching:RAMPressureCache.ram_release", ("self", "target", "free_active"))

QUEUE_PUT = Seam("queue put", "execution:PromptQueue.put", ("self", "item"))
QUEUE_DELETE = Seam("queue delete", "execution:PromptQueue.delete_queue_item", ("self", "function"))
QUEUE_WIPE = Seam("queue wipe", "execution:PromptQueue.wipe_queue", ("self",))

ALL = (PROMPT, PICK, STAGE, UNSTAGE, COMPLETE, OUTPUTS, LOAD, UNLOAD, CAST, PIN, CACHED, QUEUE_PUT, QUEUE_DELETE, QUEUE_WIPE)
# without these the pack cannot follow a prompt at all; the others only cost detail
ESSENTIAL = (PROMPT, STAGE, COMPLETE)


def report() -> list[tuple[str, bool, str]]:
    """(name, fits, reason) of every seam with the ComfyUI that is importable here."""
    return [(fit.name, fit.fits, fit.reason) for fit in (seam.fit() for seam in ALL)]


class PinLimit:
    """ComfyUI's limit on the host memory that it pins, a number in its module: lowered, never raised, and put back.

    ComfyUI keeps 0 or less where it does not pin at all; that stays.
    """

    def __init__(self) -> None:
        self._own_bytes: float | None = None

    def set(self, limit_bytes: int | None) -> None:
        """At most `limit_bytes` from now on; None gives ComfyUI its own limit back. What is pinned already stays until it is freed."""
        import comfy.model_management as model_management

        own_bytes = model_management.MAX_PINNED_MEMORY if self._own_bytes is None else self._own_bytes
        if limit_bytes is not None and own_bytes > 0:
            self._own_bytes = own_bytes
            model_management.MAX_PINNED_MEMORY = min(own_bytes, limit_bytes)
        elif self._own_bytes is not None:
            model_management.MAX_PINNED_MEMORY = own_bytes
            self._own_bytes = None


PIN_LIMIT = PinLimit()
