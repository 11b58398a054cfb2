"""The single authority on the bytes of one tier.

Counted: what components hold there and what is reserved for transfers in flight. Not counted: what others hold; they move the limit.
Not thread-safe: the manager that owns it handles one event at a time.
"""

from __future__ import annotations

from collections.abc import Mapping


class Budget:
    """Bytes of one tier: `limit_bytes` may shrink below what is held, then `available_bytes` is negative until something leaves."""

    def __init__(self, limit_bytes: int) -> None:
        if limit_bytes < 0:
            raise ValueError(f"a budget cannot be negative: {limit_bytes} bytes; use 0 to hold nothing")
        self.limit_bytes = limit_bytes
        self._held: dict[str, int] = {}
        self._reserved: dict[str, int] = {}
        self._used_bytes = 0

    @property
    def held(self) -> Mapping[str, int]:
        """Bytes on the tier by component, transfers in flight excluded."""
        return self._held

    @property
    def in_flight(self) -> Mapping[str, int]:
        """Bytes reserved by component for transfers that have not ended."""
        return self._reserved

    @property
    def used_bytes(self) -> int:
        """Held and reserved bytes."""
        return self._used_bytes

    @property
    def available_bytes(self) -> int:
        """Bytes that may still be reserved; negative when the limit has shrunk under what is used."""
        return self.limit_bytes - self._used_bytes

    def reserve(self, component: str, size_bytes: int) -> bool:
        """Set bytes aside for a transfer that is about to start; False, and nothing reserved, when they do not fit."""
        if component in self._reserved:
            raise ValueError(f"{component} is in flight already; settle it first")
        if size_bytes > self.available_bytes:
            return False
        self._reserved[component] = size_bytes
        self._used_bytes += size_bytes
        return True

    def settle(self, component: str, held_bytes: int) -> None:
        """The transfer has ended, or the host has seen what is there: the component now holds `held_bytes`."""
        self._used_bytes -= self._reserved.pop(component, 0) + self._held.pop(component, 0)
        if held_bytes > 0:
            self._held[component] = held_bytes
            self._used_bytes += held_bytes
