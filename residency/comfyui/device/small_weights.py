"""Weights that a dynamic model has outside of its pages. ComfyUI reads them from the mapped file at each load, one after the other.

Where the page cache has lost them, each waits for the drive: 400 to 608 of a few KiB took 0.9 to 2.6 s while the drive was read for other
weights (LTX-2.3, one H100). Asked for all at once, before the load, they arrive together.
"""

from __future__ import annotations

import weakref
from contextlib import suppress
from typing import Any

from ...transfers.pagecache import announce_reads

SLICE = "_comfy_tensor_file_slice"  # of a storage: file handle, lock, offset and size in bytes

Ranges = dict[int, list[tuple[int, int]]]
"""(start, end) by file handle"""


class SmallWeights:
    """Of all models of one mover. On the executor's thread."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[Any, tuple[int, Ranges]] = weakref.WeakKeyDictionary()  # model -> of so many weights

    def announce(self, patcher: Any) -> None:
        """ComfyUI is about to load the model: it loads again what it has a backup of, the tensor in the file."""
        backup = getattr(patcher, "backup", None)
        if not backup or not patcher.is_dynamic():
            return
        count, ranges = self._known.get(patcher.model, (0, {}))
        if count != len(backup):
            ranges = _ranges(backup.values())
            self._known[patcher.model] = len(backup), ranges
        with suppress(OSError):  # a file that cannot be announced is read as before
            for handle, wanted in ranges.items():
                announce_reads(handle, wanted)


def _ranges(backups: Any) -> Ranges:
    found: Ranges = {}
    for one in backups:
        weight = getattr(one.weight, "_qdata", one.weight)  # of a quantized one; its scales stay in the process
        place = None if weight.is_meta else getattr(weight.untyped_storage(), SLICE, None)
        if place is not None and place.file_ref is not None:
            handle = place.file_ref if isinstance(place.file_ref, int) else place.file_ref.fileno()
            found.setdefault(handle, []).append((int(place.offset), int(place.offset + place.size)))
    return {handle: sorted(wanted) for handle, wanted in found.items()}
