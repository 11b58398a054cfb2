"""Where a ComfyUI lies on this machine, the Python that runs it, and where models are kept. Looks, starts nothing, imports nothing of it.

ComfyUI, first that is one: COMFYUI_PATH, or the ComfyUI folder in it; the ComfyUI whose custom_nodes folder this pack lies in; comfy-cli's
default workspace; the Desktop app's, whose program lies apart from its models, custom_nodes and Python.
Python, first that is there: COMFYUI_PYTHON; a virtual environment inside that ComfyUI (.venv, venv), or in the Desktop app's folder for it;
the portable package's python_embeded, beside ComfyUI; the running Python.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PACK = Path(__file__).resolve().parents[2]

HOW_TO_GET_ONE = (
    "No ComfyUI found. Set COMFYUI_PATH to the folder with its main.py (and COMFYUI_PYTHON to its Python where that is not a .venv or venv "
    "inside it or a python_embeded beside it), or get one:\n\n    pip install comfy-cli\n    comfy install\n"
    "    comfy set-default PATH_IT_PRINTED\n"
)


class LocateError(Exception):
    """An environment variable names something that is not there. The message names variable, value and the way out."""


@dataclass(frozen=True, slots=True)
class ComfyUI:
    """A ComfyUI on this machine: its folder, the Python that runs it, and who said so."""

    path: Path
    python: Path
    found_by: str

    @property
    def version(self) -> str:
        """As written in its comfyui_version.py; "unknown" where there is none."""
        try:
            text = (self.path / "comfyui_version.py").read_text(encoding="utf-8")
        except OSError:
            return "unknown"
        found = re.search(r"__version__\s*=\s*[\"']([^\"']+)", text)
        return found.group(1) if found else "unknown"


def find_comfyui(environment: Mapping[str, str] | None = None, pack: Path | None = None, home: Path | None = None) -> ComfyUI | None:
    """The ComfyUI to use, None when there is none. The arguments replace os.environ, this pack's folder and the home folder.

    Raises LocateError when COMFYUI_PATH or COMFYUI_PYTHON is set and names no ComfyUI or no file: a ComfyUI that was asked for is never
    replaced by another.
    """
    environment = os.environ if environment is None else environment
    home = Path.home() if home is None else home
    for path, found_by in _candidates(environment, pack, home):
        if is_comfyui(path):
            return ComfyUI(path, find_python(path, environment, home), found_by)
    asked = environment.get("COMFYUI_PATH")
    if asked:
        what = "there is no ComfyUI (main.py and comfy/) in it; set it to ComfyUI's folder or unset it"
        raise LocateError(f"COMFYUI_PATH is {Path(asked).expanduser()}, but {what}")
    return None


def is_comfyui(path: Path) -> bool:
    return (path / "main.py").is_file() and (path / "comfy").is_dir()


def find_python(
    comfyui: Path, environment: Mapping[str, str] | None = None, home: Path | None = None, platform: str = sys.platform
) -> Path:
    """The Python that runs this ComfyUI. Raises LocateError when COMFYUI_PYTHON names no file."""
    environment = os.environ if environment is None else environment
    asked = environment.get("COMFYUI_PYTHON")
    if asked:
        path = Path(asked).expanduser()
        if not path.is_file():
            raise LocateError(f"COMFYUI_PYTHON is {asked}, but there is no such file; set it to the Python that runs ComfyUI or unset it")
        return path
    desktop = desktop_app(environment, Path.home() if home is None else home, platform)
    folders = [comfyui] if desktop is None or desktop.program != comfyui else [desktop.folder, comfyui]
    pythons = [
        folder / name / python for folder in folders for name in (".venv", "venv") for python in ("bin/python", "Scripts/python.exe")
    ]
    pythons.append(comfyui.parent / "python_embeded" / "python.exe")  # as it is spelt there
    return next((python for python in pythons if python.is_file()), Path(sys.executable))


@dataclass(frozen=True, slots=True)
class DesktopApp:
    """The Desktop app: its ComfyUI, and the folder that its user has chosen for models, custom_nodes and .venv."""

    program: Path
    folder: Path


def desktop_app(environment: Mapping[str, str], home: Path, platform: str = sys.platform) -> DesktopApp | None:
    """None where the app is not installed on this platform, or has not been set up."""
    if platform == "win32":
        local = Path(environment.get("LOCALAPPDATA") or home / "AppData" / "Local")
        settings = Path(environment.get("APPDATA") or home / "AppData" / "Roaming") / "ComfyUI"
        apps = [local / "Programs" / name / "resources" for name in ("@comfyorgcomfyui-electron", "ComfyUI")]
    elif platform == "darwin":
        settings = home / "Library" / "Application Support" / "ComfyUI"
        apps = [folder / "Applications" / "ComfyUI.app" / "Contents" / "Resources" for folder in (home, Path("/"))]
    else:
        return None
    try:
        told = json.loads((settings / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    folder = told.get("basePath") if isinstance(told, dict) else None
    program = next((app / "ComfyUI" for app in apps if is_comfyui(app / "ComfyUI")), None)
    return None if program is None or not isinstance(folder, str) else DesktopApp(program, Path(folder))


def comfy_cli_config(environment: Mapping[str, str], home: Path, platform: str = sys.platform) -> Path:
    """comfy-cli's settings on this platform (its constants.DEFAULT_CONFIG)."""
    if platform == "win32":
        return Path(environment.get("LOCALAPPDATA") or home / "AppData" / "Local") / "comfy-cli" / "config.ini"
    if platform == "darwin":
        return home / "Library" / "Application Support" / "comfy-cli" / "config.ini"
    return home / ".config" / "comfy-cli" / "config.ini"


def _candidates(environment: Mapping[str, str], pack: Path | None, home: Path) -> Iterator[tuple[Path, str]]:
    asked = environment.get("COMFYUI_PATH")
    if asked:
        yield Path(asked).expanduser(), "COMFYUI_PATH"
        yield Path(asked).expanduser() / "ComfyUI", "COMFYUI_PATH"  # of the portable package
        return
    # not resolved: a pack that is linked into custom_nodes is run from there
    places = [pack] if pack else [PACK, Path(os.path.abspath(__file__)).parents[2], Path.cwd()]
    desktop = desktop_app(environment, home)
    for place in places:
        if place.parent.name == "custom_nodes":
            yield place.parent.parent, f"this pack lies in its {place.parent.name}"
            if desktop is not None and desktop.folder == place.parent.parent:
                yield desktop.program, "this pack lies in the Desktop app's custom_nodes"
    workspace = _comfy_cli_workspace(comfy_cli_config(environment, home))
    if workspace:
        yield workspace, "comfy-cli's default workspace"
        yield workspace / "ComfyUI", "comfy-cli's default workspace"
    if desktop is not None:
        yield desktop.program, "the Desktop app"


def _comfy_cli_workspace(config: Path) -> Path | None:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(config, encoding="utf-8")
    except (OSError, configparser.Error, UnicodeDecodeError):
        return None
    value = parser.defaults().get("default_workspace") or next(
        (parser.get(section, "default_workspace") for section in parser.sections() if parser.has_option(section, "default_workspace")), None
    )
    return Path(value).expanduser() if value else None


def cache_folder(environment: Mapping[str, str] | None = None, platform: str = sys.platform) -> Path:
    """The folder in which the demo and the bench keep their models between runs. RESIDENCY_CACHE replaces it."""
    environment = os.environ if environment is None else environment
    if environment.get("RESIDENCY_CACHE"):
        return Path(environment["RESIDENCY_CACHE"])
    if platform == "win32" and environment.get("LOCALAPPDATA"):
        return Path(environment["LOCALAPPDATA"]) / "residency" / "cache"
    if platform == "darwin":
        return Path.home() / "Library" / "Caches" / "residency"
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "residency"
