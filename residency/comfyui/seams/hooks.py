"""The hooks of the pack in this process: a wrapper in every seam that fits, put in and taken out together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from . import functions as seams
from .chain import Wrapper

# Weights that cross at a step wait for the one before them on the same stream. Flux in bf16 with 58 % of it on an H100, computed from its
# weights' sizes: 1.38 of the step's computing with ComfyUI's two streams, 1.18 with three, 1.15 with four or more.
OFFLOAD_STREAMS = 4


class Hooks:
    """`fits`: every seam as it was found when it was put in, or when the last prompt began."""

    def __init__(self) -> None:
        self.installed = False
        self.fits: list[seams.Fit] = []

    def install(self, wrappers: Mapping[seams.Seam, Wrapper], *, streams: bool) -> None:
        """Put every wrapper in. `streams`: ComfyUI gets more of them for weights that cross at each step."""
        self.fits = [seam.install(wrapper) for seam, wrapper in wrappers.items()]
        seams.OFFLOAD_STREAMS.set(OFFLOAD_STREAMS if streams else None)
        self.installed = True

    def remove(self) -> None:
        for seam in seams.ALL:
            seam.remove()
        seams.OFFLOAD_STREAMS.set(None)
        self.installed = False

    def misfits(self) -> list[seams.Fit]:
        """The essential seams that this ComfyUI has no place for: without them no hook is put in."""
        unfit = [fit for fit in (seam.fit() for seam in seams.ESSENTIAL) if not fit.fits]
        if unfit:
            self.fits = unfit
        return unfit

    def check(self) -> None:
        """A prompt begins: seams that others have cut off since are chained again."""
        self.fits = [seam.check() for seam in seams.ALL]

    def are_in(self, *wanted: seams.Seam) -> bool:
        """Whether all of these seams fit."""
        return {seam.name for seam in wanted} <= {fit.name for fit in self.fits if fit.fits}

    def reason_against(self, seam: seams.Seam) -> str:
        """Why the seam does not fit; empty where it does."""
        return next((fit.reason for fit in self.fits if fit.name == seam.name and not fit.fits), "")

    def look(self) -> list[seams.Fit]:
        """Every seam as it is at this moment. On any thread."""
        return [seam.look() for seam in seams.ALL] if self.installed else [replace(fit, fits=False) for fit in self.fits]
