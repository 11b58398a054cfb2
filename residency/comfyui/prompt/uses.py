"""The uses of components by a prompt's nodes, and which of them read the components' files on this ComfyUI and this system."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace

from ...core.component import Component
from ...core.timeline import Use, UseKind
from ...weights.components import LANGUAGE_MODEL
from .model_files import dynamic_vram

# transformers maps a model's files and leaves them mapped; on Windows it copies them into the process (safe_open's "pread" there)
_MAPS_FILES = sys.platform != "win32"


class Uses:
    """`components` by key: as many as are known; more may come. Of an unknown one only loading it may read."""

    def __init__(self, components: Mapping[str, Component]) -> None:
        self._components = components
        self._reads_at = UseKind.COMPUTE if dynamic_vram() else UseKind.LOAD

    def at(self, position: int, loads: Iterable[str], computed: Iterable[str]) -> list[Use]:
        """Those of one node: component keys that it loads, then those that it computes with."""
        uses = [Use(position, key, UseKind.LOAD, self._reads_at is UseKind.LOAD or self._is_language(key)) for key in loads]
        uses += [Use(position, key, UseKind.COMPUTE, self._computing_reads(key)) for key in computed]
        return uses

    def _computing_reads(self, key: str) -> bool:
        if key not in self._components:
            return False
        # a language model that has left the device is read from its mapped files again, whichever patcher the other models have
        return _MAPS_FILES if self._is_language(key) else self._reads_at is UseKind.COMPUTE

    def _is_language(self, key: str) -> bool:
        return key in self._components and self._components[key].kind == LANGUAGE_MODEL


def read_once(uses: Iterable[Use]) -> list[Use]:
    """The uses of one prompt: a later one finds the weights where the first one put them."""
    found: list[Use] = []
    read: set[str] = set()
    for use in uses:
        found.append(replace(use, reads=False) if use.component in read else use)
        if use.reads:
            read.add(use.component)
    return found
