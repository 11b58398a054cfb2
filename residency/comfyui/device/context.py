"""The objects of a device mover with which its instructions are carried out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .answers import Answers
from .contents import Contents
from .copy_streams import CopyStreams
from .evidence import Evidence
from .headroom import Headroom
from .kinds import Blocks
from .models import Models


@dataclass(frozen=True, slots=True)
class Context:
    """Those of one mover. `clock()`: seconds, as in its answers."""

    clock: Callable[[], float]
    models: Models
    contents: Contents
    answers: Answers
    evidence: Evidence
    streams: CopyStreams
    headroom: Headroom
    blocks: Blocks
