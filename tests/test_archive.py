"""What the Registry hands to users: what ComfyUI needs of the pack, all of it and nothing else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from archive_story import ROOT, archive_files

FORBIDDEN = {"subprocess", "socket", "urlopen", "eval", "exec", "matplotlib", "pip"}
BESIDE_CODE = (r"README\.md|LICENSE|CHANGELOG\.md|pyproject\.toml|residency/py\.typed|web/.*\.(js|css|md|json|svg)"
    r"|locales/(en|zh|ja)/\w+\.json|example_workflows/\w+\.(json|jpg)|subgraphs/[\w ]+\.json")  # fmt: skip


def imported(path: Path) -> Iterator[Path]:
    """The files of the pack that a module's import statements reach, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for target in (base, *(base / alias.name for alias in node.names)):
                yield from (file for file in (target.with_suffix(".py"), target / "__init__.py") if file.is_file())


def reached() -> set[str]:
    found: set[Path] = set()
    left = [ROOT / "__init__.py"]
    while left:
        path = left.pop()
        if path not in found:
            found.add(path)
            left += imported(path)
            left += [folder / "__init__.py" for folder in path.parents if ROOT in folder.parents and (folder / "__init__.py").is_file()]
    return {path.relative_to(ROOT).as_posix() for path in found}


def names(source: str) -> set[str]:
    """Every name that a module imports, calls or reads."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {part for alias in node.names for part in alias.name.split(".")}
            found |= set((getattr(node, "module", None) or "").split("."))
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
    return found


def test_the_archive_has_every_module_that_comfyui_reaches_and_no_other():
    assert {path for path in archive_files() if path.endswith(".py")} == reached()


def test_beside_its_code_the_archive_has_what_comfyui_looks_for_and_what_people_read():
    others = [path for path in archive_files() if not path.endswith(".py")]
    assert [path for path in others if not re.fullmatch(BESIDE_CODE, path)] == []
    assert {"README.md", "LICENSE", "pyproject.toml", "web/residency.js", "locales/en/main.json"} <= set(others)


@pytest.mark.parametrize("path", [path for path in archive_files() if path.endswith(".py")])
def test_a_module_of_the_archive_starts_no_program_opens_no_connection_and_runs_no_text(path: str):
    allowed = {"eval"} if path in USES_MODULE_EVAL else set()
    assert names((ROOT / path).read_text(encoding="utf-8")) & FORBIDDEN <= allowed


# torch's Module.eval(), which runs no text
USES_MODULE_EVAL = {"residency/comfyui/language_models.py"}


def test_installing_needs_no_package():
    assert not (ROOT / "requirements.txt").exists()
    assert re.search(r"^dependencies = \[\]$", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
