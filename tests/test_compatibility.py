"""The tool that writes docs/compatibility.md: each table is replaced alone, and a test belongs to the version and renderer in its id."""

from __future__ import annotations

import runpy
from pathlib import Path

TOOL = runpy.run_path(str(Path(__file__).parents[1] / "tools" / "compatibility.py"))


def test_a_table_is_replaced_alone_and_a_new_one_comes_at_the_end():
    document = TOOL["replaced"]("# Compatibility\n\nBy hand.\n", "front-ends", "| a |")
    document = TOOL["replaced"](document, "gpu", "| b |")
    changed = TOOL["replaced"](document, "front-ends", "| c |")
    assert changed == document.replace("| a |", "| c |")
    assert changed.startswith("# Compatibility\n\nBy hand.\n") and changed.index("| c |") < changed.index("| b |")


def test_a_row_counts_the_tests_of_one_front_end_by_renderer():
    ran = {
        "test_a[canvas-1.49.6]": "passed",
        "test_a[vue-1.49.6]": "failed",
        "test_a[canvas-1.58.1]": "failed",
        "test_b[1.49.6-a story - of its own]": "passed",
        "test_b[1.58.1]": "skipped",
        "test_c": "passed",
    }
    assert TOOL["row"]("1.49.6", ran.items()) == ["1.49.6", "1 passed", "1 failed", "1 passed"]
    assert TOOL["row"]("1.58.1", ran.items()) == ["1.58.1", "1 failed", "–", "1 skipped"]
