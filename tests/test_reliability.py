"""docs/reliability.md says what the tests of faults declare."""

from __future__ import annotations

import faults
import fuzz


def test_the_page_is_what_the_tests_declare():
    assert faults.PAGE.read_text(encoding="utf-8") == faults.page(), "run: python tests/comfyui/faults.py"


def test_inputs_are_counted_as_hypothesis_tells_of_them():
    told = """
      - during reuse phase (0.01 seconds):
        - 3 passing, 0 failing, and 0 invalid test cases
      - during generate phase (0.32 seconds):
        - 97 passing, 0 failing, and 17 invalid test cases
      - during generate phase (0.1 seconds):
        - 50 passing examples, 1 failing examples, 0 invalid examples
    """
    assert fuzz.counted(told) == (151, 2)


def test_every_file_that_is_fuzzed_is_there():
    assert all((fuzz.HERE.parent / name).is_file() for name in fuzz.STRANGERS)
