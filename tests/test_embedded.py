"""A picture that ComfyUI saved is a workflow file: what made it is read from its text chunks."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from test_workflow import API, Graph, two_nodes

from residency.cli.main import main
from residency.workflow.file import WorkflowError, read_workflow

pytestmark = pytest.mark.usefixtures("no_comfyui")

EDITOR = two_nodes().link(1, 0, 3, "samples").saved()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(path: Path, **texts: Any) -> Path:
    info = PngInfo()
    for keyword, data in texts.items():
        info.add_text(keyword, json.dumps(data))
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


def with_chunk(path: Path, kind: bytes, data: bytes) -> Path:
    """The chunk before the pixels, as other programs write it."""
    whole = png(path).read_bytes()
    path.write_bytes(whole[:33] + chunk(kind, data) + whole[33:])
    return path


def test_a_picture_with_the_editors_workflow_is_read_like_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(EDITOR))
    picture = read_workflow(png(tmp_path / "a.png", workflow=EDITOR))
    assert picture.prompt == read_workflow(tmp_path / "a.json").prompt


def test_the_prompt_says_what_ran_and_the_workflow_what_unknown_classes_give(tmp_path: Path) -> None:
    graph = Graph().node(1, "SomeLoader", outputs="MODEL:MODEL VAE:VAE", widgets_values=["old.safetensors"])
    graph.node(2, "SaveLatent", "samples:LATENT").link(1, 0, 2, "samples")
    ran = {"1": {"class_type": "SomeLoader", "inputs": {"file": "new.safetensors"}}, "2": API["2"]}
    found = read_workflow(png(tmp_path / "a.png", workflow=graph.saved(), prompt=ran))
    assert found.prompt == ran and found.output_types["1"] == ("MODEL", "VAE") and found.warnings == ()


def test_a_prompt_alone_is_enough_and_counts_where_the_workflow_is_of_another_kind(tmp_path: Path) -> None:
    assert read_workflow(png(tmp_path / "a.png", prompt=API)).prompt == API
    assert read_workflow(png(tmp_path / "b.png", prompt=API, workflow=[])).prompt == API


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (b"tEXt", b"prompt\0" + json.dumps(API).encode()),
        (b"zTXt", b"prompt\0\0" + zlib.compress(json.dumps(API).encode())),
        (b"iTXt", b"prompt\0\0\0en\0\0" + json.dumps(API).encode()),
        (b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(json.dumps(API).encode())),
        (b"comf", b"prompt\0" + json.dumps(API).encode()),
    ],
)
def test_every_kind_of_text_chunk_is_read(tmp_path: Path, kind: bytes, data: bytes) -> None:
    assert read_workflow(with_chunk(tmp_path / "a.png", kind, data)).prompt == API


@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
def test_an_animated_webp_holds_them_in_its_exif_entries(tmp_path: Path, prefix: bytes) -> None:
    """As SaveAnimatedWEBP writes them: the entries Model and Make."""
    exif = Image.Exif()
    exif[0x0110], exif[0x010F] = f"prompt:{json.dumps(API)}", f"workflow:{json.dumps(EDITOR)}"
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], exif=prefix + exif.tobytes().removeprefix(b"Exif\0\0"))
    assert read_workflow(tmp_path / "a.webp").prompt == API


def test_a_picture_without_a_workflow_is_said_to_be_one(tmp_path: Path) -> None:
    for path in (png(tmp_path / "a.png", parameters="steps: 20"), with_chunk(tmp_path / "b.png", b"zTXt", b"prompt\0\0not zlib")):
        with pytest.raises(WorkflowError, match="a picture without a workflow"):
            read_workflow(path)


@given(st.data())
def test_a_damaged_picture_is_read_or_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    exif = Image.Exif()
    exif[0x0110] = f"prompt:{json.dumps(API)}"
    Image.new("RGB", (8, 8)).save(folder / "a.webp", exif=exif.tobytes())
    path = data.draw(st.sampled_from([png(folder / "a.png", workflow=EDITOR, prompt=API), folder / "a.webp"]))
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        read_workflow(path)
    except WorkflowError as error:
        assert "\n" not in str(error)


def test_every_command_takes_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = str(png(tmp_path / "a.png", workflow=EDITOR, prompt=API))
    folder = ["--models-directory", str(tmp_path)]
    assert main(["plan", picture, *folder]) == 0 and "SaveLatent 2" in capsys.readouterr().out
    assert main(["simulate", picture, *folder]) == 0
    capsys.readouterr()
    assert main(["convert", picture]) == 0
    assert json.loads(capsys.readouterr().out)["nodes"][0]["type"] == "EmptyLatentImage"
