"""Runs inside ComfyUI's own Python: copies to the device that arrive late, drawn at random, under models that compute meanwhile.

The device is late_device's plain memory. A copy announced on a stream happens only when somebody waits for an event behind it, or for
the whole stream: whoever computes without having waited finds other bytes.

<ComfyUI>/.venv/bin/python tests/comfyui/copies_driver.py <ComfyUI> <scratch folder> <trials>
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from inside import enter
from late_device import PAGE, Late, compute, patcher, small_pages


def trial(seed: int, gated: bool) -> tuple[int, int, int]:
    """(modules computed with wrong bytes, modules that were resident when they were computed with, pins that were found)."""
    from residency.comfyui.device.copy_fence import Gate
    from residency.comfyui.device.onload import onload, pin_of

    draw = random.Random(seed)
    free = [draw.randint(10, 50)]
    models = [patcher(draw, free) for _ in range(2)]
    cuda, gate = Late(free), Gate()
    stream = cuda.stream()
    gate.open = not gated
    for model in models:
        model.buffer.offset = model.size_bytes
        for part in model.model.parts:
            part.weight, part.bias = part.weight_bytes, None
            if draw.random() < 0.9:
                part._pins = {"weights": {"pin": part.weight_bytes.clone(), "registered": True}}
    wrong = resident = 0
    for _ in range(30):
        one, act = draw.choice(models), draw.random()
        if act < 0.5:
            onload(one, cuda, stream, gate, draw.randint(0, free[0] + 2) * PAGE, draw.randint(0, one.size_bytes))
        elif act < 0.6:
            stream.synchronize()  # memory is given back only when the device stands still
            one.buffer.free_memory(draw.randint(1, 12) * PAGE)
        elif act < 0.7:
            if stream.query():
                gate.forget()
        elif act < 0.8:  # ComfyUI wants every module anew
            for part in one.model.parts:
                part._v_signature = None
        else:
            filled, failed = compute(one, before_use=gate.wait)
            wrong, resident = wrong + failed, resident + len(one.model.parts) - filled
    return wrong, resident, sum(pin_of(part) is not None for model in models for part in model.model.parts)


def main() -> None:
    trials = int(sys.argv[3])
    enter(Path(sys.argv[1]), Path(sys.argv[2]))
    import comfy.model_management  # noqa: F401

    small_pages()
    answer = {}
    for name, gated in (("gated", True), ("open", False)):
        found = [trial(seed, gated) for seed in range(trials)]
        answer[name] = dict(zip(("wrong", "resident", "pins"), map(sum, zip(*found, strict=True)), strict=True))
    print("ANSWER " + json.dumps(answer))


if __name__ == "__main__":
    main()
