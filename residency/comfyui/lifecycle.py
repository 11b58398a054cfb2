"""The one host of this process: made when ComfyUI loads the pack, switched on and off while it runs."""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path
from typing import Any

from ..record.facts import FactWriter
from ..record.trace import Trace
from ..settings import take_out
from ..settings import user as user_settings
from ..settings.prompt import standing
from ..transfers import memory
from .device.memory_usage import device_memory_bytes
from .host import ComfyHost

log = logging.getLogger("residency")

RECORD_VARIABLE = "RESIDENCY_RECORD"
WARM_VARIABLE = "RESIDENCY_WARM"

host: ComfyHost | None = None


def load() -> ComfyHost:
    """Make the host, its routes and its hooks. Called from on_load; a second call changes nothing."""
    global host
    if host is not None:
        return host
    from .server import routes
    from .server.waits import Waits
    from .server.warmer import Warmer, warm_at_start

    host = ComfyHost(queue=routes.queued_prompts)
    record(host)
    announcer = routes.Announcer(host.execution.foresee)
    waits = Waits(partial(host.runtime.look, wait=False))
    host.counted["waits"] = lambda: waits.failures

    def follow(trace: Trace, ended: bool) -> None:
        announcer.announce(trace, ended)
        waits.follow(trace, ended)

    host.runtime.on_update = follow
    first = standing(os.environ)
    host.set_user_mode(first.mode, first.source)
    host.fallback = host.user
    host.idle = routes.idle_release()
    host.warmer = Warmer(host)
    host.apply(user_settings.read(routes.settings_file()))
    routes.on_prompt(take_out.on_prompt)
    routes.on_prompt(_expect_prompt)
    routes.add_routes(host, announcer)
    warm_at_start(host.warmer, os.environ.get(WARM_VARIABLE))
    log.info("residency: %s", host.works())
    return host


def take_back() -> None:
    """Undo a `load` that has failed half-way; the routes, which come last, were not added then."""
    global host
    if host is not None:
        host.uninstall()
        host = None


def _expect_prompt(data: dict[str, Any]) -> dict[str, Any]:
    if host is not None:
        host.expect_prompt()
    return data


def record(host: ComfyHost) -> None:
    """Write the facts of this process into the file that RESIDENCY_RECORD names, for `python -m residency replay`. Nothing by default."""
    path = os.environ.get(RECORD_VARIABLE)
    if not path:
        return
    try:
        host.runtime.recorder = FactWriter(Path(path), ended=partial(log.warning, "residency: the recording %s has ended: %s", path))
    except OSError as error:
        log.warning("residency: %s is %s, which cannot be written (%s): nothing is recorded", RECORD_VARIABLE, path, error)


def release(node_id: str, value: Any, where: str | None) -> None:
    """A Release node runs: give up the component behind `value`, or the one that flows into the node by the graph."""
    if host is not None:
        host.wishes.release(node_id, value, where)


def prefetch(node_id: str, value: Any) -> None:
    """A Prefetch node runs: the component behind `value`, or the one that flows into the node by the graph, is wanted now."""
    if host is not None:
        host.wishes.prefetch(node_id, value)


def memory_bytes() -> tuple[int, int | None]:
    """All of the host's memory and of the device's; None where the device has none of its own."""
    return memory.host_memory().total_bytes, device_memory_bytes()


def current_trace() -> dict[str, Any] | None:
    """The trace of the running prompt so far; None when none is recorded."""
    trace = host.runtime.trace if host is not None else None
    return trace.as_dict() if trace is not None else None
