"""Numbers for people, as every reason, report, picture and command says them; web/format.js says them alike. Values out of files, cut."""

from __future__ import annotations

from reprlib import Repr

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")

SHOWN_CHARACTERS = 60
_repr = Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = SHOWN_CHARACTERS
_repr.maxlevel = 3


def size(size_bytes: float) -> str:
    """Bytes in binary units, three significant digits: 0 B, 1.50 KiB, 23.4 MiB, 300 MiB."""
    value, unit = float(size_bytes), 0
    while abs(value) >= 1023.5 and unit < len(UNITS) - 1:
        value, unit = value / 1024, unit + 1
    decimals = 0 if unit == 0 or abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{decimals}f} {UNITS[unit]}"


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
