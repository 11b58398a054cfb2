"""The sides of a run, as the command line asks for them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from residency.bench import ways
from residency.bench.ways import Way, WayError
from residency.cli.main import main
from residency.installation.locate import PACK

GIT = ("git",)


def test_a_word_is_a_variable_a_setting_or_an_argument():
    way = ways.parse("short=PYTHONPATH='/a b' read_threads=4 mode=prefetch --reserve-vram 2")
    assert way == Way("short", PACK, {"PYTHONPATH": "/a b"}, {"read_threads": 4, "mode": "prefetch"}, ("--reserve-vram", "2"))
    assert way.told().endswith(" with PYTHONPATH=/a b read_threads=4 mode=prefetch --reserve-vram 2")


def test_the_pack_comes_last_and_what_stands_beside_it_between(tmp_path: Path):
    (tmp_path / "residency").mkdir()
    (tmp_path / "__init__.py").touch()
    asked = [ways.earlier(tmp_path), ways.parse("slow=read_threads=1")]
    assert [way.side for way in ways.choose(asked)] == ["stock", "before", "slow", "pack"]
    assert [way.side for way in ways.choose(asked, ["pack", "slow"])] == ["slow", "pack"]
    assert ways.choose(asked)[1].told() == f"the pack in {tmp_path.name}" and ways.choose(())[0].told() == "without the pack"


def test_a_checkout_is_told_by_its_commit_and_a_folder_inside_one_by_its_name(tmp_path: Path):
    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        return subprocess.run([*GIT, *who, "-C", str(tmp_path), *words], check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    (tmp_path / "file").touch()
    (tmp_path / "inside").mkdir()
    git("add", ".")
    git("commit", "-m", "first")
    assert ways.revision(tmp_path) == git("rev-parse", "--short", "HEAD") and ways.revision(tmp_path / "inside") is None
    (tmp_path / "file").write_text("changed")
    assert ways.revision(tmp_path) == git("rev-parse", "--short", "HEAD") + "-dirty"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--way", "fast"], "'fast' does not say what is different"),
        (["--way", "fast="], "does not say what is different"),
        (["--way", "A b=--cpu"], "does not say what is different"),
        (["--way", "a='"], "No closing quotation"),
        (["--way", "pack=--cpu"], "two sides are called 'pack'"),
        (["--way", "a=--cpu", "--way", "a=--fast"], "two sides are called 'a'"),
        (["--sides", "stock,other"], "no side 'other'; choose from stock, pack"),
        (["--before", "nowhere"], "--before is nowhere"),
    ],
)
def test_a_side_that_cannot_be_run_ends_with_status_2_and_one_line(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *arguments]) == 2
    said = capsys.readouterr()
    assert told in said.err and said.err.count("\n") == 1


def test_what_is_wrong_with_a_folder_is_said_by_its_name(tmp_path: Path):
    with pytest.raises(WayError, match=tmp_path.name):
        ways.earlier(tmp_path)
