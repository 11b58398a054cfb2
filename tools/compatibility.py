"""Writes docs/compatibility.md: what the suite says on each version of what the pack runs in. One command for each of its tables.

    python tools/compatibility.py front-ends FOLDER …      the browser tests on each front end, in both of its renderers

FOLDER: `pip install --no-deps --target FOLDER comfyui-frontend-package==VERSION`. Needs a ComfyUI, playwright and a Chromium.

A table stands between two markers; only that is written anew, so that tables may be made on different machines.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "compatibility.md"
OUTCOMES = ("passed", "failed", "skipped")
COLUMNS = {"canvas": "canvas", "vue": "Vue nodes", "": "either"}  # what a test's id says → column

sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "comfyui")]


def suite(arguments: Sequence[str], **environment: str) -> Iterator[tuple[str, str]]:
    """(test id, outcome) of a pytest run. Raises SystemExit when the run itself failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junit-xml={report}", *arguments]
        ran = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=False)
        if ran.returncode > 1 or not report.is_file():
            sys.exit(f"pytest ended with status {ran.returncode}")
        for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 - our own file
            names = {child.tag for child in case}
            outcome = "failed" if names & {"failure", "error"} else "skipped" if "skipped" in names else "passed"
            yield case.get("name", ""), outcome


def parts(test_id: str) -> list[str]:
    """The parameters in a test's id."""
    found = re.search(r"\[(.*)\]$", test_id)
    return found.group(1).split("-") if found else []


def counts(outcomes: Iterable[str]) -> str:
    told = Counter(outcomes)
    return ", ".join(f"{told[outcome]} {outcome}" for outcome in OUTCOMES if told[outcome]) or "–"


def row(version: str, ran: Iterable[tuple[str, str]]) -> list[str]:
    """One front end: its version, and the outcomes of its tests in each of the COLUMNS."""
    mine = [(parts(test_id), outcome) for test_id, outcome in ran if version in parts(test_id)]
    drawn = [(next((part for part in found if part in COLUMNS), ""), outcome) for found, outcome in mine]
    return [version, *(counts(outcome for renderer, outcome in drawn if renderer == column) for column in COLUMNS)]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def replaced(document: str, name: str, text: str) -> str:
    """The document with `text` as its part `name`; at its end where it has none yet."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    part = f"{begin}\n{text}\n{end}"
    if begin not in document:
        return f"{document.rstrip()}\n\n{part}\n"
    before, rest = document.split(begin, 1)
    return before + part + rest.split(end, 1)[1]


def front_ends(folders: Sequence[str]) -> str:
    """The table of the front ends, oldest first."""
    import front_end

    environment = {"RESIDENCY_FRONT_ENDS": os.pathsep.join(os.path.abspath(folder) for folder in folders)}
    os.environ |= environment
    versions = sorted(front_end.front_ends(), key=lambda version: [int(part) for part in version.split(".")])
    ran = list(suite(["-m", "browser", "tests/comfyui"], **environment))
    return table(["front end", *COLUMNS.values()], [row(version, ran) for version in versions])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tables = parser.add_subparsers(dest="table", required=True)
    tables.add_parser("front-ends").add_argument("folders", nargs="+", metavar="FOLDER")
    asked = parser.parse_args(arguments)
    text = front_ends(asked.folders)
    document = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.is_file() else "# Compatibility\n"
    DOCUMENT.write_text(replaced(document, asked.table, text), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
