"""Weights files of real names and sizes that take no room: a true header over a hole."""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

GIB = 1 << 30
MIB = 1 << 20

LTX_CHECKPOINT: Mapping[str, int] = {
    "model.diffusion_model.transformer_blocks.0.attn1.to_q.weight": 22 * GIB,
    "model.diffusion_model.transformer_blocks.0.attn1.to_q.weight_scale": 4,
    "model.diffusion_model.audio_embeddings_connector.transformer_1d_blocks.2.attn1.to_q.bias": 8192,
    "vae.decoder.conv_in.conv.weight": 1300 * MIB,
    "vae.per_channel_statistics.mean-of-means": 512,
    "audio_vae.decoder.conv_in.conv.weight": 90 * MIB,
    "vocoder.resblocks.0.convs1.0.weight": 110 * MIB,
    "text_embedding_projection.video_aggregate_embed.weight": 1400 * MIB,
    "text_embedding_projection.audio_aggregate_embed.weight": 700 * MIB,
}


def sparse(path: Path, tensors: Mapping[str, int]) -> Path:
    """A safetensors file with these tensors, each of so many bytes."""
    if sys.platform == "win32":
        pytest.skip("NOT TESTED: a file with a hole takes its whole size here")
    header, at = {}, 0
    for name, size_bytes in tensors.items():
        header[name] = {"dtype": "U8", "shape": [size_bytes], "data_offsets": [at, at + size_bytes]}
        at += size_bytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        os.truncate(file.fileno(), 8 + len(text) + at)
    return path
