"""The working sets of a prompt's decoders before one of them has run: ComfyUI's own estimate for the latents at hand.

A decoder of pictures takes more of the device than all nodes before it (2.7 GB at 1024 px, flux, where its sampler takes 1.1), and weights
that it pushes out there without a plan have to be read again in the next prompt. ComfyUI's estimate is too high, by two thirds there: it
stands in until the node's own peak is known, and never for more than a part of the device.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from comfy.sd import VAE

from ...graph.traits import TraitsOf, links

VAE_TYPE, LATENT_TYPE = "VAE", "LATENT"
MOST_SHARE = 0.5  # of what weights may take of the device: more is ComfyUI's way of saying that it will decode in tiles


class Decoders:
    """Of one prompt. `device_bytes`: device memory that weights may take. On the executor's thread."""

    def __init__(self, nodes: Mapping[str, Mapping[str, Any]], traits: TraitsOf, device_bytes: int) -> None:
        self._most_bytes = int(MOST_SHARE * device_bytes)
        self._vae_of: dict[str, str] = {}  # decoder -> the node that its VAE comes from
        for node_id, node in nodes.items():
            found: dict[str, str] = {}
            for _, source, slot in links(node):
                own = traits(nodes[source]["class_type"]) if source in nodes else None
                if own is not None and 0 <= slot < len(own.outputs):
                    found[own.outputs[slot]] = source
            if VAE_TYPE in found and LATENT_TYPE in found:
                self._vae_of[node_id] = found[VAE_TYPE]
        self._vaes: dict[str, weakref.ReferenceType[VAE]] = {}
        self._shape: tuple[int, ...] = ()  # of the largest latent by now
        self._told: dict[str, int] = {}

    def __bool__(self) -> bool:
        """Whether there is anything to find out."""
        return bool(self._vae_of)

    def learn(self, node_id: str, outputs: Iterable[Any], output_types: Collection[str]) -> dict[str, int]:
        """A node has made these, a list of values for each of its slots. Returns bytes by decoder where they are others than before."""
        if VAE_TYPE not in output_types and LATENT_TYPE not in output_types:
            return {}
        for values, kind in zip(outputs, output_types, strict=False):
            for value in values if isinstance(values, list | tuple) else ():
                if kind == VAE_TYPE and isinstance(value, VAE):
                    self._vaes[node_id] = weakref.ref(value)
                elif kind == LATENT_TYPE and isinstance(value, Mapping):
                    self._see(getattr(value.get("samples"), "shape", ()))
        found = {decoder: self._estimate(source) for decoder, source in self._vae_of.items()}
        new = {decoder: size_bytes for decoder, size_bytes in found.items() if size_bytes != self._told.get(decoder, 0)}
        self._told.update(new)
        return new

    def _see(self, shape: Iterable[Any]) -> None:
        found = tuple(shape)
        if found and all(isinstance(length, int) for length in found) and math.prod(found) > math.prod(self._shape or (0,)):
            self._shape = found

    def _estimate(self, source: str) -> int:
        vae = self._vaes[source]() if source in self._vaes else None
        if vae is None or not self._shape:
            return 0
        try:
            return min(self._most_bytes, int(vae.memory_used_decode(self._shape, vae.vae_dtype)))
        except (
            IndexError,
            TypeError,
            ValueError,
        ):  # latents of another shape than this decoder's; anything else is the host's guard's to tell
            return 0
