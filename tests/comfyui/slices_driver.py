"""Runs inside ComfyUI's own Python: which bytes of its files does a dynamic model hold in no memory? Its pages are plain memory here.

<ComfyUI>/.venv/bin/python tests/comfyui/slices_driver.py <ComfyUI> <scratch folder>
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from inside import enter
from late_device import PAGE, patcher, small_pages

BYTES = 100  # of each weight in its file


def in_file(part: Any, handle: Any, offset: int) -> None:
    """Let the module's weight be one of a file, as ComfyUI's own loader marks it."""
    import torch

    part.weight = torch.nn.Parameter(torch.zeros(BYTES, dtype=torch.uint8), requires_grad=False)
    part.weight.untyped_storage()._comfy_tensor_file_slice = SimpleNamespace(file_ref=handle, lock=None, offset=offset, size=BYTES)


def told_in_turn() -> list[list[str]]:
    """Whose order of bytes each of four looks tells: at a, at a again, at b alone, at a."""
    from residency.comfyui.device.host_contents import HostContents
    from residency.core.component import Component

    contents: Any = SimpleNamespace(held_first=lambda component, in_use: (component, 0))
    looks = HostContents(contents, lambda: 0.0)
    parts = {key: Component(key, key, "MODEL", 0) for key in "ab"}
    seen = [looks.look({key: parts[key]}, must=True) for key in "aaba"]
    return [sorted(one.laid_out) for one in seen if one is not None]


def held_of(one: Any, files: list[Path]) -> dict[str, int]:
    """Weights of a model on the device that count as held: as many copies as its plan has, and what it has outside; its last three pages
    did not last until its last turn."""
    from residency.comfyui.device.contents import Contents
    from residency.core.component import Component, Extent
    from residency.core.device_placement import Copies, Placement

    one.is_dynamic = lambda: True
    models: Any = SimpleNamespace(loaded=lambda key: [SimpleNamespace(model=one)])
    pages: Any = SimpleNamespace(lost_bytes=lambda patcher: 3 * PAGE, is_imaged=lambda *asked: False)
    part = Component("a", "a", "MODEL", 24 * BYTES, tuple(Extent(str(file), 0, 12 * BYTES) for file in files))
    all_bytes = {"a": 10**9}

    def held(plan: Placement, *, in_use: bool = False) -> int:
        return Contents(models, pages, None, lambda: 0, lambda: plan).held_first(part, in_use=in_use)[1] // BYTES

    return {
        "two copies": held(Placement(Copies.BOTH)),
        "one copy": held(Placement(Copies.ONE)),
        "one copy, in use": held(Placement(Copies.ONE), in_use=True),
        "outside": held(Placement(Copies.ONE, outside=all_bytes)),
        "outside, in use": held(Placement(Copies.ONE, outside=all_bytes), in_use=True),
    }


def main() -> None:
    root, scratch = map(Path, sys.argv[1:3])
    enter(root, scratch)
    import comfy.model_management  # noqa: F401

    from residency.comfyui.device.file_slices import FileSlices

    small_pages()
    files = [scratch / name for name in ("one", "other")]
    for file in files:
        file.write_bytes(b"")
    handles = [file.open("rb") for file in files]
    free = [1000]
    one = patcher(random.Random(3), free)
    parts, buffer = list(one.model.parts), one.buffer
    for number, part in enumerate(parts):
        in_file(part, handles[number % 2].fileno(), number * BYTES)
    del parts[5]._v  # a small one, which ComfyUI keeps on the device

    def missing(paths: list[Path], imaged: int | None = None, outside_bytes: int = 0) -> Any:
        images = lambda module, residency: imaged is not None and module is parts[imaged]  # noqa: E731
        found = FileSlices().missing(one, [str(path) for path in paths], images, outside_bytes)
        return None if found is None else sorted([Path(extent.path).name, extent.start // BYTES] for extent in found)

    answer = {"cold": missing(files)}
    buffer.fault(buffer.base_addr, buffer.max_size)
    answer["on the device"] = missing(files)
    answer["outside"] = missing(files, outside_bytes=3 * PAGE)
    answer["all outside"] = missing(files, outside_bytes=buffer.max_size)
    answer["held"] = held_of(one, files)
    buffer.free_memory(buffer.max_size)
    parts[0]._pins = {"weights": {"pin": object()}, "patches": {"pin": object()}}
    parts[1]._pins = {"patches": {"pin": object()}, "weights": {"pin": None}}
    answer["pinned and imaged"] = missing(files, imaged=2)
    answer["another file"] = missing([files[0], scratch])
    answer["one file"] = missing(files[:1])
    answer["told"] = told_in_turn()
    print("ANSWER " + json.dumps(answer))


if __name__ == "__main__":
    main()
