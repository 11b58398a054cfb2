"""`dataclass(frozen=True)` for objects made at every event: frozen to the type checker alone, which reads all of this project.

A frozen dataclass sets each field through `object.__setattr__`: seven fields took 1.28 us instead of 0.24 us (CPython 3.11), and a seventh
of all that deciding about 60,000 uses took (benchmarks/core.py, half of the components fit).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen: bool, slots: bool) -> Any:
        return dataclasses.dataclass(slots=slots, unsafe_hash=frozen)
