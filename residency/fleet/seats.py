"""A ComfyUI server behind the door: its address now, its last word on its memory, the nodes and files that it lacks, and its answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

HANG_S = 600.0  # without progress for so long, a server is taken to hang
LACK_S = 60.0  # for so long a worker is not asked again for what it has refused


@dataclass(frozen=True, slots=True)
class Found:
    """The place of a worker's server (None: it is not up yet), and which: `life` is another one after every start."""

    life: str
    url: str | None


async def nothing() -> None:
    """Nobody ends it."""


@dataclass(slots=True)
class Seat:
    """A worker as the door sees it.

    `find()` tells where its server is now; None, or EndedError: the one that was there has ended. It raises LostError where nobody can
    tell. `end()` ends the server, busy or not. Workers of one `machine` share its memory and its page cache.
    """

    name: str
    find: Callable[[], Awaitable[Found | None]]
    end: Callable[[], Awaitable[object]] = nothing
    machine: str = ""
    node: str = ""
    found: Found | None = None
    silent_since_s: float | None = None
    ending: str = ""  # why its server is being ended
    failure: str = ""  # why it has none
    drained: bool = False
    state: Mapping[str, Any] | None = None
    state_at_s: float = -1e9
    owes: set[asyncio.Task[Any]] = field(default_factory=set)  # prompts that it was sent long ago, and whether it takes them
    lacks: dict[str, float] = field(default_factory=dict)  # what it has refused (see `wants`), and when that was

    @property
    def url(self) -> str | None:
        return self.found.url if self.found is not None else None

    @property
    def answers(self) -> bool:
        """Whether it may be asked: it is up, and has answered when it was asked last."""
        return self.url is not None and self.silent_since_s is None and not self.ending

    @property
    def hears(self) -> bool:
        """Whether a prompt may be sent there."""
        return self.answers and not self.owes

    @property
    def takes_prompts(self) -> bool:
        return self.hears and not self.drained

    def is_now(self, found: Found | None) -> None:
        """Its server has ended, or is another one."""
        self.found, self.state, self.state_at_s, self.silent_since_s, self.ending = found, None, -1e9, None, ""
        self.lacks.clear()

    def lacking(self, wanted: Iterable[str], now_s: float) -> frozenset[str]:
        """The part of it that the worker has refused of late."""
        return frozenset(one for one in wanted if now_s - self.lacks.get(one, -1e9) < LACK_S)


@dataclass(slots=True)
class Answer:
    """An answer to a client."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(value: Any, status: int = 200) -> Answer:
        return Answer(status, json.dumps(value).encode(), {"content-type": "application/json"})

    @property
    def json(self) -> Any:
        """Its body, decoded; None for an error, and where it is no JSON."""
        if self.status != 200:
            return None
        try:
            return json.loads(self.body)
        except ValueError:
            return None


def refusal(status: int, message: str) -> Answer:
    """As ComfyUI refuses a prompt."""
    return Answer.of({"error": {"type": "fleet", "message": message, "details": "", "extra_info": {}}, "node_errors": {}}, status)


class EndedError(Exception):
    """A worker's server has ended; the message says why, where anybody knows."""


class LostError(Exception):
    """A worker did not answer. `delivered`: it may have heard the question all the same."""

    def __init__(self, message: str, *, delivered: bool = False) -> None:
        super().__init__(message)
        self.delivered = delivered


def wants(prompt: Any) -> frozenset[str]:
    """All that a server must have for the prompt, as far as its nodes tell by themselves: their classes, and files by name."""
    found = set()
    for node in prompt.values() if isinstance(prompt, dict) else ():
        if not isinstance(node, dict) or not isinstance(node.get("class_type"), str):
            continue
        found.add(f"node {node['class_type']}")
        inputs = node.get("inputs")
        found.update(f"{name} {value}" for name, value in (inputs.items() if isinstance(inputs, dict) else ()) if isinstance(value, str))
    return frozenset(found)


def lacks(answer: Answer) -> frozenset[str]:
    """The part of `wants` that a worker does not have, by its refusal of a prompt. Nothing where the prompt itself is wrong."""
    try:
        told = json.loads(answer.body)
        error = told["error"]
        if error["type"] == "missing_node_type":
            return frozenset({f"node {error['extra_info']['class_type']}"})
        found = set()
        for node in told["node_errors"].values():
            for one in node["errors"]:
                about = one["extra_info"]
                if one["type"] == "value_not_in_list" and isinstance(about["received_value"], str):
                    found.add(f"{about['input_name']} {about['received_value']}")
        return frozenset(found)
    except (ValueError, KeyError, TypeError, AttributeError):
        return frozenset()
