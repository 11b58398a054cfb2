"""The ComfyUI host: tells the session what the executor does, and holds a node back while its files are being read ahead.

Life: `install()` in the pack's on_load or when a mode other than off is chosen; per prompt prompt_begins -> (node_starts ->
node_finishes | node_returns)* -> prompt_ends; `uninstall()` takes every hook out and asks every thread to end. Beside it, on the errands'
thread: LookAhead, when a prompt has started or the queue has changed, and what the prompt taught once it has ended. Whatever fails in here
is logged once, counted, and handed back to ComfyUI: after a few failures the host takes itself out.

What ComfyUI's event loop calls (`apply`, `set_user_mode`, `install`, `uninstall`, the hooks of the queue) waits for no drive, no device, no
thread, and for neither `_lock`, which is held while the device's mover works, nor the runtime's: it tells no fact itself.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import comfy.model_management as model_management

from .. import findings
from ..core.component import Mode, Tier
from ..core.events import Crossed, DeviceObserved, HostObserved, NotMeasured, Outcome, PrefetchAsked, ReleaseAsked, Stalled, Stepped, Waited
from ..core.timeline import EMPTY, UseKind
from ..graph import AllowanceError
from ..record import text as report
from ..record.trace import Trace
from ..runtime import Hold, Mover, Runtime
from ..session import NO_LIMITS, NOTHING_SEEN, Limits, Looks, NodeBegins, NodeEnds, Phase, PromptBegins, PromptEnds, Sight
from ..settings import prompt as settings
from ..settings.node_inputs import DEVICE, DEVICE_AND_HOST
from ..settings.user import UserSettings
from ..transfers import ReadAhead, machine, memory, single_reader, thread_waits
from ..transfers.disk import THREADS_PER_DRIVE
from ..transfers.need import MeasuredNeed
from .device.cuda import Cuda
from .device.host_contents import HostContents
from .device.memory_usage import computes_without_device, device_lacks, device_limit_bytes
from .device.mover import DeviceHangsError, DeviceMover
from .device.spread import arranged
from .device.weight_waits import Asked, WeightWaits
from .prompt.background import Errands
from .prompt.decoders import Decoders
from .prompt.live_graph import DEFAULT_BUDGET, Budget, LiveGraph
from .prompt.look_ahead import LookAhead
from .prompt.model_files import dynamic_vram
from .prompt.node_classes import traits
from .prompt.origins import Maker, result_key, took
from .prompt.queued import QUEUE_DEPTH, Queued, whole_nodes
from .prompt.result_cache import CachedResults, as_if_used
from .prompt.running import RunningPrompt
from .prompt.steps import Steps
from .seams import functions as seams
from .seams import wrappers as hooks
from .seams.chain import Wrapper
from .server.idle import IdleRelease
from .server.warmer import Warmer

log = logging.getLogger("residency")

BUDGET_REFRESH_S = 0.25  # reading the limits takes 40 us: not at every one of a thousand cheap nodes
HOLD_POLL_S = 0.005
MAX_FAILURES = 3
# Weights that cross at a step wait for the one before them on the same stream. Flux in bf16 with 58 % of it on an H100, computed from its
# weights' sizes: 1.38 of the step's computing with ComfyUI's two streams, 1.18 with three, 1.15 with four or more.
OFFLOAD_STREAMS = 4
LOCK_S = 0.05  # the event loop waits for nothing longer: whoever holds the host's lock then is a prompt that begins or runs


class ComfyHost:
    """One per process. `queue()` lists the prompts behind the running one as (id, prompt, outputs).

    `queue_depth` says how many of them the timeline runs on into; it holds from the next look at the queue on. Without `reorder` ComfyUI's
    own order of nodes stands, from the next prompt on. `budget` is what predicting a prompt may cost.
    """

    def __init__(self, queue: Callable[[], Iterable[Queued]] = tuple, budget: Budget = DEFAULT_BUDGET) -> None:
        self.budget = budget
        self._device_limit_bytes = self._whole_device_bytes = device_limit_bytes()  # asked once: the driver may be at work
        self.runtime = Runtime(at_safe_points=[Tier.DEVICE])
        self._lacks = machine.lacks() + device_lacks()
        self._need = MeasuredNeed(memory.host_memory().total_bytes)
        cuda = Cuda.of_comfyui()
        self.device = DeviceMover(
            self.runtime.tell,
            self.runtime.clock,
            cuda,
            lambda: self.runtime.manager.placement,
            look=partial(self._guard, self._look_in_pass),
            guard=self._guard,
        )
        self._in_host = HostContents(self.device.contents, self.runtime.clock)
        self.waits = WeightWaits(self.runtime.clock, cuda)
        self._started_s, self._thread_at_start = 0.0, thread_waits.reading()  # where the node that runs began its own work
        self._cached = CachedResults(self.runtime, self.device.models)
        self.steps = Steps(lambda node_id: self._timed(self._step, node_id), partial(self._timed, self._steps_end))
        self.user = settings.Settings(Mode.AUTO, settings.DEFAULT)
        self.fits: list[seams.Fit] = []
        self.installed = False
        self.failures = 0
        self.queue_depth = QUEUE_DEPTH
        self.reorder = True
        self.standing = UserSettings()
        self.fallback = self.user  # the mode that holds where the user has set none
        self.idle: IdleRelease | None = None
        self.warmer: Warmer | None = None
        self.counted: dict[str, Callable[[], int]] = {}  # contained failures of what follows the host, by what has failed
        self._queue = queue
        self._prompt: RunningPrompt | None = None
        self._executing = False  # a prompt, whatever its mode
        self._stepping: set[str] = set()  # classes of nodes that have reported steps
        # where the prompt is: moved by the executor's thread, looked at and replanned by the errands'; taken before the runtime's own
        self._lock = threading.RLock()
        self._leaving = Errands("residency closing")
        self._switching = threading.RLock()  # hooks in and out: asked for by the event loop, and by any thread that fails
        self._look_ahead = LookAhead(self.runtime, self._lock, lambda: self._prompt, self._queued, self._guard)

    # --- life ---

    def install(self) -> None:
        """Put every seam that fits in place; without the essential ones nothing is installed."""
        with self._switching:
            if not self.installed:
                self._install()

    def _install(self) -> None:
        unfit = [fit for fit in (seam.fit() for seam in seams.ESSENTIAL) if not fit.fits]
        if unfit:
            self.fits = unfit
            log.warning("residency: off with this ComfyUI: %s", "; ".join(fit.reason for fit in unfit))
            return
        # a closed mover stays closed: each installation gets its own
        self.runtime.open({Tier.HOST: self._read_ahead(), Tier.DEVICE: self.device})
        self._look_ahead.open(self._rates)
        self.fits = [seam.install(wrapper) for seam, wrapper in self._wrappers().items()]
        self.device.gate.open = not self._fits(seams.CAST)
        seams.OFFLOAD_STREAMS.set(OFFLOAD_STREAMS if dynamic_vram() else None)
        self.installed = True
        if self._lacks:
            log.info("residency: less is done on this machine: %s", "; ".join(f"{lack.name}: {lack.why}" for lack in self._lacks))
        self.failures = 0
        self.device.proofs.forgive()

    def uninstall(self) -> None:
        """Take every hook out and stop every transfer. A running prompt goes on as stock ComfyUI's.

        Threads end by themselves, one that waits for a drive or the device with that call: `threads` lists them until then.
        """
        with self._switching:
            if self._lock.acquire(timeout=LOCK_S):
                try:
                    if not self._executing:  # else when it ends: the executor's cache is not to be touched meanwhile
                        self._cached.forget()
                finally:
                    self._lock.release()
            for seam in seams.ALL:
                seam.remove()
            seams.OFFLOAD_STREAMS.set(None)
            self.installed = False
            if self.warmer is not None:
                self.warmer.stop("the pack was switched off")
            prompt, self._prompt = self._prompt, None
            self.steps.forget()
            movers, self.runtime.movers = self.runtime.movers, {}
            self.device.close(wait=False)
            self._leaving.submit(partial(self._leave, prompt, movers))
            self._look_ahead.close()

    def _leave(self, prompt: RunningPrompt | None, movers: Mapping[Tier, Mover]) -> None:
        """End the trace of the prompt that ran when the pack was switched off, and what was read for it. On a thread that may wait."""
        if prompt is not None:
            self.runtime.abandon("left to ComfyUI: the pack was switched off while it ran", prompt.prompt_id)
        if Tier.HOST in movers:
            movers[Tier.HOST].close(wait=False)

    def threads(self) -> list[str]:
        """Names of the pack's threads that are alive."""
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("residency")]

    def set_user_mode(self, mode: Mode, source: str) -> None:
        """The user's setting: off takes the hooks out at once, every other mode holds from the next prompt on."""
        self.user = replace(self.user, mode=mode, source=source)
        if mode is Mode.OFF:
            self.uninstall()
        else:
            self.install()
        self._settle()

    def apply(self, wanted: UserSettings) -> None:
        """Enact what the user has set for all workflows; the mode at once, the rest from the next prompt on at the latest."""
        self.standing = wanted
        self.queue_depth = wanted.queue_depth
        chosen = settings.Settings(wanted.mode, "the user's setting") if wanted.mode else self.fallback
        self.user = replace(self.user, host_budget_bytes=wanted.ram_budget_bytes)
        retry = chosen.mode is not Mode.OFF and not self.installed  # after failures the hooks are out: choosing again puts them back
        if retry or (chosen.mode, chosen.source) != (self.user.mode, self.user.source):
            self.set_user_mode(chosen.mode, chosen.source)
        if self._whole_device_bytes is not None:
            self._device_limit_bytes = max(0, self._whole_device_bytes - wanted.vram_headroom_bytes)
        self.device.contents.spared_bytes = wanted.vram_headroom_bytes
        mover = self.runtime.movers.get(Tier.HOST)
        if isinstance(mover, ReadAhead):
            mover.set_threads(self._read_threads())
        self._settle()

    def _settle(self) -> None:
        """Hold to the settings what lives only while a mode other than off is chosen."""
        on = self.user.mode is not Mode.OFF
        seams.PIN_LIMIT.set(self.standing.pin_budget_bytes if on else None)
        if self.idle is not None:
            self.idle.set(60 * self.standing.idle_release_min if on else 0.0)

    def _read_ahead(self) -> ReadAhead:
        return ReadAhead(self.runtime.tell, self.runtime.clock, threads_per_drive=self._read_threads())

    def _read_threads(self) -> int:
        return self.standing.read_threads or THREADS_PER_DRIVE

    def expect_prompt(self) -> None:
        """A prompt may begin soon: be told of it, whoever has patched the executor meanwhile. On any thread; one comparison, mostly."""
        seams.PROMPT.check()
        if self.warmer is not None:
            self.warmer.stop("a prompt was queued, whose own files come first")

    def features(self) -> list[seams.Fit]:
        """Every seam as it is at this moment, and every feature of the device that has been disproved or has failed."""
        if not self.installed:
            return [replace(fit, fits=False) for fit in self.fits]
        lacks = [seams.Fit(lack.name, False, lack.why) for lack in self._lacks]
        return [seam.look() for seam in seams.ALL] + [seams.Fit(*told) for told in self.device.states()] + lacks

    def on_device(self) -> dict[str, int]:
        """Bytes on the device by component: ComfyUI's own word between prompts, else what was told last. On any thread."""
        told = self.runtime.contents.device
        if not self._executing:
            try:
                return self.device.contents.held()
            except RuntimeError:  # the executor's thread has begun to change what is gone through here
                pass
        return dict(told.held) if told is not None else {}

    @property
    def executing(self) -> bool:
        """Whether a prompt runs. On any thread."""
        return self._executing

    @property
    def read_threads(self) -> int:
        """Threads that read from each drive."""
        return self._read_threads()

    def read_rates(self) -> dict[str, float]:
        """Bytes per second by drive, as this session has measured them."""
        return self._rates()

    @property
    def onload_bytes_per_s(self) -> float | None:
        """From host memory to the device, as this session has measured it."""
        return self._look_ahead.onload_bytes_per_s

    @property
    def device_limit_bytes(self) -> int | None:
        """Bytes of the device that weights may take; None where it has no memory of its own."""
        return self._device_limit_bytes

    @property
    def reserve_bytes(self) -> int:
        """Host memory that reading ahead leaves alone."""
        return self._need.reserve_bytes

    def foresee(self, trace: Trace) -> dict[str, Any] | None:
        """What is still to come of that prompt, as `runtime.foresee` has it; None also until earlier runs are asked. On any thread."""
        prompt, session = self._prompt, self.runtime.session
        foresight = prompt.foresights.get(trace.prompt_id) if prompt is not None else None
        if foresight is None:
            return None
        visits, position = session.timeline.visits, session.position
        left = self.steps.left(visits[position].node_id) if 0 <= position < len(visits) else None
        return self.runtime.foresee(trace, foresight.same_margins_s(), left)

    def works(self) -> str:
        """How much of the pack works here, in one line, and why not the rest."""
        if not self.installed:
            why = "; ".join(fit.reason for fit in self.fits if not fit.fits)
            return findings.works(why or f"mode {self.user.mode.value}, chosen by {self.user.source}", "")
        only = next((lack.why for lack in device_lacks()), computes_without_device())
        return findings.works("", only, ((fit.name, fit.reason) for fit in (seam.look() for seam in seams.ALL) if not fit.fits))

    def contained(self) -> dict[str, int]:
        """Failures that cost a copy or a lesson, and did not reach a prompt: how many, by what has failed."""
        store, mover = self.device.pages, self.runtime.movers.get(Tier.HOST)
        found = {
            **self.runtime.failures,
            **{feature.value: count for feature, count in self.device.proofs.failures.items()},
            "profiles": self._look_ahead.failures(),
            "errands": self._look_ahead.errand_failures() + self._leaving.failures,
            "answers": mover.failures if isinstance(mover, ReadAhead) else 0,
            "device": 0 if store is None else store.failures,
            **{name: count() for name, count in self.counted.items()},
        }
        return {name: count for name, count in found.items() if count}

    def _abandon(self, reason: str, *, told: bool = False) -> None:
        """Leave the rest of the running prompt to ComfyUI: nothing goes on being moved for it, and its trace ends here. On any thread: what
        the executor's thread does for a node meanwhile falls into the void. `told`: a prompt without a trace gets one that says why."""
        prompt, self._prompt = self._prompt, None
        if told and prompt is not None and self.runtime.trace is None:
            self._guard(self.runtime.tell, PromptBegins(self.runtime.clock(), prompt.prompt_id, EMPTY, {}, prompt.settings.mode))
        self.waits.forget()
        if prompt is not None or self.runtime.trace is not None:
            self.steps.forget()
            self.runtime.abandon(reason)

    # --- what nodes ask while they run, on the executor thread ---

    def release(self, node_id: str, value: Any, where: str | None) -> None:
        """Give up what is behind `value`. `where` None: as the prompt says. Does nothing while the pack is off."""
        self._guard(self._release, node_id, value, where)

    def _release(self, node_id: str, value: Any, where: str | None) -> None:
        prompt = self._prompt
        if prompt is not None:
            asked = where or prompt.value(node_id, "where", DEVICE)
            for key in self._components_behind(node_id, value):
                self.runtime.tell(ReleaseAsked(self.runtime.clock(), key, asked == DEVICE_AND_HOST, f"node {node_id} releases it"))
            self.runtime.safe_point()

    def prefetch(self, node_id: str, value: Any) -> None:
        """Ask for what is behind `value` now. Does nothing while the pack is off."""
        self._guard(self._prefetch, node_id, value)

    def _prefetch(self, node_id: str, value: Any) -> None:
        if self._prompt is not None:
            for key in self._components_behind(node_id, value):
                self.runtime.tell(PrefetchAsked(self.runtime.clock(), key, f"node {node_id} asks for it"))

    def _components_behind(self, node_id: str, value: Any) -> tuple[str, ...]:
        key = self.device.models.key_of(value)
        if key is not None:
            return (key,)
        graph = self._prompt.graph if self._prompt is not None else None
        found = tuple(sorted(graph.node_components.get(node_id, ()))) if graph is not None else ()
        if not found:
            log.warning("residency: node %s is given nothing that was read from a model file: connect a model, a CLIP or a VAE", node_id)
        return found

    # --- what the seams call, on the executor thread ---

    def _wrappers(self) -> dict[seams.Seam, Wrapper]:
        def tell(method: Callable[..., Any]) -> Callable[..., Any]:
            return partial(self._guard, method)

        def door(method: Callable[..., Any]) -> Callable[..., Any]:
            return partial(self._timed, method)

        def runs() -> bool:
            return self._prompt is not None

        device, runtime = self.device, self.runtime
        queue = hooks.queue(tell(self._look_ahead.queue_changes))
        return {
            seams.PROMPT: hooks.prompt(tell(self._prompt_begins), door(self._prompt_ends)),
            seams.PICK: hooks.pick(tell(self._chooses), door(self._choose_node)),
            seams.STAGE: hooks.stage(runs, door(self._node_starts), self._hold),
            seams.UNSTAGE: hooks.unstage(runs, door(self._node_returns)),
            seams.COMPLETE: hooks.complete(runs, door(self._node_completes)),
            seams.OUTPUTS: hooks.outputs(tell(self._teaches), door(self._node_outputs)),
            seams.LOAD: hooks.load(runs, tell(device.before_load), tell(device.after_load), runtime.clock, tell(self._load_stalled)),
            seams.UNLOAD: hooks.unload(tell(device.before_unload)),
            seams.CAST: hooks.cast(self._asks, device.gate.wait, self.waits.given),
            seams.FAULT: hooks.fault(device.before_fault),
            seams.LAYOUT: hooks.layout(runs, tell(arranged)),
            seams.PIN: hooks.pin(device.before_pin, device.may_pin),
            seams.CACHED: hooks.cached(runs, door(self._spared), door(self._dropped), as_if_used),
            seams.QUEUE_PUT: queue,
            seams.QUEUE_DELETE: queue,
            seams.QUEUE_WIPE: queue,
        }

    async def _hold(self, holds: list[Hold]) -> None:
        """Hold the staged node until its files are there; an interrupt lets go at once, and ComfyUI stops at the node. A hold that cannot
        be asked is over."""
        started_s = self.runtime.clock()
        # asked again and again, not awaited: the transfer may outlive this event loop, and cancelling the wait must not cancel it
        while self._guard(self._holds, holds) and not model_management.processing_interrupted():
            await asyncio.sleep(HOLD_POLL_S)
        self._guard(self._held, self.runtime.clock() - started_s)

    def _holds(self, holds: list[Hold]) -> bool:
        return not all(hold.over() for hold in holds)

    def _held(self, seconds: float) -> None:
        self._stalled(seconds, waited=True)
        self._work_begins()

    def _work_begins(self) -> None:
        if self._loads():
            self._started_s, self._thread_at_start = self.runtime.clock(), thread_waits.reading()

    def _loads(self) -> set[str]:
        """The components that the running node reads as a loader."""
        session = self.runtime.session
        uses = session.timeline.at(session.position) if session.phase is Phase.RUNNING else ()
        return {use.component for use in uses if use.kind is UseKind.LOAD and use.reads} if uses else set()

    def _asks(self, modules: Any) -> Asked | None:
        return self.waits.asks(modules, copies_under_way=self.device.gate.under_way())

    def _load_stalled(self, seconds: float) -> None:
        """All of a model's load is waiting for weights; of a loader's own what its thread waited for, which is told at its end."""
        if not self._loads():
            self._stalled(seconds)

    def _stalled(self, seconds: float, *, waited: bool = False) -> None:
        self.runtime.tell(Stalled(self.runtime.clock(), seconds, waited))

    # --- facts ---

    def _prompt_begins(self, prompt: Any, prompt_id: str, extra_data: Any, outputs: list[str]) -> None:
        with self._lock:
            self._executing = True
            self._cached.prompt_begins()
        self.device.settle()
        # packs may have patched ComfyUI since: while they were loaded after us, or in a node that ran
        self.fits = [seam.check() for seam in seams.ALL]
        self.device.settle_proofs()
        self.device.gate.open = not self._fits(seams.CAST)
        prompt = whole_nodes(prompt)
        chosen = settings.of_prompt(prompt, extra_data, self.user)
        asks = settings.node_asks(prompt, extra_data)
        followed = chosen.mode is not Mode.OFF and all(self._fits(seam) for seam in seams.ESSENTIAL)
        self._prompt = None if not followed else RunningPrompt(prompt_id, prompt, outputs, chosen, asks)

    def _prompt_ends(self, executor: Any) -> None:
        self.expect_prompt()
        with self._lock:
            prompt, self._prompt = self._prompt, None
            self._executing = False
            if not self.installed:
                self._cached.forget()
            elif prompt is not None and prompt.execution_list is not None and executor.success:
                self._cached.prompt_ends(prompt.execution_list)
        self.steps.forget()
        self._tell_waits(self.waits.node_ends())
        self.waits.forget()
        if prompt is None or prompt.graph is None:
            return
        outcome = Outcome.SUCCESS
        if not executor.success:
            interrupted = any(event == "execution_interrupted" for event, _ in executor.status_messages)
            outcome = Outcome.INTERRUPTED if interrupted else Outcome.ERROR
        trace = self.runtime.trace
        if outcome is Outcome.SUCCESS:
            self.device.prompt_ends()
        self._tell_copies()
        not_measured = self.waits.fails or self._reason_against(seams.CAST)
        if not_measured and dynamic_vram():
            self.runtime.tell(NotMeasured(self.runtime.clock(), not_measured))
        crossed_bytes, crossing_s = self.device.link.crossed()
        if crossing_s > 0:
            self.runtime.tell(Crossed(self.runtime.clock(), crossed_bytes, crossing_s))
            self._look_ahead.onload_bytes_per_s = crossed_bytes / crossing_s
        self.runtime.tell(PromptEnds(self.runtime.clock(), outcome))
        self.runtime.safe_point()
        if trace is None:
            return
        if self.standing.console_line:
            log.info("%s", report.line(trace.head()))
        if outcome is Outcome.SUCCESS:
            had = {node_id for event, data in executor.status_messages if event == "execution_cached" for node_id in data["nodes"]}
            self._look_ahead.ran_well(prompt, trace, had)

    def _chooses(self) -> bool:
        """Whether it may be another node than ComfyUI's. The first one makes the graph: nothing has been used before it."""
        prompt = self._prompt
        return prompt is not None and prompt.graph is not None and prompt.graph.chooses(prompt.changed)

    def _choose_node(self, execution_list: Any, node_list: list[str], own: str) -> str:
        with self._lock:
            prompt = self._prompt
            if prompt is None or prompt.graph is None:
                return own
            return prompt.graph.choose(execution_list, node_list, own, prompt.changed)

    def _node_starts(self, execution_list: Any, node_id: str) -> list[Hold]:
        with self._lock:
            prompt, session = self._prompt, self.runtime.session
            assert prompt is not None
            now_s = self.runtime.clock()
            if prompt.graph is None:
                self._begin(prompt, execution_list, now_s)
            elif (
                prompt.graph.look_at_files(node_id)
                or prompt.changed
                or self._look_ahead.has_changed(prompt, now_s)
                or not session.follows(node_id, execution_list.pendingNodes)
            ):
                self._look_ahead.plan(prompt, execution_list)
                self._look_ahead.tell_order(prompt)
            assert prompt.graph is not None
            self._tell_copies()
            visit = session.timeline.visits[session.position_of(node_id)]
            # before the device is looked at: the room on it is what the node leaves
            self.device.expect(visit.working_set_bytes)
            started_s = self.runtime.clock()
            sight = _sight(self._in_host.look(prompt.graph.components), self._device_contents(prompt))
            holds = self.runtime.tell(NodeBegins(started_s, node_id, self._limits(prompt, now_s), sight))
            self.runtime.safe_point()
            self.device.carry_on(waits=visit.class_type in self._stepping or self._is_in_tail(prompt))
            if self._device_limit_bytes is not None:
                # no part of what the node computes: else it would seem to take longer, and more would be brought over while it runs
                self._stalled(self.runtime.clock() - started_s)
            prompt.peaks.node_starts(started_s)
            self.waits.begin()
            self._work_begins()
            return holds

    def _begin(self, prompt: RunningPrompt, execution_list: Any, now_s: float) -> None:
        """The first node of a prompt: its graph is known only now."""
        budget_bytes = self._device_budget_bytes(prompt.settings.device_budget_bytes, self.device.contents.limit_bytes())
        # what the seam cannot enact must not be foretold
        reorders = self.reorder and self._fits(seams.PICK)
        models = self.device.models
        self._need.prompt_begins()
        within_bytes = budget_bytes if reorders else None
        prompt.execution_list = execution_list
        made_with = self._cached.origins.loads_of
        prompt.graph = LiveGraph(prompt.prompt_id, execution_list.dynprompt, within_bytes, models.is_alive, made_with, self.budget)
        self._look_ahead.plan(prompt, execution_list)
        if budget_bytes is not None:
            prompt.decoders = Decoders(prompt.nodes, traits, budget_bytes)
        parts = prompt.graph.components
        self.runtime.tell(
            PromptBegins(
                now_s,
                prompt.prompt_id,
                prompt.timeline,
                parts,
                prompt.settings.mode,
                prompt.policies(),
                single_reader(parts.values()),
                replace(self._limits(prompt, now_s), device_bytes=budget_bytes),
                Sight(self._in_host.look(parts, must=True)),
            )
        )
        self._cached.tell()
        self.steps.watch()

    def _is_in_tail(self, prompt: RunningPrompt) -> bool:
        """Whether nothing of the prompt computes with weights any more, and nobody has queued another one."""
        if not self.device.is_ahead or prompt.ahead.queue:
            return False
        timeline, position = self.runtime.session.timeline, self.runtime.session.position
        own = (place for place, visit in enumerate(timeline.visits) if place >= position and visit.prompt_id == prompt.prompt_id)
        return not any(timeline.at(place) for place in own)

    def _steps_end(self, steps: int) -> None:
        if self._prompt is not None:
            self._tell_waits(self.waits.steps_end(steps))

    def _tell_waits(self, told: Iterable[Waited | Stepped]) -> None:
        for event in told:
            self.runtime.tell(event)

    def _tell_loading(self, graph: LiveGraph) -> None:
        """A loader that reads its files waits for their bytes, and unpacks them: that no reading ahead saves."""
        loads, trace = self._loads(), self.runtime.trace
        if loads and trace is not None:
            now_s = self.runtime.clock()
            size_bytes = sum(graph.components[key].size_bytes for key in loads if key in graph.components)
            self.runtime.look()  # how far its reader has come is in the trace then
            behind_reader = trace.reads(loads)
            waited_s = thread_waits.waited_s(self._thread_at_start, thread_waits.reading(), size_bytes, behind_reader=behind_reader)
            self.runtime.tell(Waited(now_s, self._started_s, waited_s))

    def _step(self, node_id: str) -> None:
        """Between two steps of the running node: what its first step has shown of its working set leaves room for the next node."""
        with self._lock:
            prompt = self._prompt
            if prompt is None or prompt.graph is None:
                return
            session = self.runtime.session
            if prompt.stepped != node_id and session.phase is Phase.RUNNING:
                prompt.stepped = node_id
                self._stepping.add(session.timeline.visits[session.position].class_type)
                # by now the node has taken what it needs: what it has pushed out is missing, and may come back while it computes
                sight = Sight(self._in_host.look(prompt.graph.components, must=True), self._device_contents(prompt))
                now_s = self.runtime.clock()
                self.runtime.tell(Looks(now_s, self._limits(prompt, now_s), sight))
                self.runtime.safe_point()
            self.device.advance()
            self.runtime.look()

    def _look_in_pass(self) -> None:
        """In the middle of a node's first pass: what it has fetched lies in the page cache a second time."""
        with self._lock:
            prompt = self._prompt
            if prompt is None or prompt.graph is None or self.runtime.session.phase is not Phase.RUNNING:
                return
            seen = self._in_host.look(prompt.graph.components, changed=True)
            if seen is not None:
                now_s = self.runtime.clock()
                self.runtime.tell(Looks(now_s, self._limits(prompt, now_s), Sight(seen)))

    def _reason_against(self, seam: seams.Seam) -> str:
        return next((fit.reason for fit in self.fits if fit.name == seam.name and not fit.fits), "")

    def _fits(self, seam: seams.Seam) -> bool:
        return any(fit.name == seam.name and fit.fits for fit in self.fits)

    def _device_contents(self, prompt: RunningPrompt) -> DeviceObserved | None:
        there = self.device.contents
        room_bytes = there.room_bytes(self.device.headroom_bytes)
        if room_bytes is None:
            return None
        held, budget_bytes = there.held(), prompt.settings.device_budget_bytes
        if budget_bytes is not None:
            room_bytes = min(room_bytes, budget_bytes - sum(held.values()))
        exchanges = dynamic_vram() and self._fits(seams.PIN) and self._fits(seams.FAULT)
        return DeviceObserved(self.runtime.clock(), held, room_bytes, there.in_host(), there.host_capacity_bytes(), exchanges)

    def _tell_copies(self) -> None:
        """Into the trace: what has crossed the link to the device since the last time."""
        for copied in self.device.link.take():
            self.runtime.tell(copied)

    def _node_finishes(self) -> None:
        with self._lock:
            prompt, session = self._prompt, self.runtime.session
            if prompt is not None and session.phase is Phase.RUNNING:
                if prompt.graph is not None:
                    self._tell_loading(prompt.graph)
                self._tell_waits(self.waits.node_ends())
                now_s = self.runtime.clock()
                prompt.peaks.node_finishes(session.timeline.visits[session.position].node_id, now_s)
                used = session.timeline.at(session.position) if prompt.graph is not None else ()
                seen = self._in_host.look(prompt.graph.components, changed=True) if used and prompt.graph is not None else None
                self.runtime.tell(NodeEnds(now_s, sight=_sight(seen)))
                self.runtime.safe_point()

    def _node_completes(self) -> None:
        with self._lock:
            prompt, session = self._prompt, self.runtime.session
            if prompt is not None and prompt.graph is not None and session.phase is Phase.RUNNING:
                visit = session.timeline.visits[session.position]
                prompt.graph.ran(visit.node_id)
                if visit.asks is not None:
                    prompt.changed = True  # it was to ask for lazy inputs first, and did not
            self._node_finishes()

    def _node_returns(self, execution_list: Any) -> None:
        """The node goes back: lazy inputs became needed, a subgraph was expanded, or it is asynchronous."""
        with self._lock:
            prompt, session = self._prompt, self.runtime.session
            ran = prompt is not None and prompt.graph is not None and session.phase is Phase.RUNNING
            visit = session.timeline.visits[session.position] if ran else None
            self._node_finishes()
            if prompt is not None and prompt.graph is not None and visit is not None:
                prompt.graph.put_back(visit.node_id)
                # that it asks for as much as was foretold shows here; whether for the same, at the next node
                if session.must_replan(execution_list.blockCount.get(visit.node_id), execution_list.pendingNodes):
                    prompt.changed = True

    def _teaches(self, node_id: str) -> bool:
        """Whether a node of the running prompt makes something to learn from: loaded weights, or what is to be decoded."""
        prompt = self._prompt
        return prompt is not None and prompt.graph is not None and (bool(prompt.decoders) or bool(prompt.graph.loads_of(node_id)))

    def _node_outputs(self, execution_list: Any, node_id: str, value: Any) -> None:
        prompt = self._prompt
        if prompt is None or prompt.graph is None:
            return
        loads = prompt.graph.loads_of(node_id)
        if prompt.decoders and value is not None and value.outputs is not None:
            own = traits(prompt.graph.class_type(node_id))
            estimated = prompt.decoders.learn(node_id, value.outputs, own.outputs if own else ())
            prompt.graph.estimated.update(estimated)
            prompt.changed |= bool(estimated)  # the next node is planned with it
        if loads and value is not None and value.outputs is not None:
            node_traits = traits(prompt.graph.class_type(node_id))
            not_made = self.device.models.learn(loads, value.outputs, node_traits.outputs if node_traits else ())
            prompt.graph.makes_none(node_id, not_made)
            if not execution_list.is_cached(node_id):  # else it has not run, and nobody knows when its file was read
                maker = Maker(prompt.graph.class_type(node_id), prompt.graph.inputs(node_id), prompt.graph.node_loads(node_id))
                self._cached.origins.learn(result_key(execution_list, node_id), value.outputs, maker, took(execution_list, node_id))
            prompt.graph.dropped.difference_update(component.key for component, _ in loads)

    def _spared(self, cache: Any, target_bytes: int) -> list[Any]:
        with self._lock:
            return self._cached.spared(self._prompt, cache, target_bytes) if self._prompt is not None else []

    def _dropped(self, cache: Any) -> None:
        with self._lock:
            if self._prompt is not None:
                self._cached.dropped(self._prompt, cache)

    def _limits(self, prompt: RunningPrompt, now_s: float) -> Limits:
        """Of the host's memory, looked at now and then."""
        if now_s < prompt.next_budget_s:
            return NO_LIMITS
        prompt.next_budget_s = now_s + BUDGET_REFRESH_S
        available_bytes = memory.available_bytes()
        self._need.look(available_bytes, self.device.contents.copies_bytes())
        reserve_bytes = self._need.reserve_bytes
        limit_bytes = memory.share(available_bytes - reserve_bytes)
        if prompt.settings.host_budget_bytes is not None and prompt.settings.host_budget_bytes < limit_bytes:
            limit_bytes, reserve_bytes = prompt.settings.host_budget_bytes, 0
        return Limits(limit_bytes, reserve_bytes)

    def _device_budget_bytes(self, budget_bytes: int | None, left_bytes: int | None = None) -> int | None:
        """Bytes of the device that weights may take; `left_bytes`: those that other programs leave. None: no memory of its own."""
        if self._device_limit_bytes is None:
            return None
        whole_bytes = self._device_limit_bytes
        return min(whole_bytes, budget_bytes or whole_bytes, whole_bytes if left_bytes is None else left_bytes)

    def _queued(self) -> tuple[Queued, ...]:
        return tuple(self._queue())[: self.queue_depth]

    def _rates(self) -> dict[str, float]:
        """Bytes per second by drive, as this session has measured them."""
        mover = self.runtime.movers.get(Tier.HOST)
        return mover.rates() if isinstance(mover, ReadAhead) else {}

    def _timed(self, method: Callable[..., Any], *args: Any) -> Any:
        """Call the method as the guard does; its time counts as the pack's own and as no stall."""
        runtime = self.runtime
        started_s, stalled_s, trace = runtime.clock(), runtime.stalled_s, runtime.trace
        try:
            return method(*args)
        except Exception as error:
            self._failed(method, error)
        finally:
            runtime.spent(started_s, stalled_s, trace)

    def _guard(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except Exception as error:
            self._failed(function, error)

    def _failed(self, function: Callable[..., Any], error: Exception) -> None:
        """Log it once, leave the prompt to ComfyUI, and after a few of them every prompt."""
        if isinstance(error, AllowanceError):
            log.warning("residency: the prompt goes on without the pack: %s", error)
            self._abandon(f"left to ComfyUI: {error}", told=True)
            return
        self.failures += 1
        log.error("residency: %s failed; ComfyUI goes on without it", function.__name__, exc_info=error)
        self._abandon(f"left to ComfyUI: {function.__name__} failed: {type(error).__name__}: {str(error)[:60]}")
        hangs = isinstance(error, DeviceHangsError)  # the next hook would wait as long
        if hangs or self.failures >= MAX_FAILURES:
            why = error if hangs else f"{self.failures} failures"
            log.error("residency: %s, taking every hook out; choose a mode again to retry", why)
            self.uninstall()


def _sight(host: HostObserved | None, device: DeviceObserved | None = None) -> Sight:
    """Most nodes of a prompt come too soon for another look at host memory, and some machines have no device to look at."""
    return NOTHING_SEEN if host is None and device is None else Sight(host, device)
