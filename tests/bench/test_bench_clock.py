"""The device's clock, as a program of nvidia-smi's name tells it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from residency.bench.clock import DeviceClock


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_the_mean_of_what_was_told_since_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf '1000\\n[N/A]\\n2000\\n'\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    began_s = time.monotonic()
    with DeviceClock() as clock:
        while clock.mhz(began_s) != 1500 and time.monotonic() < began_s + 20:
            time.sleep(0.01)
        assert clock.mhz(began_s) == 1500
        assert clock.mhz(time.monotonic() + 1) is None


def test_without_the_program_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with DeviceClock() as clock:
        assert clock.mhz(0.0) is None
