"""The one host of this process: made when ComfyUI loads the pack, switched on and off while it runs."""

from __future__ import annotations

import logging
import os
from typing import Any

from .. import user_settings
from ..component import Mode
from .host import ComfyHost
from .settings import parse_mode

log = logging.getLogger("residency")

MODE_VARIABLE = "RESIDENCY_MODE"

host: ComfyHost | None = None


def load() -> ComfyHost:
    """Make the host, its routes and its hooks. Called from on_load; a second call changes nothing."""
    global host
    if host is not None:
        return host
    from . import server

    host = ComfyHost(queue=server.queued_prompts)
    host.runtime.on_update = server.Announcer(host.runtime.locked).announce
    mode, source = _first_mode()
    host.set_user_mode(mode, source)
    host.fallback = host.user
    host.idle = server.idle_release()
    host.apply(user_settings.read(server.settings_file()))
    server.add_routes(host)
    return host


def current_trace() -> dict[str, Any] | None:
    """The trace of the running prompt so far; None when none is recorded."""
    if host is None or host.runtime.trace is None:
        return None
    return host.runtime.trace.as_dict()


def _first_mode() -> tuple[Mode, str]:
    value = os.environ.get(MODE_VARIABLE)
    if value is None:
        return Mode.AUTO, "the default"
    mode = parse_mode(value)
    if mode is None:
        log.warning("residency: %s=%r is not a mode; choose one of %s; using auto", MODE_VARIABLE, value, ", ".join(m.value for m in Mode))
        return Mode.AUTO, "the default"
    return mode, f"the environment variable {MODE_VARIABLE}"
