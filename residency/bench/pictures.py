"""The sides' timelines one above the other for each scenario: stock as a client saw it, the others as the pack's traces tell."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..record.image import html
from .results import PACK, STOCK
from .traces import coloured_alike


class PictureError(Exception):
    """Pictures that cannot be drawn here. The message names the missing package."""


def draw(results: Mapping[str, Any], folders: Sequence[Path], into: Path) -> list[Path]:
    """Write NAME.png and NAME.html for every scenario that has both sides' traces in one of the folders; returns their paths."""
    try:
        from ..record.png import png
    except ImportError as error:
        raise PictureError("--png needs Pillow: pip install pillow, or draw on another machine with --from results.json") from error

    into.mkdir(parents=True, exist_ok=True)
    written = []
    for name in results["scenarios"]:
        found = [path for folder in folders if (path := folder / f"{name}.json").is_file()]
        told = json.loads(found[-1].read_text(encoding="utf-8")) if found else {}
        if STOCK in told and PACK in told:
            others = [(f"{name}, {side}", trace) for side, trace in told.items() if side not in (STOCK, PACK)]
            drawn = [(f"{name}, stock", coloured_alike(told[STOCK], told[PACK])), *others, (f"{name}, pack", told[PACK])]
            paths = [into / f"{name}.png", into / f"{name}.html"]
            paths[0].write_bytes(png(drawn))
            paths[1].write_text(html(drawn), encoding="utf-8")
            written += paths
    return written
