"""What one look at where the weights lie costs: milliseconds by part, over three models of 30 GB in states that a prompt goes through.

    python benchmarks/looks.py [--json] [--looks 50] [--profile STATE]

Runs the pack's own classes in ComfyUI's Python, on a CPU. The models are 780, 780 and 300 modules whose weights lie in sparse files as
published ones do: by type, then by name, so that neighbours on the device are none in the file. Pages of the device are a list of bits.
`files` are the bytes that would have to be read again and the component laid out anew for them, `cache` what the page cache holds of them,
`device` what lies on the device, `look` and `both` the whole look at host memory and at both tiers, and
`moved` the same when weights of each model have moved since the last one. Each is the median CPU time of so many.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

REPO = Path(__file__).resolve().parents[1]
LOOKS = 50
CACHED_BYTES = 2**30  # of each file
BUFFER_SHARE = 10  # of a virtual device buffer its model takes one part in so many (comfy/model_patcher.py)
STATES = ("on the device", "pinned", "half on the device", "half in images", "every third pinned", "nowhere")

Place = tuple[str, int, int]  # name of a tensor, bytes of an element, elements


def blocks(layers: int, linears: int, norms: int, width: int, narrow: int) -> Iterator[tuple[str, list[Place]]]:
    """(name of a module, its tensors): linears of `width` x `width` with elements of `narrow` bytes and a bias, and norms."""
    for layer in range(layers):
        for number in range(linears):
            name = f"blocks.{layer}.linear{number}"
            yield name, [(f"{name}.weight", narrow, width * width), (f"{name}.bias", 2, width)]
        for number in range(norms):
            name = f"blocks.{layer}.norm{number}"
            yield name, [(f"{name}.weight", 2, width)]


MODELS = {
    "high": ("MODEL", list(blocks(39, 12, 8, 5120, 1))),
    "low": ("MODEL", list(blocks(39, 12, 8, 5120, 1))),
    "text": ("CLIP", list(blocks(30, 8, 2, 4800, 1))),
}
HEADER_BYTES = 61_432  # of a file: no tensor of it begins with a page of the cache


class Pages:
    """A virtual device buffer of which only the bits of its pages exist."""

    def __init__(self, size_bytes: int, page_bytes: int) -> None:
        self.base_addr, self.offset, self.max_size = 0x7F0000000000, 0, size_bytes
        self.page_bytes, self.mapped = page_bytes, bytearray(-(-size_bytes // page_bytes))

    def alloc(self, size_bytes: int) -> tuple[Any, int, int]:
        start = -(-self.offset // 512) * 512
        self.offset = start + size_bytes
        return self, self.base_addr + start, size_bytes

    def get_residency(self) -> list[int]:
        return list(self.mapped)

    def loaded_size(self) -> int:
        return sum(self.mapped) * self.page_bytes


def made(key: str, scratch: Path) -> tuple[Any, Any]:
    """(the patcher of a model, its component), with its file."""
    import torch
    from comfy.model_patcher import ModelPatcher

    from residency.comfyui.device.onload import PAGE_BYTES
    from residency.core.component import Component, Extent
    from residency.transfers.pagecache import close_file, open_file, read_into_cache

    kind, modules = MODELS[key]
    places, at = {}, HEADER_BYTES
    for name, width, count in sorted((one for _, tensors in modules for one in tensors), key=lambda one: (-one[1], one[0])):
        places[name] = at, width * count
        at += width * count
    path = scratch / key
    with path.open("wb") as file:
        file.truncate(at)
    handle = open_file(str(path))
    read_into_cache(handle, at // 2, min(CACHED_BYTES, at // 2), bytearray(2**20))
    close_file(handle)

    class Patcher(ModelPatcher):  # type: ignore[misc]
        def is_dynamic(self) -> bool:
            return True

        def _vbar_get(self) -> Pages:
            return self.pages

        def loaded_size(self) -> int:
            return self.pages.loaded_size()

    model = torch.nn.Module()
    patcher = Patcher(model, torch.device("cuda", 0), torch.device("cpu"))
    patcher.pages = Pages(BUFFER_SHARE * at, PAGE_BYTES)
    file_ref = os.open(path, os.O_RDONLY)
    for name, tensors in modules:
        module: Any = torch.nn.Module()
        module_bytes = 0
        for full_name, _, _ in tensors:
            offset, size_bytes = places[full_name]
            weight = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
            weight.untyped_storage()._comfy_tensor_file_slice = SimpleNamespace(
                file_ref=file_ref, lock=None, offset=offset, size=size_bytes
            )
            setattr(module, full_name.rsplit(".", 1)[1], weight)
            module_bytes += size_bytes
        if module_bytes > 16 * 1024:
            module._v = patcher.pages.alloc(module_bytes)
        model.add_module(name.replace(".", "_"), module)
    buffers = {name: (SimpleNamespace(size=0), []) for name in ("weights", "patches", "weights-loaded", "patches-loaded")}
    model.dynamic_pins = {patcher.load_device: buffers}
    return patcher, Component(key, key, kind, at - HEADER_BYTES, (Extent(str(path), HEADER_BYTES, at - HEADER_BYTES),))


def put(state: str, patcher: Any, store: Any) -> None:
    """Let the model's weights lie so."""
    from residency.comfyui.device.exchange_sides import Images

    pages, modules = patcher.pages, [module for module in patcher.model.modules() if "_v" in module.__dict__]
    used, share = -(-pages.offset // pages.page_bytes), {"on the device": 1, "half on the device": 2, "half in images": 2}.get(state)
    pages.mapped = bytearray(len(pages.mapped))
    if share is not None:
        pages.mapped[: used // share] = b"\1" * (used // share)
    every = {"pinned": 1, "every third pinned": 3}.get(state)
    pinned_bytes = 0
    for number, module in enumerate(modules):
        pins = {} if every is None or number % every else {"pin": True}
        module._pins = {"weights": pins, "patches": {}}
        pinned_bytes += module._v[2] if pins else 0
    patcher.model.dynamic_pins[patcher.load_device]["weights"][0].size = pinned_bytes
    store._images.pop(patcher.model, None)
    if state == "half in images":
        good = weakref.WeakKeyDictionary(dict.fromkeys(modules))
        store._images[patcher.model] = Images(dict.fromkeys(range(used // 2, used)), good)  # type: ignore[arg-type]


def move(patcher: Any) -> None:
    """Pin the first of the model's weights, or no longer, and map its page anew."""
    pages, module = patcher.pages, next(module for module in patcher.model.modules() if "_v" in module.__dict__)
    pages.mapped[0] ^= 1
    module._pins["weights"] = {} if module._pins["weights"] else {"pin": True}


def measure(root: str, scratch: str, looks: int, profiled: str | None) -> list[dict[str, Any]]:
    """In ComfyUI's process: a row for each state."""
    sys.path[:0] = [str(REPO / "tests" / "comfyui")]
    from inside import enter

    enter(Path(root), Path(scratch))
    import comfy.model_management as model_management
    from late_device import Late

    from residency.comfyui.device.contents import Contents
    from residency.comfyui.device.models import Models
    from residency.comfyui.device.page_exchange import PageStore
    from residency.comfyui.device.sights import Sights
    from residency.core.device_placement import Copies, Placement
    from residency.transfers.pagecache import cached_around

    models, cuda, components, patchers = Models(), Late([0]), {}, []
    for key in MODELS:
        patcher, component = made(key, Path(scratch))
        models.learn([(component, component.kind)], [[patcher]], [component.kind])
        patchers.append(patcher)
        components[key] = component
    model_management.current_loaded_models[:] = [SimpleNamespace(model=patcher) for patcher in patchers]
    store = PageStore(lambda: 0, cuda)  # type: ignore[arg-type]
    contents = Contents(models, store, cuda, lambda: 0, lambda: Placement(Copies.ONE))  # type: ignore[arg-type]
    sights = Sights(contents, SimpleNamespace(size_bytes=2**30), time.monotonic, lambda: True)  # type: ignore[arg-type]

    def ms(look: Callable[[], object], before: Callable[[], object] = bool) -> float:
        spent = []
        for _ in range(looks):
            before()
            started_s = time.thread_time()
            look()
            spent.append(time.thread_time() - started_s)
        return statistics.median(spent) * 1e3

    rows = []
    for state in STATES if profiled is None else (profiled,):
        for patcher in patchers:
            put(state, patcher, store)
        found = [contents.held_first(component) for component in components.values()]
        row: dict[str, Any] = {"state": state, "ranges": sum(len(one.extents) for one, _ in found)}
        if profiled is not None:
            import cProfile

            with cProfile.Profile() as profile:
                for _ in range(looks):
                    sights.of_both(components, None, must=True)
            profile.dump_stats(Path(scratch) / "profile")
            return [row]
        row["files_ms"] = ms(lambda: [contents.held_first(component) for component in components.values()])
        row["cache_ms"] = ms(lambda found=found: [cached_around(one.extents, held_bytes) for one, held_bytes in found])  # type: ignore[misc]
        row["device_ms"] = ms(lambda: sights._of_device(None))
        row["look_ms"] = ms(lambda: sights.of_host(components, must=True))
        row["both_ms"] = ms(lambda: sights.of_both(components, None, must=True))
        row["moved_ms"] = ms(lambda: sights.of_both(components, None, must=True), lambda: [move(patcher) for patcher in patchers])
        rows.append(row)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--looks", type=int, default=LOOKS, metavar="N")
    parser.add_argument("--profile", choices=STATES, metavar="STATE", help="print where the time of such looks goes, by function")
    parser.add_argument("--inside", nargs=2, metavar=("COMFYUI", "SCRATCH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print("ANSWER " + json.dumps(measure(*options.inside, options.looks, options.profile)))
        return 0
    sys.path.insert(0, str(REPO))
    from residency.installation.locate import HOW_TO_GET_ONE, find_comfyui
    from residency.installation.script import answer

    comfyui = find_comfyui()
    if comfyui is None:
        print(HOW_TO_GET_ONE, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        own = ["--looks", str(options.looks), *(["--profile", options.profile] if options.profile else [])]
        rows = answer(comfyui, __file__, *own, "--inside", comfyui.path, scratch)
        if options.profile:
            import pstats

            pstats.Stats(str(Path(scratch) / "profile")).sort_stats("tottime").print_stats(25)
            return 0
    if options.json:
        print(json.dumps({"comfyui": comfyui.version, "looks": options.looks, "rows": rows}, indent=1))
        return 0
    parts = ("files", "cache", "device", "look", "both", "moved")
    print(f"ComfyUI {comfyui.version}, ms a look\n{'weights':<20} {'ranges':>7}" + "".join(f" {part:>8}" for part in parts))
    for row in rows:
        print(f"{row['state']:<20} {row['ranges']:>7}" + "".join(f" {row[f'{part}_ms']:>8.3f}" for part in parts))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
