"""Servers of one machine read a drive in turn, and share its memory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from residency.core.component import Component, Extent, Tier
from residency.core.events import TransferDone
from residency.core.instructions import Prefetch
from residency.transfers import ReadAhead, memory
from residency.transfers.turns import TURNS_VARIABLE, Turn, turn_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no file locks of this kind")

HOLDER = """
import sys
from pathlib import Path
from residency.transfers.turns import Turn
assert Turn(Path(sys.argv[1]), "drive").take()
print("taken", flush=True)
sys.stdin.read()
"""


def test_a_turn_is_one_servers_and_comes_back_from_one_that_was_killed(tmp_path: Path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as other:
        assert other.stdout is not None and other.stdout.readline() == b"taken\n"
        mine = Turn(tmp_path, "drive")
        assert not mine.take()
        assert Turn(tmp_path, "another drive").take()
        other.kill()
        other.wait()
        assert mine.take() and mine.take()
        assert not Turn(tmp_path, "drive").take()
        mine.give_back()
        assert Turn(tmp_path, "drive").take()


def test_without_a_folder_nobody_waits_and_one_that_is_missing_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(TURNS_VARIABLE, raising=False)
    assert turn_of("drive") is None
    assert Turn(tmp_path / "missing", "drive").take()


def test_read_ahead_waits_for_its_turn_and_can_be_stopped_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "model"
    path.write_bytes(b"x" * 100_000)
    component = Component("a", "a", "MODEL", 100_000, (Extent(str(path), 0, 100_000),))
    (tmp_path / "turns").mkdir()
    monkeypatch.setenv(TURNS_VARIABLE, str(tmp_path / "turns"))
    answers: list[object] = []
    answered = threading.Event()

    def post(answer: object) -> None:
        answers.append(answer)
        answered.set()

    mover = ReadAhead(post)
    others = [Turn(tmp_path / "turns", drive) for drive in _drives(path)]
    assert all(one.take() for one in others)
    mover.prefetch(Prefetch(component, Tier.HOST, 100_000, "a test"))
    assert not answered.wait(0.3)
    for one in others:
        one.give_back()
    assert answered.wait(10)
    (answer,) = answers
    assert isinstance(answer, TransferDone) and answer.present_bytes == 100_000
    assert all(one.take() for one in others)  # it was given back
    answered.clear()
    mover.prefetch(Prefetch(component, Tier.HOST, 100_000, "a test"))
    mover.stop("a", "no longer needed")
    assert answered.wait(10)
    mover.close()


def _drives(path: Path) -> list[str]:
    from residency.transfers import drive_of

    return [drive_of(str(path))]


@pytest.mark.parametrize(("servers", "share"), [("", 12), ("2", 6), ("3", 4), ("0", 12), ("two", 12)])
def test_servers_of_one_machine_do_not_plan_with_the_same_bytes(servers: str, share: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(memory.SERVERS_VARIABLE, servers)
    assert memory.share(12) == share
