"""Language models as nodes: one loads a folder of the transformers library, two use it, and its weights are a component like any other."""

from __future__ import annotations

import os
from typing import Any

import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io

from ..residency.comfyui import language_models
from ..residency.comfyui.prompt.model_files import LANGUAGE_FOLDERS, language_folders
from ..residency.settings import take_out
from ..residency.settings.node_inputs import INPUTS, Family
from ..residency.weights.transformers_folder import FolderError, subfolders
from .inputs import own_input

LM = io.Custom("RESIDENCY_LM")
CATEGORY = "residency/language"

WRITE = (
    "You write prompts for an image generator. Turn the user's words into one vivid paragraph: subject, surroundings, light, "
    "composition and style. Answer with the paragraph only."
)
DESCRIBE = "Describe this image in one paragraph, as a prompt for an image generator would."


def register_folders() -> None:
    """Make models/LLM and models/transformers known to ComfyUI, beside the folders that extra_model_paths.yaml names so."""
    take_out.register("ResidencyTransformersLoader", Family.LOADER)
    for name in LANGUAGE_FOLDERS:
        folder_paths.add_model_folder_path(name, os.path.join(folder_paths.models_dir, name))


def _sampling_inputs(max_new_tokens: int, temperature: float) -> list[Any]:
    return [
        io.Int.Input("max_new_tokens", default=max_new_tokens, min=1, max=32768, tooltip="The longest answer, in tokens."),
        io.Float.Input(
            "temperature",
            default=temperature,
            min=0.0,
            max=2.0,
            step=0.05,
            tooltip="0 takes the likeliest word each time; higher draws more freely, the same way for the same seed.",
        ),
        io.Int.Input(
            "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True, tooltip="Counts if temperature is over 0."
        ),
    ]


class ResidencyTransformersLoader(io.ComfyNode):
    """Loads a folder under models/LLM or models/transformers; its weights are planned, read ahead and evicted like a diffusion model's."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ResidencyTransformersLoader",
            display_name="Load Language Model (Residency)",
            category=CATEGORY,
            description="Loads a language or vision-language model from a local folder in the layout of the transformers library. "
            "Safetensors only; nothing is downloaded and no code from the folder is run.",
            search_aliases=["llm", "transformers", "vlm", "qwen", "llama", "load llm"],
            inputs=[
                io.Combo.Input(
                    "lm_name",
                    options=sorted(subfolders(language_folders())),
                    tooltip="A folder under models/LLM or models/transformers with config.json, tokenizer and safetensors weights.",
                ),
                io.Combo.Input(
                    "device",
                    options=["default", "cpu"],
                    default="default",
                    optional=True,
                    advanced=True,
                    tooltip="cpu leaves the device's memory to the other models.",
                ),
                *(own_input(name) for name in INPUTS[Family.LOADER]),
            ],
            outputs=[LM.Output(display_name="LM", tooltip="For Write Text and Caption.")],
        )

    @classmethod
    def validate_inputs(cls, lm_name: str | None = None) -> bool | str:
        if lm_name is None:
            return True  # it comes over a link: told when the node runs
        try:
            language_models.check(_folder(lm_name))
        except FolderError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, lm_name: str, device: str = "default", **placement: Any) -> io.NodeOutput:
        return io.NodeOutput(language_models.load(_folder(lm_name), on_cpu=device == "cpu"))


class ResidencyWriteText(io.ComfyNode):
    """Writes or rewrites a text with a language model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ResidencyWriteText",
            display_name="Write Text (Residency)",
            category=CATEGORY,
            description="Writes a text, for example a prompt, from your words. The same seed writes the same text.",
            search_aliases=["prompt writer", "llm", "generate text", "enhance prompt", "rewrite prompt"],
            inputs=[
                LM.Input("lm"),
                io.String.Input("text", multiline=True, dynamic_prompts=True, default="", tooltip="What the model answers to."),
                io.String.Input(
                    "system_prompt", multiline=True, default=WRITE, tooltip="What the model is to do with the text; may be empty."
                ),
                *_sampling_inputs(max_new_tokens=256, temperature=0.7),
            ],
            outputs=[io.String.Output(display_name="text")],
        )

    @classmethod
    def execute(cls, lm: Any, text: str, system_prompt: str, max_new_tokens: int, temperature: float, seed: int) -> io.NodeOutput:
        bar = comfy.utils.ProgressBar(max_new_tokens)
        sampling = language_models.Sampling(max_new_tokens, temperature, seed)
        return io.NodeOutput(language_models.write(lm, system_prompt, text, sampling, lambda: bar.update(1)))


class ResidencyCaption(io.ComfyNode):
    """Describes each image of a batch with a vision-language model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ResidencyCaption",
            display_name="Caption (Residency)",
            category=CATEGORY,
            description="Describes images with a vision-language model: a list of one text per image. An image's text does not "
            "depend on the others of its batch.",
            search_aliases=["describe image", "image to text", "vlm", "interrogate"],
            inputs=[
                LM.Input("lm", tooltip="A vision-language model."),
                io.Image.Input("image"),
                io.String.Input("question", multiline=True, default=DESCRIBE, tooltip="What to say of each image."),
                *_sampling_inputs(max_new_tokens=256, temperature=0.0),
            ],
            outputs=[io.String.Output(display_name="captions", is_output_list=True, tooltip="One text per image.")],
        )

    @classmethod
    def execute(cls, lm: Any, image: torch.Tensor, question: str, max_new_tokens: int, temperature: float, seed: int) -> io.NodeOutput:
        bar = comfy.utils.ProgressBar(max_new_tokens * len(image))
        sampling = language_models.Sampling(max_new_tokens, temperature, seed)
        captions = []
        for done, picture in enumerate(image):
            captions.append(language_models.describe(lm, picture, question, sampling, lambda: bar.update(1)))
            bar.update_absolute((done + 1) * max_new_tokens)  # a text may end before its last token
        return io.NodeOutput(captions)


def _folder(name: str) -> str:
    """Absolute path of a folder by its name, also one that cannot be used. Raises FolderError for one that is nowhere."""
    roots = language_folders()
    for root in roots:
        path = os.path.join(root, name)
        if name and os.path.basename(name) == name and name not in (os.curdir, os.pardir) and os.path.isdir(path):
            return path
    raise FolderError(f"{name!r} is no folder in {' or '.join(roots)}; put the model's folder there, or choose another")


NODES: tuple[type[io.ComfyNode], ...] = (ResidencyTransformersLoader, ResidencyWriteText, ResidencyCaption)
