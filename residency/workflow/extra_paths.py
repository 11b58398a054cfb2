"""extra_model_paths.yaml: model folders outside ComfyUI's own, as its users write them down."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..units import UsageError

FILE_NAME = "extra_model_paths.yaml"
_LEGACY = {"unet": "diffusion_models", "clip": "text_encoders"}  # what ComfyUI calls these folders now


@dataclass(frozen=True, slots=True)
class ExtraFolder:
    """A folder that ComfyUI searches under the name of one of its model folders; `first`: before its own."""

    name: str
    path: Path
    first: bool = False


def read_extra_paths(file: Path) -> tuple[ExtraFolder, ...]:
    """The folders that a file names, in its order; relative ones lie beside it or below its `base_path`. Raises UsageError."""
    try:
        import yaml  # ComfyUI has it; whoever plans without such a file needs none
    except ImportError as error:
        raise UsageError(f"{file}: reading it needs PyYAML: pip install pyyaml, or plan with ComfyUI's Python") from error
    try:
        sections = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror}); give ComfyUI's {FILE_NAME}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{file}: not YAML ({' '.join(str(error).split())[:200]}); write it as ComfyUI's example does") from error
    if not isinstance(sections, dict):
        raise UsageError(f"{file}: names no section; write it as ComfyUI's example does")
    return tuple(folder for section in sections.values() for folder in _folders(section, file.absolute().parent))


def _folders(section: Any, beside: Path) -> list[ExtraFolder]:
    """Of one section; a value that is not a text names no folder."""
    if not isinstance(section, dict):
        return []
    base = beside / os.path.expandvars(os.path.expanduser(str(section.get("base_path", ""))))
    first = bool(section.get("is_default"))
    return [
        ExtraFolder(_LEGACY.get(str(name), str(name)), Path(os.path.normpath(base / line)), first)
        for name, lines in section.items()
        if name not in ("base_path", "is_default") and isinstance(lines, str)
        for line in lines.split("\n")
        if line
    ]
