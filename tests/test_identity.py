"""A file is the one it was, or it is said what has become of it."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from residency.weights.components import components_of_node, read_header
from residency.weights.identity import change, first_change, identities, identity


def _in_its_place(path: Path, data: bytes) -> None:
    """Another file of the same size and time."""
    before = os.stat(path)
    other = path.with_suffix(".part")
    other.write_bytes(data)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, path)


def _in_place(path: Path, data: bytes) -> None:
    """The same file written over, its time put back."""
    before = os.stat(path)
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


ACTS: dict[str, tuple[Callable[[Path], object], str | None]] = {
    "nothing": (lambda path: None, None),
    "read": (lambda path: path.read_bytes(), None),
    "replaced": (lambda path: _in_its_place(path, b"other"), "weights was replaced"),
    "rewritten": (lambda path: _in_place(path, b"other"), "weights was changed"),
    "longer": (lambda path: path.write_bytes(b"longer"), "weights was changed"),
    "touched": (lambda path: os.utime(path, (1, 1)), "weights was changed"),
    "deleted": (lambda path: path.unlink(), "weights is gone"),
}


@pytest.mark.parametrize("act", ACTS)
def test_whatever_happens_to_a_file_is_told(tmp_path: Path, act: str) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"bytes")
    before = identity(str(path))
    happens, told = ACTS[act]
    happens(path)
    assert change(before) == told and first_change([before]) == told


def test_a_link_that_leads_elsewhere_is_another_file(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).write_bytes(b"bytes")
    link = tmp_path / "weights"
    link.symlink_to(tmp_path / "one")
    before = identity(str(link))
    link.unlink()
    link.symlink_to(tmp_path / "other")
    assert change(before) == "weights was replaced"


def test_a_folder_stands_for_every_file_in_it(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    for name in ("config.json", "inner/tokenizer.json"):
        (tmp_path / name).write_text("{}")
    files = identities([str(tmp_path)])
    assert [Path(file.path).relative_to(tmp_path).as_posix() for file in files] == ["config.json", "inner/tokenizer.json"]
    (tmp_path / "inner" / "tokenizer.json").write_text("[]")
    assert first_change(files) == "tokenizer.json was changed"


def _weights(name: str) -> bytes:
    header = b'{"%s":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}' % name.encode()
    return struct.pack("<Q", len(header)) + header + b"x"


def test_a_header_is_that_of_the_file_that_lies_there_now(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(_weights("one"))
    assert [tensor.name for tensor in read_header(str(path)).tensors] == ["one"]
    _in_its_place(path, _weights("two"))
    assert [tensor.name for tensor in read_header(str(path)).tensors] == ["two"]


def test_a_component_knows_the_files_it_was_made_of(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(_weights("one"))
    [(component, _)] = components_of_node("UNETLoader", {"unet_name": path.name}, ["MODEL"], lambda _, value: str(path)).components
    assert component.files == (identity(str(path)),)
