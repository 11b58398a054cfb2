"""How large the demo's models are on this machine: large enough that reading them shows, small enough for its drive, RAM and patience."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection
from pathlib import Path

from ..transfers import measure_read_rate

SIZES_MIB = (150, 300, 600, 1200)  # of one expert
OTHER_MIB = 240  # text encoder and VAE, always
READ_S = 0.6  # one step of a sampler takes about as long on two cores: 0.75 s with 600 MiB, whose files a drive of 2.5 GB/s reads in 0.6 s
USUAL_MIB = 300  # where the drive's rate cannot be measured

_PROBE_BYTES, _BLOCK_BYTES = 256 << 20, 8 << 20


def files_bytes(expert_mib: int) -> int:
    """Of the two experts, the text encoder and the VAE, about."""
    return (2 * expert_mib + OTHER_MIB) << 20


def choose_mib(drive_bytes_per_s: float, ram_bytes: int, disk_bytes: int, there: Collection[int] = ()) -> int | None:
    """The size of one expert in MiB: the bytes that this drive reads in READ_S, rounded down to one of SIZES_MIB; rate 0: not known.

    Files and a copy of them have to fit into the RAM that is available, new files into the disk's free space; None where not even the
    smallest does. Sizes that are `there` from earlier runs need no disk, and are used where they are near enough: a rate that was measured
    a little higher makes no gigabytes of new files.
    """
    fits = [mib for mib in SIZES_MIB if 2 * files_bytes(mib) <= ram_bytes and (mib in there or files_bytes(mib) <= disk_bytes)]
    if not fits:
        return None
    limit_bytes = drive_bytes_per_s * READ_S if drive_bytes_per_s > 0 else files_bytes(USUAL_MIB)
    wished = max((mib for mib in fits if files_bytes(mib) <= limit_bytes), default=fits[0])
    near = [mib for mib in fits if mib in there and wished <= 2 * mib <= 4 * wished]
    return wished if wished in there or not near else max(near)


def measure_drive(folder: Path) -> float:
    """Bytes per second of cold reading there, from a file that is written for it and removed; 0.0 where the page cache cannot be emptied.

    Raises OSError where nothing can be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    block = os.urandom(_BLOCK_BYTES)  # no file system compresses it
    with tempfile.TemporaryDirectory(prefix="drive-", dir=folder) as place:
        path = Path(place, "probe")
        with open(path, "wb") as file:
            file.writelines(block for _ in range(_PROBE_BYTES // _BLOCK_BYTES))
            file.flush()
            os.fsync(file.fileno())
        return max(measure_read_rate(str(path), budget_s=2.0) for _ in range(3))  # other programs only ever slow it down
