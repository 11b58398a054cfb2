"""Runs a timeline on plain PyTorch: loads are real reads of real files, computing is forward passes. The smallest whole host.

A visit that loads reads its components into modules of their own; a visit that computes passes a fixed input through them. Its results
depend on the timeline alone, never on the mode: `digest` is equal with reading ahead on or off.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from concurrent import futures
from dataclasses import dataclass
from typing import Any

import torch

from ...core.component import Component, Mode, Tier
from ...core.events import Outcome, Stalled
from ...core.timeline import Timeline, Use, UseKind, Visit
from ...runtime import Runtime
from ...session import Limits, NodeBegins, NodeEnds, PromptBegins, PromptEnds
from ...transfers import ReadAhead, available_bytes
from .models import WIDTH, load

BATCH = 8


@dataclass(frozen=True, slots=True)
class LocalRun:
    """The trace (version 1) and a digest of everything that was computed."""

    trace: dict[str, Any]
    digest: str


def one_pass(visit: Visit) -> int:
    return 1


class LocalHost:
    """One runtime with a read-ahead mover. `host_limit_bytes` limits the host tier; half of the available memory by default."""

    def __init__(self, host_limit_bytes: int | None = None) -> None:
        self.runtime = Runtime()
        self.runtime.movers = {Tier.HOST: ReadAhead(self.runtime.tell, self.runtime.clock)}
        self._limits = Limits(available_bytes() // 2 if host_limit_bytes is None else host_limit_bytes)

    def run(
        self, timeline: Timeline, components: Mapping[str, Component], mode: Mode, passes: Callable[[Visit], int] = one_pass
    ) -> LocalRun:
        """Run every visit in order; mode OFF reads on demand. `passes(visit)` is how often its components compute.

        Raises as reading a file does; the trace then ends with the outcome "error".
        """
        clock, tell = self.runtime.clock, self.runtime.tell
        prompt_id = timeline.visits[0].prompt_id if timeline.visits else "empty"
        tell(PromptBegins(clock(), prompt_id, timeline, components, mode, limits=self._limits))
        trace = self.runtime.traces[-1]
        outcome = Outcome.ERROR
        loaded: dict[str, torch.nn.Module] = {}
        digest = hashlib.sha256()
        try:
            for position, visit in enumerate(timeline.visits):
                waits = tell(NodeBegins(clock(), visit.node_id))
                started_s = clock()
                for hold in waits:
                    while not hold.over():
                        futures.wait([hold.future], timeout=0.005)
                if waits:
                    tell(Stalled(clock(), clock() - started_s, waited=True))
                for use in timeline.at(position):
                    self._enact(use, components[use.component], loaded, passes(visit), digest)
                tell(NodeEnds(clock()))
            outcome = Outcome.SUCCESS
        finally:
            tell(PromptEnds(clock(), outcome))
        return LocalRun(trace.as_dict(), digest.hexdigest())

    def close(self) -> None:
        """Stop reading, join every thread."""
        self.runtime.close()

    def _enact(self, use: Use, component: Component, loaded: dict[str, torch.nn.Module], passes: int, digest: Any) -> None:
        if component.key not in loaded and (use.reads or use.kind is UseKind.COMPUTE):
            started_s = self.runtime.clock()
            paths = dict.fromkeys(extent.path for extent in component.extents)
            loaded[component.key] = torch.nn.Sequential(*(load(path) for path in paths))
            now_s = self.runtime.clock()
            self.runtime.tell(Stalled(now_s, now_s - started_s))
        if use.kind is UseKind.COMPUTE:
            with torch.inference_mode():
                x = torch.linspace(-1.0, 1.0, BATCH * WIDTH).reshape(BATCH, WIDTH)
                for _ in range(passes):
                    x = loaded[component.key](x)
            digest.update(bytes(x.contiguous().view(torch.uint8).flatten().tolist()))
