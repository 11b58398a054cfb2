"""The part of a checkpoint that each tensor belongs to, and the parts that a loader takes: told from the tensors' names alone.

The prefixes are those by which ComfyUI's own loaders pick their tensors (comfy/supported_models.py, comfy/model_detection.py and the loader
nodes; tests/comfyui/test_parts.py asks them). Quantised weights keep their scales beside them under the same prefix. Tensors that no prefix
claims, a second set of averaged weights for one, nobody reads.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from ..graph import wraps_models

AUDIO_VAE = "AUDIO_VAE"  # travels as a VAE
PROJECTION = "TEXT_PROJECTION"  # from a text encoder of another file into the width of this diffusion model; travels inside a CLIP

PREFIXES: Mapping[str, tuple[str, ...]] = {
    "MODEL": (
        "model.diffusion_model.",
        "model.model.",
        "net.",
        # small ones that ComfyUI puts beside the diffusion model
        "cc_projection.",
        "conditioner.conditioners.prompt.padding_embedding",
        "conditioner.conditioners.seconds_start.",
        "conditioner.conditioners.seconds_total.",
        # a detector without a common prefix
        "detector.",
        "tracker.",
    ),
    "CLIP": (
        "cond_stage_model.",
        "conditioner.embedders.0.model.",
        "conditioner.embedders.0.transformer.",
        "conditioner.embedders.1.model.",
        "text_encoder.",
        "text_encoders.",
        "detector.backbone.language_backbone.",
    ),
    "VAE": ("first_stage_model.", "vae.", "pretransform.model.", "conditioner.embedders.1.encoder."),
    "CLIP_VISION": (
        "clip_l_vision.",
        "cond_stage_model.model.visual.",
        "conditioner.embedders.0.open_clip.model.visual.",
        "conditioner.main_image_encoder.model.",
        "embedder.model.visual.",
    ),
    AUDIO_VAE: ("audio_vae.", "vocoder."),
    PROJECTION: ("text_embedding_projection.",),
}
_PART_OF = {prefix: part for part, prefixes in PREFIXES.items() for prefix in prefixes}
_PREFIX = re.compile("|".join(re.escape(prefix) for prefix in sorted(_PART_OF, key=len, reverse=True)))  # the longest one counts

_DIFFUSION_MODEL = PREFIXES["MODEL"][:3]  # the first one is of files that hold other models as well
_WEAK_PREFIX = "model."  # of diffusion models that have none of the others; text encoders have it too

# Of the first LTX-2 files, the text encoder holds these layers as well as the diffusion model; later ones have three blocks and more.
_CONNECTORS = ("model.diffusion_model.audio_embeddings_connector.", "model.diffusion_model.video_embeddings_connector.")
_THIRD_BLOCK = "model.diffusion_model.audio_embeddings_connector.transformer_1d_blocks.2.attn1.to_q.bias"

_IN_A_PIPE = ("MODEL", "CLIP", "VAE")  # what ComfyUI's checkpoint loader makes, and so what a pipe that is loaded holds


def divide(names: Collection[str]) -> dict[str, list[str]]:
    """Tensor names by part, each name in one part at most."""
    parts: dict[str, list[str]] = {}
    rest = []
    for name in names:
        found = _PREFIX.match(name)
        if found is None:
            rest.append(name)
        else:
            parts.setdefault(_PART_OF[found[0]], []).append(name)
    if rest and "MODEL" not in parts:
        parts["MODEL"] = [name for name in rest if name.startswith(_WEAK_PREFIX)] or rest
    return parts


def taken(names: Collection[str], class_type: str, handles: Collection[str]) -> dict[str, tuple[str, list[str]]]:
    """The parts that a loader takes out of one file, by the link type that it makes of each: (part, tensor names). Empty: the
    file is one thing.

    `handles` are the loader's output types that carry weights. A link type that is none of them goes into a handle that wraps models (a
    pipe). A loader takes the audio VAE of a file that has one when its class says so.
    """
    parts = divide(names)
    own, wrapped = "MODEL" in handles, any(wraps_models(kind) for kind in handles)
    prefixes = _DIFFUSION_MODEL if own and len(parts) == 1 else _DIFFUSION_MODEL[:1]
    if not (own and len(parts) > 1) and not any(name.startswith(prefixes) for name in parts.get("MODEL", ())):
        return {}  # whatever its names begin with
    found: dict[str, tuple[str, list[str]]] = {}
    for kind in dict.fromkeys((*handles, *(_IN_A_PIPE if wrapped else ()))):
        of_kind = [part for part in _parts_of(kind, class_type, own, parts) if part in parts]
        chosen = [name for part in of_kind for name in parts[part]]
        if PROJECTION in of_kind and _THIRD_BLOCK not in names:
            chosen += [name for name in parts["MODEL"] if name.startswith(_CONNECTORS)]
        if chosen:
            found[kind] = ("+".join(of_kind), chosen)
    if len(handles) == 1 and len(found) == 1:
        ((_, (_, chosen)),) = found.items()
        return {} if wrapped or len(chosen) == len(names) else found
    return found


def _parts_of(kind: str, class_type: str, own: bool, parts: Collection[str]) -> tuple[str, ...]:
    if kind == "VAE":
        return (AUDIO_VAE,) if AUDIO_VAE in parts and "audio" in class_type.lower() else ("VAE",)
    if kind == "CLIP":
        return ("CLIP",) if own else ("CLIP", PROJECTION)
    return (kind,)
