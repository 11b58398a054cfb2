"""Scarce memory and cold files: other processes hold memory that the server shall not have, the system forgets files.

The holders end with this process, however it ends: they wait on a pipe from it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from ..installation.locate import ComfyUI
from ..installation.server_process import ServerError
from ..transfers import pagecache
from ..transfers.memory import available_bytes
from .scenarios import Limits

HOLD_TIMEOUT_S = 180.0

# Both print how many bytes they hold, then wait until their input ends.
DEVICE = """
import sys, torch
torch.zeros(1, device="cuda")
held = max(0, torch.cuda.mem_get_info()[0] - int(sys.argv[1]))
block = torch.empty(held, dtype=torch.uint8, device="cuda")
torch.cuda.synchronize()
print(held, flush=True)
sys.stdin.read()
"""
# Locking fills the memory with zeros: 91 GB with one thread and small pages, and measuring the drive before, took 87 s on a lent machine.
_HOST = """
import ctypes, mmap, sys
from concurrent.futures import ThreadPoolExecutor
held, part = int(sys.argv[1]), 1 << 30
block = mmap.mmap(-1, held)
if hasattr(mmap, "MADV_HUGEPAGE"):
    block.madvise(mmap.MADV_HUGEPAGE)
address = ctypes.addressof(ctypes.c_char.from_buffer(block))
libc = ctypes.CDLL(None, use_errno=True)
def lock(start):
    failed = libc.mlock(ctypes.c_void_p(address + start), ctypes.c_size_t(min(part, held - start)))
    return ctypes.get_errno() if failed else 0
with ThreadPoolExecutor(8) as pool:
    failed = next((error for error in pool.map(lock, range(0, held, part)) if error), 0)
if failed:
    sys.exit(f"mlock: error {failed}")
print(held, flush=True)
sys.stdin.read()
"""


@contextmanager
def held(limits: Limits, comfyui: ComfyUI) -> Iterator[list[str]]:
    """Leave only so much free while inside; yields a sentence for each thing held. Raises ServerError when it cannot be held."""
    with ExitStack() as stack:
        told = []
        if limits.device_free_bytes is not None:
            got = stack.enter_context(holding([str(comfyui.python), "-c", DEVICE, str(limits.device_free_bytes)], "device memory"))
            told.append(f"another process holds {got / 1e9:.1f} GB of device memory")
        if limits.host_free_bytes is not None:
            surplus = max(0, available_bytes() - limits.host_free_bytes)
            got = stack.enter_context(holding([sys.executable, "-c", _HOST, str(surplus)], "locked RAM")) if surplus else 0
            told.append(f"another process holds {got / 1e9:.1f} GB of RAM, locked; {available_bytes() / 1e9:.1f} GB are available")
        yield told


class Holder:
    """The memory held now; changed while a server runs, but only to leave more free: memory that the server has taken nobody else can hold.

    Without `device` there is no device memory to hold.
    """

    def __init__(self, comfyui: ComfyUI, device: bool) -> None:
        self._comfyui = comfyui
        self._device = device
        self._limits: Limits | None = None
        self._stack = ExitStack()

    def leave(self, limits: Limits) -> list[str] | None:
        """Leave so much free from here on; a sentence for each thing held, None when that was so already. Raises ServerError."""
        if not self._device:
            limits = replace(limits, device_free_bytes=None)
        if limits == self._limits:
            return None
        self._stack.close()
        self._limits = None
        told = self._stack.enter_context(held(limits, self._comfyui))
        self._limits = limits
        return told

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


@contextmanager
def holding(command: Sequence[str], what: str) -> Iterator[int]:
    """The bytes that the process says it holds. Ended on leaving, at once."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        if not line.strip().isdigit():
            raise ServerError(f"cannot hold {what} (status {process.wait(HOLD_TIMEOUT_S)}): {process.stderr.read().strip()[-500:]}")
        yield int(line)
    finally:
        process.kill()
        process.communicate()


def make_cold(files: Sequence[Path]) -> int:
    """Have the system forget the files: everything it has cached where we may, else file by file. Returns the bytes not cached now."""
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3", encoding="ascii")
    except (AttributeError, OSError):  # not Linux, or not root
        pagecache.drop_files(files)
    return cold_bytes(files)


def cold_bytes(files: Sequence[Path]) -> int:
    """Bytes of the files that are not in the page cache, 0 where the system does not tell."""
    return pagecache.not_cached_bytes(files) or 0
