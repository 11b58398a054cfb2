"""A queue of prompts as a client sees it: posted at once, timed to the success of the last, each node with its start and end.

A prompt ends with `execution_success`, which ComfyUI sends for cached prompts too. The `executing` without a node that follows from
main.py's prompt_worker is no measure: when more than ten seconds have passed since the last collection, the worker runs `gc.collect()`
right behind it and holds the interpreter for 0.3 s; on an H100's host that message left the server only then. With prompts of ten
seconds that is every second one, on either side, by chance: 3 % by the toss of a coin. It is waited for all the same and kept as
`free_s`, where whoever suspects that one side works on after its success finds it.
"""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..installation.server_process import Server, ServerError
from .messages import Messages

# The worker reaches its collection within this. Where the last message leaves before it (two cores, no GPU), a prompt of 0.15 s that was
# posted straight after it took 0.46 s.
BEFORE_COLLECTION_S = 0.05


@dataclass(slots=True)
class Ran:
    """One prompt of the queue. Seconds since the queue was posted; `nodes` are (id, start, end); `free_s`: the server said it was over."""

    prompt_id: str
    nodes: list[tuple[str, float, float]] = field(default_factory=list)
    end_s: float = 0.0
    free_s: float = 0.0


Event = tuple[float, str, Mapping[str, Any]]


def run_queue(server: Server, graphs: Sequence[Mapping[str, Any]], timeout_s: float) -> tuple[float, list[Ran]]:
    """Seconds to the last success, and each prompt. Raises ServerError when one is refused or fails, the server dies, or time is over."""
    client = uuid.uuid4().hex
    try:
        with Messages(server.port, f"/ws?clientId={client}") as messages:
            started_s = time.perf_counter()
            ran: dict[str, Ran] = {}
            for graph in graphs:
                answer = json.loads(server.post("/prompt", {"prompt": graph, "client_id": client}))
                ran[answer["prompt_id"]] = Ran(answer["prompt_id"])
            follow(_events(server, messages, started_s, timeout_s), ran, server.tail)
            _let_collect(server)
            return max(one.end_s for one in ran.values()), list(ran.values())
    except OSError as error:
        with suppress(subprocess.TimeoutExpired):
            server.process.wait(2.0)  # a dying server closes its connections a moment before it is gone
        server.check()
        raise ServerError(f"ComfyUI closed the connection ({error}); the end of its log:\n{server.tail()}") from error


def follow(events: Iterable[Event], ran: Mapping[str, Ran], log: Callable[[], str]) -> None:
    """Fill in the prompts until the server is done with each. Raises ServerError, with the log's end, for one that does not succeed."""
    left = set(ran)
    running: tuple[str, float] | None = None
    for now_s, kind, data in events:
        one = ran.get(data.get("prompt_id", ""))
        if one is None:
            continue
        if kind in ("execution_error", "execution_interrupted"):
            what = f"{data.get('node_type')} {data.get('node_id')} failed: {data.get('exception_message', kind)}"
            raise ServerError(f"{what}\nthe end of the log:\n{log()}")
        if kind not in ("executing", "execution_success"):
            continue
        if running:
            one.nodes.append((*running, now_s))
        running = None
        if kind == "execution_success":
            one.end_s = now_s
        elif data["node"] is not None:
            running = data["node"], now_s
        elif not one.end_s:
            raise ServerError(f"prompt {one.prompt_id} is over without execution_success; the end of the log:\n{log()}")
        else:
            one.free_s = now_s
            left.discard(one.prompt_id)
            if not left:
                return


def _let_collect(server: Server) -> None:
    """Until the interpreter is not held by a collection, so that the next prompt is not posted into it: an answer is only given then."""
    time.sleep(BEFORE_COLLECTION_S)
    server.get("/prompt")


def _events(server: Server, messages: Messages, started_s: float, timeout_s: float) -> Iterator[Event]:
    """(seconds since the start, kind, data) of every message; looks once a second whether the server lives."""
    while (now_s := time.perf_counter() - started_s) < timeout_s:
        text = messages.next(min(1.0, timeout_s - now_s + 0.01))
        if text is None:
            server.check()
        else:
            message = json.loads(text)
            yield time.perf_counter() - started_s, message["type"], message["data"]
    raise ServerError(f"the prompts did not end within {timeout_s:.0f} s; the end of the log:\n{server.tail()}")
