"""Each example workflow has its picture for ComfyUI's template browser, small enough to ship; tools/thumbnails.py takes them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = sorted((Path(__file__).parents[1] / "example_workflows").glob("*.json"))


@pytest.mark.parametrize("workflow", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_has_a_small_picture_of_the_same_name(workflow: Path):
    picture = workflow.with_suffix(".jpg")
    assert picture.is_file(), f"run tools/thumbnails.py example_workflows/{workflow.name}"
    assert picture.stat().st_size <= 60_000
    with Image.open(picture) as image:
        assert image.format == "JPEG" and image.width == 960
