"""A user's other way than installing the pack: stock with those of its options that keep more weights for their next use.

Which of them this ComfyUI has is asked from its own `--help`.
"""

from __future__ import annotations

import re
import subprocess

from ..installation.locate import ComfyUI
from ..installation.server_process import ServerError
from .ways import Way

HELP_TIMEOUT_S = 120.0
LEAST_FREE_GB = "2"  # of RAM; ComfyUI's own least
# Side, its arguments. `--cache-ram ACTIVE INACTIVE`: what no prompt uses now is kept until so little is free, too.
_SIDES = (
    ("high-ram", ("--high-ram",)),
    ("cache-ram", ("--cache-ram", LEAST_FREE_GB, LEAST_FREE_GB)),
    ("cache-lru", ("--cache-lru", "50")),
    ("reserve-vram", ("--reserve-vram", "0.1")),
)
CACHE_MODES = ("--cache-ram", "--cache-lru", "--cache-classic", "--cache-none", "--high-ram")  # ComfyUI takes one of them


def sides(comfyui: ComfyUI) -> list[Way]:
    """Stock with each of the options that its help names. Raises ServerError when it does not tell."""
    try:
        asked = subprocess.run(
            [str(comfyui.python), "main.py", "--help"],
            cwd=comfyui.path,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=HELP_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerError(f"{comfyui.path} does not tell its options: {error}") from error
    if asked.returncode:
        raise ServerError(f"{comfyui.path} does not tell its options (status {asked.returncode}):\n{asked.stderr[-800:]}")
    known = set(re.findall(r"--[a-z][a-z-]*", asked.stdout))
    return [Way(name, None, arguments=arguments) for name, arguments in _SIDES if arguments[0] in known]


def together(scenario: tuple[str, ...], way: tuple[str, ...]) -> list[str]:
    """Both as one command line: a side that says how ComfyUI caches says it in place of the scenario."""
    kept = list(scenario)
    if any(word in CACHE_MODES for word in way):
        for mode in (word for word in scenario if word in CACHE_MODES):
            start = kept.index(mode)
            end = next((at for at in range(start + 1, len(kept)) if kept[at].startswith("--")), len(kept))
            del kept[start:end]
    return [*kept, *way]
