"""Runs inside ComfyUI's own Python, `language_driver.py COMFYUI SCRATCH LLM_FOLDER`: moves language models through ComfyUI's patchers.

The other device is "meta" where there is no CUDA: weights leave the host and come home, only nothing can be computed there.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

from inside import enter

COMFYUI, SCRATCH, FOLDER = (Path(argument) for argument in sys.argv[1:])
enter(COMFYUI, SCRATCH)  # takes sys.argv for ComfyUI's own

import torch  # noqa: E402 -- after ComfyUI's own set-up


def loaded(name: str) -> Any:
    from residency.comfyui import language_models

    with torch.inference_mode():
        return language_models.load(str(FOLDER / name))


def places(model: Any) -> list[tuple[str, int, str]]:
    """Name, address and device of each weight."""
    return [(name, weight.data_ptr(), weight.device.type) for name, weight in model.named_parameters(remove_duplicate=False)]


def story_size() -> dict[str, Any]:
    """A tied weight is counted once."""
    patcher = loaded("sharded").patcher
    return {"model_size": patcher.model_size(), "files": sum(path.stat().st_size for path in (FOLDER / "sharded").glob("*.safetensors"))}


def story_mapped() -> dict[str, Any]:
    """Whose memory the weights are in."""
    model = loaded("sharded").patcher.model
    maps = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "sharded/model-" in line:
            first, _, last = line.split()[0].partition("-")
            maps.append((int(first, 16), int(last, 16)))
    weights = [weight.data_ptr() for weight in model.parameters()]
    return {"weights": len(weights), "mapped": sum(any(first <= at < last for first, last in maps) for at in weights)}


class Tied(torch.nn.Module):
    """One weight in two places and one of its own; no buffers, which could not come back from "meta"."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(8, 4)
        self.head = torch.nn.Linear(4, 8)
        self.head.weight = self.words.weight


def story_home() -> dict[str, Any]:
    """To another device and back, by ComfyUI's own loading and a partial unload that becomes a whole one."""
    import comfy.model_management as model_management

    from residency.comfyui import language_models

    module = language_models.LanguageModule(Tied())
    before = places(module)
    away = torch.device("cuda" if torch.cuda.is_available() else "meta")
    patcher = language_models.WholePatcher(module, away, torch.device("cpu"), size=module.size_bytes())
    one = model_management.LoadedModel(patcher)
    one.model_load()
    there = {device for _, _, device in places(module)}
    counted_bytes = patcher.loaded_size()
    unloaded = one.model_unload(memory_to_free=1)
    return {
        "there": there == {away.type} and counted_bytes == module.size_bytes() == (8 * 4 + 8) * 4,
        "whole": unloaded and patcher.loaded_size() == 0,
        "same": places(module) == before,
        "tied": module.model.head.weight is module.model.words.weight,
        "device": str(module.device),
    }


def story_random() -> dict[str, Any]:
    """Writing leaves torch's random numbers as they were."""
    from residency.comfyui import language_models

    language = loaded("writer")
    torch.manual_seed(5)
    expected = torch.rand(3).tolist()
    torch.manual_seed(5)
    with torch.inference_mode():
        text = language_models.write(language, "", "a cat", language_models.Sampling(8, 1.0, 0xFFFFFFFFFFFFFFFF))
    return {"text": bool(text), "same": torch.rand(3).tolist() == expected}


def story_chat() -> dict[str, Any]:
    from residency.comfyui import language_models

    language = loaded("writer")
    shown = {"template": language_models.chat(language, "the sea", "a cat"), "no system": language_models.chat(language, "", "a cat")}
    language.tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}<{{ m.role }}> {{ m.content }}{% endfor %}"
    )
    shown["system refused"] = language_models.chat(language, "the sea", "a cat")
    language.tokenizer.chat_template = "{{ messages[0].content }}{% if enable_thinking is false %} <quiet>{% endif %}"
    shown["can think"] = language_models.chat(language, "", "a cat")
    shown["plain"] = language_models.chat(loaded("sharded"), "the sea", "a cat")
    shown["image"] = language_models.chat(loaded("seer"), "", "a cat", images=1)
    return shown


def story_nothing() -> dict[str, Any]:
    from residency.comfyui import language_models

    try:
        language_models.write(loaded("sharded"), "", "", language_models.Sampling(4, 0.0, 0))
    except ValueError as error:
        return {"said": str(error)}
    return {"said": ""}


def story_room() -> dict[str, Any]:
    """On a device of 80 GiB of which other programs hold all but 12: where a model of so many GiB goes."""
    import comfy.model_management as model_management

    from residency.comfyui import language_models

    gib, device = 1 << 30, torch.device("meta")
    model_management.text_encoder_device = lambda: device
    free_gib = {"all": 80, "some": 12}
    model_management.get_total_memory = lambda *_: 80 * gib
    model_management.minimum_inference_memory = lambda *_: gib
    told = {}
    for name, free in free_gib.items():
        model_management.get_free_memory = lambda *_, free=free: free * gib
        told[name] = [language_models._load_device("writer", size * gib).type for size in (10, 14, 90)]
    return told


if __name__ == "__main__":
    answers: dict[str, Any] = {}
    for name, story in list(globals().items()):
        if name.startswith("story_"):
            try:
                answers[name.removeprefix("story_")] = story()
            except Exception:
                answers[name.removeprefix("story_")] = {"raised": traceback.format_exc()}
    print("ANSWER " + json.dumps(answers), flush=True)
