"""Beside the packs of others, as they are published, in either order of loading: images are right, all of ours works, off leaves theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
from neighbours import BEGIN, END, ORDERS, PACKS, beside, clone_of, rows_of, seen, with_rows

from residency.installation.locate import ComfyUI

OURS = "residency"


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", PACKS)
def test_beside_another_pack_images_are_right_and_switching_ours_off_leaves_theirs(comfyui: ComfyUI, models: Path, name: str, order: str):
    place = clone_of(name)
    if place is None:
        pytest.skip(f"NOT TRIED BESIDE {PACKS[name]}/{name}: set NEIGHBOURS to a folder with a clone of it")
    with beside(comfyui, models, place, order) as server:
        told = seen(server, name)
    if told.fails:
        pytest.skip(f"NOT TRIED BESIDE {PACKS[name]}/{name}: it does not load here ({told.fails})")
    assert told.same_images == [True] * 6 and told.outcomes == ["success"] * 4
    assert not told.failures and not told.off
    assert set(told.first_when_off.values()).isdisjoint({OURS}) and not told.threads_when_off
    # what theirs has changed is called first, or below ours; without ours it is called first
    for function, pack in told.others.items():
        assert told.first[function] in (pack, OURS) and told.first_when_off[function] == pack


def test_a_row_that_is_written_leaves_the_others():
    page = with_rows(f"before\n\n{BEGIN}\n{END}\n\nafter\n", {"ComfyUI-GGUF": "| ComfyUI-GGUF | 1 | both orders | | | |"})
    again = with_rows(page, rows_of(page) | {"rgthree-comfy": "| rgthree-comfy | 2 | both orders | | | |"})
    assert again.startswith("before\n\n") and again.endswith("\n\nafter\n")
    assert "| ComfyUI-GGUF | 1 |" in again and "| rgthree-comfy | 2 |" in again and again.count("not tried yet") == len(PACKS) - 2
