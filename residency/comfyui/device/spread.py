"""The choice of a dynamic model's weights that stay on a device that is too small for all of them.

The last bytes of a model's virtual device buffer are the first to leave, and weights that have left cross the link anew at each step, one
weight ahead of the computation. ComfyUI lays the largest weights in front and those of one size by name: streamed weights then lie close
together in the pass, there the device waits for the link, and elsewhere the link for the device. Here the weights of each size leave evenly
over the pass, wherever the room ends: a step takes about the longer of computing and crossing, not their sum.

A weight that computes with one vector a picture and not with each of its tokens has no computing behind which its copy could hide: it stays
longest. In Flux that is a quarter of the bytes.

Where the model's first load brings patches, ComfyUI's order stands: on weights of 8 bits and fewer a patch is rounded where they stay, and
not where they stream, so that the image depends on which do which.

Where a model tells of units of its own (`get_dynamic_vram__units`), their order stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import count
from typing import Any

UNITS = "get_dynamic_vram__units"
# Multiples of it, less their whole part, divide an interval more evenly than those of any other number, however many there are (three-gap
# theorem): so does what is left of it when only the least are taken.
GOLDEN = (5**0.5 - 1) / 2
ONE_VECTOR = re.compile(r"(^|[._])(mod|modulation|adaln)([._]|$)", re.IGNORECASE)  # the modulation of a block, as its weights are named
KINDS_APART = 2**0.5 - 1  # where the weights of the next size begin: else those of all sizes would leave at the same places


def spread(sizes: Iterable[int]) -> list[float]:
    """Of weights with these sizes, in the order in which they are computed with: the lower, the longer it stays. 0 to 1."""
    begins = (kind * KINDS_APART for kind in count())
    kinds: dict[int, float] = {}
    keys = []
    for size in sizes:
        if size not in kinds:
            kinds[size] = next(begins)
        keys.append(kinds[size] % 1.0)
        kinds[size] += GOLDEN
    return keys


def arranged(patcher: Any, loading: list[Any]) -> list[Any]:
    """ComfyUI's list of a dynamic model's modules, in the order of its own modules, sorted by the first two of each entry: (whether it is
    large, minus its bytes, …, module, parameters). Unchanged where that has another form, or the model's weights have their places."""
    if not all(_is_known(entry) for entry in loading):
        return loading
    if patcher.patches or any(hasattr(entry[-2], "_v") for entry in loading) or _has_units(patcher.model):
        return loading
    first = [entry for entry in loading if entry[0] and ONE_VECTOR.search(entry[-3])]
    rest = [entry for entry in loading if entry[0] and not ONE_VECTOR.search(entry[-3])]
    last = sorted(range(len(rest)), key=spread(-entry[1] for entry in rest).__getitem__)
    ranked = enumerate([*first, *(rest[place] for place in last)])
    return [entry for entry in loading if not entry[0]] + [(True, rank, *entry[2:]) for rank, entry in ranked]


def _is_known(entry: Any) -> bool:
    return (
        isinstance(entry, tuple)
        and len(entry) == 6
        and isinstance(entry[0], bool)
        and isinstance(entry[1], int)
        and isinstance(entry[-3], str)
    )


def _has_units(model: Any) -> bool:
    units = getattr(model, UNITS, None)
    return units is not None and any(units())
