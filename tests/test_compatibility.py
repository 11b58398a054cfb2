"""The tool that writes docs/compatibility.md: each table is replaced alone, and a test belongs to the version and renderer in its id."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path
from typing import Any

import pytest
from bench_story import ran, results, scenario

from residency.bench.results import PACK, STOCK, write

TOOL = runpy.run_path(str(Path(__file__).parents[1] / "tools" / "compatibility.py"))


def test_a_table_is_replaced_alone_and_a_new_one_comes_at_the_end():
    document = TOOL["replaced"]("# Compatibility\n\nBy hand.\n", "front-ends", "| a |")
    document = TOOL["replaced"](document, "gpu", "| b |")
    changed = TOOL["replaced"](document, "front-ends", "| c |")
    assert changed == document.replace("| a |", "| c |")
    assert changed.startswith("# Compatibility\n\nBy hand.\n") and changed.index("| c |") < changed.index("| b |")


def case(test_id: str, outcome: str, module: str = "test_a") -> Any:
    return TOOL["Case"](module, test_id, outcome)


def test_a_row_counts_the_tests_of_one_front_end_by_renderer():
    ran = [
        case("test_a[canvas-1.49.6]", "passed"),
        case("test_a[vue-1.49.6]", "failed"),
        case("test_a[canvas-1.58.1]", "failed"),
        case("test_b[1.49.6-a story - of its own]", "passed"),
        case("test_b[1.58.1]", "skipped"),
        case("test_c", "passed"),
    ]
    assert TOOL["row"]("1.49.6", ran) == ["1.49.6", "1 passed", "1 failed", "1 passed"]
    assert TOOL["row"]("1.58.1", ran) == ["1.58.1", "1 failed", "–", "1 skipped"]


def test_the_row_of_a_comfyui_names_the_files_that_fail():
    ran = [case("test_x", "passed"), case("test_y", "failed", "test_b"), case("test_z", "failed", "test_b"), case("test_s", "skipped")]
    assert TOOL["outcomes"](ran, "all but the browser") == ("all but the browser: 1 passed, 2 failed, 1 skipped", "test_b (2)")
    assert TOOL["outcomes"](ran[:1], "later") == ("later: 1 passed", "none")


def test_a_report_of_pytest_is_a_run_and_another_file_is_refused(tmp_path: Path):
    report = tmp_path / "suite.xml"
    report.write_text(
        '<testsuites><testsuite><testcase classname="tests.comfyui.test_x" name="test_a[1]"/>'
        '<testcase classname="tests.test_y" name="test_b"><failure/></testcase>'
        '<testcase classname="tests.test_y" name="test_c"><skipped/></testcase></testsuite></testsuites>',
        encoding="utf-8",
    )
    ran = [case("test_a[1]", "passed", "test_x"), case("test_b", "failed", "test_y"), case("test_c", "skipped", "test_y")]
    assert [tuple(one) for one in TOOL["reported"](report)] == [tuple(one) for one in ran]
    report.write_text("no report", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"suite\.xml is no report"):
        list(TOOL["reported"](report))


def test_a_row_takes_the_place_of_the_one_for_the_same_versions_and_the_others_stay():
    document = "# Compatibility\n"
    for own in (["0.33.0", "0.4.13", "old"], ["0.26.0", "0.4.10", "x; y"], ["0.33.0", "0.6.0", "z"], ["0.33.0", "0.4.13", "new"]):
        document = TOOL["replaced"](document, "comfyui", TOOL["with_row"](document, own))
    assert TOOL["rows_of"](document, "comfyui") == [["0.26.0", "0.4.10", "x; y"], ["0.33.0", "0.4.13", "new"], ["0.33.0", "0.6.0", "z"]]
    assert TOOL["rows_of"](document, "later") == []


def test_what_a_gpu_has_shown_comes_from_the_benchs_results_and_what_nobody_has_measured_is_no_row(tmp_path: Path):
    measured, bench = tmp_path / "aimdo.json", tmp_path / "results.json"
    assert len(TOOL["device"](measured).splitlines()) == 2
    for version, stock_s, pack_s in (("0.6.0", 9.0, 9.0), ("0.4.13", 12.9, 11.1), ("0.6.0", 10.6, 10.3)):
        both = scenario(ran(STOCK, stock_s), ran(PACK, pack_s))
        write(results(C5=both, S1=scenario(ran(PACK, 1.0))), bench)
        TOOL["keep"](measured, version, [bench])
    assert TOOL["device"](measured).splitlines()[2:] == [
        "| 0.4.13 | C5 | 12.90 s (1) | 11.10 s (1) | 1.16 | identical | H100 |",
        "| 0.6.0 | C5 | 10.60 s (1) | 10.30 s (1) | 1.03 | identical | H100 |",
    ]


def test_every_story_of_later_versions_has_a_test_that_names_it():
    comfyui = Path(__file__).parent / "comfyui"
    for driver, tests in (("later_driver.py", "test_later.py"), ("loop_driver.py", "test_loops.py")):
        shows = next(
            node for node in ast.walk(ast.parse((comfyui / driver).read_text(encoding="utf-8"))) if is_assigned(node, "SHOWS")
        ).value.keys
        names = {key.id if isinstance(key, ast.Name) else key.value for key in shows}
        assert names and not names - TOOL["tests_of"](comfyui / tests).keys()


def is_assigned(node: ast.AST, name: str) -> bool:
    targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets if isinstance(node, ast.Assign) else []
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)
