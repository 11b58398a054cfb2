"""While a node waits for weights, ComfyUI's own progress says how far they are: nobody sees a frozen sampler.

The node's entry in the progress registry carries the share that is there, as its own steps will afterwards, and the websocket event
"residency.wait" the names and bytes. Both go to the client whose prompt runs, from half a second of waiting on, twice a second; without
such a client nothing is looked at. ComfyUI's event loop keeps the time, a thread of asyncio's looks: no prompt waits for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from comfy_execution.progress import NodeState, get_progress_state
from server import PromptServer

from ...record.trace import Trace
from ...record.transfers import Reading

log = logging.getLogger("residency")

EVENT = "residency.wait"
LOOK_S = 0.5
WEB = "webui"  # ComfyUI's own handler; those of other packs may count what they are told as steps
WHOLE = 100.0


class Waits:
    """Follows the running prompt; `look()` writes into its trace how far its transfers have come."""

    def __init__(self, look: Callable[[], object]) -> None:
        self._look = look
        self.failures = 0  # waits that could not be told; each was logged
        self._armed = False
        self._told: Reading | None = None  # what the client was told last

    def follow(self, trace: Trace, ended: bool) -> None:
        """Called after every event, under the runtime's lock."""
        server = PromptServer.instance
        if server.client_id is None:
            return
        reading = None if ended else trace.reading()
        self._end(trace, reading)
        if reading is not None and not self._armed:
            self._armed = True
            self._later(trace)

    def _later(self, trace: Trace) -> None:
        loop = PromptServer.instance.loop
        loop.call_soon_threadsafe(loop.call_later, LOOK_S, partial(loop.run_in_executor, None, self._due, trace))

    def _due(self, trace: Trace) -> None:
        try:
            self._armed = self._tell(trace)
        except Exception:  # nothing depends on it, and the next node that waits tries again
            log.exception("residency: what a node waits for could not be told")
            self.failures += 1
            self._armed, self._told = False, None
        if self._armed:
            self._later(trace)

    def _tell(self, trace: Trace) -> bool:
        """Whether to look again."""
        self._look()
        reading = trace.reading()
        self._end(trace, reading)
        if reading is not None and trace.duration_s - reading.since_s >= LOOK_S:
            self._told = reading if self._show(trace, reading, self._told) else None
        return reading is not None

    def _end(self, trace: Trace, reading: Reading | None) -> None:
        """Of the wait that was told last, where it is over."""
        told = self._told
        if told is not None and (reading is None or reading.node_id != told.node_id):
            self._told = None
            self._progress(trace, told.node_id, _share(told), 0.0)
            self._send(trace, told, over=True)

    def _show(self, trace: Trace, reading: Reading, told: Reading | None) -> bool:
        """False where the node tells its own progress."""
        if not self._progress(trace, reading.node_id, _share(told), _share(reading)):
            return False
        self._send(trace, reading, over=False)
        return True

    def _progress(self, trace: Trace, node_id: str, before: float, value: float) -> bool:
        """Put the value into the node's entry where that still holds `before`; whether it did."""
        registry = get_progress_state()
        web = registry.handlers.get(WEB)
        entry = registry.nodes.get(node_id)
        if registry.prompt_id != trace.prompt_id or web is None or trace.outcome is not None:
            return False
        if entry is None:  # held back: ComfyUI has not begun it
            entry = registry.ensure_entry(node_id)
        elif entry["state"] is NodeState.Finished or entry["value"] != before:
            return False
        entry["state"], entry["value"], entry["max"] = NodeState.Running, value, WHOLE if value else 1.0
        web.update_handler(node_id, value, entry["max"], entry, trace.prompt_id)
        server = PromptServer.instance
        server.send_sync("progress", {"value": value, "max": entry["max"], "prompt_id": trace.prompt_id, "node": node_id}, server.client_id)
        return True

    def _send(self, trace: Trace, reading: Reading, *, over: bool) -> None:
        message: dict[str, Any] = {
            "prompt_id": trace.prompt_id,
            "node_id": reading.node_id,
            "components": list(reading.components),
            "present_bytes": reading.present_bytes,
            "size_bytes": reading.size_bytes,
            "over": over,
        }
        PromptServer.instance.send_sync(EVENT, message, PromptServer.instance.client_id)


def _share(reading: Reading | None) -> float:
    """The part in host memory, in whole percent."""
    return 0.0 if reading is None else round(WHOLE * reading.present_bytes / reading.size_bytes)
