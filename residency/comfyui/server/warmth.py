"""The routes that a fleet asks of a worker: which weights are warm here, how long a prompt would take, and that its weights be read now.

GET /residency/state, GET /residency/ready, POST /residency/estimate, POST /residency/warm. Weights are named by content
(weights/content.py); no path comes in or goes out. Handlers that look at files run apart: where a drive does not answer, the answer is 503.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import comfy.memory_management as memory_management
import comfyui_version
from aiohttp import web
from comfy.cli_args import args as comfyui_options
from server import PromptServer

from ... import __version__
from ...core.component import Component, Extent
from ...graph import AllowanceError, unchanged
from ...graph.passes import sampler_passes
from ...simulate import GB, Machine, Program, Step, run
from ...simulate.standing import bytes_from, machine_of, policy_of, start_of
from ...transfers import drive_of, memory
from ...transfers.link import pinned_bytes_per_s
from ...transfers.machine import mount_of
from ...transfers.pagecache import cached_around
from ...transfers.storage import NETWORK, storage_of
from ...units import shown, size
from ...weights.content import content_key, content_of
from ..device.memory_usage import device_memory_bytes
from ..host import ComfyHost
from ..prompt.outlined import Outlined, outlined
from ..prompt.profiling import Teacher
from ..prompt.queued import whole_nodes
from .apart import Apart, HangsError
from .by_content import content_keys, contents_of, files_by_content
from .requests import BadRequestError, body, error_answer
from .warmer import RefusedError

log = logging.getLogger("residency")

DISK_BYTES_PER_S = 1.5 * GB  # assumed until a run has measured it, as `plan` does
LINK_BYTES_PER_S = 25.0 * GB
MOST_FILES = 256
SHAPE = '{"prompt": {…}} as ComfyUI\'s POST /prompt takes it'


class Warmth:
    """Answers for one host. Its methods may wait for drives: not for the event loop."""

    def __init__(self, host: ComfyHost) -> None:
        self._host = host
        self._lock = threading.Lock()  # one thread at a time reads the profiles, or tries the link
        self._teacher = Teacher()
        self._own_link: float | None = None  # bytes per second, measured here for want of a prompt that has told it
        self._link_tried = False

    def state(self) -> dict[str, Any]:
        """Every component that this server has used or been asked for, and every file of theirs, where their bytes lie."""
        known: dict[str, Component] = {}
        for trace in self._host.runtime.traces:
            known.update((component.key, component) for component in trace.components())
        warmer = self._host.warmer
        known.update((component.key, component) for component in (warmer.components if warmer is not None else ()))
        lies = self._lies(known)
        components = []
        files: dict[str, dict[str, Any]] = {}
        for key, component in known.items():
            try:
                named = content_key(component)
                self._add_files(files, component, lies[key])
            except OSError:  # the file is gone
                continue
            one = {"key": named, "name": component.name, "kind": component.kind, "size_bytes": component.size_bytes, **lies[key]}
            components.append(one)
        running, pending = PromptServer.instance.prompt_queue.get_current_queue_volatile()
        limit_bytes, ram = self._host.limits.device_bytes, memory.host_memory()
        return {
            "version": __version__,
            "comfyui": comfyui_version.__version__,
            "mode": self._host.user.mode.value,
            "installed": self._host.installed,
            "exchanges": self._host.execution.exchanges(),
            "ready": warmer is None or warmer.ready,
            "warming": warmer.as_dict() if warmer is not None else None,
            "components": components,
            "files": list(files.values()),
            "queue": {
                "running": [item[1] for item in running],
                "pending": [{"prompt_id": item[1], "files": self._planned(item[2])} for item in sorted(pending, key=lambda one: one[0])],
            },
            "rates": {"read_bytes_per_s": self._host.read_rates(), "onload_bytes_per_s": self._host.onload_bytes_per_s or self._own_link},
            "device": None if limit_bytes is None else {"total_bytes": device_memory_bytes(), "limit_bytes": limit_bytes},
            "ram": {
                "total_bytes": ram.total_bytes,
                "available_bytes": ram.available_bytes,
                "reserve_bytes": self._host.limits.reserve_bytes,
                "limit_bytes": self._host.user.host_budget_bytes,
            },
        }

    def _lies(self, components: Mapping[str, Component]) -> dict[str, dict[str, int | None]]:
        contents = self._host.runtime.contents
        on_device = self._host.on_device()
        pinned = (contents.device.in_host if contents.device is not None else None) or {}
        loaded = contents.host.loaded if contents.host is not None else {}
        found = {}
        for key, component in components.items():
            around = cached_around(component.extents, 0) if component.extents else None
            device_bytes = min(component.size_bytes, on_device.get(key, 0))
            found[key] = {
                "device_bytes": device_bytes,
                "pinned_bytes": min(component.size_bytes, max(pinned.get(key, 0), loaded.get(key, 0) - device_bytes)),
                "loaded_bytes": min(component.size_bytes, max(device_bytes, pinned.get(key, 0), loaded.get(key, 0))),
                "cached_bytes": None if around is None else sum(around),
            }
        return found

    def _add_files(self, files: dict[str, dict[str, Any]], component: Component, lies: Mapping[str, int | None]) -> None:
        """Count for each of its files their share of the component's bytes in memory."""
        whole_bytes = max(1, sum(extent.size_bytes for extent in component.extents))
        for path in dict.fromkeys(extent.path for extent in component.extents):
            named = content_of(path)
            file_bytes = os.stat(path).st_size
            if named not in files:
                cached = cached_around([Extent(path, 0, file_bytes)], 0)
                system, _ = mount_of(os.path.realpath(path), "/")
                files[named] = {
                    "identity": named,
                    "name": os.path.basename(path),
                    "size_bytes": file_bytes,
                    "device_bytes": 0,
                    "pinned_bytes": 0,
                    "cached_bytes": None if cached is None else sum(cached),
                    "local_bytes": 0 if system in NETWORK else file_bytes,
                    "network_bytes": file_bytes if system in NETWORK else 0,
                    "storage": storage_of(path).kind,
                }
            own_bytes = sum(extent.size_bytes for extent in component.extents if extent.path == path)
            for place in ("device_bytes", "pinned_bytes"):
                files[named][place] += (lies[place] or 0) * own_bytes // whole_bytes

    def _planned(self, prompt: Any) -> list[str]:
        try:
            return list(dict.fromkeys(contents_of(outlined(prompt).used())))
        except AllowanceError:
            return []

    def estimate(self, prompt: Mapping[str, Any]) -> dict[str, Any]:
        """Seconds of the prompt on the simulator's host, with weights where they lie now. Raises AllowanceError."""
        found = outlined(prompt)
        used = {component.key: component for component in found.used()}
        lies = self._lies(used)
        cached = _cached(found.nodes)
        steps, unknown, same_work = self._steps(found, cached)
        left = tuple(step for step in steps if step.node_id not in cached)
        machine, assumed = self._machine(used.values())
        policy = policy_of(self._host.limits.device_bytes, exchanges=self._host.execution.exchanges())
        outcome = run(Program("prompt", used, (left,)), machine, policy, start=start_of(used, lies))
        first = next((index for index, step in enumerate(left) if any(used[key].kind == "MODEL" for key in step.components)), len(left) - 1)
        before_s = sum(node.wait_s + node.run_s for node in outcome.nodes[:first])
        first_s = before_s + (outcome.nodes[first].stall_s + left[first].compute_s / left[first].passes if left else 0.0)
        comes_from = bytes_from(used, lies)
        names, missing = content_keys(used)
        return {
            "first_step_s": first_s,
            "total_s": outcome.total_s,
            "compute_s": outcome.total_s - outcome.stall_s,
            "stall_s": outcome.stall_s,
            "bytes_from": comes_from,
            "read_bytes": outcome.read_ahead_bytes + outcome.consumer_bytes,
            "why": _why(outcome.stall_s, comes_from, used, lies, unknown, len(left), assumed),
            "compute_unknown_nodes": unknown,
            "assumed": assumed,
            "warnings": [*found.warnings, *missing],
            "queued_before": PromptServer.instance.prompt_queue.get_tasks_remaining(),
            "components": {
                names[key]: {"name": one.name, "kind": one.kind, "size_bytes": one.size_bytes, **lies[key]}
                for key, one in used.items()
                if key in names
            },
            "steps": [
                {
                    "node_id": step.node_id,
                    "class_type": step.class_type,
                    "compute_s": step.compute_s,
                    "passes": step.passes,
                    "working_set_bytes": step.working_set_bytes,
                    "cached": step.node_id in cached,
                    "same_work": step.node_id in same_work,
                    "components": [names[key] for key in step.components if key in names],
                }
                for step in steps
            ],
        }

    def _steps(self, found: Outlined, cached: frozenset[str]) -> tuple[tuple[Step, ...], int, frozenset[str]]:
        """One step for each node, with the expectation of earlier runs; the number of nodes that will run without one; and the nodes whose
        same work they have seen."""
        with self._lock:
            foresight = self._teacher.foretell(found.nodes, found.of_nodes())
        expected = foresight.expected
        steps = []
        for node_id in found.order:
            known = expected.get(node_id)
            keys = tuple(key for key in found.computes.get(node_id, ()) if key in found.components)
            samples = any(found.components[key].kind == "MODEL" for key in keys)
            passes = sampler_passes(found.nodes, node_id) if samples else 1
            told = (known.compute_s, known.working_set_bytes) if known is not None else (0.0, 0)
            steps.append(Step(node_id, found.nodes[node_id]["class_type"], told[0], keys, passes, told[1]))
        unknown = sum(node_id not in expected and node_id not in cached for node_id in found.order)
        return tuple(steps), unknown, foresight.same_work

    def _machine(self, components: Iterable[Component]) -> tuple[Machine, list[str]]:
        """This machine as the simulator has it, and which parts of it are assumed. A device without memory of its own is reached in no
        time."""
        host = self._host
        paths = {extent.path for component in components for extent in component.extents}
        measured = host.read_rates()
        own = [rate for drive in {drive_of(path) for path in paths} if (rate := measured.get(drive))]
        disk = min(own, default=None) or max(measured.values(), default=None)
        assumed = [] if disk else ["disk"]
        disk = disk or DISK_BYTES_PER_S
        limit_bytes = host.device_limit_bytes()
        link = self._link() if limit_bytes is not None else None
        if limit_bytes is not None and not link:
            assumed.append("link")
        available_bytes, reserve_bytes = memory.share(memory.available_bytes()), host.limits.reserve_bytes
        headroom_bytes = int(memory_management.RAM_CACHE_HEADROOM)
        rates = disk, link or LINK_BYTES_PER_S
        found = machine_of(host.runtime.contents, limit_bytes, available_bytes, reserve_bytes, headroom_bytes, *rates)
        return found, assumed

    def _link(self) -> float | None:
        """Bytes per second to the device: as prompts have told it, else tried once, while nothing runs."""
        with self._lock:
            if not (self._host.onload_bytes_per_s or self._link_tried or self._host.execution.executing):
                self._link_tried = True
                try:
                    self._own_link = pinned_bytes_per_s()
                except RuntimeError as error:  # torch's, also where memory is short
                    log.warning("residency: the link to the device was not measured: %s", error)
        return self._host.onload_bytes_per_s or self._own_link

    def warm(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Raises RefusedError, BadRequestError and AllowanceError."""
        warmer = self._host.warmer
        assert warmer is not None
        if asked.get("cancel") is True:
            warmer.stop("cancelled")
            return warmer.as_dict()
        if "files" in asked:
            warmer.start(files_by_content(asked["files"]))
        else:
            found = outlined(asked["prompt"])
            if not found.used():
                raise BadRequestError(f"nothing of the prompt can be read: {found.why_nothing()}")
            warmer.start(found.used())
        return warmer.as_dict()


def add_warmth(routes: web.RouteTableDef, host: ComfyHost, apart: Apart) -> None:
    """Register the routes."""
    warmth = Warmth(host)

    @routes.get("/residency/state")
    async def get_state(request: web.Request) -> web.Response:
        return await _answered(apart, lambda asked: warmth.state(), None)

    @routes.get("/residency/ready")
    async def get_ready(request: web.Request) -> web.Response:
        warmer = host.warmer
        is_ready = warmer is None or warmer.ready
        told = {"ready": is_ready, "warming": warmer.as_dict() if warmer is not None else None}
        return web.json_response(told, status=200 if is_ready else 503)

    @routes.post("/residency/estimate")
    async def post_estimate(request: web.Request) -> web.Response:
        return await _answered(apart, warmth.estimate, request, _prompt)

    @routes.post("/residency/warm")
    async def post_warm(request: web.Request) -> web.Response:
        return await _answered(apart, warmth.warm, request, _warm_request)


async def _answered(
    apart: Apart, answer: Callable[[Any], Any], request: web.Request | None, read: Callable[[Any], Any] = lambda asked: asked
) -> web.Response:
    try:
        asked = None if request is None else read(await body(request))
        return web.json_response(await apart.ask(answer, asked))
    except BadRequestError as error:
        return error_answer(400, str(error))
    except AllowanceError as error:
        return error_answer(400, f"{error}; split the prompt into smaller ones")
    except RefusedError as error:
        return error_answer(409, str(error))
    except HangsError as error:
        return error_answer(503, str(error))


def _prompt(asked: Any) -> Mapping[str, Any]:
    prompt = asked.get("prompt") if isinstance(asked, dict) else None
    if not isinstance(prompt, dict) or not whole_nodes(prompt):
        raise BadRequestError(f"the body must be JSON like {SHAPE}")
    return prompt


def _warm_request(asked: Any) -> Mapping[str, Any]:
    if not isinstance(asked, dict) or len(asked.keys() & {"prompt", "files", "cancel"}) != 1:
        raise BadRequestError(f'the body must be JSON with one of {SHAPE}, {{"files": ["identity", …]}} and {{"cancel": true}}')
    if "cancel" in asked and asked["cancel"] is not True:
        raise BadRequestError(f"cancel is {shown(asked['cancel'])}; say true, or leave it out")
    if "prompt" in asked:
        _prompt(asked)
    if "files" in asked:
        files = asked["files"]
        if not isinstance(files, list) or not 0 < len(files) <= MOST_FILES or not all(isinstance(one, str) for one in files):
            raise BadRequestError(f"files is {shown(files)}; send 1 to {MOST_FILES} identities as GET /residency/state tells them")
    return asked


def _cached(nodes: Mapping[str, Any]) -> frozenset[str]:
    """The nodes for which ComfyUI will most likely answer from its cache: the prompt that ended last here has run them, and well."""
    if comfyui_options.cache_none:
        return frozenset()
    for told in PromptServer.instance.prompt_queue.get_history(max_items=1).values():
        status = told.get("status") or {}
        if status.get("status_str") == "success":
            return unchanged(nodes, whole_nodes(told["prompt"][2]))
    return frozenset()


def _why(
    stall_s: float,
    bytes_from: Mapping[str, int],
    components: Mapping[str, Component],
    lies: Mapping[str, Mapping[str, int | None]],
    unknown: int,
    steps: int,
    assumed: list[str],
) -> str:
    cold = [one.name for key, one in components.items() if not any(lies[key][f"{place}_bytes"] for place in ("device", "pinned", "cached"))]
    said = [
        f"{size(bytes_from['disk'])} from the drive" + (f" ({', '.join(cold)})" if cold else "") if bytes_from["disk"] else "all is warm"
    ]
    said.append(f"it waits {stall_s:.1f} s for weights")
    if unknown:
        said.append(f"of {unknown} of {steps} nodes nobody knows how long they compute, which counts as 0 s")
    if assumed:
        said.append(f"the rate of the {' and the '.join(assumed)} is assumed")
    return "; ".join(said)
