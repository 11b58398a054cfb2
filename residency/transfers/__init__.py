"""The mover of the host tier, and knowledge of this machine's memory, page cache and drives."""

from ._interface import HostMemory
from .disk import ReadAhead
from .drive import drive_of, is_rotational, measure_read_rate, single_reader
from .memory import available_bytes, host_memory, pressure
from .pagecache import cached_bytes

__all__ = [
    "HostMemory",
    "ReadAhead",
    "available_bytes",
    "cached_bytes",
    "drive_of",
    "host_memory",
    "is_rotational",
    "measure_read_rate",
    "pressure",
    "single_reader",
]
