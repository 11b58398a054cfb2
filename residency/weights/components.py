"""Components from files: which bytes a loader node will read, told from widget values and file headers alone.

Nothing here knows a node class by name. A node loads weights when a widget names a file in a model folder; the file's purpose follows from
the node's output types and, where a file holds several models, from the tensors' name prefixes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.component import Component, Extent
from ..graph import wraps_models
from . import transformers_folder
from .identity import identities, identity
from .parts import taken
from .safetensors import Tensor, WeightsError, read_header

SAFETENSORS_SUFFIXES = (".safetensors", ".sft")
WHOLE_FILE_SUFFIXES = (".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl", ".gguf", ".onnx", ".msgpack", ".h5")

# Output types that carry data, not weights. Every other type is a handle to something loaded.
DATA_TYPES = frozenset(
    ("IMAGE", "MASK", "LATENT", "CONDITIONING", "STRING", "INT", "FLOAT", "NUMBER", "BOOLEAN", "COMBO", "AUDIO", "VIDEO", "NOISE")
) | {"SIGMAS", "SAMPLER", "WEBCAM", "*"}

LANGUAGE_MODEL = "LM"  # component kind of what a RESIDENCY_LM output carries
_KINDS = {"RESIDENCY_LM": LANGUAGE_MODEL}
_NEVER_PATCHED = frozenset({"VAE", "CLIP_VISION"})  # by a LoRA

DIFFUSERS_INDEX = "model_index.json"  # of a folder that the diffusers library has saved
_DIFFUSERS_FILES = tuple(f"diffusion_pytorch_model{end}" for end in (".fp16.safetensors", ".safetensors", ".fp16.bin", ".bin"))
_ENCODER_FILES = ("model.fp16.safetensors", "model.safetensors", "pytorch_model.fp16.bin", "pytorch_model.bin")
# Of such a folder, what ComfyUI makes each model of: the first file there is in each of these folders.
_DIFFUSERS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "MODEL": (("unet",), _DIFFUSERS_FILES),
    "CLIP": (("text_encoder", "text_encoder_2"), _ENCODER_FILES),
    "VAE": (("vae",), _DIFFUSERS_FILES),
}

Resolve = Callable[[str, str], str | None]
"""(input name, widget value) -> absolute path of the file or folder it names in a model folder, None when it names none."""


@dataclass(frozen=True, slots=True)
class NodeLoads:
    """The components that one node loads.

    Each component comes with the output type that carries it; a component shared by several outputs is listed once per
    output; None means that no output carries it and the node itself computes with it.
    """

    components: tuple[tuple[Component, str | None], ...] = ()
    warnings: tuple[str, ...] = ()


def merge_extents(path: str, tensors: Iterable[Tensor]) -> tuple[Extent, ...]:
    """Byte ranges that cover `tensors` (ordered by start) and nothing else, so that parts of one file share no byte."""
    ranges: list[list[int]] = []
    for tensor in tensors:
        if not tensor.size_bytes:
            continue
        if ranges and tensor.start == ranges[-1][1]:
            ranges[-1][1] += tensor.size_bytes
        else:
            ranges.append([tensor.start, tensor.start + tensor.size_bytes])
    return tuple(Extent(path, start, end - start) for start, end in ranges)


def distinct_bytes(components: Iterable[Component]) -> int:
    """Bytes to read for all of them together: bytes of a file that several read count once."""
    total_bytes = 0
    ranges: dict[str, list[tuple[int, int]]] = {}
    for component in components:
        if not component.extents:
            total_bytes += component.size_bytes
        for extent in component.extents:
            ranges.setdefault(extent.path, []).append((extent.start, extent.start + extent.size_bytes))
    for found in ranges.values():
        reached = 0
        for start, end in sorted(found):
            total_bytes += max(0, end - max(start, reached))
            reached = max(reached, end)
    return total_bytes


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
    named = _files(inputs, resolve)
    if not named:
        return NodeLoads()
    handles = tuple(dict.fromkeys(kind for kind in output_types if kind not in DATA_TYPES))
    options = _options(inputs, {value for _, value, _ in named}) if handles else {}
    patches = any(_is_link(inputs.get(kind.lower())) for kind in handles)  # takes what it gives: a LoRA, not a loader
    warnings: list[str] = []
    files: list[_File] = []
    for name, _, path in named:
        try:
            files.append(_File(name, path, {} if patches else _divided(path, class_type, handles)))
        except (WeightsError, OSError) as error:
            warnings.append(f"{class_type}: {error}")
    apart = patches or len(handles) != 1 or (wraps_models(handles[0]) and any(file.parts for file in files))
    found: list[tuple[Component, str | None]] = []
    for group in [[file] for file in files] if apart else [files] if files else []:
        try:
            if patches or (len(handles) > 1 and "lora" in group[0].input_name.lower()):
                found.extend((_component(group, "LORA", {}), kind) for kind in handles if patches or kind not in _NEVER_PATCHED)
            else:
                found.extend(_loads(group, handles, options, vae_elsewhere=any("vae" in f.input_name for f in files if f not in group)))
        except (WeightsError, transformers_folder.FolderError, OSError) as error:
            warnings.append(f"{class_type}: {error}")
    return NodeLoads(tuple(found), tuple(warnings))


@dataclass(frozen=True, slots=True)
class _File:
    """A file or folder that an input names; `parts` by link type, each with its name, when the node takes parts of it and not the whole."""

    input_name: str
    path: str
    parts: Mapping[str, tuple[str, Sequence[Tensor]]]


def _divided(path: str, class_type: str, handles: Collection[str]) -> dict[str, tuple[str, Sequence[Tensor]]]:
    if not handles or os.path.isdir(path) or _suffix(path) not in SAFETENSORS_SUFFIXES:
        return {}
    tensors = read_header(path).tensors
    found = taken([tensor.name for tensor in tensors], class_type, handles)
    members = {kind: (part, set(names)) for kind, (part, names) in found.items()}
    return {kind: (part, [tensor for tensor in tensors if tensor.name in names]) for kind, (part, names) in members.items()}


def _loads(
    group: list[_File], handles: tuple[str, ...], options: Mapping[str, object], *, vae_elsewhere: bool
) -> list[tuple[Component, str | None]]:
    if not handles:
        return [(_component(group, "WEIGHTS", options), None)]
    if len(group) == 1 and group[0].parts:
        kinds = [kind for kind in group[0].parts if not (kind == "VAE" and vae_elsewhere)]
        return [(_component(group, kind, options), kind) for kind in kinds]
    if set(handles) == set(_DIFFUSERS) and os.path.isfile(os.path.join(group[0].path, DIFFUSERS_INDEX)):
        return [(_component(group, kind, options, kind), kind) for kind in handles if _of_diffusers(group[0].path, kind)]
    named = tuple(kind for kind in handles if _named_for(group[0].input_name, kind))
    kinds_of_it = named if len(handles) > 1 and len(named) == 1 else handles
    shared = _component(group, kinds_of_it[0], options)
    return [(shared, kind) for kind in kinds_of_it]


def _named_for(input_name: str, kind: str) -> bool:
    """Whether a file input is called after one output (vae_name -> VAE), for nodes with several files and several outputs."""
    words = {"MODEL": ("model", "unet", "diffusion")}.get(kind, (kind.lower(),))
    return any(word in input_name.lower() for word in words)


def _of_diffusers(path: str, kind: str) -> list[str]:
    """The files of a folder of the diffusers library that ComfyUI makes a model of this kind of."""
    folders, names = _DIFFUSERS[kind]
    choices = [[os.path.join(path, folder, name) for name in names] for folder in folders]
    return [found for paths in choices if (found := next(filter(os.path.isfile, paths), None))]


def _component(group: Sequence[_File], kind: str, options: Mapping[str, object], part: str = "") -> Component:
    """`part` is the one that it is of a folder of the diffusers library."""
    extents: list[Extent] = []
    files: list[str] = []
    of_diffusers = bool(part)
    for file in group:
        if kind in file.parts:
            part, tensors = file.parts[kind]
            files.append(file.path)
            extents += merge_extents(file.path, tensors)
        else:
            inside = _of_diffusers(file.path, kind) if of_diffusers else _weights_of(file.path)
            files += inside
            extents += [extent for path in inside for extent in _whole(path)]
    name = " + ".join(os.path.basename(os.path.normpath(f.path)) if os.path.isdir(f.path) else _stem(f.path) for f in group)
    name += f" [{part}]" if part else ""
    made_of = identities(dict.fromkeys(file.path for file in group))  # of a folder its configuration and tokenizer too
    size_bytes = sum(extent.size_bytes for extent in extents)
    return Component(component_key(name, files, options, part), name, _KINDS.get(kind, kind), size_bytes, tuple(extents), made_of)


def _weights_of(path: str) -> list[str]:
    """The files behind a path: itself, a model folder's shards in order, or every safetensors file below another folder."""
    if not os.path.isdir(path):
        return [path]
    if any(os.path.isfile(os.path.join(path, name)) for name in (transformers_folder.WEIGHTS, transformers_folder.INDEX)):
        return list(transformers_folder.shards(path))
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


_NO_ROWS = (list, int, float)  # of links and numbers: asking whether it is a Mapping takes 0.5 us each time


def _texts(inputs: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for name, value in inputs.items():
        if isinstance(value, str):
            yield name, value
        # rows of a list widget: {"on": true, "lora": "a.safetensors"}
        elif not isinstance(value, _NO_ROWS) and isinstance(value, Mapping) and value.get("on", True):
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
