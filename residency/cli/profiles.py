"""`python -m residency profiles`: shows the lessons of earlier runs, or forgets them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..installation.locate import find_comfyui
from ..profiles import Profiles, database_in
from ..units import size

_SQLITE = b"SQLite format 3\0"
SHOWN = 30  # rows of a table; --json has them all


def register(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    parser: argparse.ArgumentParser = commands.add_parser("profiles", help="show what earlier runs taught the pack, or forget it")
    parser.add_argument("--clear", action="store_true", help="forget everything; a running server notices before its next prompt")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--database", type=Path, metavar="PATH", help="the file (default: in the user folder of the ComfyUI found)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Exit status 0; 1 when the file cannot be opened for writing; 2 when there is no telling which file is meant, or it is no database."""
    path = options.database
    if path is None:
        found = find_comfyui()
        if found is None:
            print("residency: no ComfyUI found: name the file with --database", file=sys.stderr)
            return 2
        path = database_in(found.path / "user")
    try:
        with open(path, "rb") as file:
            start = file.read(len(_SQLITE))
    except FileNotFoundError:
        print(json.dumps(None) if options.json else f"{path}: nothing learned yet; a server with another user folder needs --database")
        return 0
    except OSError as error:
        print(f"residency: {path}: {error.strerror}", file=sys.stderr)
        return 2
    if start != _SQLITE:  # never moved aside on a typing error's account
        print(f"residency: {path} is no SQLite database: delete it if it is meant to hold profiles", file=sys.stderr)
        return 2
    profiles = Profiles.open(path)
    try:
        if profiles.off:  # the log has said why
            return 1
        if options.clear:
            dropped = profiles.clear()
            print(json.dumps({"cleared": dropped}) if options.json else f"{path}: forgot {dropped} rows")
        else:
            known = profiles.summary()
            print(json.dumps(known, indent=1) if options.json else text(known))
    finally:
        profiles.close()
    return 0


def text(known: dict[str, Any]) -> str:
    """The summary of Profiles as aligned tables."""
    lines = [f"{known['path']}: {size(known['size_bytes'])}, {known['tracks']} of at most {known['max_tracks']} tracks"]
    if known["off"]:
        lines.append(f"kept for this session only: {known['off']}")
    accuracy = [
        (one["quantity"], one["level"], str(one["predictions"]), f"{one['error']:.0%}", f"{one['inside_share']:.0%}")
        for one in known["accuracy"]
    ]
    lines += _table(("prediction of", "from the same", "answers", "mean error", "inside margin"), accuracy)
    classes = [
        (
            one["class_type"],
            one["environment"],
            _seconds(one["duration"]) if "duration" in one else "-",
            _bytes(one["peak"]) if "peak" in one else "-",
            str(one["duration" if "duration" in one else "peak"]["samples"]),
        )
        for one in known["classes"]
    ]
    lines += _table(("node class", "environment", "computes", "device peak", "runs"), classes)
    lines += _table(("component", "as loaded"), [(one["name"], size(one["value"])) for one in known["components"]])
    lines += _table(("drive or link", "rate"), [(one["name"], f"{_bytes(one)} /s") for one in known["rates"]])
    lines += _table(("node class", "uses"), [(one["class_type"], ", ".join(one["components"])) for one in known["loads"]])
    return "\n".join(lines)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    if not rows:
        return []
    shown = [head, *rows[:SHOWN]]
    widths = [max(len(row[column]) for row in shown) for column in range(len(head))]
    lines = ["", *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown)]
    return lines + ([f"and {len(rows) - SHOWN} more"] if len(rows) > SHOWN else [])


def _seconds(one: dict[str, Any]) -> str:
    return f"{one['value']:.3g} s ± {one['margin']:.2g}"


def _bytes(one: dict[str, Any]) -> str:
    return f"{size(one['value'])} ± {size(one['margin'])}"
