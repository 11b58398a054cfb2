"""Figures of long runs, kept by the commands that made them; docs/reliability.md tells them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[2] / "benchmarks" / "results" / "reliability.json"


def recorded() -> dict[str, Any]:
    """By what was run: its figures."""
    return dict(json.loads(FILE.read_text(encoding="utf-8"))) if FILE.exists() else {}


def record(what: str, figures: dict[str, Any]) -> None:
    """These in place of the last ones. The page is written by `python tests/comfyui/faults.py`."""
    FILE.write_text(json.dumps(recorded() | {what: figures}, indent=1, sort_keys=True) + "\n", encoding="utf-8")
