"""Nothing is decided by a vendor's or a device's name, but in the places below, each with its reason: behaviour is asked for or proved."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = re.compile(
    r"\b(nvidia(-smi)?|geforce|cuda|amd|radeon|rocm|hip|intel|arc|xpu|apple|mps|directml|privateuseone|npu|mlu)\b", re.IGNORECASE
)
ASKED = (
    "torch.cuda.is_available",
    "torch.version.hip",
    "torch.version.cuda",
    "get_device_name",
    "get_device_capability",
    "is_nvidia",
    "is_amd",
)
ALLOWED = {
    "residency/comfyui/device/cuda.py": "torch names its API for streams and events so, on ROCm too: other devices have none of it",
    "residency/comfyui/device/memory_usage.py": "torch's names of devices that compute in the host's memory, and of the API above",
    "residency/comfyui/prompt/working_set.py": "torch's allocator tells peaks by that API only",
    "residency/comfyui/sample_models/random_models.py": "draws faster there; the weights are made anyway",
    "residency/transfers/link.py": "measures a link by that API, and says {} without one",
}


def decisions(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of every comparison with such a name, every question for one, and every table or command that is named after one."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare | ast.Match | ast.MatchValue | ast.Dict | ast.Set):
            words = [one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        elif isinstance(node, ast.Call):
            words = [
                one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str) and " " not in one.value
            ]
            if ast.unparse(node.func).endswith(ASKED):
                yield node.lineno, ast.unparse(node.func)
        elif isinstance(node, ast.Attribute) and ast.unparse(node).endswith(ASKED):
            words = [ast.unparse(node)] if "version" in ast.unparse(node) else []
        else:
            continue
        if any(NAMES.search(word) for word in words):
            yield node.lineno, ast.unparse(node)[:100]


def sources() -> list[Path]:
    return sorted([*(ROOT / "residency").rglob("*.py"), *(ROOT / "nodes").rglob("*.py"), ROOT / "__init__.py"])


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_name_decides_nothing_outside_the_places_that_say_why(path: Path):
    name = path.relative_to(ROOT).as_posix()
    found = list(decisions(path))
    assert not found or name in ALLOWED, f"{name} decides by a name: {found}; ask for the behaviour, or give a reason here"


def test_every_place_that_is_allowed_still_needs_it():
    assert [name for name in ALLOWED if not list(decisions(ROOT / name))] == []


@pytest.mark.parametrize(
    "line", ["device.type == 'cuda'", "torch.version.hip", "name.startswith('NVIDIA')", "x = torch.cuda.get_device_name(0)", "{'amd': 1}"]
)
def test_such_a_line_is_found(tmp_path: Path, line: str):
    (tmp_path / "a.py").write_text(f"{line}\n")
    assert list(decisions(tmp_path / "a.py"))
