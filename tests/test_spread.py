"""Weights that do not fit on the device leave evenly over the pass."""

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from residency.comfyui.device.spread import arranged, spread


def leaving(sizes: list[int], room_bytes: int) -> list[bool]:
    """Which of the weights do not fit: those behind the first, in the order of `spread`, that goes over the room."""
    keys, gone, used_bytes = spread(sizes), [False] * len(sizes), 0
    for place in sorted(range(len(sizes)), key=keys.__getitem__):
        used_bytes += sizes[place]
        gone[place] = used_bytes > room_bytes
    return gone


@given(st.integers(1, 300), st.floats(0, 1))
def test_of_one_size_every_stretch_of_the_pass_loses_its_share(count: int, share: float):
    gone = leaving([1] * count, round(share * count))
    lost = sum(gone) / count
    for start in range(count):
        for end in range(start + 1, count + 1):
            assert abs(sum(gone[start:end]) - lost * (end - start)) <= 3.5


@given(st.lists(st.sampled_from([9, 28, 28, 38, 57]), min_size=1, max_size=12), st.integers(20, 60), st.floats(0, 1))
def test_of_blocks_of_several_sizes_no_stretch_loses_much_more_than_its_share(block: list[int], blocks: int, share: float):
    sizes = block * blocks
    gone = leaving(sizes, round(share * sum(sizes)))
    lost_bytes = [size * one for size, one in zip(sizes, gone, strict=True)]
    for start in range(0, len(sizes), len(block)):
        stretch = slice(start, start + 8 * len(block))
        if stretch.stop <= len(sizes):
            expected = sum(lost_bytes) / sum(sizes) * sum(sizes[stretch])
            assert abs(sum(lost_bytes[stretch]) - expected) <= 2.5 * sum(set(block))


def a_step(sizes: list[int], gone: list[bool], link: float, streams: int = 4) -> float:
    """Of computing alone, which takes as long as there are bytes. A weight crosses the link, `link` of that for each byte, on the stream
    that has been longest unused: from where the device was when the next one was taken."""
    computed = arrived = 0.0
    asked = deque([0.0] * (streams - 1))
    for size, one in zip(sizes, gone, strict=True):
        if one:
            asked.append(computed)
            arrived = max(arrived, asked.popleft()) + size * link
            computed = max(computed, arrived)
        computed += size
    return computed / sum(sizes)


FLUX = [113, 113, 57, 57, 19, 19, 76, 76, 76, 76] * 19 + [57, 132, 94] * 38  # MB of its large weights in bf16
LINK = 2.05  # of an H100: 53 GB/s, and 0.218 s of computing with 23.7 GB


@pytest.mark.parametrize(("share", "at_most"), [(0.4, 1.26), (0.5, 1.08), (0.58, 1.03), (0.7, 1.0), (0.9, 1.0)])
def test_a_step_takes_about_the_longer_of_computing_and_crossing(share: float, at_most: float):
    largest_first, used_bytes = [False] * len(FLUX), 0
    for place in sorted(range(len(FLUX)), key=lambda place: -FLUX[place]):
        used_bytes += FLUX[place]
        largest_first[place] = used_bytes > share * sum(FLUX)
    ours = a_step(FLUX, leaving(FLUX, round(share * sum(FLUX))), LINK)
    assert ours <= at_most and ours <= a_step(FLUX, largest_first, LINK, streams=2)


class Model:
    def __init__(self, units: Any = None) -> None:
        if units is not None:
            self.get_dynamic_vram__units = lambda: units


def entry(size: int, module: Any, name: str = "") -> tuple[Any, ...]:
    return size >= 64, -size, size, name, module, {}


def test_the_modules_are_the_same_the_small_ones_in_front():
    modules = [SimpleNamespace(number=number) for number in range(40)]
    loading = [entry(64 if number % 4 else 8, module) for number, module in enumerate(modules)]
    found = sorted(arranged(SimpleNamespace(patches={}, model=Model()), loading), key=lambda one: one[:2])
    assert {one[-2].number for one in found} == set(range(40))
    assert [one[-2].number % 4 for one in found[:10]] == [0] * 10
    assert [one[2:] for one in found] == [loading[one[-2].number][2:] for one in found]
    behind = [one[-2].number for one in found[-10:]]  # a third of the large ones: from everywhere
    assert max(after - before for before, after in zip([-1, *sorted(behind)], [*sorted(behind), 40], strict=True)) <= 8


@pytest.mark.parametrize("name", ["double_blocks.3.img_mod.lin", "single_blocks.0.modulation.lin", "layers.2.adaLN_modulation.1", "a.mod"])
def test_what_computes_with_one_vector_a_picture_stays_longest(name: str):
    others = ["model.layers.1.mlp", "modality.2", "remodel.1", "txt_in"] * 4
    loading = [entry(64, SimpleNamespace(name=one), one) for one in [*others, name]]
    found = sorted(arranged(SimpleNamespace(patches={}, model=Model()), loading), key=lambda one: one[:2])
    assert [one[-3] == name for one in found] == [True] + [False] * len(others)


@pytest.mark.parametrize(
    ("why", "loading", "model"),
    [
        ("units", [entry(64, SimpleNamespace()), entry(65, SimpleNamespace())], Model(([[]], []))),
        ("its weights have places", [entry(64, SimpleNamespace(_v=1)), entry(65, SimpleNamespace())], Model()),
        ("another form", [(64, *entry(64, SimpleNamespace())), (65, *entry(65, SimpleNamespace()))], Model()),
        ("other sorting", [(64.0, *entry(64, SimpleNamespace())[1:])], Model()),
    ],
)
def test_what_is_not_understood_stays(why: str, loading: list[Any], model: Any):
    assert arranged(SimpleNamespace(patches={}, model=model), loading) is loading


def test_without_units_of_its_own_a_model_is_spread():
    loading = [entry(64 + number % 2, SimpleNamespace()) for number in range(9)]
    assert arranged(SimpleNamespace(patches={}, model=Model(([], []))), loading) is not loading


def test_a_model_that_is_loaded_with_patches_keeps_comfyuis_order():
    loading = [entry(64 + number % 2, SimpleNamespace()) for number in range(9)]
    assert arranged(SimpleNamespace(patches={"a": []}, model=Model()), loading) is loading
