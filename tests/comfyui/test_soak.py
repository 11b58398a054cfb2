"""A restless user in front of one server: every image is ComfyUI's own, and what the server takes at rest stays where it was."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import soak
from curves import Curve, draw

from residency.installation.locate import ComfyUI

PROMPTS = 200
SECONDS = 150  # on a slow machine fewer prompts


@pytest.mark.timeout(900)  # two servers, stock's images and the prompts: 301 s beside seven busy processes on two cores
def test_two_hundred_prompts_leave_nothing_behind(comfyui: ComfyUI, models: Path, tmp_path: Path):
    own = shutil.copytree(models, tmp_path / "models")
    soak.with_variants(own)
    run = soak.soak(comfyui, own, soak.TINY, ["--cpu"], seed=1, prompts=PROMPTS, seconds=SECONDS)
    assert run.outcomes["right images"] >= run.prompts / 2 and run.outcomes["interrupted"]
    assert len(run.looks) >= 4 and sum(run.acts.values()) >= run.prompts / 10


def test_what_grows_is_told():
    def settled(**grows: int) -> soak.Soak:
        run = object.__new__(soak.Soak)
        steady = {"threads": 9, "handles": 20, "pinned_bytes": 0, "rss_bytes": 500 * soak.MIB, "device_bytes": 0, "our_threads": []}
        run.looks = [steady | {name: steady[name] + index * step for name, step in grows.items()} for index in range(20)]
        return run

    settled().flat()
    for name, step in {"threads": 1, "handles": 1, "pinned_bytes": 4096, "rss_bytes": 8 * soak.MIB, "device_bytes": 8 * soak.MIB}.items():
        with pytest.raises(soak.SoakError, match=f"^{name} grow"):
            settled(**{name: step}).flat()


def test_a_picture_of_curves_has_each_of_them():
    picture = draw("two", "prompts", [Curve("memory", [(0, 1.0), (50, 3.0)]), Curve("threads & more", [(0, 7), (50, 7)])])
    assert picture.startswith("<svg") and picture.count("<polyline") == 2 and "threads &amp; more" in picture and "50 prompts" in picture
