"""Headers of safetensors files: which tensor lies where, checked as the safetensors library would check them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..core.component import FileIdentity
from .identity import identity

MAX_HEADER_BYTES = 100_000_000  # the safetensors crate's own cap

# Bits of one element. Names as in the safetensors crate; a dtype that is not here is accepted unchecked.
_DTYPE_BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}


class WeightsError(Exception):
    """A weights file cannot be used. The message names the file, the value that is wrong and the way out."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor's bytes: `start` is absolute in the file, `size_bytes` its length."""

    name: str
    dtype: str
    start: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """A safetensors header. `tensors` are ordered by `start`; the data section begins at byte `data_start`."""

    path: str
    file_bytes: int
    data_start: int
    tensors: tuple[Tensor, ...]
    metadata: Mapping[str, str]


def read_header(path: str) -> Header:
    """Parse and check the header of a safetensors file; cheap when the file has not changed since the last call.

    Raises WeightsError when the file cannot be read or the safetensors library would refuse it.
    """
    try:
        file = identity(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    return _read_header(file)


@lru_cache(maxsize=64)
def _read_header(of: FileIdentity) -> Header:
    """Keyed by the file's identity so that a replaced one is read again; errors are not cached."""
    path, file_bytes = of.path, of.size_bytes
    try:
        with open(path, "rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            raw = file.read(length) if 0 < length <= min(MAX_HEADER_BYTES, file_bytes - 8) else b""
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    if len(prefix) < 8:
        raise WeightsError(f"{path}: {file_bytes} bytes is too short for a safetensors file (at least 8); download it again")
    if length > MAX_HEADER_BYTES:
        raise WeightsError(
            f"{path}: header length {length} is over the limit of {MAX_HEADER_BYTES} bytes; this is not a safetensors file, "
            "give it the suffix of its real format or download it again"
        )
    if len(raw) < length or not raw:
        raise WeightsError(f"{path}: header length {length} does not fit a file of {file_bytes} bytes; download it again")
    return _parse(path, file_bytes, raw)


def _parse(path: str, file_bytes: int, raw: bytes) -> Header:
    def bad(what: str) -> WeightsError:
        return WeightsError(f"{path}: {what}; download it again or save it anew with the safetensors library")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise bad(f"the header names {twice!r} twice")
        return found

    try:
        entries = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise bad(f"the header of {len(raw)} bytes is not JSON ({error})") from error
    if not isinstance(entries, dict):
        raise bad(f"the header is a JSON {type(entries).__name__}, not an object")

    metadata = entries.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise bad("__metadata__ is not a map of text to text")

    data_start = 8 + len(raw)
    tensors = sorted((_tensor(name, entry, data_start, bad) for name, entry in entries.items()), key=lambda t: (t.start, t.size_bytes))
    end = data_start
    for tensor in tensors:
        if tensor.start + tensor.size_bytes > file_bytes:
            raise bad(f"tensor {tensor.name!r} ends at byte {tensor.start + tensor.size_bytes}, the file has {file_bytes} (cut short?)")
        if tensor.start != end:
            what = "overlaps the one before it" if tensor.start < end else "leaves a gap before it"
            raise bad(f"tensor {tensor.name!r} at byte {tensor.start} {what}, which ends at {end}")
        end = tensor.start + tensor.size_bytes
    if end != file_bytes:
        raise bad(f"the tensors end at byte {end}, the file at {file_bytes}")
    return Header(path, file_bytes, data_start, tuple(tensors), metadata)


def _tensor(name: str, entry: Any, data_start: int, bad: Callable[[str], WeightsError]) -> Tensor:
    try:
        dtype, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise bad(f"tensor {name!r} lacks dtype, shape or two data_offsets ({str(entry)[:80]})") from error
    numbers = [first, last, *(shape if isinstance(shape, list) else [None])]
    if not isinstance(dtype, str) or not all(type(number) is int and number >= 0 for number in numbers):
        raise bad(f"tensor {name!r} has dtype {dtype!r}, shape {shape!r}, data_offsets [{first!r}, {last!r}]: not sizes")
    if last < first:
        raise bad(f"tensor {name!r} ends before it starts: data_offsets [{first}, {last}]")
    bits = _DTYPE_BITS.get(dtype)
    if bits is not None:
        count = 1
        for side in shape:
            count *= side
        if count * bits != (last - first) * 8:
            takes = f"takes {count * bits / 8:g} bytes, data_offsets give {last - first}"
            raise bad(f"tensor {name!r} of dtype {dtype} and shape {shape} {takes}")
    return Tensor(name, dtype, data_start + first, last - first)
