"""Weights as published files quantize them, by ComfyUI's own layouts: the matrices inside blocks, everything else as it is.

Each function takes and returns tensors by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

Weights = dict[str, Any]

_LINEAR = re.compile(r"(blocks|layers|block)\.\d+\..*\.weight$")  # what published files quantize: the matrices inside blocks
GROUP = 64  # of the rotation of int8_convrot; 256 in published files, which small widths do not divide into


def fp8_scaled(weights: Weights) -> Weights:
    """One scale a matrix, the older names: a marker for the whole file and `scale_weight` beside each."""
    import torch

    marker = {"scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}
    return marker | _quantized(weights, 1, lambda w: _fp8(w, ".scale_weight"))


def fp8(weights: Weights) -> Weights:
    """One scale a matrix, today's names."""
    return _quantized(weights, 1, lambda w: _fp8(w, ".weight_scale") | _says(format="float8_e4m3fn"))


def int8_convrot(weights: Weights) -> Weights:
    """Rotated in groups, one scale a row."""

    def quantize(weight: Any) -> Weights:
        return _layout(weight, "TensorWiseINT8Layout", per_channel=True, convrot=True, convrot_groupsize=GROUP) | _says(
            format="int8_tensorwise", convrot=True, convrot_groupsize=GROUP
        )

    return _quantized(weights, GROUP, quantize)


def nvfp4(weights: Weights) -> Weights:
    """Two values a byte, one scale for sixteen of them and one for the matrix."""
    return _quantized(weights, 16, lambda w: _layout(w, "TensorCoreNVFP4Layout") | _says(format="nvfp4"))


def _quantized(weights: Weights, multiple: int, quantize: Callable[[Any], Weights]) -> Weights:
    """Every matrix inside a block whose width `multiple` divides, as what `quantize` makes of it (by what follows the module's name)."""
    found: Weights = {}
    for name, weight in weights.items():
        if weight.ndim == 2 and _LINEAR.search(name) and weight.shape[1] % multiple == 0:
            found |= {name.removesuffix(".weight") + suffix: tensor for suffix, tensor in quantize(weight).items()}
        else:
            found[name] = weight
    return found


def _fp8(weight: Any, scale_name: str) -> Weights:
    import torch

    scale = weight.float().abs().amax() / torch.finfo(torch.float8_e4m3fn).max
    return {".weight": (weight.float() / scale).to(torch.float8_e4m3fn), scale_name: scale}


def _layout(weight: Any, layout: str, **options: Any) -> Weights:
    from comfy.quant_ops import QuantizedTensor

    return dict(QuantizedTensor.from_float(weight, layout, **options).state_dict(".weight"))


def _says(**format_of_layer: Any) -> Weights:
    import torch

    return {".comfy_quant": torch.tensor(list(json.dumps(format_of_layer).encode()), dtype=torch.uint8)}
