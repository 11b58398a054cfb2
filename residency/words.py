"""Numbers for people, as every reason, report, picture and command says them; web/format.js says them alike."""

from __future__ import annotations

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(size_bytes: float) -> str:
    """Bytes in binary units, three significant digits: 0 B, 1.50 KiB, 23.4 MiB, 300 MiB."""
    value, unit = float(size_bytes), 0
    while abs(value) >= 1023.5 and unit < len(UNITS) - 1:
        value, unit = value / 1024, unit + 1
    decimals = 0 if unit == 0 or abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{decimals}f} {UNITS[unit]}"
