"""`python -m residency doctor`: what the pack finds on this machine."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..installation import doctor
from ..installation.locate import find_comfyui


def register(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    parser = commands.add_parser("doctor", help="show what the pack finds on this machine, and which features fit this ComfyUI")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=command)


def command(options: argparse.Namespace) -> int:
    found = doctor.look(find_comfyui())
    if options.json:
        print(json.dumps([{"topic": fact.topic, "name": fact.name, "value": fact.value} for fact in found], indent=1))
    else:
        print(doctor.text(found))
    return 0
