"""The ComfyUI host: turns what the executor does into events, and holds a node back while its files are being read ahead.

Life: `install()` in the pack's on_load or when a mode other than off is chosen; per prompt prompt_begins -> (node_starts ->
node_finishes | node_returns)* -> prompt_ends; `uninstall()` takes every hook out and joins every thread. Whatever fails in here is logged
once, counted, and handed back to ComfyUI: after a few failures the host takes itself out.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Iterable
from typing import Any

import comfy.model_management as model_management

from .. import report
from ..component import Mode, Policy, Tier
from ..events import BudgetChanged, NodeFinished, NodeStarted, Outcome, PromptEnded, PromptStarted, Replanned
from ..runtime import Hold, Runtime
from ..transfers import ReadAhead, exclusive, memory
from . import seams, settings
from .device import DeviceMover
from .live import QUEUE_DEPTH, LiveGraph, traits

log = logging.getLogger("residency")

HEADROOM_SHARE = 0.1  # of the host's memory, left to activations, caches and other programs
BUDGET_REFRESH_S = 0.25  # reading the limits takes 40 us: not at every one of a thousand cheap nodes
HOLD_POLL_S = 0.005
MAX_FAILURES = 3


class ComfyHost:
    """One per process. `queue()` lists the prompts behind the running one as (id, prompt, outputs)."""

    def __init__(self, queue: Callable[[], Iterable[tuple[str, Any, list[str]]]] = tuple) -> None:
        self.runtime = Runtime(device_limit_bytes=_device_limit_bytes())
        self._memory_total_bytes = memory.host_memory().total_bytes
        self.device = DeviceMover(self.runtime.post, self.runtime.clock)
        self.user = settings.Settings(Mode.AUTO, "the default")
        self.fits: list[seams.Fit] = []
        self.installed = False
        self.failures = 0
        self._queue = queue
        self._prompt: _Prompt | None = None

    # --- life ---

    def install(self) -> None:
        """Put every seam that fits in place; without the essential ones nothing is installed."""
        if self.installed:
            return
        unfit = [fit for fit in (seam.fit() for seam in seams.ESSENTIAL) if not fit.fits]
        if unfit:
            self.fits = unfit
            log.warning("residency: off with this ComfyUI: %s", "; ".join(fit.reason for fit in unfit))
            return
        wrappers = {
            seams.PROMPT: self._wrap_prompt,
            seams.STAGE: self._wrap_stage,
            seams.UNSTAGE: self._wrap_unstage,
            seams.COMPLETE: self._wrap_complete,
            seams.OUTPUTS: self._wrap_outputs,
            seams.LOAD: self._wrap_load,
        }
        # a closed mover stays closed: each installation gets its own
        self.runtime.movers = {Tier.HOST: ReadAhead(self.runtime.post, self.runtime.clock), Tier.DEVICE: self.device}
        self.fits = [seam.install(wrapper) for seam, wrapper in wrappers.items()]
        self.installed = True
        self.failures = 0

    def uninstall(self) -> None:
        """Take every hook out, stop every transfer, join every thread. A running prompt goes on as stock ComfyUI's."""
        for seam in seams.ALL:
            seam.remove()
        self.installed = False
        self._prompt = None
        self.runtime.close()

    def set_user_mode(self, mode: Mode, source: str) -> None:
        """The user's setting: off takes the hooks out at once, every other mode holds from the next prompt on."""
        self.user = settings.Settings(mode, source, self.user.host_budget_bytes)
        if mode is Mode.OFF:
            self.uninstall()
        else:
            self.install()

    # --- what the seams call, on the executor thread ---

    def _wrap_prompt(self, original: Any) -> Any:
        @functools.wraps(original)
        async def execute_async(executor: Any, *args: Any, **kwargs: Any) -> Any:
            self._guard(self._prompt_begins, *_arguments(args, kwargs))
            try:
                return await original(executor, *args, **kwargs)
            finally:
                self._guard(self._prompt_ends, executor)

        return execute_async

    def _wrap_stage(self, original: Any) -> Any:
        @functools.wraps(original)
        async def stage_node_execution(execution_list: Any, *args: Any, **kwargs: Any) -> Any:
            staged = await original(execution_list, *args, **kwargs)
            if self._prompt is not None and staged[0] is not None:
                holds = self._guard(self._node_starts, execution_list, staged[0])
                if holds:
                    await self._hold(holds)
            return staged

        return stage_node_execution

    def _wrap_unstage(self, original: Any) -> Any:
        @functools.wraps(original)
        def unstage_node_execution(execution_list: Any, *args: Any, **kwargs: Any) -> Any:
            if self._prompt is not None:
                self._guard(self._node_returns)
            return original(execution_list, *args, **kwargs)

        return unstage_node_execution

    def _wrap_complete(self, original: Any) -> Any:
        @functools.wraps(original)
        def complete_node_execution(execution_list: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(execution_list, *args, **kwargs)
            if self._prompt is not None:
                self._guard(self._node_finishes)
            return result

        return complete_node_execution

    def _wrap_outputs(self, original: Any) -> Any:
        @functools.wraps(original)
        def cache_update(execution_list: Any, node_id: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
            if self._prompt is not None:
                self._guard(self._node_outputs, node_id, value)
            return original(execution_list, node_id, value, *args, **kwargs)

        return cache_update

    def _wrap_load(self, original: Any) -> Any:
        @functools.wraps(original)
        def load_models_gpu(*args: Any, **kwargs: Any) -> Any:
            started_s = self.runtime.clock()
            try:
                return original(*args, **kwargs)
            finally:
                if self._prompt is not None:
                    self.runtime.stalled(self.runtime.clock() - started_s)

        return load_models_gpu

    async def _hold(self, holds: list[Hold]) -> None:
        """Hold the staged node until its files are there; an interrupt lets go at once, and ComfyUI stops at the node."""
        started_s = self.runtime.clock()
        # asked again and again, not awaited: the transfer may outlive this event loop, and cancelling the wait must not cancel it
        while not all(hold.over() for hold in holds) and not model_management.processing_interrupted():
            await asyncio.sleep(HOLD_POLL_S)
        self.runtime.stalled(self.runtime.clock() - started_s, waited=True)

    # --- events ---

    def _prompt_begins(self, prompt: Any, prompt_id: str, extra_data: Any) -> None:
        chosen = settings.of_prompt(prompt, extra_data or {}, self.user)
        self._prompt = None if chosen.mode is Mode.OFF else _Prompt(prompt_id, chosen, settings.node_modes(prompt))

    def _prompt_ends(self, executor: Any) -> None:
        prompt, self._prompt = self._prompt, None
        if prompt is None or prompt.graph is None:
            return
        outcome = Outcome.SUCCESS
        if not executor.success:
            interrupted = any(event == "execution_interrupted" for event, _ in executor.status_messages)
            outcome = Outcome.INTERRUPTED if interrupted else Outcome.ERROR
        trace = self.runtime.trace
        self.runtime.post(PromptEnded(self.runtime.clock(), prompt.prompt_id, outcome))
        if trace is not None:
            log.info("%s", report.line(trace.head()))

    def _node_starts(self, execution_list: Any, node_id: str) -> list[Hold]:
        prompt = self._prompt
        assert prompt is not None
        now_s = self.runtime.clock()
        queue = self._queued() if prompt.must_look_at_queue(now_s) else prompt.queue
        if prompt.graph is None:
            self._refresh_budget(prompt, now_s)
            prompt.graph = LiveGraph(prompt.prompt_id, execution_list.dynprompt, self.device.resident_bytes)
            prompt.queue = queue
            prompt.timeline = prompt.graph.timeline(execution_list, queue)
            started = PromptStarted(
                now_s,
                prompt.prompt_id,
                prompt.timeline,
                prompt.graph.components,
                prompt.settings.mode,
                prompt.policies(),
                exclusive(prompt.graph.components.values()),
            )
            self.runtime.post(started)
        elif prompt.is_next(node_id) and queue == prompt.queue:
            prompt.position += 1
            self._refresh_budget(prompt, now_s)
        else:
            prompt.queue = queue
            prompt.timeline = prompt.graph.timeline(execution_list, queue)
            prompt.position, prompt.changed = 0, False
            self.runtime.post(Replanned(now_s, prompt.timeline, prompt.graph.components, exclusive(prompt.graph.components.values())))
        if prompt.timeline.visits[prompt.position].node_id != node_id:
            # the executor chose another node than its own rule says (a chained patch): follow it
            prompt.position = next(i for i, visit in enumerate(prompt.timeline.visits) if visit.node_id == node_id)
        return self.runtime.post(NodeStarted(self.runtime.clock(), prompt.position))

    def _node_finishes(self) -> None:
        prompt = self._prompt
        if prompt is not None and prompt.graph is not None:
            self.runtime.post(NodeFinished(self.runtime.clock(), prompt.position))

    def _node_returns(self) -> None:
        """The node goes back: lazy inputs became needed, a subgraph was expanded, or it is asynchronous."""
        self._node_finishes()
        if self._prompt is not None:
            self._prompt.changed = True

    def _node_outputs(self, node_id: str, value: Any) -> None:
        prompt = self._prompt
        if prompt is None or prompt.graph is None:
            return
        loads = prompt.graph.loads_of(node_id)
        if loads and value is not None and value.outputs is not None:
            node_traits = traits(prompt.graph.class_type(node_id))
            self.device.learn(loads, value.outputs, node_traits.outputs if node_traits else ())

    def _refresh_budget(self, prompt: _Prompt, now_s: float) -> None:
        if now_s < prompt.next_budget_s:
            return
        prompt.next_budget_s = now_s + BUDGET_REFRESH_S
        reserve_bytes = int(HEADROOM_SHARE * self._memory_total_bytes)
        limit_bytes = memory.available_bytes() - reserve_bytes
        if prompt.settings.host_budget_bytes is not None and prompt.settings.host_budget_bytes < limit_bytes:
            limit_bytes, reserve_bytes = prompt.settings.host_budget_bytes, 0
        self.runtime.post(BudgetChanged(now_s, Tier.HOST, limit_bytes, reserve_bytes))

    def _queued(self) -> tuple[tuple[str, Any, list[str]], ...]:
        return tuple(self._queue())[:QUEUE_DEPTH]

    def _guard(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except Exception:
            self.failures += 1
            log.exception("residency: %s failed; ComfyUI goes on without it", function.__name__)
            self._prompt = None
            if self.failures >= MAX_FAILURES:
                log.error("residency: %d failures, taking every hook out; choose a mode again to retry", self.failures)
                self.uninstall()
            return None


class _Prompt:
    """Where the running prompt is."""

    def __init__(self, prompt_id: str, chosen: settings.Settings, node_modes: dict[str, Mode]) -> None:
        self.prompt_id = prompt_id
        self.settings = chosen
        self.graph: LiveGraph | None = None
        self.timeline: Any = None
        self.position = 0
        self.changed = False
        self.queue: tuple[tuple[str, Any, list[str]], ...] = ()
        self.next_budget_s = 0.0
        self._next_queue_s = 0.0
        self._node_modes = node_modes

    def is_next(self, node_id: str) -> bool:
        following = self.position + 1
        visits = self.timeline.visits
        return not self.changed and following < len(visits) and visits[following].node_id == node_id

    def must_look_at_queue(self, now_s: float) -> bool:
        if now_s < self._next_queue_s:
            return False
        self._next_queue_s = now_s + BUDGET_REFRESH_S
        return True

    def policies(self) -> dict[str, Policy]:
        assert self.graph is not None
        return {
            key: Policy(mode, source=f"node {node_id}")
            for node_id, mode in self._node_modes.items()
            for key in self.graph.node_components.get(node_id, ())
        }


def _arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, str, Any]:
    """prompt, prompt_id and extra_data of execute_async, however they were passed."""
    names = ("prompt", "prompt_id", "extra_data")
    values = dict(zip(names, args, strict=False)) | {name: kwargs[name] for name in names if name in kwargs}
    return values["prompt"], values["prompt_id"], values.get("extra_data")


def _device_limit_bytes() -> int | None:
    """Bytes of weights that the device may hold; None where the device has no memory of its own."""
    device = model_management.get_torch_device()
    if model_management.is_device_cpu(device) or model_management.is_device_mps(device):
        return None
    return int(model_management.get_total_memory(device) - model_management.minimum_inference_memory())
