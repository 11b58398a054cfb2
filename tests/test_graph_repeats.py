"""Nodes that ComfyUI answers for from its cache, told in prompts."""

from __future__ import annotations

import copy
from typing import Any

from residency.graph import unchanged

Prompt = dict[str, dict[str, Any]]


def prompt() -> Prompt:
    return {
        "load": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
        "text": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["load", 1], "text": "a cat"}},
        "none": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["load", 1], "text": ""}},
        "draw": {"class_type": "KSampler", "inputs": {"model": ["load", 0], "positive": ["text", 0], "negative": ["none", 0], "seed": 1}},
        "save": {"class_type": "SaveImage", "inputs": {"images": ["draw", 0]}},
    }


def changed(node_id: str, **inputs: Any) -> Prompt:
    other = copy.deepcopy(prompt())
    other[node_id]["inputs"].update(inputs)
    return other


def test_another_text_leaves_the_loader_and_the_other_text_as_they_were():
    assert unchanged(changed("text", text="a dog"), prompt()) == {"load", "none"}


def test_another_file_is_another_everything():
    assert unchanged(changed("load", ckpt_name="b.safetensors"), prompt()) == frozenset()


def test_the_same_prompt_runs_nothing():
    assert unchanged(prompt(), prompt()) == prompt().keys()


def test_a_node_that_was_not_there_or_was_of_another_class_runs_with_all_below_it():
    other = prompt()
    del other["none"]
    assert unchanged(prompt(), other) == {"load", "text"}
    assert unchanged(prompt(), other | {"none": {**prompt()["none"], "class_type": "CLIPTextEncodeFlux"}}) == {"load", "text"}


def test_five_thousand_nodes_in_a_row_are_gone_through_once():
    chain: Prompt = {str(at): {"class_type": "Next", "inputs": {"value": [str(at - 1), 0]} if at else {"seed": 0}} for at in range(5000)}
    assert unchanged(chain, {**chain, "0": {"class_type": "Next", "inputs": {"seed": 1}}}) == frozenset()
