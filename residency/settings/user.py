"""The user's settings for all workflows: plain data, its limits, and the file that keeps it across restarts.

The same names and limits are in web/settings.js, which shows them in ComfyUI's settings dialog; a test compares the two.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..core.component import Mode
from ..units import shown

log = logging.getLogger("residency")

VERSION = 1
UNSET = "default"  # the mode that says nothing: what the environment or the pack says holds

GIB = 2**30

# name -> (lowest, highest, whole numbers only). 0 always means that ComfyUI, or what is measured, decides.
LIMITS: Mapping[str, tuple[float, float, bool]] = {
    "vram_headroom_gib": (0, 1024, False),
    "ram_budget_gib": (0, 4096, False),
    "pin_budget_gib": (0, 4096, False),
    "read_threads": (0, 64, True),
    "queue_depth": (0, 64, True),
    "idle_release_min": (0, 10080, False),
}


@dataclass(frozen=True, slots=True)
class UserSettings:
    """`mode` None: not set. Every `*_gib` 0: as measured, or ComfyUI's own. `read_threads` 0: chosen for the machine.

    `idle_release_min` 0: never. Made by `parse`, which checks the limits.
    """

    mode: Mode | None = None
    vram_headroom_gib: float = 0.0
    ram_budget_gib: float = 0.0
    pin_budget_gib: float = 0.0
    read_threads: int = 0
    queue_depth: int = 3
    idle_release_min: float = 0.0
    console_line: bool = True

    @property
    def vram_headroom_bytes(self) -> int:
        """Bytes of the device that weights leave free beside ComfyUI's own reserve."""
        return int(self.vram_headroom_gib * GIB)

    @property
    def ram_budget_bytes(self) -> int | None:
        """Bytes that may be read ahead into; None: as measured."""
        return int(self.ram_budget_gib * GIB) or None

    @property
    def pin_budget_bytes(self) -> int | None:
        """Bytes of host memory that ComfyUI may pin; None: as ComfyUI has chosen."""
        return int(self.pin_budget_gib * GIB) or None

    def as_dict(self) -> dict[str, Any]:
        """JSON that `parse` reads back."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"version": VERSION, **values, "mode": self.mode.value if self.mode else UNSET}


NAMES = tuple(field.name for field in fields(UserSettings))


def parse(values: object) -> UserSettings | str:
    """The settings that a mapping asks for, those that it leaves out at their defaults; or one sentence that says what is wrong with it."""
    if not isinstance(values, Mapping):
        return f'the settings must be a JSON object, not {type(values).__name__}; send for example {{"mode": "auto"}}'
    version = values.get("version", VERSION)
    if version != VERSION:
        return f"the settings are of version {shown(version)}, this pack knows {VERSION}: get a newer pack, or set them again"
    unknown = [str(name) for name in values if name != "version" and name not in NAMES]
    if unknown:
        return f"{shown(unknown[0])} is not a setting; choose from {', '.join(NAMES)}"
    checked: dict[str, Any] = {}
    for name in NAMES:
        if name in values:
            value = _checked(name, values[name])
            if isinstance(value, _Refused):
                return value.reason
            checked[name] = value
    return UserSettings(**checked)


@dataclass(frozen=True, slots=True)
class _Refused:
    reason: str


def _checked(name: str, value: object) -> Any:
    if name == "mode":
        known = {UNSET: None, **{mode.value: mode for mode in Mode}}
        if isinstance(value, str) and value in known:
            return known[value]
        return _Refused(f"mode is {shown(value)}; choose one of {', '.join(known)}")
    if name == "console_line":
        return value if isinstance(value, bool) else _Refused(f"console_line is {shown(value)}; choose true or false")
    low, high, whole = LIMITS[name]
    if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high and not (whole and value % 1):
        return int(value) if whole else float(value)
    return _Refused(f"{name} is {shown(value)}; choose a {'whole number' if whole else 'number'} from {low:g} to {high:g}")


def read(path: Path) -> UserSettings:
    """The settings kept in `path`; the defaults, with a warning that says why, when the file cannot be used or is not there yet."""
    try:
        found = parse(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return UserSettings()
    except (OSError, ValueError, RecursionError) as error:
        found = str(error)
    if isinstance(found, str):
        log.warning("residency: the settings in %s are left aside: %s; using the defaults", path, found)
        return UserSettings()
    return found


def write(path: Path, settings: UserSettings) -> None:
    """Keep the settings in `path`: whole or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(settings.as_dict(), indent=2) + "\n", encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
