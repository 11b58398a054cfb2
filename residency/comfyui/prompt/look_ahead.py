"""The queue behind the running prompt, and the expectations of earlier runs for both: kept in its timeline while it runs.

The queue is looked at when a node starts and, on the errands' thread, as soon as somebody has changed it: a transfer for a prompt that is
queued no longer stops at once, however long the running node takes. Profiles are asked and taught there too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from ...core.events import RatesMeasured
from ...record.trace import Trace
from ...runtime import Runtime
from ...session import OrderChanges, Phase
from ...transfers import single_reader
from .background import Errands
from .live_graph import Expected
from .profiling import Teacher
from .queued import REPETITION, Ahead, Queued
from .running import RunningPrompt

# Packs that reach into the queue past its methods are noticed at the first node start after this.
QUEUE_REFRESH_S = 0.25
REMEMBERED_WORKFLOWS = 20
THREAD = "residency errands"

Guard = Callable[..., Any]  # (function, *arguments): calls it, and answers for what it raises


class LookAhead:
    """From `open` to `close`. `lock` guards the running prompt, which `current()` gives; `queue()` lists the prompts behind it."""

    def __init__(
        self,
        runtime: Runtime,
        lock: AbstractContextManager[object],
        current: Callable[[], RunningPrompt | None],
        queue: Callable[[], tuple[Queued, ...]],
        guard: Guard,
    ) -> None:
        self._runtime = runtime
        self._lock = lock
        self._current = current
        self._queue = queue
        self._guard = guard
        self._errands = Errands(THREAD)
        self._teacher: Teacher | None = None
        self._rates: Callable[[], Mapping[str, float]] = dict
        self.onload_bytes_per_s: float | None = None  # as this session has measured it
        self._expected: dict[frozenset[str], Mapping[str, Expected]] = {}  # by workflow and node: what was foretold of it last

    def open(self, rates: Callable[[], Mapping[str, float]]) -> None:
        """`rates()` are the bytes per second that this session has measured, by drive."""
        self._errands = Errands(THREAD)
        self._rates = rates
        self._teacher = Teacher()

    def close(self) -> None:
        """Nothing more is taken on. The errand under way goes on to its end, and the profiles are closed behind it: nobody waits for
        that."""
        teacher, self._teacher = self._teacher, None
        if teacher is not None:
            self._errands.submit(teacher.close)
        self._errands.close(wait=False)

    # --- on the executor's thread, with the lock held ---

    def plan(self, prompt: RunningPrompt, execution_list: Any) -> None:
        """Give the prompt the timeline of its nodes left and of the prompts behind it now."""
        assert prompt.graph is not None
        prompt.ahead = self._ahead(prompt)
        if self._expected and prompt.prompt_id not in prompt.foresights:
            # the profiles' own word comes a moment later, from the errands' thread: the first node would start without
            known = self._expected.get(prompt.workflow, {})
            prompt.graph.expected.update(((prompt.prompt_id, node_id), expected) for node_id, expected in known.items())
        prompt.take(prompt.graph.timeline(execution_list, prompt.ahead))
        prompt.changed = prompt.queue_may_differ = False
        if not prompt.first_order:
            own = (visit for visit in prompt.timeline.visits if visit.prompt_id == prompt.prompt_id and visit.asks is None)
            prompt.first_order = tuple(visit.node_id for visit in own)
        if prompt.graph.components and prompt.has_not_foretold():
            self._soon(prompt)

    def has_changed(self, prompt: RunningPrompt, now_s: float) -> bool:
        """Whether something else is behind the prompt than its timeline says; looks only when there is reason to."""
        if not prompt.must_look_at_queue(now_s, QUEUE_REFRESH_S):
            return False
        before, prompt.ahead = prompt.ahead, self._ahead(prompt)
        return prompt.ahead != before

    def tell_order(self, prompt: RunningPrompt) -> None:
        """Tell the session of the prompt's new timeline."""
        assert prompt.graph is not None
        parts = prompt.graph.components
        self._runtime.tell(OrderChanges(self._runtime.clock(), prompt.timeline, parts, single_reader(parts.values())))

    # --- on any thread, without the lock ---

    def failures(self) -> int:
        """Prompts that taught the profiles nothing because that failed."""
        return 0 if self._teacher is None else self._teacher.failures()

    def errand_failures(self) -> int:
        """Jobs behind the prompt that have failed since the hooks were put in."""
        return self._errands.failures

    def queue_changes(self) -> None:
        """Somebody queued, reordered or deleted prompts: on the thread of whoever did, which must not wait."""
        prompt = self._current()
        if prompt is not None:
            prompt.queue_may_differ = True
            self._soon(prompt)

    def ran_well(self, prompt: RunningPrompt, trace: Trace, cached: set[str]) -> None:
        """The prompt has ended with success; `cached` are the nodes whose results were there already."""
        assert prompt.graph is not None
        if prompt.graph.node_components:  # else there is nothing to place, and keys would be most of what the prompt costs
            self._errands.submit(partial(self._guard, self._learn, prompt, trace, prompt.graph.nodes(), cached))

    def _soon(self, prompt: RunningPrompt) -> None:
        if not prompt.look_pending:
            prompt.look_pending = True
            self._errands.submit(partial(self._guard, self._look, prompt))

    def _ahead(self, prompt: RunningPrompt) -> Ahead:
        queue = self._queue()
        return Ahead(queue) if queue else Ahead((), (REPETITION, prompt.nodes, prompt.outputs))

    # --- on the errands' thread ---

    def _look(self, prompt: RunningPrompt) -> None:
        prompt.look_pending = False
        with self._lock:
            graph = prompt.graph
            if self._current() is not prompt or graph is None:
                return
            if self.has_changed(prompt, self._runtime.clock()):
                self._replan_behind(prompt)
            unknown = prompt.not_foretold()
            components = [graph.components[key] for key in prompt.timeline.components() if key in graph.components]
        teacher = self._teacher
        if teacher is None:
            return
        foretold = {prompt_id: teacher.foretell(nodes, used) for prompt_id, (nodes, used) in unknown.items()}
        rates = teacher.read_rates(components, self._rates())
        with self._lock:
            if self._current() is not prompt:
                return
            if rates or self.onload_bytes_per_s:
                self._runtime.tell(RatesMeasured(self._runtime.clock(), rates, self.onload_bytes_per_s))
            prompt.foresights.update(foretold)
            for prompt_id, foresight in foretold.items():
                graph.expected.update(((prompt_id, node_id), expected) for node_id, expected in foresight.expected.items())
            own = foretold.get(prompt.prompt_id)
            if own is not None:
                self._remember(prompt.workflow, own.expected)
            total = own.total(prompt.first_order, self._runtime.clock()) if own else None
            if total is not None:
                self._runtime.tell(total)
            if any(foresight.expected for foresight in foretold.values()):
                self._replan_behind(prompt)

    def _remember(self, workflow: frozenset[str], expected: Mapping[str, Expected]) -> None:
        self._expected.pop(workflow, None)
        self._expected[workflow] = expected
        if len(self._expected) > REMEMBERED_WORKFLOWS:
            del self._expected[next(iter(self._expected))]

    def _replan_behind(self, prompt: RunningPrompt) -> None:
        """The order of this prompt stands; the prompts behind it, or their forecasts, have changed. With the lock held."""
        session = self._runtime.session
        if session.phase is not Phase.RUNNING:
            prompt.changed = True  # the start of the next node, a moment away, does it
            return
        assert prompt.graph is not None
        prompt.take(prompt.graph.continued(session.timeline, session.position, prompt.ahead))
        self.tell_order(prompt)

    def _learn(self, prompt: RunningPrompt, trace: Trace, nodes: dict[str, Any], cached: set[str]) -> None:
        teacher = self._teacher
        if teacher is None or prompt.graph is None:
            return
        known = prompt.foresights.get(prompt.prompt_id)
        if known is not None and known.keys.keys() == nodes.keys():
            keys = known.keys
        else:  # a subgraph was expanded meanwhile, or the prompt was over before anybody asked
            keys = teacher.keys(nodes, prompt.graph.node_components)
        teacher.learn(trace, keys, cached, prompt.peaks.peaks, self._rates())
        # before the next one begins: its first node is planned before anybody has had the time to ask
        expected = teacher.foresight(nodes, keys).expected
        with self._lock:
            self._remember(prompt.workflow, expected)
