"""The execution of prompts: the executor's doings, told to the session as facts, and the session's answers.

Per prompt: prompt_begins -> (node_starts -> node_completes | node_returns)* -> prompt_ends. At its first node, where its graph is known,
the session hears of it. A node is held back while its files are being read ahead, if the plan says so. Beside it, on the errands' thread:
LookAhead, when a prompt has started or the queue has changed, and the lessons of a prompt that has ended.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import comfy.model_management as model_management

from ..core.component import Mode
from ..core.events import Crossed, NotMeasured, Outcome, Taken
from ..core.timeline import EMPTY
from ..record.trace import Trace
from ..runtime import Hold, Runtime
from ..session import NOTHING_SEEN, Looks, NodeBegins, NodeEnds, Phase, PromptBegins, PromptEnds, Sight
from ..settings import prompt as settings
from ..transfers import single_reader
from .device.cuda import Cuda
from .device.mover import DeviceMover
from .device.sights import Sights
from .guard import Guard
from .prompt.decoders import Decoders
from .prompt.limits import MemoryLimits
from .prompt.live_graph import Budget, LiveGraph
from .prompt.look_ahead import LookAhead
from .prompt.model_files import dynamic_vram
from .prompt.node_classes import traits
from .prompt.origins import Maker, result_key, took
from .prompt.queued import Queued, whole_nodes
from .prompt.result_cache import CachedResults
from .prompt.running import RunningPrompt
from .prompt.stalls import Stalls
from .prompt.steps import Steps
from .seams import functions as seams
from .seams.hooks import Hooks

HOLD_POLL_S = 0.005
LOCK_S = 0.05  # the event loop waits for nothing longer: whoever holds the lock then is a prompt that begins or runs


class Execution:
    """One executor's. The hooks call it on that thread, through the guard.

    `queued()` lists the prompts behind the running one; `user()` the settings for the next one, which `expect_prompt()` makes ready for;
    `ended(trace)` hears of each that has ended. `budget`: of predicting a prompt. Without `reorder` ComfyUI's own order of nodes stands,
    from the next prompt on. `prompt`: the one that is followed; `executing`: whether one runs, whatever its mode. Any thread may read both.
    """

    def __init__(
        self,
        runtime: Runtime,
        device: DeviceMover,
        cuda: Cuda | None,
        limits: MemoryLimits,
        hooks: Hooks,
        guard: Guard,
        budget: Budget,
        queued: Callable[[], tuple[Queued, ...]],
        user: Callable[[], settings.Settings],
        expect_prompt: Callable[[], object],
        ended: Callable[[Trace], object],
    ) -> None:
        self.prompt: RunningPrompt | None = None
        self.executing = False
        self.reorder = True
        self._runtime, self._device, self._limits, self._hooks, self._guard = runtime, device, limits, hooks, guard
        self._budget = budget
        self._user, self._expect_prompt, self._ended = user, expect_prompt, ended
        # where the prompt is: moved by the executor's thread, looked at and replanned by the errands'; taken before the runtime's own
        self._lock = threading.RLock()
        self.look_ahead = LookAhead(runtime, self._lock, lambda: self.prompt, queued, guard)
        self._sights = Sights(device.contents, device.headroom, runtime.clock, self.exchanges)
        self.stalls = Stalls(runtime, cuda, device.streams.gate.under_way)
        self._cached = CachedResults(runtime, device.models)
        self._steps = Steps(lambda node_id: guard.timed(self._step, node_id), partial(guard.timed, self._steps_end))
        self._stepping: set[str] = set()  # classes of nodes that have reported steps

    # --- on any thread ---

    def runs(self) -> bool:
        """Whether a prompt is followed."""
        return self.prompt is not None

    def foresee(self, trace: Trace) -> dict[str, Any] | None:
        """The rest of that prompt, as `runtime.foresee` has it; None also until earlier runs are asked."""
        prompt, session = self.prompt, self._runtime.session
        foresight = prompt.foresights.get(trace.prompt_id) if prompt is not None else None
        if foresight is None:
            return None
        visits, position = session.timeline.visits, session.position
        left = self._steps.left(visits[position].node_id) if 0 <= position < len(visits) else None
        return self._runtime.foresee(trace, foresight.same_margins_s(), left)

    def forget_results(self) -> None:
        """Give up the results that ComfyUI's cache holds for us only. While a prompt runs that is left to its end: its cache is not to be
        touched."""
        if self._lock.acquire(timeout=LOCK_S):
            try:
                if not self.executing:
                    self._cached.forget()
            finally:
                self._lock.release()

    def let_go(self) -> RunningPrompt | None:
        """Follow the running prompt no longer, and hear of no step of it. Returns it; who asks ends its trace."""
        prompt, self.prompt = self.prompt, None
        self._steps.forget()
        return prompt

    def abandon(self, reason: str, told: bool) -> None:
        """Leave the rest of the running prompt to ComfyUI: nothing goes on being moved for it, and its trace ends here. The executor's work
        for a node meanwhile falls into the void. `told`: a prompt without a trace gets one that says why."""
        prompt, self.prompt = self.prompt, None
        runtime = self._runtime
        if told and prompt is not None and runtime.trace is None:
            self._guard(runtime.tell, PromptBegins(runtime.clock(), prompt.prompt_id, EMPTY, {}, prompt.settings.mode))
        self.stalls.weight_waits.forget()
        if prompt is not None or runtime.trace is not None:
            self._steps.forget()
            runtime.abandon(reason)

    # --- prompts ---

    def prompt_begins(self, prompt: Any, prompt_id: str, extra_data: Any, outputs: list[str]) -> None:
        with self._lock:
            self.executing = True
            self._cached.prompt_begins()
        self._device.settle()
        # packs may have patched ComfyUI since: while they were loaded after us, or in a node that ran
        self._hooks.check()
        self._device.settle_proofs()
        self._device.streams.gate.open = not self._hooks.are_in(seams.CAST)
        prompt = whole_nodes(prompt)
        chosen = settings.of_prompt(prompt, extra_data, self._user())
        asks = settings.node_asks(prompt, extra_data)
        followed = chosen.mode is not Mode.OFF and self._hooks.are_in(*seams.ESSENTIAL)
        self.prompt = None if not followed else RunningPrompt(prompt_id, prompt, outputs, chosen, asks)

    def prompt_ends(self, executor: Any) -> None:
        self._expect_prompt()
        with self._lock:
            prompt, self.prompt = self.prompt, None
            self.executing = False
            if not self._hooks.installed:
                self._cached.forget()
            elif prompt is not None and prompt.execution_list is not None and executor.success:
                self._cached.prompt_ends(prompt.execution_list)
        self._steps.forget()
        self.stalls.prompt_ends()
        if prompt is None or prompt.graph is None:
            return
        outcome = Outcome.SUCCESS
        if not executor.success:
            interrupted = any(event == "execution_interrupted" for event, _ in executor.status_messages)
            outcome = Outcome.INTERRUPTED if interrupted else Outcome.ERROR
        trace = self._runtime.trace
        if outcome is Outcome.SUCCESS:
            self._device.prompt_ends()
        self._tell_copies()
        not_measured = self.stalls.weight_waits.fails or self._hooks.reason_against(seams.CAST)
        if not_measured and dynamic_vram():
            self._runtime.tell(NotMeasured(self._runtime.clock(), not_measured))
        crossed_bytes, crossing_s = self._device.streams.link.crossed()
        if crossing_s > 0:
            self._runtime.tell(Crossed(self._runtime.clock(), crossed_bytes, crossing_s))
            self.look_ahead.onload_bytes_per_s = crossed_bytes / crossing_s
        self._runtime.tell(PromptEnds(self._runtime.clock(), outcome))
        self._runtime.safe_point()
        if trace is None:
            return
        self._ended(trace)
        if outcome is Outcome.SUCCESS:
            had = {node_id for event, data in executor.status_messages if event == "execution_cached" for node_id in data["nodes"]}
            self.look_ahead.ran_well(prompt, trace, had)

    # --- nodes ---

    def chooses(self) -> bool:
        """Whether it may be another node than ComfyUI's. The first one makes the graph: nothing has been used before it."""
        prompt = self.prompt
        return prompt is not None and prompt.graph is not None and prompt.graph.chooses(prompt.changed)

    def choose_node(self, execution_list: Any, node_list: list[str], own: str) -> str:
        with self._lock:
            prompt = self.prompt
            if prompt is None or prompt.graph is None:
                return own
            return prompt.graph.choose(execution_list, node_list, own, prompt.changed)

    def node_starts(self, execution_list: Any, node_id: str) -> list[Hold]:
        with self._lock:
            prompt, session = self.prompt, self._runtime.session
            assert prompt is not None
            now_s = self._runtime.clock()
            if prompt.graph is None:
                self._begin(prompt, execution_list, now_s)
            elif (
                prompt.graph.look_at_files(node_id)
                or prompt.changed
                or self.look_ahead.has_changed(prompt, now_s)
                or not session.follows(node_id, execution_list.pendingNodes)
            ):
                self.look_ahead.plan(prompt, execution_list)
                self.look_ahead.tell_order(prompt)
            assert prompt.graph is not None
            self._tell_copies()
            visit = session.timeline.visits[session.position_of(node_id)]
            # before the device is looked at: the room on it is what the node leaves
            self._device.expect(visit.working_set_bytes)
            started_s = self._runtime.clock()
            sight = self._sights.of_both(prompt.graph.components, prompt.settings.device_budget_bytes)
            holds = self._runtime.tell(NodeBegins(started_s, node_id, self._limits.of_host(prompt, now_s), sight))
            self._runtime.safe_point()
            # the rest of the prompt computes with no weights, and nobody has queued another one
            idle = self._device.is_ahead and not prompt.ahead.queue and self._runtime.session.is_in_tail()
            self._device.carry_on(waits=visit.class_type in self._stepping or idle)
            if self._limits.device_bytes is not None:
                # no part of what the node computes: else it would seem to take longer, and more would be brought over while it runs
                self.stalls.add(self._runtime.clock() - started_s)
            prompt.peaks.node_starts(started_s)
            self.stalls.node_begins()
            return holds

    def _begin(self, prompt: RunningPrompt, execution_list: Any, now_s: float) -> None:
        """The first node of a prompt: its graph is known only now."""
        budget_bytes = self._limits.of_device(prompt.settings.device_budget_bytes, self._device.contents.limit_bytes())
        # what the seam cannot enact must not be foretold
        reorders = self.reorder and self._hooks.are_in(seams.PICK)
        models = self._device.models
        self._limits.prompt_begins()
        within_bytes = budget_bytes if reorders else None
        prompt.execution_list = execution_list
        made_with = self._cached.origins.loads_of
        prompt.graph = LiveGraph(prompt.prompt_id, execution_list.dynprompt, within_bytes, models.is_alive, made_with, self._budget)
        self.look_ahead.plan(prompt, execution_list)
        if budget_bytes is not None:
            prompt.decoders = Decoders(prompt.nodes, traits, budget_bytes)
        parts = prompt.graph.components
        self._runtime.tell(
            PromptBegins(
                now_s,
                prompt.prompt_id,
                prompt.timeline,
                parts,
                prompt.settings.mode,
                prompt.policies(),
                single_reader(parts.values()),
                replace(self._limits.of_host(prompt, now_s), device_bytes=budget_bytes),
                self._sights.of_host(parts, must=True),
            )
        )
        self._cached.tell()
        self._steps.watch()

    async def hold(self, holds: list[Hold]) -> None:
        """Hold the staged node until its files are there; an interrupt lets go at once, and ComfyUI stops at the node. A hold that cannot
        be asked is over."""
        started_s = self._runtime.clock()
        # asked again and again, not awaited: the transfer may outlive this event loop, and cancelling the wait must not cancel it
        while self._guard(self._holds, holds) and not model_management.processing_interrupted():
            await asyncio.sleep(HOLD_POLL_S)
        self._guard(self.stalls.held, self._runtime.clock() - started_s)

    def _holds(self, holds: list[Hold]) -> bool:
        return not all(hold.over() for hold in holds)

    def _step(self, node_id: str) -> None:
        """Between two steps of the running node: its working set, as its first step has shown it, leaves room for the next node."""
        with self._lock:
            prompt = self.prompt
            if prompt is None or prompt.graph is None:
                return
            session = self._runtime.session
            if prompt.stepped != node_id and session.phase is Phase.RUNNING:
                prompt.stepped = node_id
                self._stepping.add(session.timeline.visits[session.position].class_type)
                # by now the node has taken what it needs: what it has pushed out is missing, and may come back while it computes
                budget_bytes = prompt.settings.device_budget_bytes
                sight = self._sights.of_both(prompt.graph.components, budget_bytes, self._in_use(), must=True)
                self._looks(prompt, sight)
                self._runtime.safe_point()
            self._device.advance()
            self._runtime.look()

    def _in_use(self) -> set[str]:
        """Components of the node that runs."""
        session = self._runtime.session
        return {use.component for use in session.timeline.at(session.position)}

    def _steps_end(self, steps: int) -> None:
        if self.prompt is not None:
            self.stalls.steps_end(steps)

    def look_in_pass(self) -> None:
        """In the middle of a node's first pass: its fetched bytes lie in the page cache a second time."""
        with self._lock:
            prompt = self.prompt
            if prompt is None or prompt.graph is None or self._runtime.session.phase is not Phase.RUNNING:
                return
            sight = self._sights.in_pass(prompt.graph.components, self._in_use())
            if isinstance(sight, Taken):
                self._runtime.tell(sight)  # first: the memory that it has taken has not been told yet
                sight = NOTHING_SEEN
            if sight is not None:
                self._looks(prompt, sight)

    def _looks(self, prompt: RunningPrompt, sight: Sight) -> None:
        now_s = self._runtime.clock()
        self._runtime.tell(Looks(now_s, self._limits.of_host(prompt, now_s), sight))

    def node_completes(self) -> None:
        with self._lock:
            prompt, session = self.prompt, self._runtime.session
            if prompt is not None and prompt.graph is not None and session.phase is Phase.RUNNING:
                visit = session.timeline.visits[session.position]
                prompt.graph.ran(visit.node_id)
                if visit.asks is not None:
                    prompt.changed = True  # it was to ask for lazy inputs first, and did not
            self._node_finishes()

    def node_returns(self, execution_list: Any) -> None:
        """The node goes back: lazy inputs became needed, a subgraph was expanded, or it is asynchronous."""
        with self._lock:
            prompt, session = self.prompt, self._runtime.session
            ran = prompt is not None and prompt.graph is not None and session.phase is Phase.RUNNING
            visit = session.timeline.visits[session.position] if ran else None
            self._node_finishes()
            if prompt is not None and prompt.graph is not None and visit is not None:
                prompt.graph.put_back(visit.node_id)
                # that it asks for as much as was foretold shows here; whether for the same, at the next node
                if session.must_replan(execution_list.blockCount.get(visit.node_id), execution_list.pendingNodes):
                    prompt.changed = True

    def _node_finishes(self) -> None:
        with self._lock:
            prompt, session = self.prompt, self._runtime.session
            if prompt is not None and session.phase is Phase.RUNNING:
                self.stalls.node_ends(prompt.graph)
                now_s = self._runtime.clock()
                prompt.peaks.node_finishes(session.timeline.visits[session.position].node_id, now_s)
                used = session.timeline.at(session.position) if prompt.graph is not None else ()
                sight = self._sights.of_host(prompt.graph.components, changed=True) if used and prompt.graph is not None else NOTHING_SEEN
                self._runtime.tell(NodeEnds(now_s, sight=sight))
                self._runtime.safe_point()

    # --- results of nodes ---

    def teaches(self, node_id: str) -> bool:
        """Whether a node of the running prompt makes something to learn from: loaded weights, or a latent to decode."""
        prompt = self.prompt
        return prompt is not None and prompt.graph is not None and (bool(prompt.decoders) or bool(prompt.graph.loads_of(node_id)))

    def node_outputs(self, execution_list: Any, node_id: str, value: Any) -> None:
        prompt = self.prompt
        if prompt is None or prompt.graph is None or value is None or value.outputs is None:
            return
        graph, loads = prompt.graph, prompt.graph.loads_of(node_id)
        class_type = graph.class_type(node_id)
        own = traits(class_type)
        kinds = own.outputs if own else ()
        if prompt.decoders:
            estimated = prompt.decoders.learn(node_id, value.outputs, kinds)
            graph.estimated.update(estimated)
            prompt.changed |= bool(estimated)  # the next node is planned with it
        if loads:
            graph.makes_none(node_id, self._device.models.learn(loads, value.outputs, kinds))
            if not execution_list.is_cached(node_id):  # else it has not run, and nobody knows when its file was read
                maker = Maker(class_type, graph.inputs(node_id), graph.node_loads(node_id))
                self._cached.origins.learn(result_key(execution_list, node_id), value.outputs, maker, took(execution_list, node_id))
            graph.dropped.difference_update(component.key for component, _ in loads)

    def spared(self, cache: Any, target_bytes: int) -> list[Any]:
        with self._lock:
            return self._cached.spared(self.prompt, cache, target_bytes) if self.prompt is not None else []

    def dropped(self, cache: Any) -> None:
        with self._lock:
            if self.prompt is not None:
                self._cached.dropped(self.prompt, cache)

    # --- memory ---

    def exchanges(self) -> bool:
        """Whether the device mover can exchange pages here."""
        return dynamic_vram() and self._hooks.are_in(seams.PIN, seams.FAULT)

    def _tell_copies(self) -> None:
        """Tell the trace which copies have crossed the link since the last time."""
        for copied in self._device.streams.link.take():
            self._runtime.tell(copied)
