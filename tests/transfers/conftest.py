"""Real files whose pages are on disk: written, flushed, and dropped from the page cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from residency.core.component import Component, Extent
from residency.transfers.pagecache import drop_files, not_cached_bytes

MakeFile = Callable[..., Path]


@pytest.fixture
def cold_file(tmp_path: Path) -> MakeFile:
    """cold_file(name, size_bytes) -> path. Skips where the page cache cannot be asked or the file system does not let go of pages."""

    def make(name: str, size_bytes: int) -> Path:
        path = tmp_path / name
        block = os.urandom(min(size_bytes, 1024**2))
        with path.open("wb") as file:
            while file.tell() < size_bytes:
                file.write(block[: size_bytes - file.tell()])
        drop_files([path])
        if not_cached_bytes([path]) != size_bytes:
            pytest.skip("pages of a file in the temporary directory cannot be dropped here (tmpfs, or not Linux)")
        return path

    return make


@pytest.fixture
def component() -> Callable[..., Component]:
    """component(key, path, …) -> one that is read from the whole of each file in turn."""

    def make(key: str, *paths: Path) -> Component:
        extents = tuple(Extent(str(path), 0, path.stat().st_size) for path in paths)
        return Component(key, key, "MODEL", sum(extent.size_bytes for extent in extents), extents)

    return make
