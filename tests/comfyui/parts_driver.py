"""Runs inside ComfyUI's own Python: by which prefixes its loaders pick tensors, and how large the models are that they make of one file.

<ComfyUI>/.venv/bin/python tests/comfyui/parts_driver.py <ComfyUI> <scratch folder>
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

from inside import enter

OUTPUTS = ("MODEL", "CLIP", "VAE")


def prefixes() -> dict[str, list[str]]:
    """Link type -> prefixes, as ComfyUI's model families name them; of the parts that only nodes of one family know, by loader class."""
    import comfy.model_detection  # type: ignore[import-not-found]
    import comfy.supported_models  # type: ignore[import-not-found]
    import torch
    from comfy_extras.nodes_lt_audio import LTXVAudioVAELoader  # type: ignore[import-not-found]

    found: dict[str, set[str]] = {"VAE": set(), "CLIP": set(), "CLIP_VISION": set()}
    # old families name their text encoders in the function that renames them
    embedders = [f"conditioner.embedders.{number}" for number in range(4)]
    probes = [f"{one}.{name}." for one in [*embedders, "cond_stage_model"] for name in ("model", "transformer.text_model")]
    for family in comfy.supported_models.models:
        config = object.__new__(family)  # the shape of a model, which it would be made with, changes no name
        config._clip_stash = {}
        found["VAE"].update(family.vae_key_prefix)
        found["CLIP"].update(family.text_encoder_key_prefix)
        found["CLIP_VISION"].update([family.clip_vision_prefix] if family.clip_vision_prefix else [])
        of_none = len(config.process_clip_state_dict({}))
        found["CLIP"].update(probe for probe in probes if len(config.process_clip_state_dict({f"{probe}x": torch.zeros(1)})) > of_none)
    detection = inspect.getsource(comfy.model_detection.unet_prefix_from_state_dict)
    audio = inspect.getsource(LTXVAudioVAELoader.execute)
    told = {kind: sorted(names) for kind, names in found.items()}
    told["MODEL"] = re.findall(r'"([a-z_.]+\.)"', detection)
    told["LTXVAudioVAELoader"] = re.findall(r'"([a-z_.]+\.)": "', audio)
    return told


def checkpoint(path: Path) -> None:
    """Stable Diffusion 3 of two blocks with CLIP-L and a tiny VAE in one file, and what nobody reads."""
    import comfy.ops  # type: ignore[import-not-found]
    import torch
    from comfy.ldm.modules.diffusionmodules.mmdit import MMDiT  # type: ignore[import-not-found]
    from safetensors.torch import save_file

    from residency.comfyui.sample_models.tiny import clip_l, random_weights, tae

    shape: dict[str, Any] = {"depth": 2, "in_channels": 16, "num_patches": 64, "pos_embed_max_size": 8, "adm_in_channels": 2048}
    context = {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 128}}
    build = {"device": "meta", "dtype": torch.float16, "operations": comfy.ops.disable_weight_init}
    model = MMDiT(input_size=None, context_embedder_config=context, pos_embed_scaling_factor=None, **shape, **build)
    parts = {
        "model.diffusion_model.": random_weights(model),
        "text_encoders.clip_l.transformer.": random_weights(clip_l()),
        "first_stage_model.": tae(),
        "model_ema.": iter([("diffusion_model", torch.zeros(1 << 16))]),
    }
    save_file({prefix + name: weight.contiguous() for prefix, part in parts.items() for name, weight in part}, path)


def sizes(folder: Path) -> dict[str, Any]:
    """Elements of each part and of the model that ComfyUI's checkpoint loader makes of it; what is learnt from a pipe that holds them."""
    import comfy.sd  # type: ignore[import-not-found]

    from residency.comfyui.device.models import Models, model_of
    from residency.weights.components import components_of_node, distinct_bytes

    path = folder / "sd3.safetensors"
    checkpoint(path)
    made = comfy.sd.load_checkpoint_guess_config(str(path))[:3]
    inputs = {"ckpt_name": path.name}

    def loads(class_type: str, *outputs: str) -> Any:
        return components_of_node(class_type, inputs, outputs, lambda _, value: str(folder / value)).components

    found = loads("CheckpointLoaderSimple", *OUTPUTS)
    models = {kind: model_of(value) for kind, value in zip(OUTPUTS, made, strict=True)}
    kept = {kind: sum(weight.numel() for weight in model.state_dict().values()) for kind, model in models.items()}

    pipe = {"model": made[0], "inside": {"clip": made[1], "vae": made[2]}, "settings": {"steps": 20}}
    piped = loads("easy comfyLoader", "PIPE_LINE", "MODEL", "VAE")
    learnt = Models()
    not_made = learnt.learn(piped, [[pipe], [made[0]], [made[2]]], ("PIPE_LINE", "MODEL", "VAE"))
    keys = {component.key: kind for component, kind in piped}
    del pipe["inside"]
    return {
        "parts": {kind: component.size_bytes // 2 for component, kind in found},
        "models": kept,
        "file": path.stat().st_size,
        "distinct": distinct_bytes(component for component, _ in found),
        "learnt": {kind: keys.get(learnt.key_of(value) or "") for kind, value in zip(OUTPUTS, made, strict=True)},
        "estimates": estimates(made[2]),
        "not_made": sorted(not_made),
        "not_made_without_clip": sorted(Models().learn(piped, [[pipe], [made[0]], [made[2]]], ("PIPE_LINE", "MODEL", "VAE"))),
        "not_made_opaque": sorted(Models().learn(piped, [[object()], [made[0]], [made[2]]], ("PIPE_LINE", "MODEL", "VAE"))),
    }


def estimates(vae: Any) -> dict[str, Any]:
    """Working sets of a prompt's decoders, node by node of its run."""
    import torch
    from comfy_execution.graph import DynamicPrompt

    from residency.comfyui.prompt.decoders import Decoders
    from residency.comfyui.prompt.live_graph import Expected, LiveGraph
    from residency.comfyui.prompt.node_classes import traits
    from residency.comfyui.prompt.profiling import _with_what_led_to_them
    from residency.comfyui.prompt.queued import REPETITION

    prompt = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd3.safetensors"}},
        "2": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512, "batch_size": 1}},
        "3": {"class_type": "LatentUpscaleBy", "inputs": {"samples": ["2", 0], "scale_by": 2.0}},
        "4": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["1", 2]}},
        "5": {"class_type": "VAEEncode", "inputs": {"pixels": ["4", 0], "vae": ["1", 2]}},
    }

    def run(device_bytes: int) -> list[dict[str, int]]:
        decoders = Decoders(prompt, traits, device_bytes)
        kinds = [traits(prompt[node_id]["class_type"]).outputs for node_id in "1234"]  # type: ignore[union-attr]
        latents = [{"samples": torch.zeros(1, 16, size, size)} for size in (64, 128, 64)]
        told = [decoders.learn("1", [[None], [None], [vae]], kinds[0])]
        told += [decoders.learn(node_id, [[latent]], kinds[1]) for node_id, latent in zip("232", latents, strict=True)]
        told.append(decoders.learn("4", [[torch.zeros(1)]], kinds[3]))
        return told

    odd = Decoders(prompt, traits, 10**12)
    told_of_odd = [
        odd.learn(node_id, [[value]], (kind,))
        for node_id, kind, value in (
            ("1", "VAE", vae),
            ("2", "LATENT", {"samples": torch.zeros(8)}),  # of one dimension
            ("2", "LATENT", {"samples": None}),
            ("2", "LATENT", {}),
            ("2", "LATENT", torch.zeros(1)),
            ("2", "LATENT", {"samples": torch.zeros(1, 16, 64, 64)}),
        )
    ]
    graph = LiveGraph("p", DynamicPrompt(prompt))
    graph.estimated = {"4": 5}

    def stands_in(prompt_id: str, asks: int | None = None) -> int:
        return graph._visit(prompt_id, "4", "VAEDecode", asks).working_set_bytes

    led = sorted(_with_what_led_to_them(prompt, {"5"}, {"1"}))
    standing_in = [stands_in("p"), stands_in(REPETITION), stands_in("queued"), stands_in("p", asks=1)]
    graph.expected["p", "4"] = Expected(1.0, 3)
    standing_in.append(stands_in("p"))
    of_comfyui = [int(vae.memory_used_decode((1, 16, size, size), vae.vae_dtype)) for size in (64, 128)]
    without = Decoders({node_id: node for node_id, node in prompt.items() if node_id != "4"}, traits, 10**12)
    return {
        "whole": run(10**12),
        "small": run(of_comfyui[0]),
        "of ComfyUI": of_comfyui,
        "without": bool(without),
        "odd": told_of_odd,
        "standing in": standing_in,
        "led": led,
    }


def main() -> None:
    scratch = Path(sys.argv[2]).resolve()
    enter(Path(sys.argv[1]), scratch)
    print("ANSWER " + json.dumps({"prefixes": prefixes(), "sizes": sizes(scratch)}))


if __name__ == "__main__":
    main()
