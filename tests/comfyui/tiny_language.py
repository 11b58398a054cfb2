"""Language models of random weights in transformers' layout. Run by the Python that runs ComfyUI: `python tiny_language.py FOLDER [large]`.

FOLDER/writer: a Llama in one file, with a chat template; endless: one that never stops by itself; sharded: a larger one in several
files, tied, without a template; seer: a Llava over the same words. Then the broken ones. With `large` nothing but one that never stops and
weighs 1.3 GB.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

MARKS = ["<unk>", "<s>", "</s>", "<image>", "<system>", "<user>", "<writer>"]
TEXT = """a an the cat dog house forest sea light shadow old young red green blue golden on under beside with and of in quiet stormy soft"""
WORDS = MARKS + TEXT.split()
TEMPLATE = "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}{% if add_generation_prompt %}<writer>{% endif %}"
SEER_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {% for c in m.content %}{{ '<image>' if c.type == 'image' else c.text }} {% endfor %}"
    "{% endfor %}<writer>"
)


def tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=MARKS[0]))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = dict(zip(("unk_token", "bos_token", "eos_token"), MARKS, strict=False))
    made = PreTrainedTokenizerFast(tokenizer_object=words, **marks, extra_special_tokens={"image_token": "<image>"})
    made.chat_template = template
    return made


def llama(hidden: int = 64, layers: int = 2, tied: bool = False) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=tied,
        max_position_embeddings=2048,
    )


def writer(folder: Path) -> None:
    LlamaForCausalLM(llama()).half().save_pretrained(folder)
    tokenizer(TEMPLATE).save_pretrained(folder)


def endless(folder: Path) -> None:
    model = LlamaForCausalLM(llama()).half()
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    tokenizer(TEMPLATE).save_pretrained(folder)


def sharded(folder: Path) -> None:
    LlamaForCausalLM(llama(hidden=512, layers=4, tied=True)).half().save_pretrained(folder, max_shard_size="6MB")
    tokenizer(None).save_pretrained(folder)


def seer(folder: Path) -> None:
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14, projection_dim=32
    )
    config = LlavaConfig(vision_config=vision, text_config=llama(), image_token_index=WORDS.index("<image>"), image_seq_length=4)
    config.vision_feature_layer = -1
    LlavaForConditionalGeneration(config).half().save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    words = tokenizer(SEER_TEMPLATE)
    LlavaProcessor(
        images, words, patch_size=14, vision_feature_select_strategy="default", chat_template=SEER_TEMPLATE, num_additional_image_tokens=1
    ).save_pretrained(folder)


def broken(root: Path) -> None:
    for name in ("no_config", "only_bin", "no_tokenizer", "unknown", "own_code"):
        shutil.copytree(root / "writer", root / name)
    (root / "no_config" / "config.json").unlink()
    (root / "only_bin" / "model.safetensors").rename(root / "only_bin" / "pytorch_model.bin")
    (root / "no_tokenizer" / "tokenizer.json").unlink()
    shutil.copytree(root / "sharded", root / "half_there")
    max((root / "half_there").glob("*.safetensors")).unlink()
    own_code = {"auto_map": {"AutoModelForCausalLM": "abacus.Abacus"}}
    for name, more in (("unknown", {}), ("own_code", own_code)):
        config = root / name / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "abacus", "architectures": ["Abacus"]} | more))


def large(folder: Path) -> None:
    torch.set_default_dtype(torch.bfloat16)
    config = llama(hidden=2048, layers=16)
    config.num_attention_heads = config.num_key_value_heads = 16
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder, max_shard_size="500MB")
    tokenizer(TEMPLATE).save_pretrained(folder)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    torch.manual_seed(7)
    if sys.argv[2:] == ["large"]:
        large(root / "large")
        sys.exit()
    for make in (writer, endless, sharded, seer):
        make(root / make.__name__)
    broken(root)
