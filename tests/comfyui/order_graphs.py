"""Random prompts of cheap real nodes, and the process that runs them in ComfyUI."""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path
from typing import Any

Prompt = dict[str, dict[str, Any]]
_DRIVER = Path(__file__).with_name("order_driver.py")

# class -> (link inputs with types, widgets, output types); all run in milliseconds and accept any value of the type
_CORE: dict[str, tuple[dict[str, str], dict[str, Any], tuple[str, ...]]] = {
    "EmptyLatentImage": ({}, {"width": 64, "height": 64, "batch_size": 1}, ("LATENT",)),
    "LatentMultiply": ({"samples": "LATENT"}, {"multiplier": 1.0}, ("LATENT",)),
    "LatentBlend": ({"samples1": "LATENT", "samples2": "LATENT"}, {"blend_factor": 0.5}, ("LATENT",)),
    "LatentAdd": ({"samples1": "LATENT", "samples2": "LATENT"}, {}, ("LATENT",)),
    "EmptyImage": ({}, {"width": 8, "height": 8, "batch_size": 1, "color": 0}, ("IMAGE",)),
    "ImageInvert": ({"image": "IMAGE"}, {}, ("IMAGE",)),
    "ImageRGBToYUV": ({"image": "IMAGE"}, {}, ("IMAGE", "IMAGE", "IMAGE")),
    "GetImageSize": ({"image": "IMAGE"}, {}, ("INT", "INT", "INT")),
    "PrimitiveInt": ({}, {"value": 1}, ("INT",)),
    "PreviewAny": ({"source": "*"}, {}, ()),
}
_VARIED = {"PrimitiveInt": "value", "EmptyImage": "color", "LatentMultiply": "multiplier", "LatentBlend": "blend_factor"}
_LAZY = {
    "ComfySwitchNode": ({"on_false": "IMAGE", "on_true": "IMAGE"}, {"switch": True}, ("IMAGE",)),
}


def random_prompt(rng: random.Random, size: int, *, lazy: bool = False) -> Prompt:
    """A prompt of about `size` nodes; every sink is shown by a PreviewAny, and some inner nodes are too. No two nodes are the same."""
    kinds = _CORE | (_LAZY if lazy else {})
    names = [name for name in kinds if name != "PreviewAny"]
    ids = [str(number) for number in rng.sample(range(1, 10 * size + 10), 2 * size + 4)]
    made: dict[str, list[tuple[str, int]]] = {}
    nodes: list[tuple[str, dict[str, Any]]] = []
    shown: list[list[Any]] = []
    seen: set[str] = set()

    def add(name: str) -> None:
        sockets, widgets, outputs = kinds[name]
        links = {socket: list(rng.choice(made[kind][-12:])) for socket, kind in sockets.items()}
        values = {key: rng.randrange(2) == 1 if isinstance(value, bool) else value for key, value in widgets.items()}
        if name in _VARIED:
            number = rng.randrange(1, 1000)
            values[_VARIED[name]] = number if isinstance(widgets[_VARIED[name]], int) else number / 1000
        inputs = links | values
        signature = json.dumps([name, inputs], sort_keys=True)
        if outputs and signature in seen:
            return  # a twin: cached as soon as the first has run, so not ordered by the graph alone
        seen.add(signature)
        keys = list(inputs)
        rng.shuffle(keys)
        node_id = ids.pop()
        nodes.append((node_id, {"class_type": name, "inputs": {key: inputs[key] for key in keys}}))
        for slot, kind in enumerate(outputs):
            made.setdefault(kind, []).append((node_id, slot))
        if outputs and rng.random() < 0.15:
            shown.append([node_id, rng.randrange(len(outputs))])

    add("EmptyLatentImage")
    add("EmptyImage")
    for _ in range(size):
        add(rng.choice(names))
    read = {value[0] for _, node in nodes for value in node["inputs"].values() if isinstance(value, list)}
    sinks = [node_id for node_id, _ in nodes if node_id not in read]
    shown += [[node_id, 0] for node_id in sinks[: len(ids) - len(shown)]]
    nodes += [(ids.pop(), {"class_type": "PreviewAny", "inputs": {"source": source}}) for source in shown]
    rng.shuffle(nodes)
    return dict(nodes)


def change_one(prompt: Prompt, rng: random.Random) -> None:
    """Change one number to one that no node has yet: what depends on it is not cached any more."""
    node = prompt[rng.choice(sorted(node_id for node_id, node in prompt.items() if node["class_type"] in _VARIED))]
    name = _VARIED[node["class_type"]]
    node["inputs"][name] += 1000 if isinstance(node["inputs"][name], int) else 0.0005


class RealOrder:
    """ComfyUI's scheduler in a process of its own. Use as a context manager."""

    def __init__(self, root: Path, python: Path, scratch: Path, hash_seed: int = 0) -> None:
        self._log = (scratch / "order_driver.log").open("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [str(python), str(_DRIVER), str(root), str(scratch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | {"PYTHONHASHSEED": str(hash_seed)},
        )
        self.classes = frozenset(self._read()["classes"])

    def __enter__(self) -> RealOrder:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()
        self._log.close()

    def ask(
        self,
        prompt: Prompt,
        outputs: list[str] | None = None,
        *,
        execute: bool = True,
        keep: bool = False,
        lazy: bool = False,
        stand_ins: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        asked = {"prompt": prompt, "outputs": outputs, "execute": execute, "keep": keep, "lazy": lazy}
        return self._send({**asked, "stand_ins": stand_ins or {}})

    def ask_hosted(self, prompt: Prompt, outputs: list[str], models: Path, hosted: dict[str, Any] | None) -> dict[str, Any]:
        """Run it with the pack's host around the executor, or without when `hosted` is None."""
        return self._send({"prompt": prompt, "outputs": outputs, "models": str(models), "hosted": hosted})

    def _send(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise RuntimeError(f"ComfyUI's process ended: {self._log.read()[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer
