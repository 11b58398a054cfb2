"""How fast the device's processors ran while a queue did: computing takes as long as their clock says, and heat and power slow it down.

One card took between 4.0 and 4.6 s for the same twenty steps with everything resident, with the pack and without.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from contextlib import suppress
from statistics import mean

COMMAND = ("nvidia-smi", "--query-gpu=clocks.sm", "--format=csv,noheader,nounits", "--loop-ms=200")


class DeviceClock:
    """From entering to leaving, the first device's clock by nvidia-smi; nothing where there is no nvidia-smi."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, float]] = []
        self._process: subprocess.Popen[str] | None = None
        self._reader = threading.Thread(target=self._read, name="residency bench clock", daemon=True)

    def mhz(self, since_s: float) -> float | None:
        """The mean since then, a time of `time.monotonic()`; None when nothing was seen."""
        told = [mhz for seen_s, mhz in self._seen if seen_s >= since_s]
        return mean(told) if told else None

    def __enter__(self) -> DeviceClock:
        first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
        with suppress(OSError):
            self._process = subprocess.Popen([*COMMAND, f"--id={first}"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._reader.join()
            self._process.communicate()

    def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            with suppress(ValueError):  # "[N/A]"
                self._seen.append((time.monotonic(), float(line)))
