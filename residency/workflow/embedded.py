"""The texts inside a picture: ComfyUI writes a prompt and the editor's workflow, both JSON, into the images that it saves.

PNG (SaveImage): chunks tEXt, zTXt and iTXt, keyword and text; `comf` in animated ones. WebP (SaveAnimatedWEBP): ASCII entries of the EXIF
chunk, "keyword:text". Only these chunks are read, never a pixel, and nothing but the standard library is needed.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

MOST_BYTES = 256 << 20  # of one text; a workflow has a few MB at most
_PNG, _RIFF, _WEBP = b"\x89PNG\r\n\x1a\n", b"RIFF", b"WEBP"
_EXIF_ASCII = 2


def texts(file: BinaryIO) -> dict[str, str] | None:
    """Keyword -> text, of a file open at its beginning; None where it is no PNG and no WebP. Damaged parts are left out."""
    head = file.read(8)
    if head == _PNG:
        return dict(_png(file))
    if head[:4] == _RIFF and file.read(4) == _WEBP:
        return dict(_webp(file))
    return None


def _png(file: BinaryIO) -> Iterator[tuple[str, str]]:
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind not in (b"tEXt", b"zTXt", b"iTXt", b"comf"):
            file.seek(length + 4, 1)
            continue
        keyword, _, rest = file.read(min(length, MOST_BYTES)).partition(b"\0")
        file.seek(max(0, length - MOST_BYTES) + 4, 1)
        packed = kind == b"zTXt"
        if kind == b"iTXt":  # flag, method, language, translated keyword, text
            packed, rest = rest[:1] == b"\1", rest[2:].partition(b"\0")[2].partition(b"\0")[2]
        elif packed:
            rest = rest[1:]
        try:
            yield _text(keyword), _text(zlib.decompressobj().decompress(rest, MOST_BYTES) if packed else rest)
        except zlib.error:
            continue


def _webp(file: BinaryIO) -> Iterator[tuple[str, str]]:
    while len(head := file.read(8)) == 8:
        kind, length = struct.unpack("<4sI", head)
        if kind == b"EXIF":
            for text in _exif(file.read(min(length, MOST_BYTES)).removeprefix(b"Exif\0\0")):
                keyword, _, rest = text.partition(":")
                yield keyword.lower(), rest
            return
        file.seek(length + length % 2, 1)


def _exif(data: bytes) -> Iterator[str]:
    """The ASCII entries of the first directory of a TIFF structure."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        return
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    count = struct.unpack_from(f"{order}H", data, at)[0] if at + 2 <= len(data) else 0
    for entry in range(at + 2, min(at + 2 + 12 * count, len(data) - 11), 12):
        _, kind, length, place = struct.unpack_from(f"{order}HHII", data, entry)
        if kind == _EXIF_ASCII:
            start = place if length > 4 else entry + 8
            yield _text(data[start : start + length].rstrip(b"\0"))


def _text(data: bytes) -> str:
    """The standards say Latin-1, the editor reads UTF-8; ComfyUI itself writes ASCII, which is both."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")
