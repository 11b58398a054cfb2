"""Bytecodes that Python runs, by file: what a change of the code saves is the same on every machine, and the same when it is busy.

They weigh 9 ns each on two old cores, with what they call in C. `core.py --bytecodes` and `overhead.py --bytecodes` count them.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

REPO = Path(__file__).resolve().parents[1]


def counted(run: Callable[[], object]) -> Counter[str]:
    """By path of the file, as Python names it. Of this thread; takes fifty times as long."""
    found: Counter[str] = Counter()

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            found[frame.f_code.co_filename] += 1
        return trace

    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(None)
    return found


def shown(added: Counter[str], count: int, what: str) -> str:
    """A line for the sum and one for each file of this project, for each of `count` uses or nodes."""
    ours = {Path(path).relative_to(REPO): one for path, one in added.items() if Path(path).is_relative_to(REPO)}
    lines = [f"{added.total() / count:8.0f}  bytecodes a {what}"]
    return "\n".join(
        [*lines, *(f"{one / count:8.0f}  {path}" for path, one in sorted(ours.items(), key=lambda row: -row[1]) if one >= count)]
    )
