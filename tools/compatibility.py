"""Writes docs/compatibility.md: what the suite says on each version of what the pack runs in. One command for each of its tables.

    python tools/compatibility.py front-ends FOLDER …      the browser tests on each front end, in both of its renderers
    python tools/compatibility.py comfyui FOLDER           everything else on that ComfyUI, and whether images are the same with the pack
    python tools/compatibility.py comfyui FOLDER --aimdo FOLDER     the tests of the device on it, with another comfy-aimdo's Python
    python tools/compatibility.py comfyui FOLDER --tests server …   some of the files of tests/comfyui only; the row says which
    python tools/compatibility.py comfyui FOLDER --report FILE      nothing is run but the images: what pytest's --junit-xml holds of the
                                                                    whole suite on that ComfyUI
    python tools/compatibility.py later                    what later versions do, emulated: with the pack's guard and without
    python tools/compatibility.py device                   what a GPU has shown: benchmarks/results/aimdo.json
    python tools/compatibility.py device --aimdo VERSION FILE...   the same, with what `residency bench` has measured under that comfy-aimdo

FOLDER of a front end: `pip install --no-deps --target FOLDER comfyui-frontend-package==VERSION`, which needs playwright and a Chromium as
well; of comfy-aimdo the same with its name; of a ComfyUI: where its main.py is.

A table stands between two markers; only that is written anew, of ComfyUI's only the row, so that they may be made on different machines.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "compatibility.md"
MEASURED = ROOT / "benchmarks" / "results" / "aimdo.json"
TESTS = ROOT / "tests" / "comfyui"
OUTCOMES = ("passed", "failed", "skipped")
COLUMNS = {"canvas": "canvas", "vue": "Vue nodes", "": "either"}  # what a test's id says → column
COMFYUI_HEAD = ("ComfyUI", "comfy-aimdo", "tests", "files that fail", "off", "images with the pack and without")
LATER_HEAD = ("behaviour", "known here by", "with the guard", "without it", "test")
DEVICE_HEAD = ("comfy-aimdo", "workflow", "ComfyUI alone", "with the pack", "ratio", "images", "device")
OF_THE_DEVICE = ("later", "mover", "pages", "slices", "seams", "parts")  # whose drivers use comfy-aimdo's Python

# Behaviour that no tree here has and nothing here can stand in for: what is left open, and what the pack does about it.
UNKNOWN = (
    (
        "The real compiler, its graphs and its allocations on a GPU.",
        "what it does to the hooks is emulated, after a newer `model_prefetch.py`; a feature that it breaks is off by its proof",
    ),
    (
        "Pages that comfy-aimdo 0.6.0 writes out by itself (`pageout_callback`).",
        "nothing: 0.33 asks for none. Pages that come back otherwise have other serials, and are not used",
    ),
    (
        "Reads from a fast drive at each step, and their speed.",
        "the policy is emulated, the drive is not",
    ),
    (
        "Text encoders that always compute on the GPU under dynamic VRAM.",
        "nothing has to be done: each model is asked where it computes",
    ),
    (
        "Front ends 1.58.5 and 1.59.1, which ComfyUI 0.45 and 0.46 ask for.",
        "conversion compares what it has made with what it wanted, and gives the workflow back where they differ",
    ),
    ("Windows, macOS, AMD, Intel.", "see systems.md"),
)

sys.path[:0] = [str(ROOT), str(TESTS)]


class Case(NamedTuple):
    """One test of a run: the module that it stands in, its id there, one of the OUTCOMES."""

    module: str
    test_id: str
    outcome: str


def suite(arguments: Sequence[str], **environment: str) -> Iterator[Case]:
    """A pytest run. Raises SystemExit when the run itself failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junit-xml={report}", *arguments]
        ran = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=False)
        if ran.returncode > 1 or not report.is_file():
            sys.exit(f"pytest ended with status {ran.returncode}")
        yield from reported(report)


def reported(report: Path) -> Iterator[Case]:
    """What pytest's --junit-xml holds. Raises SystemExit for another file."""
    try:
        cases = list(ElementTree.parse(report).iter("testcase"))  # noqa: S314 - our own file
    except (OSError, ElementTree.ParseError) as error:
        sys.exit(f"{report} is no report of pytest's --junit-xml: {error}")
    for case in cases:
        names = {child.tag for child in case}
        outcome = "failed" if names & {"failure", "error"} else "skipped" if "skipped" in names else "passed"
        yield Case(case.get("classname", "").rpartition(".")[2], case.get("name", ""), outcome)


def parts(test_id: str) -> list[str]:
    """The parameters in a test's id."""
    found = re.search(r"\[(.*)\]$", test_id)
    return found.group(1).split("-") if found else []


def counts(outcomes: Iterable[str]) -> str:
    told = Counter(outcomes)
    return ", ".join(f"{told[outcome]} {outcome}" for outcome in OUTCOMES if told[outcome]) or "–"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rows_of(document: str, name: str) -> list[list[str]]:
    """The rows of a table that stands in the document; none where it does not."""
    found = re.search(rf"<!-- {name}: begin -->\n(.*?)\n<!-- {name}: end -->", document, re.DOTALL)
    lines = found.group(1).splitlines()[2:] if found else []
    return [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines]


def replaced(document: str, name: str, text: str) -> str:
    """The document with `text` as its part `name`; at its end where it has none yet."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    part = f"{begin}\n{text}\n{end}"
    if begin not in document:
        return f"{document.rstrip()}\n\n{part}\n"
    before, rest = document.split(begin, 1)
    return before + part + rest.split(end, 1)[1]


def numbers(version: str) -> list[int]:
    """A version to sort by."""
    return [int(part) for part in re.findall(r"\d+", version)]


# --- front ends ---


def row(version: str, ran: Iterable[Case]) -> list[str]:
    """One front end: its version, and the outcomes of its tests in each of the COLUMNS."""
    mine = [(parts(case.test_id), case.outcome) for case in ran if version in parts(case.test_id)]
    drawn = [(next((part for part in found if part in COLUMNS), ""), outcome) for found, outcome in mine]
    return [version, *(counts(outcome for renderer, outcome in drawn if renderer == column) for column in COLUMNS)]


def front_ends(folders: Sequence[str]) -> str:
    """The table of the front ends, oldest first."""
    import front_end

    environment = {"RESIDENCY_FRONT_ENDS": os.pathsep.join(os.path.abspath(folder) for folder in folders)}
    os.environ |= environment
    versions = sorted(front_end.front_ends(), key=numbers)
    ran = list(suite(["-m", "browser", "tests/comfyui"], **environment))
    return table(["front end", *COLUMNS.values()], [row(version, ran) for version in versions])


# --- ComfyUI and comfy-aimdo ---


def test_file(name: str) -> str:
    return str(TESTS / f"test_{name}.py")


def comfyui(folder: str, aimdo: str | None, names: Sequence[str] | None, report: Path | None = None) -> list[str]:
    """The row of this ComfyUI: measured now, with a report its images only."""
    from residency.installation.locate import find_comfyui

    environment = {"COMFYUI_PATH": os.path.abspath(folder)}
    if aimdo is not None:
        environment["PYTHONPATH"] = os.path.abspath(aimdo)
    os.environ |= environment
    found = find_comfyui()
    assert found is not None
    asked = "from importlib.metadata import version; print(version('comfy-aimdo'))"
    told = subprocess.run([str(found.python), "-c", asked], capture_output=True, text=True, check=False).stdout.strip()
    if report is not None:
        asked_for, files = "the whole suite", []
    elif names is not None:
        asked_for, files = ", ".join(names) or "none", [test_file(name) for name in names]
    elif aimdo:
        asked_for, files = "of the device", [test_file(name) for name in OF_THE_DEVICE]
    else:
        asked_for, files = "all but the browser", [str(TESTS)]
    ran = list(reported(report)) if report else list(suite(["-m", "comfyui and not browser", *files])) if files else []
    off, images = beside_stock(found)
    return [found.version, told or "none", *outcomes(ran, asked_for), off, images]


def with_row(document: str, own: Sequence[str]) -> str:
    """The table of ComfyUIs that stands in the document, with a row for this pair of versions, in their order."""
    rows = [one for one in rows_of(document, "comfyui") if one[:2] != list(own[:2])] + [list(own)]
    return table(COMFYUI_HEAD, sorted(rows, key=lambda one: (numbers(one[0]), numbers(one[1]))))


def outcomes(ran: Sequence[Case], asked: str) -> tuple[str, str]:
    """(which tests were asked for and how many passed, which files have one that failed)."""
    failed = Counter(case.module for case in ran if case.outcome == "failed")
    named = ", ".join(f"{module} ({count})" for module, count in sorted(failed.items())) or "none"
    return f"{asked}: {counts(case.outcome for case in ran)}", named


def beside_stock(found: Any) -> tuple[str, str]:
    """(what is off on the CPU, whether the images are the same as without the pack, and with it switched off)."""
    from comfy_story import mode, pixels, two_experts, without_models

    from residency.installation.server_process import ServerError, serve

    with tempfile.TemporaryDirectory() as folder:
        script = ROOT / "residency" / "comfyui" / "sample_models" / "tiny.py"
        making = [str(found.python), str(script), str(found.path), folder, "12", "more"]
        made = subprocess.run(making, check=False, capture_output=True).returncode == 0
        prompt = two_experts() if made else without_models()
        with serve(found, Path(folder), ["--cpu"], pack=None) as server:
            stock = [pixels(image) for image in server.run(prompt).images]
        with serve(found, Path(folder), ["--cpu"]) as server:
            with_it = {name: [pixels(image) for image in server.run(prompt, mode(name)).images] for name in ("auto", "off")}
            try:
                features = server.get_json("/residency/status")["features"]
                off = "; ".join(f"{one['name']} ({one['reason']})" for one in features if not one["on"]) or "nothing"
            except ServerError:  # it has no routes where it changes nothing
                off = next(line for line in server.log.read_text(encoding="utf-8").splitlines() if line.startswith("residency: off"))
    differ = [name for name, images in with_it.items() if images != stock]
    same = f"differ in mode {', '.join(differ)}" if differ else "identical"
    return off.replace("|", "/"), same if made else f"{same}, without models: it cannot make those of the suite"


# --- what later versions do ---


def later(comfyui_found: Any) -> str:
    """The table of behaviours: emulated ones from what their drivers tell now, and those that nobody knows."""
    import test_later
    import test_loops

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        told = {
            "later": test_later.told_of(comfyui_found, Path(folder)),
            "loop": test_loops.told_of(comfyui_found, Path(folder))["stories"],
        }
    for module, driver in (("test_later", "later"), ("test_loops", "loop")):
        path = TESTS / f"{module}.py"
        outcome, named = {case.test_id: case.outcome for case in suite([str(path)])}, tests_of(path)
        for name, story in told[driver].items():
            of = " ".join(story["of"].split()).partition(": ")[0].rstrip(".")
            rows.append([of, f"emulated: {driver}_driver, `{name}`", *story["shown"], passed(outcome, named.get(name, ()))])
    rows += [[of.rstrip("."), "unknown", what, "–", "–"] for of, what in UNKNOWN]
    return table(LATER_HEAD, ([cell.replace("|", "/") for cell in cells] for cells in rows))


def tests_of(path: Path) -> dict[str, list[str]]:
    """Story → the tests that name it in a string."""
    found: dict[str, list[str]] = {}
    for test in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(test, ast.FunctionDef) and test.name.startswith("test_"):
            for text in {node.value for node in ast.walk(test) if isinstance(node, ast.Constant) and isinstance(node.value, str)}:
                found.setdefault(text, []).append(test.name)
    return found


def passed(outcome: dict[str, str], names: Iterable[str]) -> str:
    return counts(told for test_id, told in outcome.items() if test_id.partition("[")[0] in names)


# --- what a GPU has shown ---


def device(measured: Path) -> str:
    """Stock against the pack with each comfy-aimdo, as `measured` holds them: medians, and of how many prompts; a row that nobody has
    measured is not there."""
    found = json.loads(measured.read_text(encoding="utf-8"))["rows"] if measured.is_file() else []
    rows = []
    for one in sorted(found, key=lambda one: (numbers(one["aimdo"]), one["scenario"])):
        times = [f"{one[side + '_s']:.2f} s ({one['runs'][side]})" for side in ("stock", "pack")]
        same = "identical" if one["identical"] else "differ"
        rows.append([one["aimdo"], one["scenario"], *times, f"{one['stock_s'] / one['pack_s']:.2f}", same, one["device"]])
    return table(DEVICE_HEAD, rows)


def keep(measured: Path, version: str, results: Sequence[Path]) -> None:
    """Put the scenarios of which both sides were run into `measured`, in place of that version's earlier rows of them."""
    from residency.bench.results import read as read_results

    told = read_results(results)["scenarios"]
    rows = json.loads(measured.read_text(encoding="utf-8"))["rows"] if measured.is_file() else []
    for name, raw in told.items():
        summary = raw["summary"]
        stock_s, pack_s = summary["stock_s"], summary["pack_s"]
        if stock_s is None or pack_s is None:
            continue
        rows = [row for row in rows if (row["aimdo"], row["scenario"]) != (version, name)]
        times = {"stock_s": round(stock_s, 2), "pack_s": round(pack_s, 2)}
        runs = {side: summary["runs"][side] for side in ("stock", "pack")}
        rows.append(
            {
                "aimdo": version,
                "scenario": name,
                **times,
                "runs": runs,
                "identical": summary["identical"],
                "device": raw["machine"]["device"],
            }
        )
    rows.sort(key=lambda row: (numbers(row["aimdo"]), row["scenario"]))
    measured.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tables = parser.add_subparsers(dest="table", required=True)
    tables.add_parser("front-ends").add_argument("folders", nargs="+", metavar="FOLDER")
    own = tables.add_parser("comfyui")
    own.add_argument("folder", metavar="FOLDER")
    own.add_argument("--tests", nargs="*", metavar="NAME", help="test files without test_ and .py; with no name none")
    own.add_argument("--report", type=Path, metavar="FILE", help="what pytest --junit-xml=FILE wrote of the whole suite on that ComfyUI")
    own.add_argument("--aimdo", metavar="FOLDER", help="comfy-aimdo in place of the one that is installed")
    tables.add_parser("later")
    shown = tables.add_parser("device")
    shown.add_argument("--aimdo", metavar="VERSION", help="the comfy-aimdo under which the results were measured")
    shown.add_argument("results", nargs="*", type=Path, metavar="FILE", help="results.json of the bench")
    asked = parser.parse_args(arguments)
    if asked.table == "front-ends":
        text = front_ends(asked.folders)
    elif asked.table == "comfyui":
        if asked.report and (asked.aimdo or asked.tests is not None):
            parser.error("--report tells what was run: it goes with neither --aimdo nor --tests")
        own_row = comfyui(asked.folder, asked.aimdo, asked.tests, asked.report)
        text = with_row(read(), own_row)
    elif asked.table == "later":
        from residency.installation.locate import find_comfyui

        text = later(find_comfyui() or sys.exit("no ComfyUI was found; set COMFYUI_PATH"))
    else:
        if asked.results:
            keep(MEASURED, asked.aimdo or parser.error("--aimdo has to name the version under which these were measured"), asked.results)
        text = device(MEASURED)
    DOCUMENT.write_text(replaced(read(), asked.table, text), encoding="utf-8")
    print(text)


def read() -> str:
    return DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.is_file() else "# Compatibility\n"


if __name__ == "__main__":
    main()
