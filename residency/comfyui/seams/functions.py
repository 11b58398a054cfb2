"""Every monkeypatch of the pack, in one place.

A seam names one function of ComfyUI, says which parameters it must have, and wraps it. It is chained (the original, or another pack's
function in its place, is called), reversible, and fails alone: a seam that does not fit this ComfyUI is off and says so. Packs that patch
the same function later may cut it off: whether it is still reached is asked when a prompt begins, and then it is chained again.

Why seams and not the official caching provider for the start and end of a prompt: a registered provider makes ComfyUI serialise
and hash each node's whole ancestry; with v0.33 a chain of 100 trivial nodes took 1,818 ms instead of 76 ms, one of 300 nodes 19.6 s
instead of 1.5 s. Wrapping the executor's own methods costs microseconds and works with every cache option.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import threading
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from .chain import Link, Wrapper, bare, leads_to, module_of, pack_of

log = logging.getLogger("residency")

# A pack that puts itself on top anew each time, in a way that leads_to cannot follow, buries one more of our links each time.
MAX_BURIED = 20


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether a seam can be used with this ComfyUI; `reason` says why not, or who has cut it off meanwhile."""

    name: str
    fits: bool
    reason: str


class Seam:
    """One function of ComfyUI: `target` is "module:attribute.path"; `parameters` are the leading ones it must have. Thread-safe."""

    def __init__(self, name: str, target: str, parameters: tuple[str, ...], *, asynchronous: bool = False) -> None:
        self.name = name
        self.target = target
        self._parameters = parameters
        self._asynchronous = asynchronous
        self._lock = threading.Lock()
        self._wrapper: Wrapper | None = None  # while installed
        self._link: Link | None = None  # the one that is on
        self._cut_off: Link | None = None  # the one before it
        self._buried = 0  # of ours below each other, each still called
        self._told = Fit(name, False, "not installed")

    def fit(self) -> Fit:
        """Look at the function as it is now; nothing is changed."""
        try:
            owner, attribute = self._resolve()
            function = bare(getattr(owner, attribute))
            why_not = self._misfit(owner, attribute, function)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            why_not = f"{self.target} is not there: {error}"
        return Fit(self.name, not why_not, why_not)

    def install(self, wrapper: Wrapper) -> Fit:
        """Put the wrapper in place if the seam fits. Installing twice is refused."""
        with self._lock:
            if self._wrapper is not None:
                return Fit(self.name, True, "already installed")
            self._told = self.fit()
            if self._told.fits:
                self._wrapper, self._buried = wrapper, 0
                self._put()
            else:
                log.warning("residency: %s is off: %s", self.name, self._told.reason)
            return self._told

    def remove(self) -> None:
        """Restore the original where we are on top; else our link stays in the chain and only passes on."""
        with self._lock:
            if self._wrapper is None:
                return
            self._wrapper = self._cut_off = None
            self._retire()
            self._told = Fit(self.name, False, "not installed")
            owner, attribute = self._resolve()
            function = getattr(owner, attribute)
            if bare(function) is not function:
                setattr(owner, attribute, bare(function))

    def look(self) -> Fit:
        """Whether calls come to the wrapper now; nothing is changed."""
        link = self._link
        if self._wrapper is None or link is None:
            return self._told
        function = self._now()
        if function is link.function or leads_to(function, link):
            return self._told
        return Fit(self.name, False, f"{self._cutter(function)}; chained again when the next prompt begins")

    def others(self) -> str:
        """The pack that has changed the same function, below our link or on top of it; empty for none, or where nobody can tell."""
        try:
            below = bare(self._now())
        except (ImportError, AttributeError):
            return ""
        return "" if self._is_comfyuis(below) else pack_of(below)

    def check(self) -> Fit:
        """Chain again where calls no longer come to the wrapper. Cheap while nobody has patched the function: one comparison."""
        with self._lock:
            if self._wrapper is None:
                return self._told
            function, link = self._now(), self._link
            if link is None or not (function is link.function or leads_to(function, link)):
                self._chain_again(function)
            return self._told

    def _chain_again(self, function: Any) -> None:
        who, before = self._cutter(function), self._told
        self._buried = self._buried + 1 if self._cut_off is not None and self._cut_off.reached else 0
        self._retire()
        fit = self.fit()
        if self._buried > MAX_BURIED:
            self._wrapper = None
            self._told = Fit(self.name, False, f"{who}, again and again, on top of ours")
        elif fit.fits:
            self._told = Fit(self.name, True, f"{who}; chained again")
            self._put()
        else:  # asked again when the next prompt begins
            self._told = Fit(self.name, False, f"{who}: {fit.reason}")
        if self._told != before:
            log.warning("residency: %s is %s: %s", self.name, "on" if self._told.fits else "off", self._told.reason)

    def _put(self) -> None:
        assert self._wrapper is not None
        owner, attribute = self._resolve()
        self._link = Link(bare(getattr(owner, attribute)), self._wrapper, asynchronous=self._asynchronous)
        setattr(owner, attribute, self._link.function)

    def _retire(self) -> None:
        """Before another is put in place: two that are on could be met in one call."""
        if self._link is not None:
            self._link.retire()
            self._cut_off, self._link = self._link, None

    def _now(self) -> Any:
        owner, attribute = self._resolve()
        return getattr(owner, attribute)

    def _cutter(self, function: Any) -> str:
        function = bare(function)
        return "ComfyUI's own function was put back" if self._is_comfyuis(function) else f"replaced by {pack_of(function)}"

    def _is_comfyuis(self, function: Any) -> bool:
        return module_of(function) == self.target.partition(":")[0]

    def _misfit(self, owner: Any, attribute: str, function: Any) -> str:
        """Why the function cannot be wrapped; empty when it can. Raises as inspecting it does."""
        raw = inspect.getattr_static(owner, attribute)
        if isinstance(owner, type) and not isinstance(raw, FunctionType):
            return f"{self.target} is a {type(raw).__name__} of {pack_of(function)}, not a plain method"
        expected, innermost = self._parameters, inspect.unwrap(function)
        for layer in {function: None, innermost: None} if self._is_comfyuis(innermost) else (function,):
            found = inspect.signature(layer, follow_wrapped=False).parameters.values()
            named = tuple(one.name for one in found if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD))[: len(expected)]
            if self._is_comfyuis(layer):
                fits = named == expected
                if inspect.iscoroutinefunction(layer) is not self._asynchronous:
                    return f"{self.target} should {'' if self._asynchronous else 'not '}be a coroutine function"
            else:  # a pack names them as it likes, and may return an awaitable from a plain function
                fits = len(named) == len(expected) or any(one.kind is one.VAR_POSITIONAL for one in found)
            if not fits:
                return f"{self.target} takes {tuple(one.name for one in found)}, expected {expected} first"
        return ""

    def _resolve(self) -> tuple[Any, str]:
        module_name, _, path = self.target.partition(":")
        owner: Any = importlib.import_module(module_name)
        *parents, attribute = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        return owner, attribute


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
FAULT = Seam("pages before use", "comfy_aimdo.model_vbar:ModelVBAR.fault", ("self", "alloc", "size"))
LAYOUT = Seam("order of weights on the device", "comfy.model_patcher:ModelPatcher._load_list", ("self", "for_dynamic"))
PIN = Seam("pinned host copies", "comfy.pinned_memory:pin_memory", ("module", "subset", "size"))
CACHED = Seam("cached results", "comfy_execution.caching:RAMPressureCache.ram_release", ("self", "target", "free_active"))

QUEUE_PUT = Seam("queue put", "execution:PromptQueue.put", ("self", "item"))
QUEUE_DELETE = Seam("queue delete", "execution:PromptQueue.delete_queue_item", ("self", "function"))
QUEUE_WIPE = Seam("queue wipe", "execution:PromptQueue.wipe_queue", ("self",))

ALL = (PROMPT, PICK, STAGE, UNSTAGE, COMPLETE, OUTPUTS, LOAD, UNLOAD, CAST, FAULT, LAYOUT, PIN, CACHED, QUEUE_PUT, QUEUE_DELETE, QUEUE_WIPE)
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
        """At most `limit_bytes` from now on; None gives ComfyUI its own limit back. Memory pinned already stays until it is freed."""
        import comfy.model_management as model_management

        own_bytes = model_management.MAX_PINNED_MEMORY if self._own_bytes is None else self._own_bytes
        if limit_bytes is not None and own_bytes > 0:
            self._own_bytes = own_bytes
            model_management.MAX_PINNED_MEMORY = min(own_bytes, limit_bytes)
        elif self._own_bytes is not None:
            model_management.MAX_PINNED_MEMORY = own_bytes
            self._own_bytes = None


PIN_LIMIT = PinLimit()


class OffloadStreams:
    """ComfyUI's number of streams on which weights cross to the device at their use, a number in its module and a list for each device:
    raised, never lowered, and put back. A copy on one may begin when the device has got to where the stream before it was taken:
    with ComfyUI's own two, one weight ahead.

    0, where ComfyUI lets nothing cross beside the computation, stays, and so does a user's choice (`--async-offload`).
    """

    def __init__(self) -> None:
        self._own: int | None = None

    def set(self, count: int | None) -> None:
        """At least so many from now on; None gives ComfyUI its own number back. The lists only grow, for the executor may be taking a
        stream from one: added ones are taken no more once the first ones stand in their places."""
        import comfy.model_management as model_management
        from comfy.cli_args import args

        own = model_management.NUM_STREAMS if self._own is None else self._own
        if count is not None and 0 < own < count and getattr(args, "async_offload", None) is None:
            self._own, model_management.NUM_STREAMS = own, count
            for device, streams in list(model_management.STREAMS.items()):
                while len(streams) < count:
                    streams.append(streams[len(streams) % own])
                for place in range(own, count):
                    if streams[place] is streams[place % own]:
                        streams[place] = _another(streams[0], device)
        elif self._own is not None:
            model_management.NUM_STREAMS, self._own = own, None
            for streams in list(model_management.STREAMS.values()):
                for place in range(own, len(streams)):
                    streams[place] = streams[place % own]


def _another(stream: Any, device: Any) -> Any:
    """A stream of the same kind, as ComfyUI makes them."""
    made = type(stream)(device=device, priority=0)
    made.as_context = stream.as_context
    return made


OFFLOAD_STREAMS = OffloadStreams()
