"""`python -m residency doctor`: the pack's findings on this machine."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..findings import text
from ..installation import doctor
from ..installation.locate import find_comfyui
from ..units import UsageError


def register(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    parser = commands.add_parser("doctor", help="show what the pack finds on this machine, and which features fit this ComfyUI")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--url", metavar="URL", help="what a running server tells of itself and its last prompt, like http://127.0.0.1:8188"
    )
    parser.set_defaults(run=command)


def command(options: argparse.Namespace) -> int:
    if options.url:
        if options.json:
            raise UsageError("--json: a server tells text only; leave --json or --url out")
        print(doctor.ask_server(options.url), end="")
        return 0
    found = doctor.look(find_comfyui())
    if options.json:
        print(json.dumps([{"topic": fact.topic, "name": fact.name, "value": fact.value} for fact in found], indent=1))
    else:
        print(text(found))
    return 0
