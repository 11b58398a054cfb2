"""ComfyUI's models folder, searched for the files that widgets name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..weights.components import DIFFUSERS_INDEX, SAFETENSORS_SUFFIXES, WHOLE_FILE_SUFFIXES
from ..weights.transformers_folder import holds_model, subfolders
from .extra_paths import ExtraFolder

# Input names and the model folders that they usually choose from, for a file name that lies in several folders.
_FOLDERS = {
    "ckpt": ("checkpoints",),
    "unet": ("diffusion_models", "unet"),
    "clip_vision": ("clip_vision",),
    "clip": ("text_encoders", "clip"),
    "vae": ("vae",),
    "lora": ("loras",),
    "control_net": ("controlnet",),
    "upscale": ("upscale_models",),
}
_LANGUAGE_INPUT = "lm_name"  # names a folder: nothing in the value itself says so
_LANGUAGE_FOLDERS = ("LLM", "transformers")
_NO_WEIGHTS = frozenset({"configs", "custom_nodes", "datasets"})
_LONGEST = 1024  # characters of a path in a widget; what is longer is a text


def names_weights(value: str) -> bool:
    """Whether a widget's value looks like the name of a weights file."""
    return len(value) <= _LONGEST and value.lower().endswith(SAFETENSORS_SUFFIXES + WHOLE_FILE_SUFFIXES) and "\n" not in value


class ModelFolder:
    """The `models` folder with the folders of extra_model_paths.yaml, and `sizes` in bytes by file name for files that are in none of
    them."""

    def __init__(self, path: Path, sizes: Mapping[str, int], extra: Sequence[ExtraFolder] = ()) -> None:
        self.sizes = sizes
        own = [ExtraFolder(folder.name, folder) for folder in sorted(path.iterdir() if path.is_dir() else ())]
        first, last = [one for one in reversed(extra) if one.first], [one for one in extra if not one.first]
        self._folders = [one for one in (*first, *own, *last) if one.name not in _NO_WEIGHTS and one.path.is_dir()]

    def language_models(self) -> Mapping[str, str]:
        """Paths of folders of language models, by the names that a widget offers."""
        return subfolders([str(one.path) for name in _LANGUAGE_FOLDERS for one in self._folders if one.name == name])

    def search(self, lists: Mapping[str, str] | None) -> Search:
        """For one node; `lists` are the inputs that choose from a model folder, None where nobody knows them."""
        return Search(self, lists)

    def find(self, value: str, preferred: tuple[str, ...]) -> str | None:
        """Absolute path of the file or folder of weights that a value names, `preferred` folders first.

        It stays inside the folder for any value, as in ComfyUI, and takes Windows' separators on every system.
        """
        inside = os.path.relpath(os.path.join("/", value.replace("\\", "/")), "/")
        for folder in sorted(self._folders, key=lambda folder: folder.name not in preferred):
            path = os.path.abspath(os.path.join(folder.path, inside))
            if os.path.isfile(path) or (inside != os.curdir and os.path.isdir(path) and _holds_weights(path)):
                return path
        return None


def _holds_weights(path: str) -> bool:
    return holds_model(path) or os.path.isfile(os.path.join(path, DIFFUSERS_INDEX))


class Search:
    """The files that the widgets of one node name: `named` in all, of it `declared` with their bytes, and `missing` everywhere."""

    def __init__(self, folder: ModelFolder, lists: Mapping[str, str] | None) -> None:
        self._folder = folder
        self._lists = lists
        self.named: dict[str, None] = {}
        self.declared: dict[str, int] = {}
        self.missing: dict[str, None] = {}

    def resolve(self, input_name: str, value: str) -> str | None:
        """Absolute path of the weights that a value names, None when it names none. Notes values that look like weights and are nowhere.

        Without a suffix of weights a value names some only where the node's class is unknown or chooses from a folder there.
        """
        likely = names_weights(value)
        path = None
        if input_name == _LANGUAGE_INPUT:
            likely = True
            path = self._folder.language_models().get(value)
        elif likely or (0 < len(value) <= _LONGEST and value.isprintable() and (self._lists is None or input_name in self._lists)):
            path = self._folder.find(value, self._preferred(input_name))
        if path is None and value in self._folder.sizes:
            self.declared[value] = self._folder.sizes[value]
        elif path is None and likely:
            self.missing[value] = None
        elif path is not None and os.path.isfile(path) and not names_weights(path):
            self.declared[value], path = os.path.getsize(path), None  # of a format that nobody knows: read as a whole
        elif path is None:
            return None
        self.named[value] = None
        return path

    def _preferred(self, input_name: str) -> tuple[str, ...]:
        listed = (self._lists or {}).get(input_name)
        words = next((folders for word, folders in _FOLDERS.items() if word in input_name), ())
        return words if listed is None else (listed, *words)
