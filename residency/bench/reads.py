"""Bytes that a server has had read from its drive.

The kernel counts a read where it is handed to the drive, for the task that waits for it: a page fault in a mapped file with the read-ahead
that it sets off, `read`, a direct read, a page that comes back from swap, in every thread; nothing that the page cache answers. The sectors
of the block device would count the same and the reads of every other process.
"""

from __future__ import annotations

from pathlib import Path


def drive_bytes(pid: int) -> int | None:
    """Bytes read from drives for this process since its start; None where the system does not tell (not Linux, another user's process)."""
    try:
        text = Path(f"/proc/{pid}/io").read_text(encoding="ascii")
    except OSError:
        return None
    told = dict(line.split(": ") for line in text.splitlines())
    return int(told["read_bytes"]) if "read_bytes" in told else None


class Reads:
    """Of one process, from one question to the next."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before = drive_bytes(pid)

    def since(self) -> int | None:
        """Bytes since this was asked last, or since the beginning; None where nobody can tell."""
        before, self._before = self._before, drive_bytes(self._pid)
        return None if before is None or self._before is None else self._before - before
