"""The command line. Exit status 0 when done, 1 when something failed on the way, 2 for input that cannot be used, 130 when interrupted."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from io import TextIOWrapper
from typing import NoReturn

from .. import __version__
from ..installation.locate import LocateError
from ..units import UsageError
from ..workflow.file import WorkflowError
from . import bench, convert, demo, doctor, fleet, plan, profiles, replay, simulate

_NEGATIVE = re.compile(r"-\.?\d")

COMMANDS = (demo, plan, simulate, replay, profiles, bench, convert, doctor, fleet)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and where the usage is told."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"residency: {message}; see {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    about = "Residency: weights where they are needed, before they are needed."
    parser = _Parser(prog="python -m residency", description=about)
    parser.add_argument("--version", action="version", version=f"residency {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.register(commands)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names out of files may hold what no terminal can show
    options = parser.parse_args(list(_with_negatives(sys.argv[1:] if arguments is None else arguments)))
    try:
        status: int = options.run(options)
    except (LocateError, WorkflowError, UsageError) as error:
        print("residency:", " ".join(str(error).splitlines()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("residency: interrupted", file=sys.stderr)
        return 130
    return status


def _with_negatives(arguments: Iterable[str]) -> Iterator[str]:
    """`--vram -3GB` as one argument: argparse takes a value that begins with a dash for an option, and its error would not name the
    value."""
    option = ""
    for argument in arguments:
        if option and _NEGATIVE.match(argument):
            argument, option = f"{option}={argument}", ""
        if option:
            yield option
        is_open = argument.startswith("--") and "=" not in argument
        option = argument if is_open else ""
        if not is_open:
            yield argument
    if option:
        yield option
