"""How the servers of each side are started: without the pack, with it, with an earlier checkout of it, with other settings of it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..installation.locate import PACK as PACK_FOLDER
from .results import BEFORE, PACK, STOCK

_GIT = ("git",)
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_VARIABLE, _SETTING = re.compile(r"([A-Z][A-Z0-9_]*)=(.*)"), re.compile(r"([a-z][a-z0-9_]*)=(.*)")
HOW = "NAME=WORDS, where a word is VARIABLE=value for the server's environment, setting=value of the pack, or an argument of main.py"


class WayError(ValueError):
    """A way that cannot be gone. One line, with the way as it was asked for."""


@dataclass(frozen=True, slots=True)
class Way:
    """`pack` None: none. `environment` comes on top of ours, `arguments` after the scenario's, `settings` are posted to the pack.
    `nodes_only`: the pack is there for its nodes, and off."""

    side: str
    pack: Path | None = PACK_FOLDER
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    nodes_only: bool = False

    def told(self) -> str:
        """The way in words, for people."""
        if self.pack is None or self.nodes_only:
            without = "without the pack, but its nodes" if self.nodes_only else "without the pack"
            return " ".join([without, *(["with", *self.arguments] if self.arguments else [])])
        parts = ["the pack" if self.pack == PACK_FOLDER else f"the pack in {self.pack.name}"]
        parts[0] += f" at {at}" if (at := revision(self.pack)) else ""
        words = [*(f"{key}={value}" for key, value in {**self.environment, **self.settings}.items()), *self.arguments]
        return f"{parts[0]} with {' '.join(words)}" if words else parts[0]


def earlier(folder: Path) -> Way:
    """The side of an earlier checkout. Raises WayError for a folder that holds none."""
    if not (folder / "__init__.py").is_file() or not (folder / "residency").is_dir():
        raise WayError(f"--before is {folder}, where no checkout of the pack lies (__init__.py and residency/)")
    return Way(BEFORE, folder.resolve())


def with_nodes(way: Way) -> Way:
    """The same for workflows that have nodes of the pack: where there was none it is there, and off."""
    return way if way.pack is not None else replace(way, pack=PACK_FOLDER, settings={"mode": "off"}, nodes_only=True)


def parse(text: str) -> Way:
    """The way that one word of the command line describes. Raises WayError."""
    name, equals, rest = text.partition("=")
    try:
        words = shlex.split(rest)
    except ValueError as error:
        raise WayError(f"--way {text!r}: {error}") from error
    if not equals or not words or not _NAME.fullmatch(name):
        raise WayError(f"--way {text!r} does not say what is different; give {HOW}")
    environment, settings, arguments = {}, {}, []
    for word in words:
        if found := _VARIABLE.fullmatch(word):
            environment[found[1]] = found[2]
        elif found := _SETTING.fullmatch(word):
            settings[found[1]] = _value(found[2])
        else:
            arguments.append(word)
    return Way(name, PACK_FOLDER, environment, settings, tuple(arguments))


def choose(ways: Iterable[Way], names: Iterable[str] | None = None) -> tuple[Way, ...]:
    """Stock, the pack and these, or of them all those of the names. Raises WayError for a name that is twice there or not at all."""
    every: dict[str, Way] = {STOCK: Way(STOCK, None)}
    for way in (*ways, Way(PACK)):
        if way.side in every:
            raise WayError(f"two sides are called {way.side!r}; give each way a name of its own")
        every[way.side] = way
    asked = list(every if names is None else names)
    for name in asked:
        if name not in every:
            raise WayError(f"there is no side {name!r}; choose from {', '.join(every)}")
    return tuple(way for name, way in every.items() if name in asked)


def revision(folder: Path) -> str | None:
    """The commit of a checkout, "-dirty" behind it where files differ; None where the folder is none of its own or git is missing."""
    try:
        asked = [["rev-parse", "--show-toplevel"], ["describe", "--always", "--dirty"]]
        top, at = (
            subprocess.run([*_GIT, "-C", str(folder), *one], capture_output=True, text=True, check=True).stdout.strip() for one in asked
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return at if Path(top).resolve() == folder.resolve() else None


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
