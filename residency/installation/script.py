"""A script run by ComfyUI's own Python, and the answer that it prints for the process that has started it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from .locate import ComfyUI

MARK = "ANSWER "  # before the JSON of the answer, which other lines may surround
TAIL = 3000  # characters


class ScriptError(Exception):
    """The script has given no answer. The message is the end of its stderr."""


def answer(comfyui: ComfyUI, script: Path | str, *words: object, timeout_s: float | None = None) -> Any:
    """The last answer of the script, called with these words. Raises ScriptError, and subprocess.TimeoutExpired after `timeout_s`."""
    command = [str(comfyui.python), str(script), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    answers = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if not answers:
        raise ScriptError(done.stderr[-TAIL:])
    return json.loads(answers[-1].removeprefix(MARK))
