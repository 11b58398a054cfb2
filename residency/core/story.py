"""The story of one component over all tiers, for people: its moves in one order, and as a sentence, which the trace keeps."""

from __future__ import annotations

from collections.abc import Iterable

from ..units import size as in_words
from .component_state import Entry


def in_order(stories: Iterable[Iterable[Entry]]) -> list[Entry]:
    """The stories of one component on several tiers as one."""
    return sorted((entry for story in stories for entry in story), key=lambda entry: entry.time_s)


def told(story: Iterable[Entry]) -> str:
    """A story as one sentence; times are those of the events, in seconds."""
    return "; ".join(
        f"{entry.move.value} on the {entry.tier.value} at {entry.time_s:.1f} s"
        + (f" with {in_words(entry.size_bytes)}" if entry.size_bytes else "")
        + (f": {entry.why}" if entry.why else "")
        for entry in story
    )
