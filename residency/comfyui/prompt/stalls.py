"""The stalls of the running prompt: the time in which its nodes wait for weights, told to the session as it is seen.

All of a model's load counts, and the pack's work before a node computes. Inside a forward pass each cast is measured
(`device/weight_waits.py`). Of a loader node the wait of its thread for its files' bytes counts: no reading saves its work on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ...core.events import Stalled, Stepped, Waited
from ...core.timeline import UseKind
from ...runtime import Runtime
from ...session import Phase
from ...transfers import thread_waits
from ..device.cuda import Cuda
from ..device.weight_waits import Asked, WeightWaits
from .live_graph import LiveGraph


class Stalls:
    """Of the node that runs, on its thread. `copies_under_way()`: whether the device may wait for a copy that was announced earlier."""

    def __init__(self, runtime: Runtime, cuda: Cuda | None, copies_under_way: Callable[[], bool]) -> None:
        self.weight_waits = WeightWaits(runtime.clock, cuda)
        self._runtime, self._copies_under_way = runtime, copies_under_way
        self._started_s, self._thread_at_start = 0.0, thread_waits.reading()  # where the node that runs began its own work

    def node_begins(self) -> None:
        """All that comes before its own work is over, but for a hold."""
        self.weight_waits.begin()
        self._work_begins()

    def held(self, seconds: float) -> None:
        """The node was held back so long for its files, and begins its work now."""
        self.add(seconds, waited=True)
        self._work_begins()

    def add(self, seconds: float, *, waited: bool = False) -> None:
        self._runtime.tell(Stalled(self._runtime.clock(), seconds, waited))

    def asks(self, modules: Any) -> Asked | None:
        """Weights are asked for inside a pass."""
        return self.weight_waits.asks(modules, copies_under_way=self._copies_under_way())

    def load_stalled(self, seconds: float) -> None:
        """All of a model's load is waiting for weights; of a loader's own its thread's wait counts, which is told at its end."""
        if not self._loads():
            self.add(seconds)

    def steps_end(self, steps: int) -> None:
        self._tell(self.weight_waits.steps_end(steps))

    def node_ends(self, graph: LiveGraph | None) -> None:
        if graph is not None:
            self._tell_loading(graph)
        self._tell(self.weight_waits.node_ends())

    def prompt_ends(self) -> None:
        """Tell the waits seen by now, and measure nothing any more."""
        self._tell(self.weight_waits.node_ends())
        self.weight_waits.forget()

    def _tell(self, told: Iterable[Waited | Stepped]) -> None:
        for event in told:
            self._runtime.tell(event)

    # --- loaders ---

    def _loads(self) -> set[str]:
        """The components that the running node reads as a loader."""
        session = self._runtime.session
        uses = session.timeline.at(session.position) if session.phase is Phase.RUNNING else ()
        return {use.component for use in uses if use.kind is UseKind.LOAD and use.reads} if uses else set()

    def _work_begins(self) -> None:
        if self._loads():
            self._started_s, self._thread_at_start = self._runtime.clock(), thread_waits.reading()

    def _tell_loading(self, graph: LiveGraph) -> None:
        loads, trace = self._loads(), self._runtime.trace
        if loads and trace is not None:
            now_s = self._runtime.clock()
            size_bytes = sum(graph.components[key].size_bytes for key in loads if key in graph.components)
            self._runtime.look()  # how far its reader has come is in the trace then
            behind_reader = trace.reads(loads)
            waited_s = thread_waits.waited_s(self._thread_at_start, thread_waits.reading(), size_bytes, behind_reader=behind_reader)
            self._runtime.tell(Waited(now_s, self._started_s, waited_s))
