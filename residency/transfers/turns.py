"""Several servers of one machine read each drive in turn: a file that one of them has read is warm for the next.

Two that read one file at once would read all of it twice, and make the head of a drive that seeks jump. A turn lasts for one component.
The kernel takes it back from a process that ends. Without RESIDENCY_TURNS, a folder that all these servers name, nobody waits for anybody.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TURNS_VARIABLE = "RESIDENCY_TURNS"
LOOK_S = 0.05  # between two tries

log = logging.getLogger("residency")


class Turn:
    """Of one drive, for one process. Not thread-safe. Where the folder cannot be used, it is always ours."""

    def __init__(self, folder: Path, drive: str) -> None:
        self._path = folder / f"{hashlib.sha256(drive.encode()).hexdigest()[:16]}.turn"
        self._file: int | None = None

    def take(self) -> bool:
        """Whether it is ours now. Waits for nobody."""
        if self._file is not None:
            return True
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            log.warning("residency: drives are read without taking turns: %s (%s=%s)", error, TURNS_VARIABLE, self._path.parent)
            return True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        except OSError:  # a file system that knows no locks
            os.close(file)
            return True
        self._file = file
        return True

    def give_back(self) -> None:
        """Somebody else's."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def turn_of(drive: str) -> Turn | None:
    """None where nobody takes turns."""
    folder = os.environ.get(TURNS_VARIABLE)
    return Turn(Path(folder), drive) if folder and fcntl is not None else None
