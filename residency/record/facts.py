"""A run's facts as a file, to be told to another session later, and the instructions that followed.

One JSON array a line: [kind, fields, instructions]. The first line names the format. A file that has reached its limit ends there, between
two facts; a line that was cut off ends the replay.
"""

from __future__ import annotations

import itertools
import json
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from ..core import events
from ..core.instructions import Instruction
from ..core.manager import Manager
from ..session import Fact, Looks, NodeBegins, NodeEnds, OrderChanges, PromptBegins, PromptEnds, Session, SessionError, StandsAside

FORMAT = ["residency facts", 1]
MAX_BYTES = 64 * 2**20  # a prompt of 1,000 nodes takes 0.3 MB

_FACTS = (PromptBegins, OrderChanges, NodeBegins, Looks, NodeEnds, PromptEnds, StandsAside, *typing.get_args(events.Event))
_BY_NAME = {kind.__name__: kind for kind in _FACTS}


class FactsError(Exception):
    """A file cannot be replayed. The message names the file, the line and the way out."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """The outcome of a recording that was told to a new session. `difference` says where the instructions were others first; None: they are
    the same."""

    facts: int
    instructions: int
    difference: str | None


@dataclass(frozen=True, slots=True)
class Told:
    """One fact of a recorded run, and its instructions as they were written."""

    fact: Fact
    instructions: list[list[Any]]


class FactWriter:
    """Writes facts until the file has `limit_bytes`; then nothing more, and a drive that refuses ends it too, with one call of `ended`."""

    def __init__(self, path: Path, limit_bytes: int = MAX_BYTES, ended: Callable[[str], object] = lambda reason: None) -> None:
        """Raises OSError where the file cannot be made. A recording that lies there already is replaced."""
        self._ended = ended
        self._left_bytes = limit_bytes
        self._file: TextIO | None = path.open("w", buffering=1, encoding="utf-8")
        self._write(FORMAT)

    def __call__(self, fact: Fact, instructions: Sequence[Instruction]) -> None:
        self._write([type(fact).__name__, encoded(fact), [told(instruction) for instruction in instructions]])

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, line: list[Any]) -> None:
        if self._file is None:
            return
        text = json.dumps(line, separators=(",", ":")) + "\n"
        self._left_bytes -= len(text)
        try:
            if self._left_bytes >= 0:
                self._file.write(text)
                return
            self.close()
            self._ended("its limit is reached")
        except OSError as error:
            self._file = None
            self._ended(str(error))


def is_recording(path: Path) -> bool:
    """Whether the file begins as a recording does."""
    try:
        with path.open("rb") as file:
            return file.read(32).startswith(json.dumps(FORMAT, separators=(",", ":")).encode()[:20])
    except OSError:
        return False


def read(path: Path) -> Iterator[Told]:
    """The facts of a recording in order. Raises FactsError where the file is none, or holds a fact that this version does not know."""
    with path.open(encoding="utf-8") as file:
        if _line(file.readline()) != FORMAT:
            raise FactsError(f"{path}: the first line is not {json.dumps(FORMAT)}; record a run with this version of the pack")
        for number, text in enumerate(file, 2):
            if not text.endswith("\n"):
                return  # cut off while it was written
            line = _line(text)
            try:
                name, values, instructions = line
                yield Told(decoded(_BY_NAME[name], values), instructions)
            except (KeyError, TypeError, ValueError) as error:
                raise FactsError(f"{path}: line {number} is no fact of this version ({text[:60]!r}): {error}") from error


def replayed(path: Path) -> Replayed:
    """Tell the recording to a new session and its manager; hold the instructions against those that were recorded. Raises FactsError."""
    session, manager = Session(), Manager()
    facts = instructions = 0
    for recorded in read(path):
        facts += 1
        try:
            now = [told(instruction) for event in session.take(recorded.fact) for instruction in manager.handle(event)]
        except SessionError as error:
            return Replayed(facts, instructions, f"fact {facts}: {error}")
        instructions += len(now)
        if now != recorded.instructions:
            pairs = itertools.zip_longest(recorded.instructions, now, fillvalue="nothing")
            was, would_be = next((was, would_be) for was, would_be in pairs if was != would_be)
            return Replayed(facts, instructions, f"fact {facts}, {type(recorded.fact).__name__}: {was} was told, {would_be} would be now")
    return Replayed(facts, instructions, None)


def told(instruction: Instruction) -> list[Any]:
    """An instruction as a recording holds it: kind, component key, tier, bytes, reason; of components only their keys."""
    kept: list[Any] = [type(instruction).__name__, instruction.component.key]
    for field in fields(instruction):
        if field.name == "leaving":
            kept.append([component.key for component in getattr(instruction, field.name)])
        elif field.name != "component":
            kept.append(encoded(getattr(instruction, field.name)))
    return kept


def _line(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def encoded(value: Any) -> Any:
    """Plain JSON of frozen dataclasses (a list of their fields), enums, mappings, sets and sequences."""
    if is_dataclass(value) and not isinstance(value, type):
        return [encoded(getattr(value, field.name)) for field in fields(value) if field.init]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: encoded(one) for key, one in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(value)
    if isinstance(value, list | tuple):
        return [encoded(one) for one in value]
    return value


def decoded(kind: Any, value: Any) -> Any:
    """The value of that type which `encoded` gave. Raises TypeError or ValueError for JSON of another shape."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        (kind,) = (one for one in arguments if one is not type(None))
        return decoded(kind, value)
    if origin is tuple:
        return tuple(decoded(arguments[0], one) for one in value)
    if origin is frozenset:
        return frozenset(value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {key: decoded(arguments[1], one) for key, one in value.items()}
    if isinstance(kind, type) and is_dataclass(kind):
        hints = _hints(kind)
        if not _least(kind) <= len(value) <= len(hints):
            raise ValueError(f"{len(value)} values for the {len(hints)} fields of a {kind.__name__}")
        # an earlier version did not tell the last ones yet: they have their defaults
        return kind(**{name: decoded(hint, one) for (name, hint), one in zip(hints, value, strict=False)})
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    if kind is float and isinstance(value, int):
        return float(value)
    if isinstance(kind, type) and not isinstance(value, kind):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


@cache
def _least(kind: Any) -> int:
    """How many of the fields that make a dataclass have no default."""
    return sum(field.init and field.default is MISSING and field.default_factory is MISSING for field in fields(kind))


@cache
def _hints(kind: Any) -> tuple[tuple[str, Any], ...]:
    """Names and types of the fields that make a dataclass, in order."""
    hints = typing.get_type_hints(kind)
    return tuple((field.name, hints[field.name]) for field in fields(kind) if field.init)
