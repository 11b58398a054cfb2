"""Models of a wished size: a stack of equal linear layers, kept as a real safetensors file with random weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

WIDTH = 1024
LAYER_BYTES = WIDTH * WIDTH * 4  # float32: what every CPU computes with at full speed


class Stack(torch.nn.Module):
    """`layers` linear layers of WIDTH, each followed by a tanh. Input and output: (batch, WIDTH), float32."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        with torch.device("meta"):
            self.layers = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


def make_weights(path: Path, size_bytes: int, seed: int, progress: Callable[[int, int], None] | None = None) -> None:
    """Write the weights of a Stack of about `size_bytes` (at least one layer). The same seed gives the same bytes.

    `progress(done_bytes, total_bytes)` is called after each layer. The file appears under its name when it is whole.
    """
    layers = max(1, round(size_bytes / LAYER_BYTES))
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for index in range(layers):
        # over sqrt(fan-in): activations neither die nor saturate through the stack
        tensors[f"layers.{index}.weight"] = torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5
        if progress is not None:
            progress((index + 1) * LAYER_BYTES, layers * LAYER_BYTES)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    try:
        save_file(tensors, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def load(path: str | Path) -> Stack:
    """Read a file of make_weights into memory of its own (no mapping stays). Raises OSError or safetensors' error."""
    with safe_open(path, "pt") as file:
        names = list(file.keys())
        stack = Stack(len(names))
        stack.load_state_dict({name: file.get_tensor(name).clone() for name in names}, assign=True)
    return stack.eval()
