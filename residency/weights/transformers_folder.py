"""Folders in the layout that the `transformers` library saves and loads: which weights they hold, and what is wrong with them.

A folder holds config.json, a tokenizer, and its weights as model.safetensors or as shards listed by model.safetensors.index.json. Other
files in it (another framework's copy, the original checkpoint) are not read. Nothing here imports transformers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tekken.json")


class FolderError(Exception):
    """A folder cannot be used. The message names the folder, what is wrong and the way out."""


class Modality(Enum):
    """The needs of a language model."""

    TEXT = "text"
    VISION = "text and images"


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A whole folder: its absolute path, config.json, and the files its weights are read from, in order."""

    path: str
    config: Mapping[str, Any]
    shards: tuple[str, ...]


def subfolders(roots: Sequence[str]) -> dict[str, str]:
    """Name -> absolute path of each folder directly under `roots` that holds a config and safetensors weights; the first root wins."""
    found: dict[str, str] = {}
    for root in roots:
        try:
            names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
        except OSError:
            continue  # a registered folder that nobody has made yet
        for name in names:
            path = os.path.join(os.path.abspath(root), name)
            if name not in found and holds_model(path):
                found[name] = path
    return found


def holds_model(path: str) -> bool:
    """Whether a folder has a config and safetensors weights; says nothing of whether they can be used."""
    try:
        names = os.listdir(path)
    except OSError:
        return False
    return CONFIG in names and any(name.endswith(".safetensors") for name in names)


def shards(path: str) -> tuple[str, ...]:
    """Absolute paths of the files that the weights are read from, in order. Raises FolderError, also for a shard that is not there."""
    index = os.path.join(path, INDEX)
    whole = os.path.join(path, WEIGHTS)
    if os.path.isfile(whole):
        return (os.path.abspath(whole),)
    if os.path.isfile(index):
        listed = _json(index).get("weight_map")
        if not isinstance(listed, dict) or not listed or not all(isinstance(name, str) for name in listed.values()):
            raise FolderError(f"{index} has no weight_map of file names; download the folder again")
        files = tuple(os.path.abspath(os.path.join(path, name)) for name in sorted(set(listed.values())))
        missing = [os.path.basename(file) for file in files if not os.path.isfile(file)]
        if missing:
            raise FolderError(f"{path}: {INDEX} lists {', '.join(missing)}, which are not there; finish the download of the folder")
        return files
    others = [name for name in sorted(os.listdir(path)) if name.endswith((".bin", ".pt", ".pth"))]
    if others:
        raise FolderError(
            f"{path} holds its weights only as {others[0]}, a format that can run code when it is read; "
            f"download the safetensors version of the model ({WEIGHTS}) into the folder"
        )
    raise FolderError(f"{path} holds neither {WEIGHTS} nor {INDEX}; download the safetensors weights of the model into the folder")


def inspect(path: str) -> Pretrained:
    """Look at a folder without loading it. Raises FolderError for the first thing that keeps it from being used."""
    if not os.path.isdir(path):
        raise FolderError(f"{path} is no folder; choose a folder with a {CONFIG}")
    config_path = os.path.join(path, CONFIG)
    if not os.path.isfile(config_path):
        raise FolderError(f"{path} has no {CONFIG}; download the whole model folder, not only its weights")
    config = _json(config_path)
    files = shards(path)
    if not any(os.path.isfile(os.path.join(path, name)) for name in TOKENIZERS):
        raise FolderError(
            f"{path} has no tokenizer ({TOKENIZERS[0]} or another of its kind); download the tokenizer files of the model into it"
        )
    quantization = config.get("quantization_config")
    if isinstance(quantization, dict):
        method = quantization.get("quant_method", "unknown")
        raise FolderError(f"{path} is quantised ({method}), which needs a library of its own; choose the model in 16 bit")
    return Pretrained(os.path.abspath(path), config, files)


def modality(folder: Pretrained, text: Mapping[str, Any], vision: Mapping[str, Any]) -> Modality:
    """Whether a model reads text, or images too. `text` and `vision` are transformers' tables, model type -> class name(s).

    Raises FolderError for an architecture that is in neither.
    """
    model_type = folder.config.get("model_type")
    classes = folder.config.get("architectures")
    named = set(classes) if isinstance(classes, list) else set()

    def fits(table: Mapping[str, Any]) -> bool:
        return isinstance(model_type, str) and model_type in table and (not named or bool(named & _names(table[model_type])))

    if fits(vision) and (named or model_type not in text):
        return Modality.VISION
    if fits(text):
        return Modality.TEXT
    what = f"model_type {model_type!r}" + (f", architecture {', '.join(sorted(named))}" if named else "")
    if "auto_map" in folder.config:
        raise FolderError(
            f"{folder.path}: {what} runs code of its own from the folder, which is never done here; choose a model that the "
            "installed transformers knows"
        )
    raise FolderError(
        f"{folder.path}: {what} is not one that the installed transformers writes text with; update transformers or choose another model"
    )


def cache_bytes(config: Mapping[str, Any], tokens: int, element_bytes: int) -> int:
    """Bytes of the keys and values of `tokens` tokens: 2 x layers x heads x head size each (config in transformers' names).

    0 for a config that does not say; an estimate for models that keep a window only.
    """
    text = config.get("text_config", config)
    if not isinstance(text, Mapping):
        return 0
    layers, heads, hidden = (text.get(name) for name in ("num_hidden_layers", "num_attention_heads", "hidden_size"))
    if not all(isinstance(number, int) and number > 0 for number in (layers, heads, hidden)):
        return 0
    assert isinstance(layers, int) and isinstance(heads, int) and isinstance(hidden, int)
    head_size = text.get("head_dim") or hidden // heads
    return 2 * layers * (text.get("num_key_value_heads") or heads) * int(head_size) * tokens * element_bytes


def _names(entry: str | tuple[str, ...]) -> set[str]:
    return {entry} if isinstance(entry, str) else set(entry)


def _json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except (OSError, ValueError) as error:
        raise FolderError(f"{path} cannot be read as JSON ({error}); download it again") from error
    if not isinstance(data, dict):
        raise FolderError(f"{path} holds no JSON object; download it again")
    return data
