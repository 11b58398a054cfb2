"""Components from files: real safetensors files, broken ones of each kind, and the rules that make components of them."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from residency.core.component import Component, Extent
from residency.weights.components import component_key, components_of_node, merge_extents
from residency.weights.safetensors import Tensor, WeightsError, read_header

LINK = ["4", 0]


def made(path: Path, *names: str, count: int = 8, dtype: torch.dtype = torch.float16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: torch.ones(count, dtype=dtype) for name in names}, path)
    return path


def raw(path: Path, header: object, data: bytes = b"", length: int | None = None) -> str:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return str(path)


def one(dtype: str = "U8", shape: object = (4,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def loads(folder: Path, inputs: dict[str, object], *outputs: str) -> list[tuple[Component, str | None]]:
    found = components_of_node("SomeLoader", inputs, outputs, resolver(folder))
    assert found.warnings == ()
    return list(found.components)


def resolver(folder: Path):  # type: ignore[no-untyped-def]
    return lambda name, value: str(folder / value) if value and (folder / value).exists() else None


# --- headers ---


def test_offsets_are_absolute_and_in_file_order(tmp_path: Path) -> None:
    path = str(tmp_path / "a.safetensors")
    save_file({"b": torch.arange(3, dtype=torch.int32), "a": torch.arange(4, dtype=torch.uint8)}, path, {"format": "pt"})
    header = read_header(path)
    content = Path(path).read_bytes()
    assert {tensor.name: content[tensor.start : tensor.start + tensor.size_bytes] for tensor in header.tensors} == {
        "b": struct.pack("<3i", 0, 1, 2),
        "a": bytes(range(4)),
    }
    assert [tensor.start for tensor in header.tensors] == sorted(tensor.start for tensor in header.tensors)
    assert header.metadata == {"format": "pt"}


def test_a_replaced_file_is_read_again(tmp_path: Path) -> None:
    path = made(tmp_path / "a.safetensors", "old")
    assert [tensor.name for tensor in read_header(str(path)).tensors] == ["old"]
    made(path, "new")
    os.utime(path, ns=(1, 1))
    assert [tensor.name for tensor in read_header(str(path)).tensors] == ["new"]


def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    path = str(made(tmp_path / "a.safetensors", "w"))
    assert read_header(path) is read_header(path)


def test_a_dtype_from_the_future_is_taken_at_its_offsets(tmp_path: Path) -> None:
    header = read_header(raw(tmp_path / "a.safetensors", {"w": one("F3_NEW", [9])}, bytes(4)))
    assert header.tensors[0].size_bytes == 4


BROKEN = {
    "too short": (b"\1\2", "2 bytes is too short"),
    "length over the limit": (struct.pack("<Q", 1 << 40) + b"{}", "1099511627776 is over the limit"),
    "length over the file": (struct.pack("<Q", 99) + b"{}", "header length 99 does not fit a file of 10 bytes"),
    "no header": (struct.pack("<Q", 0), "header length 0"),
    "not json": ("{oops", "not JSON"),
    "not utf-8": (b"\xff\xfe{}", "not JSON"),
    "deep": (b"[" * 200_000, "not JSON"),
    "not an object": ([1], "a JSON list"),
    "metadata": ({"__metadata__": {"a": 1}}, "__metadata__"),
    "no dtype": ({"w": {"shape": [1], "data_offsets": [0, 1]}}, "lacks dtype"),
    "entry is text": ({"w": "x"}, "lacks dtype"),
    "three offsets": ({"w": one(offsets=[0, 4, 4])}, "lacks dtype, shape or two data_offsets"),
    "negative": ({"w": one(offsets=[-4, 0])}, "not sizes"),
    "true is no number": ({"w": one(shape=[True], offsets=[0, 1])}, "not sizes"),
    "shape is text": ({"w": one(shape="4")}, "not sizes"),
    "backwards": ({"w": one("F3_NEW", offsets=[4, 0])}, "ends before it starts"),
    "wrong size": ({"w": one("F16")}, "takes 8 bytes, data_offsets give 4"),
    "cut short": ({"w": one(shape=[400], offsets=[0, 400])}, "cut short?"),
    "overlap": ({"v": one(), "w": one(shape=[3], offsets=[1, 4])}, "overlaps"),
    "gap": ({"v": one(shape=[1], offsets=[0, 1]), "w": one(shape=[1], offsets=[3, 4])}, "leaves a gap"),
    "bytes left over": ({"w": one(shape=[3], offsets=[0, 3])}, "the tensors end at byte"),
    "duplicate": (b'{"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}', "twice"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_header_names_the_file_what_is_wrong_and_the_way_out(tmp_path: Path, kind: str) -> None:
    content, message = BROKEN[kind]
    path = tmp_path / "broken.safetensors"
    if kind in ("too short", "length over the limit", "length over the file", "no header"):
        assert isinstance(content, bytes)
        path.write_bytes(content)
    else:
        raw(path, content.encode() if isinstance(content, str) else content, bytes(4))
    with pytest.raises(WeightsError) as caught:
        read_header(str(path))
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "again" in str(caught.value)


def test_a_missing_file_is_a_weights_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"gone\.safetensors: cannot be read"):
        read_header(str(tmp_path / "gone.safetensors"))


tensors_st = st.dictionaries(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(lambda name: name != "__metadata__"),
    st.tuples(
        st.lists(st.integers(0, 5), max_size=3),
        st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]),
    ),
    max_size=8,
)


@settings(deadline=None)
@given(tensors_st)
def test_what_the_library_writes_we_read_at_the_same_places(tmp_path_factory: pytest.TempPathFactory, wanted: dict) -> None:  # type: ignore[type-arg]
    path = str(tmp_path_factory.mktemp("h") / "a.safetensors")
    save_file({name: torch.ones(shape, dtype=dtype) for name, (shape, dtype) in wanted.items()}, path)
    content = Path(path).read_bytes()
    header = read_header(path)
    assert {tensor.name for tensor in header.tensors} == set(wanted)
    with safe_open(path, "pt") as theirs:
        for tensor in header.tensors:
            data = theirs.get_tensor(tensor.name)
            flat = bytes(data.contiguous().view(torch.uint8).flatten().tolist()) if data.numel() and data.ndim else None
            ours = content[tensor.start : tensor.start + tensor.size_bytes]
            assert len(ours) == data.numel() * data.element_size()
            assert flat is None or ours == flat


@settings(deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_raise_nothing_but_weights_errors(tmp_path_factory: pytest.TempPathFactory, content: bytes, framed: bool) -> None:
    path = tmp_path_factory.mktemp("r") / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(content)) + content if framed else content)
    try:
        read_header(str(path))
    except WeightsError as error:
        assert str(path) in str(error)


json_st = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets"]), inner, max_size=3),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["v", "w", "__metadata__"]), json_st))
def test_any_json_raises_nothing_but_weights_errors(tmp_path_factory: pytest.TempPathFactory, header: dict) -> None:  # type: ignore[type-arg]
    path = raw(tmp_path_factory.mktemp("j") / "a.safetensors", header, bytes(4))
    try:
        read_header(path)
    except WeightsError as error:
        assert path in str(error)


# --- extents ---


def test_merged_extents_cover_every_tensor_and_nothing_else() -> None:
    tensors = [Tensor("a", "U8", 10, 5), Tensor("b", "U8", 15, 5), Tensor("c", "U8", 21, 5), Tensor("empty", "U8", 26, 0)]
    assert merge_extents("f", tensors) == (Extent("f", 10, 10), Extent("f", 21, 5))


# --- components ---


def test_a_loader_of_one_file_gives_one_component_with_the_data_section(tmp_path: Path) -> None:
    path = made(tmp_path / "flux.safetensors", "a", "b")
    [(component, kind)] = loads(tmp_path, {"unet_name": "flux.safetensors", "weight_dtype": "default"}, "MODEL")
    assert (component.name, component.kind, kind) == ("flux", "MODEL", "MODEL")
    assert component.size_bytes == sum(extent.size_bytes for extent in component.extents) == 32
    assert component.extents[0].start == path.stat().st_size - 32


def test_a_checkpoint_gives_one_component_per_output(tmp_path: Path) -> None:
    names = ["model.diffusion_model.x", "cond_stage_model.y", "first_stage_model.z", "alphas_cumprod"]
    made(tmp_path / "sd.safetensors", *names)
    found = loads(tmp_path, {"ckpt_name": "sd.safetensors"}, "MODEL", "CLIP", "VAE")
    assert [(kind, component.name) for component, kind in found] == [("MODEL", "sd [MODEL]"), ("CLIP", "sd [CLIP]"), ("VAE", "sd [VAE]")]
    assert len({component.key for component, _ in found}) == 3
    sizes = {kind: component.size_bytes for component, kind in found}
    assert sizes == {"MODEL": 16, "CLIP": 16, "VAE": 16}  # what no prefix claims is read by nobody


def test_an_output_without_tensors_has_no_component(tmp_path: Path) -> None:
    made(tmp_path / "sd.safetensors", "model.diffusion_model.x", "cond_stage_model.y")
    assert [kind for _, kind in loads(tmp_path, {"ckpt_name": "sd.safetensors"}, "MODEL", "CLIP", "VAE")] == ["MODEL", "CLIP"]


def test_a_checkpoint_whose_names_tell_nothing_apart_is_shared_by_its_outputs(tmp_path: Path) -> None:
    made(tmp_path / "odd.safetensors", "x", "y")
    found = loads(tmp_path, {"ckpt_name": "odd.safetensors"}, "MODEL", "CLIP", "VAE")
    assert [kind for _, kind in found] == ["MODEL", "CLIP", "VAE"]
    assert len({component.key for component, _ in found}) == 1


def test_a_loader_of_one_part_reads_only_its_part_of_a_checkpoint(tmp_path: Path) -> None:
    made(tmp_path / "ltx.safetensors", "model.diffusion_model.x", "audio_vae.y", "vae.z")
    [(vae, _)] = loads(tmp_path, {"ckpt_name": "ltx.safetensors"}, "VAE")
    assert vae.name == "ltx [VAE]"
    assert vae.size_bytes <= 48


def test_several_files_for_one_output_are_one_component(tmp_path: Path) -> None:
    made(tmp_path / "clip_l.safetensors", "a")
    made(tmp_path / "t5.safetensors", "b", count=100)
    [(component, kind)] = loads(tmp_path, {"clip_name1": "clip_l.safetensors", "clip_name2": "t5.safetensors", "type": "flux"}, "CLIP")
    assert (component.name, kind, component.size_bytes) == ("clip_l + t5", "CLIP", 216)
    assert [Path(extent.path).name for extent in component.extents] == ["clip_l.safetensors", "t5.safetensors"]


def test_the_same_file_twice_is_read_once(tmp_path: Path) -> None:
    made(tmp_path / "clip_l.safetensors", "a")
    [(component, _)] = loads(tmp_path, {"clip_name1": "clip_l.safetensors", "clip_name2": "clip_l.safetensors"}, "CLIP")
    assert component.size_bytes == 16


def test_several_files_for_several_outputs_go_where_their_inputs_are_named_for(tmp_path: Path) -> None:
    for name in ("u", "c", "v"):
        made(tmp_path / f"{name}.safetensors", name)
    inputs = {"unet_name": "u.safetensors", "clip_name": "c.safetensors", "vae_name": "v.safetensors"}
    found = loads(tmp_path, inputs, "MODEL", "CLIP", "VAE", "INT")
    assert [(component.name, kind) for component, kind in found] == [("u", "MODEL"), ("c", "CLIP"), ("v", "VAE")]


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_a_lora_goes_to_every_output_it_patches_and_its_strength_is_not_its_identity(tmp_path: Path, strength: float) -> None:
    made(tmp_path / "style.safetensors", "lora_unet_a")
    inputs = {"model": LINK, "clip": LINK, "lora_name": "style.safetensors", "strength_model": strength, "strength_clip": 1.0}
    found = loads(tmp_path, inputs, "MODEL", "CLIP")
    assert [(component.kind, kind) for component, kind in found] == [("LORA", "MODEL"), ("LORA", "CLIP")]
    assert {component.key for component, _ in found} == {component_key("style", [str(tmp_path / "style.safetensors")], {})}


def test_a_list_of_loras_counts_the_rows_that_are_on(tmp_path: Path) -> None:
    made(tmp_path / "a.safetensors", "a")
    made(tmp_path / "b.safetensors", "b")
    inputs = {"model": LINK, "row_1": {"on": True, "lora": "a.safetensors", "strength": 1}, "row_2": {"on": False, "lora": "b.safetensors"}}
    assert [component.name for component, _ in loads(tmp_path, inputs, "MODEL")] == ["a"]


def test_a_loader_that_only_looks_at_a_model_is_no_lora(tmp_path: Path) -> None:
    made(tmp_path / "canny.safetensors", "a")
    [(component, kind)] = loads(tmp_path, {"model": LINK, "control_net_name": "canny.safetensors"}, "CONTROL_NET")
    assert (component.kind, kind) == ("CONTROL_NET", "CONTROL_NET")


def test_a_node_that_keeps_its_weights_to_itself_computes_with_them(tmp_path: Path) -> None:
    made(tmp_path / "upscale.safetensors", "a")
    first = loads(tmp_path, {"image": LINK, "model_name": "upscale.safetensors", "text": "a cat"}, "IMAGE")
    second = loads(tmp_path, {"image": LINK, "model_name": "upscale.safetensors", "text": "a dog"}, "IMAGE")
    assert first == second
    assert first[0][1] is None


def test_formats_without_a_header_are_whole_files(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(bytes(100))
    [(component, _)] = loads(tmp_path, {"unet_name": "model.gguf"}, "MODEL")
    assert [(extent.start, extent.size_bytes) for extent in component.extents] == [(0, 100)]


def test_a_folder_is_the_sum_of_its_safetensors(tmp_path: Path) -> None:
    made(tmp_path / "pipe" / "unet" / "a.safetensors", "a")
    made(tmp_path / "pipe" / "vae" / "b.safetensors", "b")
    (tmp_path / "pipe" / "model_index.json").write_text("{}")
    [(component, _)] = loads(tmp_path, {"model_path": "pipe"}, "MODEL")
    assert (component.name, component.size_bytes, len(component.extents)) == ("pipe", 32, 2)


def test_of_a_folder_of_the_diffusers_library_each_model_is_the_file_that_comfyui_takes(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    for name in ("unet/diffusion_pytorch_model.fp16", "unet/diffusion_pytorch_model", "text_encoder/model", "text_encoder_2/model"):
        made(pipe / f"{name}.safetensors", "a")
    made(pipe / "safety_checker" / "model.safetensors", "a")
    (pipe / "vae").mkdir()
    (pipe / "vae" / "diffusion_pytorch_model.bin").write_bytes(bytes(100))
    (pipe / "model_index.json").write_text("{}")
    found = {kind: component for component, kind in loads(tmp_path, {"model_path": "pipe"}, "MODEL", "CLIP", "VAE")}
    files = {kind: [os.path.relpath(extent.path, pipe) for extent in component.extents] for kind, component in found.items()}
    assert files == {
        "MODEL": [os.path.join("unet", "diffusion_pytorch_model.fp16.safetensors")],
        "CLIP": [os.path.join("text_encoder", "model.safetensors"), os.path.join("text_encoder_2", "model.safetensors")],
        "VAE": [os.path.join("vae", "diffusion_pytorch_model.bin")],
    }
    assert len({component.key for component in found.values()}) == 3


def test_configs_and_texts_are_no_components(tmp_path: Path) -> None:
    for name in ("v1.yaml", "config.json", "words.txt"):
        (tmp_path / name).write_text("x")
    assert loads(tmp_path, {"config_name": "v1.yaml", "b": "config.json", "c": "words.txt", "d": "None", "e": 3}, "MODEL") == []


def test_a_broken_file_is_a_warning_and_left_to_comfyui(tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"oops")
    found = components_of_node("UNETLoader", {"unet_name": "bad.safetensors"}, ["MODEL"], resolver(tmp_path))
    assert found.components == ()
    assert "UNETLoader" in found.warnings[0]
    assert "bad.safetensors" in found.warnings[0]


# --- keys ---


def test_a_key_changes_with_the_file_and_with_options_and_with_nothing_else(tmp_path: Path) -> None:
    path = made(tmp_path / "my model.safetensors", "a")
    key = component_key("my model", [str(path)], {"weight_dtype": "default"})
    assert key.startswith("my-model-")
    assert key == component_key("my model", [str(path)], {"weight_dtype": "default"})
    assert key != component_key("my model", [str(path)], {"weight_dtype": "fp8_e4m3fn"})
    assert key != component_key("my model", [str(path)], {"weight_dtype": "default"}, part="VAE")
    os.utime(path, ns=(5, 5))
    assert key != component_key("my model", [str(path)], {"weight_dtype": "default"})


def test_two_nodes_with_the_same_file_and_options_share_the_component(tmp_path: Path) -> None:
    made(tmp_path / "a.safetensors", "a")
    inputs: dict[str, object] = {"unet_name": "a.safetensors", "weight_dtype": "default"}
    assert loads(tmp_path, inputs, "MODEL") == loads(tmp_path, dict(inputs), "MODEL")
    [(other, _)] = loads(tmp_path, {**inputs, "weight_dtype": "fp8_e4m3fn"}, "MODEL")
    assert other.key != loads(tmp_path, inputs, "MODEL")[0][0].key
