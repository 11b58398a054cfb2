"""Names by content: the same wherever a file lies, another one for every other content."""

from __future__ import annotations

import os
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from residency.core.component import Component, Extent
from residency.weights.content import content_key, content_of


def saved(path: Path, value: float = 0.0, shape: int = 100_000, at: int = 0) -> str:
    tensor = numpy.zeros(shape, dtype=numpy.float32)
    tensor[at:] = value
    save_file({"weight": tensor}, path)
    return str(path)


def test_a_copy_under_another_name_is_the_same(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    one, other = saved(tmp_path / "a.safetensors", 1.0), saved(tmp_path / "elsewhere" / "b.safetensors", 1.0)
    os.utime(other, (1, 1))
    assert content_of(one) == content_of(other)
    assert content_of(one).startswith(f"{os.path.getsize(one)}-")


def test_a_fine_tune_has_the_same_size_and_header_and_another_name(tmp_path: Path):
    one = saved(tmp_path / "a.safetensors", 1.0)
    assert content_of(one) != content_of(saved(tmp_path / "b.safetensors", 2.0))
    assert content_of(one) != content_of(saved(tmp_path / "c.safetensors", 1.0, at=50_000))


def test_a_file_that_is_replaced_is_looked_at_again(tmp_path: Path):
    before = content_of(saved(tmp_path / "a.safetensors", 1.0))
    assert content_of(saved(tmp_path / "a.safetensors", 3.0)) != before


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 100, b"x" * 3_000_000])
def test_what_is_no_safetensors_has_a_name_too(content: bytes, tmp_path: Path):
    (tmp_path / "a.bin").write_bytes(content)
    (tmp_path / "b.bin").write_bytes(content + b"y")
    assert content_of(str(tmp_path / "a.bin")) != content_of(str(tmp_path / "b.bin"))


def test_parts_of_one_file_are_different_components(tmp_path: Path):
    path = saved(tmp_path / "a.safetensors", 1.0)

    def part(kind: str, start: int) -> Component:
        return Component("any", "any", kind, 100, (Extent(path, start, 100),))

    keys = {content_key(part("MODEL", 100)), content_key(part("MODEL", 200)), content_key(part("VAE", 100))}
    assert len(keys) == 3
    with pytest.raises(OSError, match="gone"):
        content_key(Component("any", "any", "MODEL", 1, (Extent(str(tmp_path / "gone"), 0, 1),)))
