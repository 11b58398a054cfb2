"""A language model of random weights in the layout of the transformers library: of Mistral 7B's shape in 16 bit and four shards, or small.

Its words are made up. It never ends by itself, so that each prompt writes as many of them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .quantized import Weights
from .tiny import random_weights

NAME = "residency_writer"
SHARDS = 4
MARKS = ("<unk>", "<s>", "</s>")
TEMPLATE = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}writer"


def shard_name(number: int) -> str:
    """The name of one of SHARDS files, counted from 1."""
    return f"model-{number:05}-of-{SHARDS:05}.safetensors"


def shard(number: int, full: bool) -> tuple[Weights, dict[str, Any]]:
    """Its tensors, of published size without values, and the metadata that the library asks for."""
    import torch

    mine = list(_shards(full))[number - 1]
    if full:
        return {name: torch.empty(tensor.shape, dtype=torch.bfloat16, device="meta") for name, tensor in mine.items()}, {"format": "pt"}
    return {name: tensor for name, tensor in random_weights(_model(full), torch.bfloat16) if name in mine}, {"format": "pt"}


def texts(full: bool) -> dict[str, str]:
    """The other files of the folder by name: configurations, the tokenizer, and which shard holds which tensor."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    config = _config(full)
    words = [*MARKS, *(f"w{number}" for number in range(config.vocab_size - len(MARKS)))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=MARKS[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = dict(zip(("unk_token", "bos_token", "eos_token"), MARKS, strict=True))
    fast: Any = PreTrainedTokenizerFast  # untyped there
    made = fast(tokenizer_object=tokenizer, **marks)
    made.chat_template = TEMPLATE
    parts = list(_shards(full))
    total_bytes = 2 * sum(tensor.numel() for part in parts for tensor in part.values())
    places = {name: shard_name(number) for number, part in enumerate(parts, 1) for name in part}
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        made.save_pretrained(folder)
        found = {path.name: path.read_text(encoding="utf-8") for path in Path(folder).iterdir()}
    index = {"metadata": {"total_size": total_bytes}, "weight_map": places}
    return found | {"model.safetensors.index.json": json.dumps(index), "generation_config.json": json.dumps({"do_sample": True})}


def _config(full: bool) -> Any:
    from transformers import LlamaConfig

    inner, vocabulary, layers, heads = (14336, 32000, 32, 32) if full else (128, 512, 4, 4)
    size: dict[str, Any] = {"hidden_size": 4096 if full else 64, "intermediate_size": inner, "vocab_size": vocabulary}
    size |= {"num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": heads // 4}
    more: dict[str, Any] = {"max_position_embeddings": 32768, "tie_word_embeddings": False, "eos_token_id": None}
    return LlamaConfig(**size, **more, architectures=["LlamaForCausalLM"])


def _model(full: bool) -> Any:
    """Without weights."""
    import torch
    from transformers import LlamaForCausalLM

    with torch.device("meta"):
        return LlamaForCausalLM(_config(full))


def _shards(full: bool) -> Iterator[dict[str, Any]]:
    """Tensors without values, in SHARDS parts of about the same size."""
    tensors = _model(full).state_dict()
    whole, done = sum(tensor.numel() for tensor in tensors.values()), 0
    parts: list[dict[str, Any]] = [{} for _ in range(SHARDS)]
    for name, tensor in tensors.items():
        parts[min(SHARDS - 1, done * SHARDS // whole)][name] = tensor
        done += tensor.numel()
    return iter(parts)
