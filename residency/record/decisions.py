"""The decisions of a prompt and the evictions that came of them, each with time, bytes, tier and reason, ready for JSON."""

from __future__ import annotations

from typing import Any

from ..core.component import Component, Tier
from ..core.events import Evicted
from ..core.instructions import Cancel, Evict, Exchange, Instruction, Prefetch, Wait

_KINDS = {Prefetch: "prefetch", Exchange: "exchange", Cancel: "cancel", Wait: "wait", Evict: "evict"}
_ONLOAD = "onload"  # a Prefetch of what the running node computes with


class Decisions:
    """Two lists of at most `most_records` each. Times are seconds since the prompt's start."""

    def __init__(self, most_records: int) -> None:
        self.decided: list[dict[str, Any]] = []
        self.evictions: list[dict[str, Any]] = []
        self.evicted_bytes = 0
        self.dropped = 0
        self._most_records = most_records

    def instructed(self, instruction: Instruction, now_s: float) -> None:
        """The manager has given an instruction."""
        size_bytes = 0 if isinstance(instruction, Cancel) else instruction.size_bytes
        own = isinstance(instruction, Prefetch) and not instruction.ahead
        kind = _ONLOAD if own else _KINDS[type(instruction)]
        self.add(kind, instruction.component, instruction.tier, size_bytes, instruction.reason, now_s)

    def add(self, kind: str, component: Component, tier: Tier, size_bytes: int, reason: str, now_s: float) -> None:
        """A decision, whoever has made it."""
        told = {"time_s": now_s, "kind": kind, "component": component.key, "tier": tier.value}
        self._append(self.decided, {**told, "size_bytes": size_bytes, "reason": reason})

    def evicted(self, event: Evicted, now_s: float) -> None:
        """Bytes have left a tier."""
        self.evicted_bytes += event.freed_bytes
        told = {"component": event.component, "tier": event.tier.value, "time_s": now_s}
        self._append(self.evictions, {**told, "freed_bytes": event.freed_bytes, "reason": event.reason})

    def _append(self, records: list[dict[str, Any]], record: dict[str, Any]) -> None:
        if len(records) < self._most_records:
            records.append(record)
        else:
            self.dropped += 1
