"""What every story of mover_driver.py must tell, on a device of plain memory and on a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from residency.installation import script
from residency.installation.locate import ComfyUI

STORIES = ("brings", "evicts", "exchanges", "leaves out", "is interrupted", "no host memory", "weights change", "lives")
FAILURES = ("a copy fails", "an exchange fails")
CLOSINGS = ("closes", "closes in an exchange", "closes before each", "closes before each exchange")


def answer(comfyui: ComfyUI, scratch: Path, trials: int, *device: str) -> dict[str, Any]:
    driver = Path(__file__).with_name("mover_driver.py")
    longest_s = 560 if device else 900
    found: dict[str, Any] = script.answer(comfyui, driver, comfyui.path, scratch, trials, *device, timeout_s=longest_s)
    return found


def check_story(told: dict[str, Any]) -> None:
    """No module computes with other bytes than its own, every instruction is answered, every slot is in use or free, the headroom is left,
    and no copy meets a page that was given back meanwhile."""
    assert {key: told[key] for key in ("wrong", "unanswered", "lost", "taken", "unmapped")} == {
        "wrong": 0,
        "unanswered": 0,
        "lost": 0,
        "taken": 0,
        "unmapped": 0,
    }


def check_failure(told: dict[str, Any]) -> None:
    """A copy that fails is answered with the reason, and ComfyUI loads what it misses."""
    assert told["succeeded"] == 0 and told["reasons"] == ["RuntimeError: the copy failed"]
    assert (told["wrong"], told["unanswered"], told["lost"]) == (0, 0, 0)


def check_closing(told: dict[str, Any]) -> None:
    """Closing in the middle of a copy waits for it; all is answered, nothing is taken for a failure, and ComfyUI goes on."""
    assert told == {"wrong": 0, "unanswered": 0, "failures": 0, "closed": True}


def check_hanging(told: dict[str, Any]) -> None:
    """Nobody who comes for a device that hangs waits for longer than a moment, and nothing is wrong when it answers again."""
    assert told["ended"] == told["came"] != []
    check_story(told)
