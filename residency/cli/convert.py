"""`python -m residency convert`: a workflow with this pack's nodes instead of ComfyUI's own, or back."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..units import UsageError
from ..workflow.convert import to_core, to_residency
from ..workflow.core_nodes import core_nodes
from ..workflow.file import parse_workflow, read_documents


def register(commands: Any) -> None:
    """The subparser of the command line."""
    parser = commands.add_parser("convert", help="put this pack's nodes in place of ComfyUI's own in a workflow, or back")
    parser.add_argument("workflow", help="a workflow file, saved or exported (API), or a picture (PNG, WebP) that ComfyUI saved")
    parser.add_argument("--back", action="store_true", help="to ComfyUI's own nodes: for a ComfyUI without this pack")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write it (default: print it)")
    parser.set_defaults(run=command)


def command(options: argparse.Namespace) -> int:
    data = read_documents(options.workflow)[0]
    parse_workflow(data, options.workflow)  # says what is wrong with a file that is no workflow
    converted = (to_core if options.back else to_residency)(data, core_nodes().keys())
    for note in converted.notes:
        print(" ".join(note.splitlines()), file=sys.stderr)
    result = json.dumps(converted.data, indent=1, ensure_ascii=False)
    encoding = "utf-8" if options.output else sys.stdout.encoding or "utf-8"
    try:
        result.encode(encoding)
    except UnicodeEncodeError:  # half a surrogate pair, or a terminal that knows few characters
        result = json.dumps(converted.data, indent=1)
    if not options.output:
        print(result)
        return 0
    try:
        Path(options.output).write_text(result + "\n", encoding=encoding)
    except OSError as error:
        raise UsageError(f"{options.output}: cannot be written ({error.strerror}); give another place with --output") from error
    print(f"{converted.changed} nodes converted: {options.output}")
    return 0
