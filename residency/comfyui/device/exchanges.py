"""Each Exchange of the device tier, carried out when ComfyUI loads the model: others leave for it, and its pages that were written back
return.

One goes on while its node runs (`page_exchange.py:Turn`): the rest of the room is made as ComfyUI asks for the pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ...core.instructions import Exchange
from .context import Context
from .kinds import RECORDED
from .proofs import Behaviour, Feature

if TYPE_CHECKING:
    from .page_exchange import PageStore, Turn  # needs comfy-aimdo, which not every ComfyUI has


class Exchanges:
    """With the mover's lock held, but for `turn_at` and `may_pin`. `pages` None: nothing is exchanged."""

    def __init__(self, context: Context, pages: PageStore | None) -> None:
        self._clock, self._models, self._contents = context.clock, context.models, context.contents
        self._answers, self._evidence = context.answers, context.evidence
        self._streams, self._headroom, self._blocks = context.streams, context.headroom, context.blocks
        self._pages = pages
        self._turns: list[Turn] = []  # of the node that runs

    def clear(self) -> None:
        """No turn goes on any more."""
        self._turns.clear()

    def before_load(self, key: str, patcher: Any, asked_bytes: int) -> None:
        """Bring back the model's pages that were written back: as they are placed, or, where host memory holds copies again, into free
        room."""
        placed, own = self._answers.placed.get(key), self._answers.pending.get(key)
        pages, cuda = self._pages, self._streams.cuda
        if pages is None or cuda is None or (placed is None and (own is None or not self._contents.images_bytes(patcher))):
            return
        why_not = self._evidence.why_not(Feature.EXCHANGE, patcher) or (RECORDED if self._blocks.is_recorded(patcher) else "")
        if why_not:
            if key in self._answers.unanswered:
                self._answers.stop(key, why_not)
            return
        leaving = {} if placed is None else {other: placed.outside.get(victim, 0) for victim, other in self._victims(placed, patcher)}
        started_s, headroom_bytes = self._clock(), self._headroom.of_exchange(asked_bytes)
        proofs, kind = self._evidence.proofs, self._evidence.kind(patcher)
        with self._streams.gate.aside(), self._evidence.seeing_unpinned(patcher):
            turn = pages.exchange(
                patcher,
                leaving,
                self._streams.both(),
                lambda: cuda.free_bytes() - headroom_bytes,
                passed_once=placed is not None and placed.left_out,
                computes_bytes=self._headroom.beyond_exchange(asked_bytes),
                compares=proofs.is_open(Behaviour.WRITTEN_BACK_EQUAL, kind),
            )
        self._turns.append(turn)
        proofs.went_well(Feature.EXCHANGE)
        if pages.compared[True]:
            proofs.prove(Behaviour.WRITTEN_BACK_EQUAL, kind)
        now_s, brought_bytes = self._clock(), turn.brought_bytes
        self.tell_left(turn)
        if own is not None:
            own.moved_bytes += brought_bytes
            own.started_s = started_s if own.started_s is None else own.started_s
        elif brought_bytes or key in self._answers.unanswered:
            self._answers.exchanged(now_s, key, brought_bytes, now_s - started_s)

    def _victims(self, placed: Exchange, patcher: Any) -> Iterator[tuple[str, Any]]:
        """(component, model) of those that may leave for it."""
        for component in placed.leaving:
            for loaded in self._models.loaded(component.key):
                other = loaded.model
                if self._streams.reaches(other) and other.model is not patcher.model and not self._blocks.is_recorded(other):
                    yield component.key, other

    def after_load(self, key: str, patcher: Any) -> None:
        """ComfyUI has loaded the model: weights that the plan leaves out get no page."""
        placed = self._answers.placed.get(key)
        if placed is not None and placed.left_out and self._pages is not None:
            self._pages.leave_out(patcher)

    def may_pin(self, subset: str) -> bool:
        """Whether ComfyUI may make a host copy of weights. Where there is one copy, none of weights that lie on the device, nor of those
        that are read once; those streamed at each step need one in any case."""
        return not any(placed.left_out or subset.endswith("-loaded") for placed in self._answers.placed.values())

    # --- turns ---

    def forget_turns_with(self, patcher: Any) -> None:
        """The model is loaded anew: no turn that it takes part in goes on."""
        self._turns = [turn for turn in self._turns if not turn.takes(patcher)]

    def turn_at(self, buffer: Any) -> Turn | None:
        """The turn of the model whose pages these are, while it goes on."""
        if not self._turns or self._streams.gate.is_aside:
            return None
        return next((turn for turn in self._turns if turn.buffer is buffer), None)

    def go_on(self, turn: Turn, address: int, size_bytes: int) -> None:
        """Make room for the pages there, and bring those that still lie in host memory."""
        assert self._streams.cuda is not None
        self._turns.remove(turn)  # one that fails is over
        with self._streams.gate.aside(), self._streams.cuda.outside_graphs(), self._evidence.seeing_unpinned(turn.patcher):
            turn.go_on(address, size_bytes)
            turn.bring(address, size_bytes)
        self._turns.append(turn)

    def tell_left(self, turn: Turn) -> None:
        """Tell which bytes have left in the turn since the last time."""
        for other, size_bytes in turn.take_left():
            key = self._models.key_of_model(other.model) or ""
            self._answers.evicted(key, size_bytes, "written back: host memory is too short for copies in both")
