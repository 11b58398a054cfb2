"""The host memory that everything but weights has needed lately, and that copies of weights leave: measured, not a share of the machine.

Page cache may hold files in it, for the kernel takes that back at once."""

from __future__ import annotations

from collections import deque

from .machine import SMALL_BYTES, headroom_share

MARGIN_BYTES = 1024**3
UNKNOWN_BYTES = 4 * 1024**3  # before a prompt has been seen to its end
PROMPTS = 4


def idle_bytes(total_bytes: int) -> int:
    """Bytes of all memory that reading ahead leaves to nobody: more on a small machine, where others have little else."""
    return int(headroom_share(total_bytes) * total_bytes) if total_bytes <= SMALL_BYTES else MARGIN_BYTES


class MeasuredNeed:
    """The largest fall, within one prompt, of the bytes that would be available without the copies of weights that the process holds.

    Those copies are planned for; images, activations, caches and other programs remain. `total_bytes` is all memory. A need seen once, of
    any program, is no reason to leave more idle than the machine's share; on a small machine that is left in any case.
    """

    def __init__(self, total_bytes: int) -> None:
        self._most_bytes = int(headroom_share(total_bytes) * total_bytes)
        self._least_bytes = self._most_bytes if total_bytes <= SMALL_BYTES else 0
        self._highest_bytes: int | None = None  # of the prompt that runs
        self._fall_bytes = 0
        self._seen = False
        self._falls: deque[int] = deque(maxlen=PROMPTS)

    @property
    def reserve_bytes(self) -> int:
        """Bytes that are to be left."""
        known = max((*self._falls, self._fall_bytes), default=0) if self._falls else max(UNKNOWN_BYTES - MARGIN_BYTES, self._fall_bytes)
        return max(self._least_bytes, min(self._most_bytes, known + MARGIN_BYTES))

    def prompt_begins(self) -> None:
        if self._seen:
            self._falls.append(self._fall_bytes)
        self._highest_bytes, self._fall_bytes, self._seen = None, 0, False

    def look(self, available_bytes: int, copies_bytes: int) -> None:
        """Take note of the available bytes, and of the bytes of weights' copies that the process holds beside them."""
        without_bytes = available_bytes + copies_bytes
        if self._highest_bytes is None:
            self._highest_bytes = without_bytes
            return
        self._seen = True
        self._highest_bytes = max(self._highest_bytes, without_bytes)
        self._fall_bytes = max(self._fall_bytes, self._highest_bytes - without_bytes)
