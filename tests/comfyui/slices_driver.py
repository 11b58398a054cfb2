"""Runs inside ComfyUI's own Python: which bytes of its files does a dynamic model hold in no memory? Its pages are plain memory here.

<ComfyUI>/.venv/bin/python tests/comfyui/slices_driver.py <ComfyUI> <scratch folder>
"""

from __future__ import annotations

import itertools
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


def told_in_a_pass() -> list[Any]:
    """A look takes 0.1 s, and asking a model half a second later 0.001 s: what each moment of a pass tells. At 0.9 s nothing was taken."""
    from residency.comfyui.device.headroom import Headroom
    from residency.comfyui.device.sights import Sights
    from residency.core.component import Component

    clock, costs, process = [0.0], {"a": 0.0005, "b": 0.0995}, {"a": 10, "b": 0}

    def held_first(component: Component, in_use: bool) -> tuple[Component, int]:
        clock[0] += costs[component.key]
        return component, process[component.key]

    contents: Any = SimpleNamespace(held_first=held_first)
    sights = Sights(contents, Headroom(None, contents), lambda: clock[0], lambda: False)
    parts = {key: Component(key, key, "MODEL", 100) for key in "ab"}
    told: list[Any] = []
    for at_s, taken in ((0.0, 10), (0.2, 20), (0.5, 30), (0.6, 40), (0.9, 30), (1.3, 50), (10.2, 60)):
        clock[0], process["a"] = at_s, taken
        seen = sights.in_pass(parts, {"a"})
        told.append(None if seen is None else [type(seen).__name__, getattr(seen, "loaded", None)])
    return told


def held_of(one: Any, files: list[Path]) -> dict[str, int]:
    """Weights of a model on the device that count as held: as many copies as its plan has, and what it has outside; its last three pages
    did not last until its last turn."""
    from residency.comfyui.device.contents import Contents
    from residency.core.component import Component, Extent
    from residency.core.device_placement import Copies, Placement

    one.is_dynamic = lambda: True
    models: Any = SimpleNamespace(loaded=lambda key: [SimpleNamespace(model=one)])
    pages: Any = SimpleNamespace(lost_bytes=lambda patcher: 3 * PAGE, images_of=lambda patcher: ((), ()))
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


def announced(file: Path) -> list[int]:
    """Bytes of ten small weights, 1 MB apart, that are in the page cache: after they were dropped, and soon after their model's load was
    announced. Nothing is of a model that is not dynamic."""
    import os
    import time

    import torch

    from residency.comfyui.device.small_weights import SmallWeights
    from residency.core.component import Extent
    from residency.transfers import pagecache

    file.write_bytes(os.urandom(12 << 20))
    pagecache.drop_files([file])
    places = [(number << 20, 4000) for number in range(1, 11)]

    def there() -> int:
        return sum(pagecache.cached_bytes(Extent(str(file), *place)) or 0 for place in places)

    with file.open("rb") as handle:
        backup = {}
        for number, (offset, size_bytes) in enumerate(places):
            weight = torch.zeros(size_bytes, dtype=torch.uint8)
            place = SimpleNamespace(file_ref=handle if number % 2 else handle.fileno(), lock=None, offset=offset, size=size_bytes)
            weight.untyped_storage()._comfy_tensor_file_slice = place
            backup[str(number)] = SimpleNamespace(weight=weight if number % 3 else SimpleNamespace(_qdata=weight))
        backup["made"] = SimpleNamespace(weight=torch.zeros(4))  # by a node: it lies in no file
        backup["meta"] = SimpleNamespace(weight=torch.zeros(4, device="meta"))
        small, found = SmallWeights(), [there()]
        for dynamic in (False, True):
            patcher: Any = SimpleNamespace(model=torch.nn.Module(), backup=backup, is_dynamic=lambda dynamic=dynamic: dynamic)
            small.announce(patcher)
            until_s = time.monotonic() + (5.0 if dynamic else 0.2)
            while there() < 10 * 4000 and time.monotonic() < until_s:
                time.sleep(0.01)
            found.append(there())
        return found


def plainly(component: Any, one: Any, paths: dict[int, str], images: Any, outside_bytes: int) -> Any:
    """As `FileSlices.held_first`, module by module and byte by byte. `paths`: by file handle."""
    buffer = one._vbar_get()
    residency = [] if buffer is None else buffer.get_residency()
    outside_from = 0 if buffer is None else -(-max(0, buffer.offset - outside_bytes) // PAGE)
    missing = set()
    for part in one.model.parts:
        if "_v" not in part.__dict__ or any(
            name.startswith("weights") and pin.get("pin") for name, pin in getattr(part, "_pins", {}).items()
        ):
            continue
        begins = part._v[1] - part._v[0].base_addr
        pages = range(begins // PAGE, -(-(begins + part._v[2]) // PAGE))
        on_device = [page < len(residency) and residency[page] & 1 for page in pages]
        imaged = part in images.good and all(on or page in images.pages for on, page in zip(on_device, pages, strict=True))
        if (all(on_device) or imaged) and pages[-1] < outside_from:
            continue
        place = part.weight.untyped_storage()._comfy_tensor_file_slice
        own = {extent.path for extent in component.extents}
        path = own.pop() if len(own) == 1 else paths[place.file_ref] if paths[place.file_ref] in own else None
        if path is None:
            return None
        missing |= {(path, byte) for byte in range(place.offset, place.offset + place.size)}
    all_bytes = [(extent.path, extent.start + byte) for extent in component.extents for byte in range(extent.size_bytes)]
    held = [one for one in all_bytes if one not in missing]
    return held + [one for one in all_bytes if one in missing], len(held)


def change(draw: random.Random, one: Any, places: list[Any], images: Any) -> None:
    """Something of where the model's weights lie is another thing now, as ComfyUI and exchanges of pages change it."""
    parts, buffer = list(one.model.parts), one.buffer
    part, act = draw.choice(parts), draw.randrange(7)
    if act == 0:
        begins = draw.randrange(len(buffer.mapped))
        for page in range(begins, min(len(buffer.mapped), begins + draw.randint(1, 8))):
            buffer.mapped[page] ^= 1
    elif act == 1:
        part._pins = {name: draw.choice(({}, {"pin": None}, {"pin": object()})) for name in ("patches", "weights", "weights-loaded")}
    elif act == 2:  # it has a patch of another size: ComfyUI keeps it on the device
        part.__dict__.pop("_v", None)
    elif act == 3:
        part._v = draw.choice(places)
    elif act == 4:
        images.pages = dict.fromkeys(draw.sample(range(len(buffer.mapped)), draw.randrange(len(buffer.mapped))))
    elif act == 5:
        images.good.clear()
        images.good.update(dict.fromkeys(draw.sample(parts, draw.randrange(len(parts)))))
    else:
        hidden = draw.choice((0, 0, 3))
        buffer.get_residency = lambda: buffer.mapped[: len(buffer.mapped) - hidden]


def as_plainly(files: list[Path], handles: list[int], trials: int) -> dict[str, int]:
    """Of looks at models that change: how many there were, differ from the plain way, and gave the very object that the one before gave."""
    from residency.comfyui.device.exchange_sides import Images
    from residency.comfyui.device.file_slices import FileSlices
    from residency.comfyui.device.page_exchange import PageStore
    from residency.core.component import Component, Extent

    told = {"looks": 0, "other": 0, "same": 0, "unknown": 0}
    paths = {handle: str(file) for handle, file in zip(handles, files, strict=True)}
    for seed in range(trials):
        draw = random.Random(seed)
        one, slices, store = patcher(draw, [1000]), FileSlices(), PageStore(lambda: 0, None)  # type: ignore[arg-type]
        images = store._images[one.model] = Images()
        for part in one.model.parts:
            in_file(part, draw.choice(handles), draw.randrange(15) * BYTES)  # some share theirs
        one._vbar_get = lambda one=one, seed=seed: None if seed % 20 == 0 else one.buffer
        places, components = [part._v for part in one.model.parts], {}
        last: dict[str, Any] = {}
        for _ in range(12):
            for _ in range(draw.choice((0, 0, 1, 5))):
                change(draw, one, places, images)
            key, outside_bytes = draw.choice("ab"), draw.choice((0, 0, 0, 3 * PAGE, 10**6))
            if key not in components or draw.random() < 0.1:  # another prompt
                own = draw.choice((files, files[::-1], files[:1], [files[0], files[0].parent]))
                extents = [Extent(str(path), start, size) for path in own for start, size in ((30, 500), (530, 70), (700, 850))]
                components[key] = Component(key, key, "MODEL", sum(extent.size_bytes for extent in extents), tuple(extents))
            found = slices.held_first(components[key], one, store.images_of(one), outside_bytes)
            expected = plainly(components[key], one, paths, images, outside_bytes)
            got = None if found is None else (bytes_of(found[0]), found[1])
            told["looks"] += 1
            told["other"] += got != expected or not (found is None or is_joined(found))
            told["same"] += found is not None and found is last.get(key)
            told["unknown"] += found is None
            last[key] = found
    return told


def bytes_of(component: Any) -> list[tuple[str, int]]:
    return [(extent.path, extent.start + byte) for extent in component.extents for byte in range(extent.size_bytes)]


def is_joined(found: tuple[Any, int]) -> bool:
    """Whether no two ranges touch but where what is held ends."""
    at = 0
    for one, following in itertools.pairwise(found[0].extents):
        at += one.size_bytes
        if at != found[1] and (one.path, one.start + one.size_bytes) == (following.path, following.start):
            return False
    return True


def main() -> None:
    root, scratch = map(Path, sys.argv[1:3])
    enter(root, scratch)
    import comfy.model_management  # noqa: F401

    from residency.comfyui.device.file_slices import NO_IMAGES, FileSlices
    from residency.comfyui.device.onload import pages_of
    from residency.core.component import Component, Extent

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
        whole = Component("a", "a", "MODEL", 0, tuple(Extent(str(path), 0, 12 * BYTES) for path in paths))
        images = NO_IMAGES if imaged is None else (pages_of(parts[imaged]), {parts[imaged]})
        found = FileSlices().held_first(whole, one, images, outside_bytes)
        if found is None:
            return None
        behind = bytes_of(found[0])[found[1] :: BYTES]
        return sorted([Path(path).name, start // BYTES] for path, start in behind)

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
    answer["announced"] = announced(scratch / "small")
    answer["told in a pass"] = told_in_a_pass()
    answer["as plainly"] = as_plainly(files, [handle.fileno() for handle in handles], 200)
    print("ANSWER " + json.dumps(answer))


if __name__ == "__main__":
    main()
