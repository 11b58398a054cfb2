"""Which ComfyUI and which Python are found, on folders made for the purpose."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from residency.installation import locate
from residency.installation.locate import ComfyUI, DesktopApp, LocateError, comfy_cli_config, desktop_app, find_comfyui, find_python


def comfyui_at(path: Path, python: str | None = ".venv/bin/python") -> Path:
    (path / "comfy").mkdir(parents=True)
    (path / "main.py").touch()
    if python:
        (path / python).parent.mkdir(parents=True)
        (path / python).touch()
    return path


def comfy_cli_says(home: Path, workspace: Path) -> None:
    config = comfy_cli_config({"LOCALAPPDATA": str(home)}, home)
    config.parent.mkdir(parents=True)
    config.write_text(f"[DEFAULT]\ndefault_workspace = {workspace}\nlaunch = 100%\n")


def find(tmp_path: Path, environment: dict[str, str] | None = None, pack: Path | None = None) -> ComfyUI | None:
    return find_comfyui({"LOCALAPPDATA": str(tmp_path), **(environment or {})}, pack or tmp_path / "elsewhere" / "pack", tmp_path)


def test_the_variable_comes_first_then_the_folder_the_pack_lies_in_then_comfy_cli(tmp_path: Path) -> None:
    asked, around, workspace = (comfyui_at(tmp_path / name) for name in ("asked", "around", "workspace"))
    comfy_cli_says(tmp_path, workspace)
    inside = around / "custom_nodes" / "residency"
    for environment, pack, expected in [
        ({"COMFYUI_PATH": str(asked)}, inside, asked),
        ({}, inside, around),
        ({}, None, workspace),
    ]:
        found = find(tmp_path, environment, pack)
        assert found is not None
        assert found.path == expected
        assert found.python == expected / ".venv/bin/python"


def test_a_comfy_cli_workspace_may_be_the_folder_above(tmp_path: Path) -> None:
    comfyui_at(tmp_path / "comfy-root" / "ComfyUI")
    comfy_cli_says(tmp_path, tmp_path / "comfy-root")
    found = find(tmp_path)
    assert found is not None
    assert found.path == tmp_path / "comfy-root" / "ComfyUI"


def test_nothing_is_none_and_no_error(tmp_path: Path) -> None:
    comfy_cli_says(tmp_path, tmp_path / "deleted")
    assert find(tmp_path) is None


def test_a_config_that_cannot_be_read_is_no_comfyui(tmp_path: Path) -> None:
    comfy_cli_says(tmp_path, tmp_path)
    comfy_cli_config({"LOCALAPPDATA": str(tmp_path)}, tmp_path).write_bytes(b"\xff no section")
    assert find(tmp_path) is None


@pytest.mark.parametrize("variable", ["COMFYUI_PATH", "COMFYUI_PYTHON"])
def test_a_variable_that_names_nothing_is_an_error_that_names_it(tmp_path: Path, variable: str) -> None:
    comfyui = comfyui_at(tmp_path / "c")
    environment = {"COMFYUI_PATH": str(comfyui), variable: str(tmp_path / "gone")}
    with pytest.raises(LocateError, match=rf"{variable} is .*gone.*unset it"):
        find(tmp_path, environment)


@pytest.mark.parametrize("python", ["venv/bin/python", ".venv/Scripts/python.exe"])
def test_its_own_environment_is_used(tmp_path: Path, python: str) -> None:
    comfyui = comfyui_at(tmp_path / "c", python)
    assert find_python(comfyui, {}) == comfyui / python


def test_the_portable_package_has_its_python_beside_comfyui(tmp_path: Path) -> None:
    portable = tmp_path / "ComfyUI_windows_portable"
    comfyui = comfyui_at(portable / "ComfyUI", None)
    python = portable / "python_embeded" / "python.exe"
    python.parent.mkdir()
    python.touch()
    assert find_python(comfyui, {}, tmp_path) == python
    for asked in (portable, comfyui):
        found = find(tmp_path, {"COMFYUI_PATH": str(asked)})
        assert found is not None and (found.path, found.python) == (comfyui, python)


def desktop_at(home: Path, platform: str) -> tuple[Path, Path, dict[str, str]]:
    """(program, folder, environment) of a Desktop app that has been set up."""
    local, roaming, folder = home / "AppData/Local", home / "AppData/Roaming", home / "Documents" / "ComfyUI"
    resources = (
        local / "Programs/@comfyorgcomfyui-electron/resources"
        if platform == "win32"
        else home / "Applications/ComfyUI.app/Contents/Resources"
    )
    settings = roaming / "ComfyUI" if platform == "win32" else home / "Library/Application Support/ComfyUI"
    python = folder / ".venv" / ("Scripts/python.exe" if platform == "win32" else "bin/python")
    python.parent.mkdir(parents=True)
    python.touch()
    settings.mkdir(parents=True)
    (settings / "config.json").write_text(json.dumps({"basePath": str(folder), "installState": "installed"}))
    return comfyui_at(resources / "ComfyUI", None), folder, {"LOCALAPPDATA": str(local), "APPDATA": str(roaming)}


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_the_desktop_app_keeps_its_program_apart_from_its_python(tmp_path: Path, platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, folder, environment = desktop_at(tmp_path, platform)
    assert desktop_app(environment, tmp_path, platform) == DesktopApp(program, folder)
    python = find_python(program, environment, tmp_path, platform)
    assert python.is_relative_to(folder / ".venv")
    monkeypatch.setattr(locate, "desktop_app", lambda environment, home, _="": desktop_app(environment, home, platform))
    for pack, found_by in (
        (folder / "custom_nodes" / "residency", "this pack lies in the Desktop app's custom_nodes"),
        (None, "the Desktop app"),
    ):
        found = find_comfyui(environment, pack or tmp_path / "elsewhere" / "pack", tmp_path)
        assert found == ComfyUI(program, python, found_by)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"basePath": 3}', "{}"])
def test_a_desktop_app_that_was_not_set_up_is_none(tmp_path: Path, content: str | None) -> None:
    _, _, environment = desktop_at(tmp_path, "win32")
    settings = tmp_path / "AppData/Roaming/ComfyUI/config.json"
    settings.unlink() if content is None else settings.write_text(content)
    assert desktop_app(environment, tmp_path, "win32") is None and desktop_app(environment, tmp_path, "linux") is None


def test_without_one_the_running_python_is(tmp_path: Path) -> None:
    assert find_python(comfyui_at(tmp_path / "c", None), {}) == Path(sys.executable)


def test_the_python_asked_for_wins(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    assert find_python(comfyui_at(tmp_path / "c"), {"COMFYUI_PYTHON": str(tmp_path / "mine")}) == tmp_path / "mine"


def test_the_version_is_read_from_its_file(tmp_path: Path) -> None:
    comfyui = ComfyUI(comfyui_at(tmp_path / "c"), Path(sys.executable), "test")
    assert comfyui.version == "unknown"
    (comfyui.path / "comfyui_version.py").write_text('# made by a tool\n__version__ = "0.33.0"\n')
    assert comfyui.version == "0.33.0"


@pytest.mark.parametrize(
    ("platform", "expected"), [("linux", ".config"), ("darwin", "Library/Application Support"), ("win32", "AppData/Local")]
)
def test_comfy_cli_keeps_its_settings_where_the_platform_does(platform: str, expected: str) -> None:
    assert comfy_cli_config({}, Path("/home/u"), platform) == Path("/home/u") / expected / "comfy-cli" / "config.ini"
