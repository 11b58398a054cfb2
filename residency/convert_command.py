"""`python -m residency convert`: a workflow with this pack's nodes instead of ComfyUI's own, or back."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .convert import to_core, to_residency
from .core_nodes import core_nodes
from .workflow import WorkflowError, parse_workflow


def register(commands: Any) -> None:
    """The subparser of the command line."""
    parser = commands.add_parser("convert", help="put this pack's nodes in place of ComfyUI's own in a workflow, or back")
    parser.add_argument("workflow", help="a workflow file, saved or exported (API)")
    parser.add_argument("--back", action="store_true", help="to ComfyUI's own nodes: for a ComfyUI without this pack")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write it (default: print it)")
    parser.set_defaults(run=command)


def command(options: argparse.Namespace) -> int:
    try:
        text = Path(options.workflow).read_text(encoding="utf-8-sig")
        data = json.loads(text)
        parse_workflow(data, options.workflow)  # says what is wrong with a file that is no workflow
    except (OSError, ValueError, RecursionError) as error:
        print(f"{options.workflow}: {error}; give a workflow saved as .json", file=sys.stderr)
        return 2
    except WorkflowError as error:
        print(error, file=sys.stderr)
        return 2
    converted = (to_core if options.back else to_residency)(data, core_nodes().keys())
    for note in converted.notes:
        print(note, file=sys.stderr)
    result = json.dumps(converted.data, indent=1, ensure_ascii=False)
    if options.output:
        Path(options.output).write_text(result + "\n", encoding="utf-8")
        print(f"{converted.changed} nodes converted: {options.output}")
    else:
        print(result)
    return 0
