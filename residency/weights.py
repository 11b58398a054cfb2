"""Components from files: which bytes a loader node will read, told from widget values and file headers alone.

Nothing here knows a node class by name. A node loads weights when a widget names a file in a model folder; what the file
is for follows from the node's output types and, where one file feeds several outputs, from the tensors' name prefixes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from . import pretrained
from .component import Component, Extent, FileIdentity
from .identity import identities, identity

MAX_HEADER_BYTES = 100_000_000  # the safetensors crate's own cap
MERGE_GAP_BYTES = 1 << 20  # below this, reading through the gap is cheaper than a second read

SAFETENSORS_SUFFIXES = (".safetensors", ".sft")
WHOLE_FILE_SUFFIXES = (".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl", ".gguf", ".onnx", ".msgpack", ".h5")

# Output types that carry data, not weights. Every other type is a handle to something loaded.
DATA_TYPES = frozenset(
    ("IMAGE", "MASK", "LATENT", "CONDITIONING", "STRING", "INT", "FLOAT", "NUMBER", "BOOLEAN", "COMBO", "AUDIO", "VIDEO", "NOISE")
) | {"SIGMAS", "SAMPLER", "WEBCAM", "*"}

LANGUAGE_MODEL = "LM"  # component kind of what a RESIDENCY_LM output carries
_KINDS = {"RESIDENCY_LM": LANGUAGE_MODEL}

# How checkpoints name their parts (ComfyUI's supported_models and the files people share).
PREFIXES: Mapping[str, tuple[str, ...]] = {
    "MODEL": ("model.diffusion_model.", "diffusion_model."),
    "CLIP_VISION": ("conditioner.embedders.0.open_clip.model.visual.", "embedder.model.visual.", "image_encoder."),
    "VAE": ("first_stage_model.", "vae.", "audio_vae.", "vocoder."),
    "CLIP": ("cond_stage_model.", "conditioner.", "text_encoders.", "text_encoder."),
}

# Bits of one element. Names as in the safetensors crate; a dtype that is not here is accepted unchecked.
_DTYPE_BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}

Resolve = Callable[[str, str], str | None]
"""(input name, widget value) -> absolute path of the file or folder it names in a model folder, None when it names none."""


class WeightsError(Exception):
    """A weights file cannot be used. The message names the file, the value that is wrong and the way out."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor's bytes: `start` is absolute in the file, `size_bytes` its length."""

    name: str
    dtype: str
    start: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """A safetensors header. `tensors` are ordered by `start`; the data section begins at byte `data_start`."""

    path: str
    file_bytes: int
    data_start: int
    tensors: tuple[Tensor, ...]
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class NodeLoads:
    """What one node loads.

    Each component comes with the output type that carries it; a component shared by several outputs is listed once per
    output; None means that no output carries it and the node itself computes with it.
    """

    components: tuple[tuple[Component, str | None], ...] = ()
    warnings: tuple[str, ...] = ()


def read_header(path: str) -> Header:
    """Parse and check the header of a safetensors file; cheap when the file has not changed since the last call.

    Raises WeightsError when the file cannot be read or the safetensors library would refuse it.
    """
    try:
        file = identity(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    return _read_header(file)


@lru_cache(maxsize=64)
def _read_header(of: FileIdentity) -> Header:
    """Keyed by the file's identity so that a replaced one is read again; errors are not cached."""
    path, file_bytes = of.path, of.size_bytes
    try:
        with open(path, "rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            raw = file.read(length) if 0 < length <= min(MAX_HEADER_BYTES, file_bytes - 8) else b""
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    if len(prefix) < 8:
        raise WeightsError(f"{path}: {file_bytes} bytes is too short for a safetensors file (at least 8); download it again")
    if length > MAX_HEADER_BYTES:
        raise WeightsError(
            f"{path}: header length {length} is over the limit of {MAX_HEADER_BYTES} bytes; this is not a safetensors file, "
            "give it the suffix of its real format or download it again"
        )
    if len(raw) < length or not raw:
        raise WeightsError(f"{path}: header length {length} does not fit a file of {file_bytes} bytes; download it again")
    return _parse(path, file_bytes, raw)


def _parse(path: str, file_bytes: int, raw: bytes) -> Header:
    def bad(what: str) -> WeightsError:
        return WeightsError(f"{path}: {what}; download it again or save it anew with the safetensors library")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise bad(f"the header names {twice!r} twice")
        return found

    try:
        entries = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise bad(f"the header of {len(raw)} bytes is not JSON ({error})") from error
    if not isinstance(entries, dict):
        raise bad(f"the header is a JSON {type(entries).__name__}, not an object")

    metadata = entries.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise bad("__metadata__ is not a map of text to text")

    data_start = 8 + len(raw)
    tensors = sorted((_tensor(name, entry, data_start, bad) for name, entry in entries.items()), key=lambda t: (t.start, t.size_bytes))
    end = data_start
    for tensor in tensors:
        if tensor.start + tensor.size_bytes > file_bytes:
            raise bad(f"tensor {tensor.name!r} ends at byte {tensor.start + tensor.size_bytes}, the file has {file_bytes} (cut short?)")
        if tensor.start != end:
            what = "overlaps the one before it" if tensor.start < end else "leaves a gap before it"
            raise bad(f"tensor {tensor.name!r} at byte {tensor.start} {what}, which ends at {end}")
        end = tensor.start + tensor.size_bytes
    if end != file_bytes:
        raise bad(f"the tensors end at byte {end}, the file at {file_bytes}")
    return Header(path, file_bytes, data_start, tuple(tensors), metadata)


def _tensor(name: str, entry: Any, data_start: int, bad: Callable[[str], WeightsError]) -> Tensor:
    try:
        dtype, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise bad(f"tensor {name!r} lacks dtype, shape or two data_offsets ({str(entry)[:80]})") from error
    numbers = [first, last, *(shape if isinstance(shape, list) else [None])]
    if not isinstance(dtype, str) or not all(type(number) is int and number >= 0 for number in numbers):
        raise bad(f"tensor {name!r} has dtype {dtype!r}, shape {shape!r}, data_offsets [{first!r}, {last!r}]: not sizes")
    if last < first:
        raise bad(f"tensor {name!r} ends before it starts: data_offsets [{first}, {last}]")
    bits = _DTYPE_BITS.get(dtype)
    if bits is not None:
        count = 1
        for side in shape:
            count *= side
        if count * bits != (last - first) * 8:
            takes = f"takes {count * bits / 8:g} bytes, data_offsets give {last - first}"
            raise bad(f"tensor {name!r} of dtype {dtype} and shape {shape} {takes}")
    return Tensor(name, dtype, data_start + first, last - first)


def merge_extents(path: str, tensors: Iterable[Tensor], gap_bytes: int = MERGE_GAP_BYTES) -> tuple[Extent, ...]:
    """Byte ranges that cover `tensors` (ordered by start), neighbours at most `gap_bytes` apart joined into one."""
    ranges: list[list[int]] = []
    for tensor in tensors:
        if not tensor.size_bytes:
            continue
        if ranges and tensor.start - ranges[-1][1] <= gap_bytes:
            ranges[-1][1] = max(ranges[-1][1], tensor.start + tensor.size_bytes)
        else:
            ranges.append([tensor.start, tensor.start + tensor.size_bytes])
    return tuple(Extent(path, start, end - start) for start, end in ranges)


def component_key(name: str, paths: Sequence[str], options: Mapping[str, object], part: str = "") -> str:
    """`<readable name>-<hash>`: the same across restarts, another when a file is replaced or an option differs.

    `paths` are files or folders that exist (OSError otherwise); `part` tells parts of one file apart.
    """
    digest = hashlib.sha256()
    for path in paths:
        file = identity(path)  # without its inode, which a network's file system may number anew
        digest.update(f"{os.path.realpath(path)}\0{file.size_bytes}\0{file.modified_ns}\0".encode("utf-8", "surrogateescape"))
    digest.update(json.dumps([part, sorted(options.items())], default=str).encode())
    slug = re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-")[:48]
    return f"{slug}-{digest.hexdigest()[:12]}"


def components_of_node(class_type: str, inputs: Mapping[str, Any], output_types: Sequence[str], resolve: Resolve) -> NodeLoads:
    """The components that a node loads, from its inputs as they stand in an API workflow.

    `class_type` only names the node in warnings. Files that do not look like weights are left alone; a file that cannot be used
    gives a warning and no component, so that ComfyUI reports it in its own way.
    """
    handles = tuple(dict.fromkeys(kind for kind in output_types if kind not in DATA_TYPES))
    files = _files(inputs, resolve)
    if not files:
        return NodeLoads()
    options = _options(inputs, {value for _, value, _ in files}) if handles else {}
    patches = any(_is_link(inputs.get(kind.lower())) for kind in handles)  # takes what it gives: a LoRA, not a loader

    found: list[tuple[Component, str | None]] = []
    warnings: list[str] = []
    groups: list[list[tuple[str, str]]] = [[(name, path) for name, _, path in files]]
    if patches or len(handles) != 1:
        groups = [[file] for file in groups[0]]
    for group in groups:
        try:
            if patches:
                found.extend((_component(group, "LORA", {}), kind) for kind in handles)
            else:
                found.extend(_loads(group, handles, options))
        except (WeightsError, pretrained.FolderError, OSError) as error:
            warnings.append(f"{class_type}: {error}")
    return NodeLoads(tuple(found), tuple(warnings))


def _loads(group: list[tuple[str, str]], handles: tuple[str, ...], options: Mapping[str, object]) -> list[tuple[Component, str | None]]:
    if not handles:
        return [(_component(group, "WEIGHTS", options), None)]
    named = tuple(kind for kind in handles if _named_for(group[0][0], kind))
    if len(group) == 1 and _suffix(group[0][1]) in SAFETENSORS_SUFFIXES:
        parts = _parts(read_header(group[0][1]), handles)
        if parts:
            path = group[0][1]
            return [(_part(path, kind, parts[kind], options), kind) for kind in handles if parts.get(kind)]
    kinds = named if len(handles) > 1 and len(named) == 1 else handles
    shared = _component(group, kinds[0], options)
    return [(shared, kind) for kind in kinds]


def _named_for(input_name: str, kind: str) -> bool:
    """Whether a file input is called after one output (vae_name -> VAE), for nodes with several files and several outputs."""
    words = {"MODEL": ("model", "unet", "diffusion")}.get(kind, (kind.lower(),))
    return any(word in input_name.lower() for word in words)


def _parts(header: Header, handles: tuple[str, ...]) -> dict[str, list[Tensor]]:
    """Tensors by output type; empty when the names do not tell this node's outputs apart from something else in the file."""
    rest = "MODEL" if "MODEL" in handles or len(handles) == 1 else handles[0]
    parts: dict[str, list[Tensor]] = {}
    for tensor in header.tensors:
        kind = next((kind for kind, prefixes in PREFIXES.items() if tensor.name.startswith(prefixes)), rest)
        if kind == "CLIP" and "CLIP" not in handles and "CLIP_VISION" in handles:
            kind = "CLIP_VISION"
        parts.setdefault(kind, []).append(tensor)
    return parts if len(parts) > 1 and any(kind in parts for kind in handles) else {}


def _part(path: str, kind: str, tensors: list[Tensor], options: Mapping[str, object]) -> Component:
    files, extents = identities([path]), merge_extents(path, tensors)
    name = f"{_stem(path)} [{kind}]"
    return Component(component_key(name, [path], options, kind), name, kind, sum(extent.size_bytes for extent in extents), extents, files)


def _component(group: list[tuple[str, str]], kind: str, options: Mapping[str, object]) -> Component:
    paths = list(dict.fromkeys(path for _, path in group))
    made_of = identities(paths)  # of a folder its configuration and tokenizer too
    files = [file for path in paths for file in _weights_of(path)]
    extents = tuple(extent for file in files for extent in _whole(file))
    name = " + ".join(os.path.basename(os.path.normpath(path)) if os.path.isdir(path) else _stem(path) for path in paths)
    size_bytes = sum(extent.size_bytes for extent in extents)
    return Component(component_key(name, files, options), name, _KINDS.get(kind, kind), size_bytes, extents, made_of)


def _weights_of(path: str) -> list[str]:
    """The files behind a path: itself, a model folder's shards in order, or every safetensors file below another folder."""
    if not os.path.isdir(path):
        return [path]
    if any(os.path.isfile(os.path.join(path, name)) for name in (pretrained.WEIGHTS, pretrained.INDEX)):
        return list(pretrained.shards(path))
    inside = sorted(os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
    inside = [name for name in inside if _suffix(name) in SAFETENSORS_SUFFIXES]
    if not inside:
        raise WeightsError(f"{path}: the folder holds no .safetensors file; choose a folder with weights")
    return inside


def _whole(path: str) -> tuple[Extent, ...]:
    if _suffix(path) in SAFETENSORS_SUFFIXES:
        return merge_extents(path, read_header(path).tensors)
    size_bytes = os.stat(path).st_size
    return (Extent(path, 0, size_bytes),) if size_bytes else ()


def _files(inputs: Mapping[str, Any], resolve: Resolve) -> list[tuple[str, str, str]]:
    """(input name, value, path) of every widget that names weights, in the order of the inputs, each path once."""
    found: dict[str, tuple[str, str, str]] = {}
    for name, value in _texts(inputs):
        path = resolve(name, value)
        if path is None or path in found:
            continue
        if os.path.isdir(path) or _suffix(path) in SAFETENSORS_SUFFIXES + WHOLE_FILE_SUFFIXES:
            found[path] = (name, value, path)
    return list(found.values())


def _texts(inputs: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for name, value in inputs.items():
        if isinstance(value, str):
            yield name, value
        elif isinstance(value, Mapping) and value.get("on", True):  # rows of a list widget: {"on": true, "lora": "a.safetensors"}
            for key, inner in value.items():
                if isinstance(inner, str):
                    yield f"{name}.{key}", inner


def _options(inputs: Mapping[str, Any], file_values: set[str]) -> dict[str, object]:
    """Choices that may change the weights (weight_dtype, type, device). Numbers are strengths and sizes, which do not."""
    return {
        name: value
        for name, value in inputs.items()
        if isinstance(value, bool) or (isinstance(value, str) and value not in file_values and len(value) <= 64)
    }


def _is_link(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[1], int)


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(os.path.normpath(path)))[0]
