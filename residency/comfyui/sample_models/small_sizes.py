"""Lets ComfyUI's own loaders accept small models of families whose sizes they take from no file.

ComfyUI reads most shapes off a file's tensors and fixes the rest at those of the published model: the width of a Z-Image or of a
Qwen-Image, every text encoder. `install()` lets a file's metadata give smaller sizes, as ComfyUI itself lets Wan and LTX files do under
"config". Detection, layers, operations, quantized formats and loading stay ComfyUI's. For tests: files of published sizes need none of it.
"""

from __future__ import annotations

import json
import struct
from typing import Any

SIZES = "residency_sizes"  # key of the metadata: what detection would find, as JSON; of a text encoder also its "class"

VISION = {"hidden_size": 32, "intermediate_size": 64, "depth": 1, "deepstack_visual_indexes": [0], "num_heads": 2}
_ENCODERS = (
    "",
    "umt5xxl",
    "qwen3vl_32b",
    "qwen3vl_8b",
    "qwen3vl_4b",
    "qwen3_4b",
    "qwen25_7b",
)  # as ComfyUI calls them where it looks for their sizes


def sizes(path: str) -> dict[str, Any]:
    """The sizes in the file's metadata; empty for any other file."""
    if not path.endswith(".safetensors"):
        return {}
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    found: dict[str, Any] = json.loads(header.get("__metadata__", {}).get(SIZES, "{}"))
    return found


def small_vision() -> None:
    """The parts of the text encoders that look at images, which no prompt of ours shows any."""
    import comfy.text_encoders.llama
    import comfy.text_encoders.qwen3vl
    import comfy.text_encoders.qwen_vl

    for config in comfy.text_encoders.qwen3vl.QWEN3VL_VISION.values():
        config.update(VISION)
    comfy.text_encoders.qwen3vl.QWEN3VL_VISION_COMMON["num_heads"] = VISION["num_heads"]
    few = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1}
    comfy.text_encoders.llama.GEMMA3_VISION_CONFIG.update(few)
    whole = comfy.text_encoders.qwen_vl.Qwen2VLVisionTransformer

    class Small(whole):  # type: ignore[misc, valid-type]
        def __init__(self, **named: Any) -> None:
            super().__init__(**{**named, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "num_layers": 1})

    comfy.text_encoders.qwen_vl.Qwen2VLVisionTransformer = Small


def install() -> None:
    """In a ComfyUI that runs: its loaders take sizes from metadata where there are any."""
    import comfy.model_detection
    import comfy.sd
    import comfy.supported_models

    small_vision()
    detect_model, detect_encoder, load_clip = comfy.model_detection.detect_unet_config, comfy.sd.detect_te_model, comfy.sd.load_clip
    encoder: list[str] = []  # the class that the file being loaded names

    def of_model(state_dict: Any, key_prefix: str, metadata: Any = None) -> Any:
        found = detect_model(state_dict, key_prefix, metadata=metadata)
        return found and found | json.loads((metadata or {}).get(SIZES, "{}"))

    def of_encoder(state_dict: Any) -> Any:
        return comfy.sd.TEModel[encoder[-1]] if encoder else detect_encoder(state_dict)

    def load(ckpt_paths: list[str], *rest: Any, model_options: dict[str, Any] | None = None, **named: Any) -> Any:
        said = next((said for path in ckpt_paths if (said := sizes(path))), {})
        name = said.pop("class", None)
        options = {f"{called}_model_config": said for called in _ENCODERS} if said else {}
        encoder.extend([name] if name else [])
        try:
            return load_clip(ckpt_paths, *rest, model_options={**(model_options or {}), **options}, **named)
        finally:
            encoder.clear()

    comfy.model_detection.detect_unet_config = of_model
    comfy.sd.detect_te_model = of_encoder
    comfy.sd.load_clip = load
    # Z-Image is told from its elder by its published width
    comfy.supported_models.ZImage.unet_config = {"image_model": "lumina2", "z_image_modulation": True}
