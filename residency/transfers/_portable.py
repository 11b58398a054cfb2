"""A system whose page cache cannot be asked (Windows): nothing is known and nothing can be dropped; reading into it works all the same."""

from __future__ import annotations


def cached_in(fd: int, start: int, size_bytes: int) -> int | None:
    return None


def drop_in(fd: int, start: int, size_bytes: int) -> None:
    return None
