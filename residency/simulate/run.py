"""Run a program on a machine under a policy: seconds per node, stall, peaks, and for ours the real Trace of every prompt."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..core.instructions import Instruction
from ..record.trace import Trace
from ..session import Fact
from .comfyui_model import Consumer
from .machine import Machine
from .tiers import Victim
from .workload import COLD, Program, Start, Step
from .world import Held, World

Recorder = Callable[[Fact, Sequence[Instruction]], None]


class Pack(Protocol):
    """The part of a policy beside ComfyUI: it sees every node, and may hold it. On demand there is none."""

    def prompt_starts(self, index: int) -> None: ...

    def node_starts(self, position: int) -> Sequence[Held]: ...

    def node_stalled(self, seconds: float, *, waited: bool) -> None: ...

    def node_finishes(self, position: int) -> None: ...

    def prompt_ends(self, index: int) -> None: ...

    def traces(self) -> list[Trace]: ...


class Policy(Protocol):
    """`victim`: whose pages the full host gives up; `exchanges`: weights may have one copy over two tiers; `pack`: made for each run, None
    for on demand."""

    @property
    def name(self) -> str: ...

    @property
    def victim(self) -> Victim: ...

    @property
    def exchanges(self) -> bool: ...

    def pack(self, world: World, consumer: Consumer, program: Program, recorder: Recorder | None) -> Pack | None: ...


@dataclass(frozen=True, slots=True)
class NodeTime:
    """Seconds of one node: held before it ran, running, and computing alone. Stall is the rest of the first two."""

    prompt: int
    node_id: str
    wait_s: float
    run_s: float
    compute_s: float

    @property
    def stall_s(self) -> float:
        return max(0.0, self.wait_s + self.run_s - self.compute_s)


@dataclass(frozen=True, slots=True)
class Outcome:
    """`prompts_s` are seconds per prompt; read bytes are those that came from a drive, by whom, and in `prompts_read_bytes` by prompt."""

    policy: str
    total_s: float
    prompts_s: tuple[float, ...]
    nodes: tuple[NodeTime, ...]
    read_ahead_bytes: int
    consumer_bytes: int
    peak_host_bytes: int
    peak_device_bytes: int
    traces: tuple[Trace, ...] = ()
    prompts_read_bytes: tuple[int, ...] = ()

    @property
    def stall_s(self) -> float:
        return sum(node.stall_s for node in self.nodes)


def run(program: Program, machine: Machine, policy: Policy, recorder: Recorder | None = None, start: Start = COLD) -> Outcome:
    """Simulate. Deterministic: the same arguments give the same result. `recorder` gets the facts that a managed run tells its session."""
    world = World(machine, program, policy.victim)
    world.begin(start, exchanges=policy.exchanges)
    consumer = Consumer(world, program)
    pack = policy.pack(world, consumer, program, recorder)
    scatter = random.Random(program.seed)
    nodes: list[NodeTime] = []
    prompts_s: list[float] = []
    read_bytes: list[int] = []
    for index, prompt in enumerate(program.prompts):
        begun_s = world.time_s
        if pack:
            pack.prompt_starts(index)
        for position, step in enumerate(prompt):
            compute_s = step.compute_s * (1 + program.noise * scatter.uniform(-1, 1))
            nodes.append(_node(world, consumer, pack, index, position, step, compute_s))
        if pack:
            pack.prompt_ends(index)
        prompts_s.append(world.time_s - begun_s)
        read_bytes.append(world.mover.moved_bytes + world.consumer_bytes - sum(read_bytes))
    return Outcome(
        policy.name,
        world.time_s,
        tuple(prompts_s),
        tuple(nodes),
        world.mover.moved_bytes,
        world.consumer_bytes,
        world.host.peak_bytes,
        world.device.peak_bytes,
        tuple(pack.traces()) if pack else (),
        tuple(read_bytes),
    )


def _node(world: World, consumer: Consumer, pack: Pack | None, prompt: int, position: int, step: Step, compute_s: float) -> NodeTime:
    staged_s = world.time_s
    if pack:
        world.wait(pack.node_starts(position))
    started_s = world.time_s
    consumer.run(step, compute_s)
    record = NodeTime(prompt, step.node_id, started_s - staged_s, world.time_s - started_s, compute_s)
    if pack:
        pack.node_stalled(record.wait_s, waited=True)
        pack.node_stalled(record.run_s - compute_s, waited=False)
        pack.node_finishes(position)
        world.settle()
    return record
