"""Which loaded models the running prompt does not use should stay loaded all the same."""

from __future__ import annotations

from collections.abc import Mapping

from .component import Component
from .place import Place


def needed_again(key: str, place: Place, components: Mapping[str, Component], *, is_kept: bool, room_bytes: int | None) -> str | None:
    """Why this component should stay: something in the queue needs it or, where it `is_kept`, a node has asked for it, and all that is read
    before its turn fits into `room_bytes` of host memory. None: it may go.

    `room_bytes` None: weights have one copy over two tiers, and reads take no room but that which others leave.
    """
    timeline, after = place.timeline, place.position
    use = timeline.next_use(key, after)
    if use is None and not is_kept:
        return None
    if use is not None and timeline.visits[use.position].prompt_id == timeline.visits[max(0, after)].prompt_id:
        return None  # this prompt loads it anew
    before = timeline.reads[timeline.first_read_number(after + 1) : None if use is None else timeline.first_read_number(use.position)]
    coming = {read.component for read in before} - {key}
    coming_bytes = sum(components[one].size_bytes for one in coming if one in components)
    if room_bytes is not None and coming_bytes > room_bytes:
        return None
    if use is None:
        return "the last prompt that used it asked to keep it"
    computed_at = timeline.next_compute_at(key, after)
    visit = timeline.visits[use.position if computed_at is None else computed_at]
    return f"{visit.class_type} {visit.node_id}, which is queued, needs it again"
