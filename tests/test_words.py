"""Numbers for people: the same words in Python and in the panel."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from residency.units import size

NODE = shutil.which("node")
FORMAT = Path(__file__).parents[1] / "web" / "format.js"
SIZES = [0, 1, 999, 1023, 1024, 1536, 2048, 10_234, 10_235, 102_348, 102_349, 1_048_063, 1_048_064, 300 << 20, 58_600_000_000, 5 << 50]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.50 KiB"), (300 << 20, "300 MiB"), (3 << 30, "3.00 GiB"), (-(24 << 20), "-24.0 MiB")],
)
def test_sizes_have_three_significant_digits(value: int, text: str) -> None:
    assert size(value) == text


@pytest.mark.skipif(NODE is None, reason="NOT TESTED: no node to run the panel's own functions")
def test_the_panel_says_sizes_alike() -> None:
    script = f"import {{ formatBytes }} from {json.dumps(FORMAT.as_uri())}; console.log(JSON.stringify({SIZES}.map(formatBytes)))"
    ran = subprocess.run([str(NODE), "--input-type=module", "-e", script], capture_output=True, encoding="utf-8", check=True)
    assert json.loads(ran.stdout) == [size(value) for value in SIZES]
