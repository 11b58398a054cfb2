"""Files of model folders that a node's widgets name, the components in them, and when this ComfyUI reads the weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import comfy.memory_management
import folder_paths

from ...settings.node_inputs import NOT_WEIGHTS, core_inputs
from ...weights.components import DIFFUSERS_INDEX, NodeLoads, components_of_node
from ...weights.transformers_folder import subfolders
from .node_classes import options, traits

# model folders whose sub-folders are models, as packs that run language models name them
LANGUAGE_FOLDERS = ("LLM", "transformers")


def dynamic_vram() -> bool:
    """Whether this ComfyUI reads weights at their first use (ModelPatcherDynamic) instead of in the loader node."""
    return bool(getattr(comfy.memory_management, "aimdo_enabled", False))


class Folders:
    """Resolves widget values that name a file in one of ComfyUI's model folders, whichever pack registered the folder."""

    def __init__(self) -> None:
        folders = folder_paths.folder_names_and_paths
        self._names = [name for name in folders if name not in NOT_WEIGHTS]
        # a value without one of these endings is a prompt text or an option: no file system call is spent on it
        self._extensions = tuple({ext for name in self._names for ext in folders[name][1] if ext.startswith(".")})
        self._models = {**_diffusers_folders(), **subfolders(language_folders())}

    def resolve(self, class_type: str, input_name: str, value: object) -> str | None:
        """The path of the file or folder that the input of a node of that class names; None where it names none."""
        if not isinstance(value, str):
            return None
        if value in self._models:  # a text may be called like a folder: only a widget that offers the folder means it
            return self._models[value] if value in options(class_type, input_name) else None
        if not value.lower().endswith(self._extensions):
            return None
        found = {}
        for name in self._names:
            path = folder_paths.get_full_path(name, value)
            if path is not None:
                found[name] = os.path.realpath(path)
        if len(set(found.values())) > 1:
            return self._from_options(class_type, input_name, found)
        return next(iter(found.values()), None)

    def _from_options(self, class_type: str, input_name: str, found: Mapping[str, str]) -> str | None:
        """Two folders hold a file of that name: the one whose listing the widget offers is meant."""
        offered = options(class_type, input_name)
        best = max(found, key=lambda name: (len(offered.intersection(folder_paths.get_filename_list(name))), name))
        return found[best]


def loads_now(class_type: str, inputs: Mapping[str, Any], folders: Folders | None = None) -> NodeLoads:
    """The components that a node would load if it ran now; none for a class that is not installed. On any thread."""
    class_traits = traits(class_type)
    if class_traits is None:
        return NodeLoads()
    resolve = partial((folders or Folders()).resolve, class_type)
    return components_of_node(class_type, core_inputs(class_type, inputs), class_traits.outputs, resolve)


def language_folders() -> list[str]:
    """Paths that hold folders of language models, first the ones that count when a name is in several."""
    known = folder_paths.folder_names_and_paths
    return [path for name in LANGUAGE_FOLDERS if name in known for path in folder_paths.get_folder_paths(name)]


def _diffusers_folders() -> dict[str, str]:
    """Paths of folders of the diffusers library, by the names that ComfyUI's loader offers."""
    places = folder_paths.get_folder_paths("diffusers") if "diffusers" in folder_paths.folder_names_and_paths else ()
    found: dict[str, str] = {}
    for place in places:
        for folder, _, files in os.walk(place, followlinks=True):
            if DIFFUSERS_INDEX in files:
                found.setdefault(os.path.relpath(folder, place), folder)
    return found
