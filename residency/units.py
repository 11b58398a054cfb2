"""Sizes and rates as people read and write them, and values out of files, cut to the length of a message.

`size` is the word of every reason, report and picture (web/format.js says it alike); `written` and the parsers are the decimal ones of
packages and data sheets: 24GB, 9.8 GB, 8GiB, 512MB, 1.5GB/s.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from reprlib import Repr

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
LAST_UNIT = len(UNITS) - 1

SHOWN_CHARACTERS = 60
_repr = Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = SHOWN_CHARACTERS
_repr.maxlevel = 3
_PREFIXES = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_WRITTEN = re.compile(r"\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?)\s*([KMGT]?)(i?)B\s*", re.IGNORECASE | re.ASCII)
MAX_BYTES = 10**18  # beyond an exabyte somebody has slipped


def size(size_bytes: float) -> str:
    """Bytes in binary units, three significant digits: 0 B, 1.50 KiB, 23.4 MiB, 300 MiB."""
    value, unit = float(size_bytes), 0
    least = abs(value)
    while least >= 1023.5 and unit < LAST_UNIT:
        least, unit = least / 1024, unit + 1
    value /= 1024**unit
    if unit == 0 or least >= 99.95:
        return f"{value:.0f} {UNITS[unit]}"
    return f"{value:.1f} {UNITS[unit]}" if least >= 9.995 else f"{value:.2f} {UNITS[unit]}"


def shown(value: object) -> str:
    """A value that somebody has sent, as Python writes it, for a message: a few dozen characters whatever its size and depth."""
    try:
        return cut(_repr.repr(value))
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "an integer of thousands of digits"


def cut(text: str) -> str:
    """The text, its middle left out where it is longer than a message needs."""
    half = SHOWN_CHARACTERS // 2
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: half - 2]}...{text[1 - half :]}"


def printable(text: str) -> str:
    """A name out of a file as it stands where it is short and printable, else as `shown` writes it."""
    return text if text.isprintable() and len(text) <= 2 * SHOWN_CHARACTERS else shown(text)


def without_folders(text: str, paths: Iterable[str]) -> str:
    """The text, in which each of the paths is a name only: for answers to other machines."""
    for folder in sorted({os.path.join(os.path.dirname(path), "") for path in paths}, key=len, reverse=True):
        if folder.strip(os.sep):
            text = text.replace(repr(folder)[1:-1], "").replace(folder, "")
    return text


class UsageError(Exception):
    """One line: the value given, what is wrong with it, and what to give instead."""


def parse_size(text: object, what: str) -> int:
    """Bytes. A number out of a JSON file is bytes, written text needs its unit; `what` is its name in errors.

    Raises UsageError for a value that is no size, is negative, or is more than MAX_BYTES.
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        return _checked(text, text, what)
    written = _WRITTEN.fullmatch(text) if isinstance(text, str) else None
    if written is not None:
        number, prefix, binary = written.groups()
        if prefix or not binary:
            return _checked(float(number) * (1024 if binary else 1000) ** _PREFIXES[prefix.upper()], text, what)
    raise UsageError(f"{what}: {shown(text)} is no size; write a number and a unit, like 24GB, 8GiB or 512MB")


def parse_rate(text: str, what: str) -> float:
    """Bytes per second, above 0. Raises UsageError."""
    amount, slash, second = text.strip().rpartition("/")
    if not slash or second.strip().lower() not in ("s", "sec"):
        raise UsageError(f"{what}: {shown(text)} is no rate; write a size by second, like 1.5GB/s or 500MB/s")
    rate = parse_size(amount, what)
    if rate == 0:
        raise UsageError(f"{what}: at {shown(text)} nothing would ever arrive; write a rate above 0, like 1.5GB/s")
    return float(rate)


def written(size_bytes: float) -> str:
    """Bytes for people, decimal as on packages and data sheets: 24 GB, 1.5 GB, 960 B."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(size_bytes) >= scale * 0.9995:
            return f"{size_bytes / scale:.3g} {unit}" if size_bytes < scale * 999.5 else f"{size_bytes / scale:.0f} {unit}"
    return f"{size_bytes:.0f} B"


def _checked(size_bytes: float, text: object, what: str) -> int:
    if not size_bytes <= MAX_BYTES:  # NaN as well
        raise UsageError(f"{what}: {shown(text)} is more than any machine has; write a size like 24GB")
    if size_bytes < 0:
        raise UsageError(f"{what}: {shown(text)} is negative; write a size of 0 or more, like 24GB")
    return round(size_bytes)
