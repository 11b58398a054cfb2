"""Run by ComfyUI's Python: what is said of files of published size, held against what ComfyUI's own layouts make. Prints JSON.

python published_driver.py COMFYUI FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from residency.comfyui.sample_models import families, published, quantized  # noqa: E402
from residency.comfyui.sample_models.tiny import import_comfyui  # noqa: E402

NAME, SHAPE = "blocks.0.linear", (320, 1024)
LAYOUTS = {
    "fp8": "TensorCoreFP8E4M3Layout",
    "fp8_scaled": "TensorCoreFP8E4M3Layout",
    "int8_convrot": "TensorWiseINT8Layout",
    "nvfp4": "TensorCoreNVFP4Layout",
}


def said(weights: dict[str, Any]) -> dict[str, Any]:
    return {name: [str(weight.dtype), list(weight.shape)] for name, weight in sorted(weights.items()) if not name.endswith("comfy_quant")}


def values(layout: str, weights: dict[str, Any]) -> Any:
    """The weights that ComfyUI would compute with."""
    import torch
    from comfy.quant_ops import get_layout_class

    kind = get_layout_class(layout)
    scale = weights.get(f"{NAME}.weight_scale", weights.get(f"{NAME}.scale_weight"))
    more = {"orig_dtype": torch.float32, "orig_shape": SHAPE}
    if layout == "TensorCoreNVFP4Layout":
        params = kind.Params(scale=weights[f"{NAME}.weight_scale_2"], block_scale=scale, **more)
    else:
        params = kind.Params(scale=scale, **more)
    return kind.dequantize(weights[f"{NAME}.weight"], params).float()


def layout(name: str, folder: Path) -> dict[str, Any]:
    import torch
    from safetensors.torch import load_file

    quantize = getattr(quantized, name)
    drawn = quantize({f"{NAME}.weight": torch.randn(SHAPE).bfloat16() * SHAPE[1] ** -0.5, "norm.weight": torch.ones(7).bfloat16()})
    meta = {f"{NAME}.weight": torch.empty(SHAPE, dtype=torch.bfloat16, device="meta")}
    meta["norm.weight"] = torch.empty(7, dtype=torch.bfloat16, device="meta")
    path = folder / f"{name}.safetensors"
    published.write(quantize(meta), {"config": "{}"}, path)
    written = load_file(path)
    std = [float(values(LAYOUTS[name], weights).std()) * SHAPE[1] ** 0.5 for weights in (drawn, written)]
    return {"drawn": said(drawn), "written": said(written), "std": std, "ones": written["norm.weight"].tolist()}


def main() -> None:
    comfyui, folder = sys.argv[1], Path(sys.argv[2])
    import_comfyui(comfyui)
    sizes = {name: published.size_bytes(recipe(True)[0]) for files in families.FAMILIES.values() for name, recipe in files.items()}
    print(json.dumps({"sizes": sizes, "layouts": {name: layout(name, folder) for name in LAYOUTS}}))


if __name__ == "__main__":
    main()
