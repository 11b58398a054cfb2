"""The command line. Exit status 0 when done, 1 when something failed on the way, 2 for input that cannot be used, 130 when interrupted."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import __version__
from .commands import demo, doctor, plan, replay, simulate
from .commands.units import UsageError
from .locate import LocateError
from .profiles import command as profiles
from .workflow import WorkflowError

COMMANDS = (demo, plan, simulate, replay, profiles, doctor)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    about = "Residency: weights where they are needed, before they are needed."
    parser = argparse.ArgumentParser(prog="python -m residency", description=about)
    parser.add_argument("--version", action="version", version=f"residency {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.register(commands)
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
    except (LocateError, WorkflowError, UsageError) as error:
        print(f"residency: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("residency: interrupted", file=sys.stderr)
        return 130
    return status
