"""How ComfyUI 0.33 consumes weights under dynamic VRAM: layer by layer at each forward, from the nearest place that has them.

Device pages are used in place; pinned buffers cross the link; the page cache goes through a newly registered pinned buffer while
RAM allows, else through a staging buffer; the rest is read from the file. One layer is fetched ahead of the one that computes, so
a stretch of layers takes the longer of its transfer and its compute. Sources: comfy/ops.py cast_modules_with_vbar,
comfy/pinned_memory.py pin_memory, comfy/model_management.py free_pins, execution.py (pins given up after each node).

One rule follows the measurement and not the source: as read, free_pins would take pins of other, idle models for the running one; S2
showed that the models used first keep theirs and the last one is read again (A 6-7 s, B 23-29 s). So a node pins into free room only.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from .workload import Program, Step
from .world import World

PART_BYTES = 512 * 2**20  # of a first pass, between two looks at what is where
# Of weights that leave evenly over the pass: a pass takes the norm of this order of its computing and its crossing. Measured on an H100,
# seconds a step: 0.216 for 0.190 of computing and 0.183 of crossing (S9), 0.223 for 0.221 and 0.122 (C2).
OVERLAP_NORM = 5.0


class Consumer:
    """Runs steps in a world."""

    def __init__(self, world: World, program: Program) -> None:
        self.world = world
        self.program = program
        # As with the pack what does not fit crosses on several streams and evenly over the pass; else it lies close together there.
        self.spreads = False
        self.after_first_pass: Callable[[], None] = lambda: None
        # After each part of it, while the model is exchanged: until then the room that it has on the device may be empty.
        self.in_first_pass: Callable[[], None] | None = None
        self._streamed: dict[str, int] = {}  # by the running node: pinned where there is one copy

    def resident_bytes(self, key: str) -> int:
        """Bytes that need no reading: on the device or pinned."""
        host, held_bytes = self.world.host, self.world.device.held.get(key, 0)
        return max(held_bytes + host.images.get(key, 0), host.pins.get(key, 0))

    @property
    def _cached_bytes_per_s(self) -> float:
        return self.world.machine.streamed_bytes_per_s if self.spreads else self.world.machine.cached_bytes_per_s

    def run(self, step: Step, compute_s: float) -> None:
        """One node: its first pass over the weights, then all others."""
        world = self.world
        world.running = step.components
        total_bytes = self.program.step_bytes(step)
        if not total_bytes:
            world.idle(compute_s)
            world.running = ()
            return
        resident = {}
        for key in step.components:
            size_bytes = self.program.components[key].size_bytes
            wanted_bytes = world.link.load(key, size_bytes, step.working_set_bytes, world.cross)
            if world.link.goes_on(key) and wanted_bytes == size_bytes:
                world.device.working_set_bytes = step.working_set_bytes
                resident[key] = world.device.held.get(key, 0)
            else:
                others_bytes = sum(world.device.held.values()) - world.device.held.get(key, 0)
                resident[key] = world.device.make_room(key, wanted_bytes, step.working_set_bytes, step.components)
                freed_bytes = others_bytes - sum(world.device.held.values()) + world.device.held.get(key, 0)
                world.idle(freed_bytes / world.machine.freed_bytes_per_s)
        pass_s = compute_s / step.passes
        for key in step.components:
            self._first_pass(key, resident[key], pass_s / total_bytes)
            world.link.fetched(key)
        if step.passes > 1:
            self.after_first_pass()
            for key in step.components:
                self._later_passes(key, step.passes - 1, pass_s / total_bytes)
        world.running = ()
        self._after_node()

    def _first_pass(self, key: str, resident_bytes: int, compute_s_per_byte: float) -> None:
        world, machine = self.world, self.world.machine
        size_bytes, at = self.program.components[key].size_bytes, 0
        images_bytes = world.host.images.get(key, 0)
        world.host.touch(key)
        while at < size_bytes:
            pinned = world.host.pins.get(key, 0)
            imaged = resident_bytes + images_bytes
            if at < resident_bytes:
                at = self._stretch(at, resident_bytes, math.inf, compute_s_per_byte)
            elif at < imaged:
                at = self._stretch(at, imaged, machine.pinned_bytes_per_s, compute_s_per_byte)
            elif at < pinned:
                at = self._stretch(at, pinned, machine.pinned_bytes_per_s, compute_s_per_byte)
            else:
                upto = size_bytes if self.in_first_pass is None else min(size_bytes, at + PART_BYTES)
                world.link.go_on(key, upto, world.device.working_set_bytes, world.cross)
                held_bytes = world.device.held.get(key, 0)  # behind that it is streamed
                at = self._from_host_or_disk(key, at, held_bytes if at < held_bytes else upto, compute_s_per_byte)
                if self.in_first_pass is not None and world.link.goes_on(key):
                    self.in_first_pass()

    def _from_host_or_disk(self, key: str, at: int, size_bytes: int, compute_s_per_byte: float) -> int:
        """Consume one run from `at`; returns where it ended."""
        world, machine = self.world, self.world.machine
        most = math.inf if compute_s_per_byte == 0 else 1 / compute_s_per_byte
        present, end = world.host.cached(key).run_at(at, size_bytes)
        if not present or world.is_caught_up(key, at):
            reached = world.follow(key, at, size_bytes, min(most, machine.fresh_pin_bytes_per_s))
            if reached is not None:
                self._pin(key, at, reached)
                return reached
        if present:
            pinned = world.host.pin(key, end, machine.pin_floor_bytes) if self._may_pin(key, at) else 0
            if pinned > at:
                return self._stretch(at, pinned, machine.fresh_pin_bytes_per_s, compute_s_per_byte)
            self._pin(key, at, end)
            return self._stretch(at, end, self._cached_bytes_per_s, compute_s_per_byte)
        end = world.read(key, at, end, most)
        self._pin(key, at, end)
        return end

    def _pin(self, key: str, at: int, end: int) -> None:
        world, machine = self.world, self.world.machine
        if self._may_pin(key, at):
            world.host.pin(key, end, machine.pin_floor_bytes)
        placed = world.link.placed(key)
        if placed is not None and not placed.left_out and machine.pins and at >= world.device.held.get(key, 0):
            size_bytes = max(0, min(end - at, world.host.available_bytes - machine.pin_floor_bytes))
            world.host.write_back(key, size_bytes)
            self._streamed[key] = self._streamed.get(key, 0) + size_bytes

    def _may_pin(self, key: str, at: int) -> bool:
        """Pins grow from their end; where weights have one copy none is made of those on the device."""
        return self.world.machine.pins and at <= self.world.host.pins.get(key, 0) and self.world.link.placed(key) is None

    def _stretch(self, start: int, end: int, rate_bytes_per_s: float, compute_s_per_byte: float) -> int:
        seconds = (end - start) * max(1 / rate_bytes_per_s, compute_s_per_byte)
        if math.isinf(rate_bytes_per_s):
            self.world.idle(seconds)
        else:
            self.world.cross(seconds)
        return end

    def _later_passes(self, key: str, passes: int, compute_s_per_byte: float) -> None:
        """All further passes at once: the component's bytes where they are, at that place's rate, `passes` times.

        The layers that are not on the device have the first claim on the model's pins: they take those of layers that are.
        """
        world, machine = self.world, self.world.machine
        size_bytes = self.program.components[key].size_bytes
        resident = world.device.held.get(key, 0)
        pinned = min(size_bytes - resident, world.host.pins.get(key, 0) + world.host.images.get(key, 0))
        cached = min(size_bytes - resident - pinned, world.host.cached(key).size_bytes)
        missing = size_bytes - resident - pinned - cached
        single = machine.drives[self.program.drive_of.get(key, 0)].single_bytes_per_s
        streams = ((pinned, machine.pinned_bytes_per_s), (cached, self._cached_bytes_per_s), (missing, single))
        world.consumer_bytes += passes * missing
        if self.spreads:
            computing_s, crossing_s = size_bytes * compute_s_per_byte, sum(streamed / rate for streamed, rate in streams)
            longer_s = max(computing_s, crossing_s)
            share = min(computing_s, crossing_s) / longer_s if longer_s else 0.0
            whole_s = passes * longer_s * (1 + share**OVERLAP_NORM) ** (1 / OVERLAP_NORM)
            world.cross(min(whole_s, passes * crossing_s))
            world.idle(max(0.0, whole_s - passes * crossing_s))
            return
        world.idle(passes * resident * compute_s_per_byte)
        for streamed, rate in streams:
            world.cross(passes * streamed * max(1 / rate, compute_s_per_byte))

    def _after_node(self) -> None:
        machine, host = self.world.machine, self.world.host
        if machine.pins:
            for key, size_bytes in self._streamed.items():
                host.cut_image(key, min(size_bytes, max(0, machine.idle_floor_bytes - host.available_bytes)))
            self._streamed.clear()
            host.unpin(machine.idle_floor_bytes - host.available_bytes)
