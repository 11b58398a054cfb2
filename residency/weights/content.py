"""Names of weights by content: the same on every machine that has the file, under any name and in any folder.

Size and header alone would name two fine-tunes of one model alike, which differ in their values only: samples of the data belong to it.
"""

from __future__ import annotations

import hashlib
import struct
from functools import lru_cache

from ..core.component import Component, FileIdentity
from .identity import identity
from .safetensors import MAX_HEADER_BYTES

SAMPLES = 8
SAMPLE_BYTES = 4096
OTHER_HEAD_BYTES = 1 << 20  # of a file that is no safetensors


def content_of(path: str) -> str:
    """`<size>-<digest>` of a file. OSError when it cannot be read. Its header and SAMPLES places are read, once while it is the same."""
    return _content_of(identity(path))


@lru_cache(maxsize=1024)
def _content_of(file: FileIdentity) -> str:
    digest = hashlib.sha256()
    with open(file.path, "rb") as opened:
        prefix = opened.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        is_header = 0 < length <= min(MAX_HEADER_BYTES, file.size_bytes - 8)
        digest.update(prefix + opened.read(length if is_header else OTHER_HEAD_BYTES))
        start = opened.tell()
        for number in range(SAMPLES):
            opened.seek(start + max(0, file.size_bytes - start - SAMPLE_BYTES) * number // (SAMPLES - 1))
            digest.update(opened.read(SAMPLE_BYTES))
    return f"{file.size_bytes}-{digest.hexdigest()[:24]}"


def content_key(component: Component) -> str:
    """The name of a component by its kind, the contents of the files that it is read from, and which ranges of them. OSError like above."""
    paths = list(dict.fromkeys(extent.path for extent in component.extents))
    digest = hashlib.sha256(component.kind.encode())
    for path in paths:
        digest.update(content_of(path).encode())
    for extent in component.extents:
        digest.update(f"{paths.index(extent.path)} {extent.start} {extent.size_bytes};".encode())
    return f"{component.size_bytes}-{digest.hexdigest()[:24]}"
