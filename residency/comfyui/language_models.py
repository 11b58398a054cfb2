"""Language models of the `transformers` library behind ComfyUI's memory management: how one is loaded, moved and asked to write.

ComfyUI's dynamic patcher streams only modules made of its own operations; weights of any other module it would put on the device
and never give to another dynamic model. So these models sit behind the legacy patcher, which ComfyUI runs beside dynamic ones
(comfy.sd does so for text encoders): load_models_gpu moves them whole, free_memory takes them off the device whole.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.model_management as model_management
import torch
from comfy.model_patcher import ModelPatcher

from ..weights import transformers_folder
from ..weights.transformers_folder import FolderError, Modality, Pretrained
from .device.memory_usage import device_bytes

log = logging.getLogger("residency")


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """The value of a RESIDENCY_LM output. `processor` turns images into inputs; None for a model that only reads text."""

    patcher: ModelPatcher
    tokenizer: Any
    processor: Any
    folder: Pretrained


@dataclass(frozen=True, slots=True)
class Sampling:
    """The choice of the next token: the likeliest one with `temperature` 0, else drawn, the same way for the same `seed`."""

    max_new_tokens: int
    temperature: float
    seed: int


class LanguageModule(torch.nn.Module):
    """A transformers model as the patcher wants it: `device` can be set, and `go_home` gives the device's memory back without a copy.

    The tensors that from_pretrained made are kept: most are the mapped file itself, so a model that leaves the device costs no
    memory and no traffic, and its pages are the kernel's to drop.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.device = torch.device("cpu")
        places: dict[int, list[tuple[torch.nn.Module, str]]] = {}  # tied weights are one parameter in several places
        tensors: dict[int, torch.Tensor] = {}
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                places.setdefault(id(parameter), []).append((module, name))
                tensors[id(parameter)] = parameter.data
        self._homes = [(tensors[key], places[key]) for key in places]

    def size_bytes(self) -> int:
        """Bytes of the weights, tied ones counted once."""
        return sum(tensor.nbytes for tensor, _ in self._homes)

    def go_home(self) -> None:
        """Put the weights of the host back in place of the device's, which are freed.

        Buffers are left to `.to()`: some rotary embeddings change theirs while they compute.
        """
        for tensor, places in self._homes:
            parameter = torch.nn.Parameter(tensor, requires_grad=False)
            for module, name in places:
                setattr(module, name, parameter)


class WholePatcher(ModelPatcher):  # type: ignore[misc, unused-ignore]
    """Moves a LanguageModule as a whole: plain modules compute only with all their weights on one device."""

    def partially_unload(self, device_to: Any, memory_to_free: float = 0, force_patch_weights: bool = False) -> int:
        return 0  # nothing freed: ComfyUI then unloads the model whole

    def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> None:
        if unpatch_weights:
            self.model.go_home()
        super().unpatch_model(device_to, unpatch_weights)


def check(path: str) -> tuple[Pretrained, Modality]:
    """Look at a folder without loading it. Raises FolderError."""
    from transformers.models.auto import modeling_auto

    folder = transformers_folder.inspect(path)
    text = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return folder, transformers_folder.modality(folder, text, modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def load(path: str, on_cpu: bool = False) -> LanguageModel:
    """The model of a folder, on the host; load_models_gpu moves it when it is used. Raises FolderError."""
    import transformers

    folder, modality = check(path)
    kind = transformers.AutoModelForImageTextToText if modality is Modality.VISION else transformers.AutoModelForCausalLM
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    processor = None
    try:
        if modality is Modality.VISION:
            processors: Any = transformers.AutoProcessor  # untyped there
            processor = processors.from_pretrained(path, **local)
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, **local) if processor is None else processor.tokenizer
    except (OSError, ValueError, ImportError, AttributeError, KeyError, TypeError) as error:
        what = "tokenizer" if modality is Modality.TEXT else "processor (tokenizer and image settings)"
        raise FolderError(f"{path}: its {what} cannot be loaded ({error}); download all .json files of the model into it") from error
    try:
        model = kind.from_pretrained(path, dtype="auto", use_safetensors=True, **local)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        raise FolderError(f"{path}: its weights cannot be loaded ({error}); download the folder again, or update transformers") from error
    module = LanguageModule(model)
    size_bytes = module.size_bytes()
    device = torch.device("cpu") if on_cpu else _load_device(path, size_bytes)
    return LanguageModel(WholePatcher(module, device, torch.device("cpu"), size=size_bytes), tokenizer, processor, folder)


def chat(lm: LanguageModel, system: str, text: str, images: int = 0) -> tuple[str, bool]:
    """The prompt in the words of the model's chat template, and whether it has one: without, the texts one after the other."""
    templated = lm.tokenizer if lm.processor is None or not lm.processor.chat_template else lm.processor
    if not templated.chat_template:
        token = getattr(lm.processor, "image_token", "") or ""
        return "\n".join(part for part in (token * images, system, text) if part), False
    import jinja2

    def filled(*turns: tuple[str, str]) -> str:
        messages = [{"role": role, "content": _content(lm, words, images if role == "user" else 0)} for role, words in turns]
        # a model that can think aloud first is asked not to
        extra = {"enable_thinking": False} if "enable_thinking" in str(templated.chat_template) else {}
        return str(templated.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **extra))

    if not system:
        return filled(("user", text)), True
    try:
        return filled(("system", system), ("user", text)), True
    except jinja2.TemplateError:  # templates without a system role refuse it
        return filled(("user", f"{system}\n\n{text}")), True


def write(lm: LanguageModel, system: str, text: str, sampling: Sampling, on_token: Callable[[], None] = lambda: None) -> str:
    """The text that the model writes after the prompt. Raises ComfyUI's InterruptProcessingException when the prompt is interrupted."""
    prompt, templated = chat(lm, system, text)
    inputs = lm.tokenizer(prompt, return_tensors="pt", add_special_tokens=not templated)
    if not inputs["input_ids"].shape[-1]:
        raise ValueError("there is no text to write from; give the node a text or a system prompt")
    return _generate(lm, inputs, sampling, on_token)


def describe(lm: LanguageModel, image: torch.Tensor, question: str, sampling: Sampling, on_token: Callable[[], None] = lambda: None) -> str:
    """The model's text on one image of shape (height, width, 3), values 0 to 1. Raises FolderError for a model without eyes."""
    from PIL import Image

    if lm.processor is None:
        raise FolderError(f"{lm.folder.path} holds a model that only reads text; choose a vision-language model to caption images")
    pixels = Image.fromarray((image[..., :3].clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy())
    prompt, _ = chat(lm, "", question, images=1)
    starts = bool(lm.tokenizer.bos_token) and prompt.startswith(lm.tokenizer.bos_token)  # some templates leave it to the tokenizer
    inputs = lm.processor(text=[prompt], images=[pixels], return_tensors="pt", add_special_tokens=not starts)
    return _generate(lm, inputs, sampling, on_token)


def _content(lm: LanguageModel, words: str, images: int) -> str | list[dict[str, str]]:
    if lm.processor is None or not lm.processor.chat_template:
        return words
    return [*({"type": "image"} for _ in range(images)), {"type": "text", "text": words}]


def _generate(lm: LanguageModel, inputs: Any, sampling: Sampling, on_token: Callable[[], None]) -> str:
    from transformers import StoppingCriteriaList

    model = lm.patcher.model.model
    tokens = int(inputs["input_ids"].shape[-1])
    cache_bytes = transformers_folder.cache_bytes(lm.folder.config, tokens + sampling.max_new_tokens, model.dtype.itemsize)
    model_management.load_models_gpu([lm.patcher], memory_required=cache_bytes, force_full_load=True)
    inputs = inputs.to(lm.patcher.load_device)
    for name, value in inputs.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            inputs[name] = value.to(model.dtype)

    def between_tokens(input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        model_management.throw_exception_if_processing_interrupted()
        on_token()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

    with _seeded(sampling.seed):
        written = model.generate(
            **inputs,
            generation_config=_config(model.generation_config, lm.tokenizer, sampling),
            stopping_criteria=StoppingCriteriaList([between_tokens]),
        )
    text: str = lm.tokenizer.decode(written[0, tokens:], skip_special_tokens=True)
    return text.rpartition("</think>")[2].strip()


def _config(saved: Any, tokenizer: Any, sampling: Sampling) -> Any:
    """The folder's own generation settings (top_p, penalties, end tokens) with the user's sampling."""
    config = copy.deepcopy(saved)
    config.max_length = None
    config.max_new_tokens = sampling.max_new_tokens
    config.num_return_sequences = 1
    config.return_dict_in_generate = False
    config.do_sample = sampling.temperature > 0
    if config.do_sample:
        config.temperature = sampling.temperature
    else:
        config.temperature = config.top_p = config.top_k = config.min_p = config.typical_p = None
    if config.pad_token_id is None:
        ends = config.eos_token_id
        config.pad_token_id = (
            tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0] if isinstance(ends, Sequence) else ends
        )
    return config


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """transformers draws from torch's global generators: they are seeded inside, and as they were afterwards."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed % 2**63)
        yield


def _load_device(path: str, size_bytes: int) -> torch.device:
    device: torch.device = model_management.text_encoder_device()
    if model_management.is_device_cpu(device) or model_management.vram_state == model_management.VRAMState.NO_VRAM:
        return torch.device("cpu")
    # what other programs hold is no room, whatever the device has in all: such a model is moved whole, or the device is out of memory
    own_bytes = sum(device_bytes(entry.model) for entry in model_management.current_loaded_models if entry.model is not None)
    there_bytes = min(model_management.get_total_memory(device), model_management.get_free_memory(device) + own_bytes)
    room_bytes = there_bytes - model_management.minimum_inference_memory()
    if size_bytes > room_bytes:
        log.warning(
            "residency: %s has %.1f GiB of weights and %s has room for %.1f GiB: it runs on the CPU, slowly; choose a smaller model",
            path,
            size_bytes / 2**30,
            device,
            room_bytes / 2**30,
        )
        return torch.device("cpu")
    return device
