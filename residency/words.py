"""Numbers for people, as every reason, report, picture and command says them; web/format.js says them alike. Values out of files, cut."""

from __future__ import annotations

import reprlib

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
MOST_SHOWN = 64  # characters of a value that errors and lists show

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = MOST_SHOWN


def size(size_bytes: float) -> str:
    """Bytes in binary units, three significant digits: 0 B, 1.50 KiB, 23.4 MiB, 300 MiB."""
    value, unit = float(size_bytes), 0
    while abs(value) >= 1023.5 and unit < len(UNITS) - 1:
        value, unit = value / 1024, unit + 1
    decimals = 0 if unit == 0 or abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{decimals}f} {UNITS[unit]}"


def short(value: object) -> str:
    """A value out of a file as Python writes it: on one line, printable, its middle left out where it is long."""
    return _short.repr(value)


def printable(text: str) -> str:
    """A name out of a file as it stands where it is short and printable, else as `short` writes it."""
    return text if text.isprintable() and len(text) <= 2 * MOST_SHOWN else short(text)
