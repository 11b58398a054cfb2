"""A queue of prompts as a client sees it: posted at once, timed to the end of the last, each node with its start and end."""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..launch import Server, ServerError
from .messages import Messages


@dataclass(slots=True)
class Ran:
    """One prompt of the queue. Seconds since the queue was posted; `nodes` are (id, start, end)."""

    prompt_id: str
    nodes: list[tuple[str, float, float]] = field(default_factory=list)
    end_s: float = 0.0


def run_queue(server: Server, graphs: Sequence[Mapping[str, Any]], timeout_s: float) -> tuple[float, list[Ran]]:
    """Seconds for all, and each prompt. Raises ServerError when one is refused or fails, the server dies, or the time is over."""
    client = uuid.uuid4().hex
    try:
        with Messages(server.port, f"/ws?clientId={client}") as messages:
            started_s = time.perf_counter()
            ran: dict[str, Ran] = {}
            for graph in graphs:
                answer = json.loads(server.post("/prompt", {"prompt": graph, "client_id": client}))
                ran[answer["prompt_id"]] = Ran(answer["prompt_id"])
            _follow(server, _events(server, messages, started_s, timeout_s), ran)
            return time.perf_counter() - started_s, list(ran.values())
    except OSError as error:
        with suppress(subprocess.TimeoutExpired):
            server.process.wait(2.0)  # a dying server closes its connections a moment before it is gone
        server.check()
        raise ServerError(f"ComfyUI closed the connection ({error}); the end of its log:\n{server.tail()}") from error


def _follow(server: Server, events: Iterator[tuple[float, str, dict[str, Any]]], ran: dict[str, Ran]) -> None:
    left = set(ran)
    running: tuple[str, str, float] | None = None
    for now_s, kind, data in events:
        prompt_id = data.get("prompt_id")
        if prompt_id not in ran:
            continue
        if kind in ("execution_error", "execution_interrupted"):
            what = f"{data.get('node_type')} {data.get('node_id')} failed: {data.get('exception_message', kind)}"
            raise ServerError(f"{what}\nthe end of the log:\n{server.tail()}")
        if kind == "executing":
            if running:
                ran[running[0]].nodes.append((running[1], running[2], now_s))
            running = None if data["node"] is None else (prompt_id, data["node"], now_s)
            if data["node"] is None:
                ran[prompt_id].end_s = now_s
                left.discard(prompt_id)
                if not left:
                    return


def _events(server: Server, messages: Messages, started_s: float, timeout_s: float) -> Iterator[tuple[float, str, dict[str, Any]]]:
    """(seconds since the start, kind, data) of every message; looks once a second whether the server lives."""
    while (now_s := time.perf_counter() - started_s) < timeout_s:
        text = messages.next(min(1.0, timeout_s - now_s + 0.01))
        if text is None:
            server.check()
        else:
            message = json.loads(text)
            yield time.perf_counter() - started_s, message["type"], message["data"]
    raise ServerError(f"the prompts did not end within {timeout_s:.0f} s; the end of the log:\n{server.tail()}")
