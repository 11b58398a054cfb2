"""docs/reliability.md says what the tests of faults declare."""

from __future__ import annotations

import faults


def test_the_page_is_what_the_tests_declare():
    assert faults.PAGE.read_text(encoding="utf-8") == faults.page(), "run: python tests/comfyui/faults.py"
