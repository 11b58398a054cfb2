"""The ComfyUI host: puts the pack into ComfyUI and takes it out again, holds to the user's settings, and tells how it is.

Life: `install()` in the pack's on_load or when a mode other than off is chosen; `uninstall()` takes every hook out and asks every thread
to end. In between the hooks call `execution.py`, and the device's mover. Every failure in there is handed back to ComfyUI (`guard.py`):
after a few failures the host takes itself out.

Methods for ComfyUI's event loop (`apply`, `set_user_mode`, `install`, `uninstall`, the hooks of the queue) wait for no drive, no device, no
thread, and for neither the execution's lock, which is held while the device's mover works, nor the runtime's: they tell no fact.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from .. import findings
from ..core.component import Mode, Tier
from ..record import text as report
from ..record.trace import Trace
from ..runtime import Mover, Runtime
from ..settings import prompt as settings
from ..settings.user import UserSettings
from ..transfers import ReadAhead, machine, memory
from ..transfers.disk import THREADS_PER_DRIVE
from ..transfers.need import MeasuredNeed
from .device.cuda import Cuda
from .device.memory_usage import computes_without_device, device_lacks, spare_bytes
from .device.mover import DeviceMover
from .device.spread import arranged
from .execution import Execution
from .guard import Guard
from .prompt.background import Errands
from .prompt.limits import MemoryLimits
from .prompt.live_graph import DEFAULT_BUDGET, Budget
from .prompt.model_files import dynamic_vram
from .prompt.queued import QUEUE_DEPTH, Queued
from .prompt.result_cache import as_if_used
from .prompt.running import RunningPrompt
from .prompt.wishes import Wishes
from .seams import functions as seams
from .seams import wrappers
from .seams.chain import Wrapper
from .seams.hooks import Hooks
from .server.idle import IdleRelease
from .server.warmer import Warmer

log = logging.getLogger("residency")


class ComfyHost:
    """One per process. `queue()` lists the prompts behind the running one as (id, prompt, outputs); `budget`: of predicting a prompt.
    `queue_depth` says how many of them the timeline runs on into; it holds from the next look at the queue on.
    """

    def __init__(self, queue: Callable[[], Iterable[Queued]] = tuple, budget: Budget = DEFAULT_BUDGET) -> None:
        self.user = settings.Settings(Mode.AUTO, settings.DEFAULT)
        self.standing = UserSettings()
        self.fallback = self.user  # the mode that holds where the user has set none
        self.queue_depth = QUEUE_DEPTH
        self.idle: IdleRelease | None = None
        self.warmer: Warmer | None = None
        self.counted: dict[str, Callable[[], int]] = {}  # contained failures of what follows the host, by what has failed
        self.hooks = Hooks()
        self.runtime = Runtime(at_safe_points=[Tier.DEVICE])
        self.guard = Guard(self.runtime, lambda reason, told: self.execution.abandon(reason, told), self.uninstall)
        cuda, need = Cuda.of_comfyui(), MeasuredNeed(memory.host_memory().total_bytes)
        self.device = DeviceMover(
            self.runtime.tell,
            self.runtime.clock,
            cuda,
            lambda: self.runtime.manager.placement,
            lambda: spare_bytes(need.reserve_bytes),
            look=lambda: self.guard(self.execution.look_in_pass),
            guard=self.guard,
        )
        self.limits = MemoryLimits(self.device.contents.copies_bytes, need)
        self.execution = Execution(
            self.runtime,
            self.device,
            cuda,
            self.limits,
            self.hooks,
            self.guard,
            budget,
            queued=self._queued,
            user=lambda: self.user,
            expect_prompt=self.expect_prompt,
            ended=self._ended,
        )
        self.wishes = Wishes(self.runtime, self.device.models, lambda: self.execution.prompt, self.guard)
        self._queue = queue
        self._lacks = machine.lacks() + device_lacks()
        self._leaving = Errands("residency closing")
        self._switching = threading.RLock()  # hooks in and out: asked for by the event loop, and by any thread that fails

    # --- life ---

    def install(self) -> None:
        """Put every seam that fits in place; without the essential ones nothing is installed."""
        with self._switching:
            if not self.hooks.installed:
                self._install()

    def _install(self) -> None:
        unfit = self.hooks.misfits()
        if unfit:
            log.warning("residency: off with this ComfyUI: %s", "; ".join(fit.reason for fit in unfit))
            return
        # before the hooks, which may be called at once; a closed mover stays closed: each installation gets its own
        self.runtime.open({Tier.HOST: self._read_ahead(), Tier.DEVICE: self.device})
        self.execution.look_ahead.open(self.read_rates)
        self.hooks.install(self._wrappers(), streams=dynamic_vram())
        self.device.streams.gate.open = not self.hooks.are_in(seams.CAST)
        if self._lacks:
            log.info("residency: less is done on this machine: %s", "; ".join(f"{lack.name}: {lack.why}" for lack in self._lacks))
        self.guard.forgive()
        self.device.evidence.proofs.forgive()

    def uninstall(self) -> None:
        """Take every hook out and stop every transfer. A running prompt goes on as stock ComfyUI's.

        Threads end by themselves, one that waits for a drive or the device with that call: `threads` lists them until then.
        """
        with self._switching:
            # in this order: what is closed below is called by the hooks
            self.execution.forget_results()
            self.hooks.remove()
            if self.warmer is not None:
                self.warmer.stop("the pack was switched off")
            prompt = self.execution.let_go()
            movers, self.runtime.movers = self.runtime.movers, {}
            self.device.close(wait=False)
            self._leaving.submit(partial(self._leave, prompt, movers))
            self.execution.look_ahead.close()

    def _leave(self, prompt: RunningPrompt | None, movers: Mapping[Tier, Mover]) -> None:
        """End the trace of the prompt that ran when the pack was switched off, and the reading for it. On a thread that may wait."""
        if prompt is not None:
            self.runtime.abandon("left to ComfyUI: the pack was switched off while it ran", prompt.prompt_id)
        if Tier.HOST in movers:
            movers[Tier.HOST].close(wait=False)

    def _wrappers(self) -> dict[seams.Seam, Wrapper]:
        def tell(method: Callable[..., Any]) -> Callable[..., Any]:
            return partial(self.guard, method)

        def door(method: Callable[..., Any]) -> Callable[..., Any]:
            return partial(self.guard.timed, method)

        own, device, stalls = self.execution, self.device, self.execution.stalls
        runs = own.runs
        queue = wrappers.queue(tell(own.look_ahead.queue_changes))
        return {
            seams.PROMPT: wrappers.prompt(tell(own.prompt_begins), door(own.prompt_ends)),
            seams.PICK: wrappers.pick(tell(own.chooses), door(own.choose_node)),
            seams.STAGE: wrappers.stage(runs, door(own.node_starts), own.hold),
            seams.UNSTAGE: wrappers.unstage(runs, door(own.node_returns)),
            seams.COMPLETE: wrappers.complete(runs, door(own.node_completes)),
            seams.OUTPUTS: wrappers.outputs(tell(own.teaches), door(own.node_outputs)),
            seams.LOAD: wrappers.load(
                runs, tell(device.before_load), tell(device.after_load), self.runtime.clock, tell(stalls.load_stalled)
            ),
            seams.UNLOAD: wrappers.unload(tell(device.before_unload)),
            seams.CAST: wrappers.cast(stalls.asks, device.streams.gate.wait, stalls.weight_waits.given),
            seams.FAULT: wrappers.fault(device.before_fault),
            seams.LAYOUT: wrappers.layout(runs, tell(arranged)),
            seams.PIN: wrappers.pin(device.streams.before_pin, device.exchanges.may_pin),
            seams.CACHED: wrappers.cached(runs, door(own.spared), door(own.dropped), as_if_used),
            seams.QUEUE_PUT: queue,
            seams.QUEUE_DELETE: queue,
            seams.QUEUE_WIPE: queue,
        }

    # --- what the user has set ---

    def set_user_mode(self, mode: Mode, source: str) -> None:
        """The user's setting: off takes the hooks out at once, every other mode holds from the next prompt on."""
        self.user = replace(self.user, mode=mode, source=source)
        if mode is Mode.OFF:
            self.uninstall()
        else:
            self.install()
        self._settle()

    def apply(self, wanted: UserSettings) -> None:
        """Enact the user's settings for all workflows; the mode at once, the rest from the next prompt on at the latest."""
        self.standing = wanted
        self.queue_depth = wanted.queue_depth
        chosen = settings.Settings(wanted.mode, "the user's setting") if wanted.mode else self.fallback
        self.user = replace(self.user, host_budget_bytes=wanted.ram_budget_bytes)
        retry = chosen.mode is not Mode.OFF and not self.installed  # after failures the hooks are out: choosing again puts them back
        if retry or (chosen.mode, chosen.source) != (self.user.mode, self.user.source):
            self.set_user_mode(chosen.mode, chosen.source)
        self.limits.spare(wanted.vram_headroom_bytes)
        self.device.contents.spared_bytes = wanted.vram_headroom_bytes
        mover = self.runtime.movers.get(Tier.HOST)
        if isinstance(mover, ReadAhead):
            mover.set_threads(self.read_threads)
        self._settle()

    def _settle(self) -> None:
        """Set the pin limit and idle release, which hold only while a mode other than off is chosen."""
        on = self.user.mode is not Mode.OFF
        seams.PIN_LIMIT.set(self.standing.pin_budget_bytes if on else None)
        if self.idle is not None:
            self.idle.set(60 * self.standing.idle_release_min if on else 0.0)

    def _read_ahead(self) -> ReadAhead:
        return ReadAhead(self.runtime.tell, self.runtime.clock, threads_per_drive=self.read_threads)

    def expect_prompt(self) -> None:
        """A prompt may begin soon: be told of it, whoever has patched the executor meanwhile. On any thread; one comparison, mostly."""
        seams.PROMPT.check()
        if self.warmer is not None:
            self.warmer.stop("a prompt was queued, whose own files come first")

    def _queued(self) -> tuple[Queued, ...]:
        return tuple(self._queue())[: self.queue_depth]

    def _ended(self, trace: Trace) -> None:
        if self.standing.console_line:
            log.info("%s", report.line(trace.head()))

    # --- reports, on any thread ---

    @property
    def installed(self) -> bool:
        """Whether the hooks are in."""
        return self.hooks.installed

    @property
    def read_threads(self) -> int:
        """Threads that read from each drive."""
        return self.standing.read_threads or THREADS_PER_DRIVE

    def read_rates(self) -> dict[str, float]:
        """Bytes per second by drive, as this session has measured them."""
        mover = self.runtime.movers.get(Tier.HOST)
        return mover.rates() if isinstance(mover, ReadAhead) else {}

    @property
    def onload_bytes_per_s(self) -> float | None:
        """From host memory to the device, as this session has measured it."""
        return self.execution.look_ahead.onload_bytes_per_s

    def threads(self) -> list[str]:
        """Names of the pack's threads that are alive."""
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("residency")]

    def features(self) -> list[seams.Fit]:
        """Every seam as it is at this moment, and every feature of the device that has been disproved or has failed."""
        if not self.installed:
            return self.hooks.look()
        lacks = [seams.Fit(lack.name, False, lack.why) for lack in self._lacks]
        return self.hooks.look() + [seams.Fit(*told) for told in self.device.states()] + lacks

    def on_device(self) -> dict[str, int]:
        """Bytes on the device by component: ComfyUI's own word between prompts, else the last look's."""
        told = self.runtime.contents.device
        if not self.execution.executing:
            try:
                return self.device.contents.held()
            except RuntimeError:  # the executor's thread has begun to change what is gone through here
                pass
        return dict(told.held) if told is not None else {}

    def device_limit_bytes(self) -> int | None:
        """Bytes of the device that weights may take beside other programs: by the free memory of now between prompts, else as told last;
        None where it has no memory of its own."""
        told = self.runtime.contents.device_limit
        left_bytes = None if told is None else told[0]
        if not self.execution.executing:
            try:
                left_bytes = self.device.contents.limit_bytes()
            except RuntimeError:  # as above
                pass
        return self.limits.of_device(None, left_bytes)

    def works(self) -> str:
        """How much of the pack works here, in one line, and why not the rest."""
        if not self.installed:
            why = "; ".join(fit.reason for fit in self.hooks.fits if not fit.fits)
            return findings.works(why or f"mode {self.user.mode.value}, chosen by {self.user.source}", "")
        only = next((lack.why for lack in device_lacks()), computes_without_device())
        return findings.works("", only, ((fit.name, fit.reason) for fit in self.hooks.look() if not fit.fits))

    def contained(self) -> dict[str, int]:
        """Failures that cost a copy or a lesson, and did not reach a prompt: how many, by the part that has failed."""
        store, mover = self.device.pages, self.runtime.movers.get(Tier.HOST)
        found = {
            **self.runtime.failures,
            **{feature.value: count for feature, count in self.device.evidence.proofs.failures.items()},
            "profiles": self.execution.look_ahead.failures(),
            "errands": self.execution.look_ahead.errand_failures() + self._leaving.failures,
            "answers": mover.failures if isinstance(mover, ReadAhead) else 0,
            "device": 0 if store is None else store.failures,
            **{name: count() for name, count in self.counted.items()},
        }
        return {name: count for name, count in found.items() if count}
