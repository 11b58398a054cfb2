"""The single authority on the bytes of one tier.

Counted: the bytes of components there and those reserved for transfers in flight. Not counted: the bytes of others; they move the limit.
Written by the tier's TierState alone, in step with its records.
"""

from __future__ import annotations


class Budget:
    """Bytes of one tier: `limit_bytes` may shrink below `used_bytes`, then `available_bytes` is negative until something leaves."""

    __slots__ = ("coming_bytes", "limit_bytes", "used_bytes")

    def __init__(self, limit_bytes: int) -> None:
        if limit_bytes < 0:
            raise ValueError(f"a budget cannot be negative: {limit_bytes} bytes; use 0 to hold nothing")
        self.limit_bytes = limit_bytes
        self.used_bytes = 0  # held and coming
        self.coming_bytes = 0  # reserved for transfers that have not ended

    @property
    def available_bytes(self) -> int:
        """Bytes that may still be reserved; negative when the limit has shrunk under the used ones."""
        return self.limit_bytes - self.used_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes on the tier, without those that are still to come."""
        return self.used_bytes - self.coming_bytes
