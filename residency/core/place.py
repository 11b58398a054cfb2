"""The place of the running prompt on its timeline, and how long its visit there is expected to take."""

from __future__ import annotations

from dataclasses import dataclass

from .timeline import EMPTY, Timeline


@dataclass(slots=True)
class Place:
    """The place of the prompt: `position` has started, or has ended when not `running`. `visit`, None for none yet, is the one that has
    begun at `begun_s`, or begins there at once."""

    timeline: Timeline = EMPTY
    position: int = -1
    running: bool = False
    visit: int | None = None
    begun_s: float = 0.0

    @property
    def until_s(self) -> float | None:
        """The expected end of `visit`; None where nothing is known. Asked for by few of the plans, so nobody keeps it."""
        visits = self.timeline.visits
        if self.visit is None or self.visit >= len(visits):
            return None
        compute_s = visits[self.visit].compute_s
        return self.begun_s + compute_s if compute_s > 0 else None
