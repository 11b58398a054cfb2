"""Weights as published files quantize them, by ComfyUI's own layouts: the matrices inside blocks, everything else as it is.

Each function takes and returns tensors by name. A tensor without values (on torch's "meta" device) stays one: its scales are those of the
values that published.py draws for it, so that a matrix comes out with about 1 / sqrt(width) all the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

Weights = dict[str, Any]

_LINEAR = re.compile(r"(blocks|layers|block)\.\d+\..*\.weight$")  # what published files quantize: the matrices inside blocks
GROUP, SMALL_GROUP = 256, 64  # of the rotation of int8_convrot: in published files, and where small widths do not divide into it

# What published.py draws: the standard deviation of the values behind one quantized byte, or half of one.
FP8_STD, INT8_STD = 100.0, 32.0
FP4_STD = 2.926  # of ±{0, .5, 1, 1.5, 2, 3, 4, 6}, each as likely


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

    group = GROUP if any(weight.is_meta for weight in weights.values()) else SMALL_GROUP

    def quantize(weight: Any) -> Weights:
        said = _says(format="int8_tensorwise", convrot=True, convrot_groupsize=group)
        if weight.is_meta:
            return {".weight": _unset(weight.shape, "int8"), ".weight_scale": _all((len(weight), 1), _std(weight) / INT8_STD)} | said
        return _layout(weight, "TensorWiseINT8Layout", per_channel=True, convrot=True, convrot_groupsize=group) | said

    return _quantized(weights, group, quantize)


def nvfp4(weights: Weights) -> Weights:
    """Two values a byte, one scale for sixteen of them and one for the matrix."""
    return _quantized(weights, 16, lambda w: (_fp4(w) if w.is_meta else _layout(w, "TensorCoreNVFP4Layout")) | _says(format="nvfp4"))


def _quantized(weights: Weights, multiple: int, quantize: Callable[[Any], Weights]) -> Weights:
    """The weights; every matrix inside a block whose width `multiple` divides is replaced by `quantize`'s tensors, named by suffix."""
    found: Weights = {}
    for name, weight in weights.items():
        if weight.ndim == 2 and _LINEAR.search(name) and weight.shape[1] % multiple == 0:
            found |= {name.removesuffix(".weight") + suffix: tensor for suffix, tensor in quantize(weight).items()}
        else:
            found[name] = weight
    return found


def _fp8(weight: Any, scale_name: str) -> Weights:
    import torch

    if weight.is_meta:
        return {".weight": _unset(weight.shape, "float8_e4m3fn"), scale_name: _all((), _std(weight) / FP8_STD)}
    scale = weight.float().abs().amax() / torch.finfo(torch.float8_e4m3fn).max
    return {".weight": (weight.float() / scale).to(torch.float8_e4m3fn), scale_name: scale}


def _fp4(weight: Any) -> Weights:
    """The scales of the blocks, padded to the hardware's tile, are 1."""
    rows, columns = weight.shape
    blocks = (-(-rows // 128) * 128, -(-columns // 64) * 4)
    packed = _unset((-(-rows // 16) * 16, columns // 2), "uint8")
    return {".weight": packed, ".weight_scale": _all(blocks, 1.0, "float8_e4m3fn"), ".weight_scale_2": _all((), _std(weight) / FP4_STD)}


def _std(weight: Any) -> float:
    return float(weight.shape[1] ** -0.5)


def _unset(shape: Any, dtype: str) -> Any:
    import torch

    return torch.empty(shape, dtype=getattr(torch, dtype), device="meta")


def _all(shape: tuple[int, ...], value: float, dtype: str = "float32") -> Any:
    """One value everywhere, in the memory of one."""
    import torch

    return torch.tensor(value).to(getattr(torch, dtype)).expand(shape)


def _layout(weight: Any, layout: str, **options: Any) -> Weights:
    from comfy.quant_ops import QuantizedTensor

    return dict(QuantizedTensor.from_float(weight, layout, **options).state_dict(".weight"))


def _says(**format_of_layer: Any) -> Weights:
    import torch

    return {".comfy_quant": torch.tensor(list(json.dumps(format_of_layer).encode()), dtype=torch.uint8)}
