"""Models of random weights, made by the Python that runs ComfyUI: its process's lines are heard as they come, and quoted when it fails."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from .locate import ComfyUI
from .server_process import ServerError

Made = Callable[[str, int, int], None]
"""(the file that is being made, done, total)."""


def make(
    comfyui: ComfyUI, arguments: Sequence[str], made: Made, note: Callable[[str], None] | None = None, cwd: Path | None = None
) -> None:
    """Run a maker to its end; it ends with this process. Raises ServerError with the last of its other lines."""
    command = [str(comfyui.python), *arguments]
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    said = []
    assert process.stdout is not None
    try:
        for line in process.stdout:
            words = line.split()
            if len(words) == 4 and words[0] == "made":
                made(words[3], int(words[1]), int(words[2]))
            elif note is not None and words[:1] == ["note"]:
                note(line.removeprefix("note ").rstrip())
            else:
                said.append(line)
        status = process.wait()
    finally:  # also when interrupted
        process.kill()
        process.wait()
    if status != 0:
        raise ServerError(f"{comfyui.python} could not make the models (status {status}):\n{''.join(said[-15:]).rstrip()}")
