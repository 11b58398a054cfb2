"""Writes a file of published size from names, shapes and dtypes alone: no model is ever in memory.

Tensors without values (on torch's "meta" device) are filled while they are written, out of one block of random numbers for each dtype and
scale, from a place of its own for each name. Their values are those of tiny.random_weights: gains 1, the rest normal over sqrt(fan-in);
quantized bytes as quantized.py scales them. The format is that of safetensors.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .quantized import FP8_STD, INT8_STD

BLOCK_ELEMENTS = (1 << 25) - 39  # a prime: no row of a matrix begins where another does
WRITERS = 4
PART_BYTES = 2 * 10**9  # written between two lines of progress

_NAMES = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "int8": "I8",
    "uint8": "U8",
    "int64": "I64",
    "bool": "BOOL",
}

Tensors = Mapping[str, Any]


def size_bytes(tensors: Tensors) -> int:
    """Of the tensors' data."""
    return sum(tensor.numel() * tensor.dtype.itemsize for tensor in tensors.values())


def write(tensors: Tensors, metadata: Mapping[str, str], path: Path, wrote: Callable[[int], None] = lambda _: None) -> None:
    """Whole or not at all; `wrote` is told how many bytes of data there are so far. Raises OSError."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at, places = 0, []
    # as the library does: the widest dtypes first, so that every tensor lies where its dtype wants it
    for name, tensor in sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize):
        size = tensor.numel() * tensor.dtype.itemsize
        dtype = _NAMES[str(tensor.dtype).removeprefix("torch.")]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [at, at + size]}
        places.append((at, name, tensor))
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    start, blocks, done, told = 8 + len(text), _Blocks(), 0, 0
    part = path.with_suffix(".part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        _put(fd, memoryview(len(text).to_bytes(8, "little") + text), 0)

        def one(place: tuple[int, str, Any]) -> int:
            offset, name, tensor = place
            blocks.put(fd, start + offset, name, tensor)
            return int(tensor.numel() * tensor.dtype.itemsize)

        with ThreadPoolExecutor(WRITERS) as pool:
            for size in pool.map(one, places):
                done += size
                if done - told >= PART_BYTES:
                    told = done
                    wrote(done)
        os.close(fd)
        fd = -1
        os.replace(part, path)
    finally:
        if fd >= 0:
            os.close(fd)
        part.unlink(missing_ok=True)


class _Blocks:
    """The random numbers, drawn once for each dtype and scale."""

    def __init__(self) -> None:
        import threading

        import torch

        self._lock = threading.Lock()
        self._normal = torch.randn(BLOCK_ELEMENTS, generator=torch.Generator().manual_seed(1))
        self._bytes: dict[tuple[str, float], memoryview] = {}

    def put(self, fd: int, offset: int, name: str, tensor: Any) -> None:
        """The tensor's data at this offset of the file."""
        if not tensor.is_meta:
            _put(fd, _view(tensor.contiguous()), offset)
            return
        width = tensor.dtype.itemsize
        block = self._block(str(tensor.dtype).removeprefix("torch."), _scale(name, tensor))
        left, place = tensor.numel() * width, zlib.crc32(name.encode()) % BLOCK_ELEMENTS * width
        while left:
            piece = block[place : place + left]
            _put(fd, piece, offset)
            offset, left, place = offset + len(piece), left - len(piece), 0

    def _block(self, dtype: str, scale: float) -> memoryview:
        import torch

        with self._lock:
            if (dtype, scale) not in self._bytes:
                if dtype == "uint8":
                    drawn = torch.randint(256, (BLOCK_ELEMENTS,), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
                elif dtype == "int8":
                    drawn = (self._normal * INT8_STD).round().clamp(-127, 127).to(torch.int8)
                elif dtype == "float8_e4m3fn":
                    drawn = (self._normal * FP8_STD).clamp(-448, 448).to(torch.float8_e4m3fn)
                elif not scale:
                    drawn = torch.ones(BLOCK_ELEMENTS, dtype=getattr(torch, dtype))
                else:
                    drawn = (self._normal * scale).to(getattr(torch, dtype))
                self._bytes[dtype, scale] = _view(drawn)
            return self._bytes[dtype, scale]


def _scale(name: str, tensor: Any) -> float:
    """The standard deviation of a tensor's values, 0 for one that holds ones; of no meaning for quantized bytes."""
    if tensor.dtype.itemsize == 1:
        return 1.0
    shape = tensor.shape
    if len(shape) == 1 and name.endswith((".weight", ".scale")):
        return 0.0
    fan_in = shape[1:].numel() if len(shape) > 1 and "embed" not in name else 2500
    return float(max(1, fan_in) ** -0.5)


def _view(tensor: Any) -> memoryview:
    import torch

    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())


def _put(fd: int, data: memoryview, offset: int) -> None:
    while data:
        wrote = os.pwrite(fd, data, offset)
        data, offset = data[wrote:], offset + wrote
