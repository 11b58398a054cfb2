"""The states of a component's bytes on one tier, and every legal move between them.

A move is the manager's word (ANNOUNCE, EXTEND, STOP, GIVE_UP, LEAVE, DROP_COPY), a mover's answer (LANDED, STOPPED, LEFT), a host's look
(SEEN), or a new wish (RENEW). `MOVES` holds every legal one; the table in docs/states.md is drawn from it. Movers answer late, twice, and
without having been asked: their three moves and SEEN are legal in every state.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class State(Enum):
    """The state of a component's bytes on a tier; it says which moves they may make next."""

    ABSENT = "absent"
    ANNOUNCED = "announced"  # the mover was told to bring it; a part may be there already
    STOPPING = "stopping"  # announced, then told to stop, and not answered yet
    GIVEN_UP = "given up"  # as STOPPING, and the bytes that have come by then leave
    HELD = "held"
    LEAVING = "leaving"  # told to leave, in whole or in part, and not answered yet
    RELEASED = "released"  # as LEAVING, and refused once it has left
    REFUSED = "refused"  # by its mover, or given up by the user: not asked for again in this prompt; a part may be there

    __hash__ = object.__hash__  # members are singletons; Enum hashes their names, in Python


class Move(Enum):
    """A move of a record. The value is the word of the story."""

    ANNOUNCE = "announced"
    EXTEND = "announced further"
    STOP = "told to stop"
    GIVE_UP = "given up"
    LEAVE = "told to leave"
    DROP_COPY = "told to drop its second copy"
    LANDED = "arrived"
    STOPPED = "stopped"
    LEFT = "left"
    SEEN = "seen"
    RENEW = "may come again"

    __hash__ = object.__hash__


# `State.HELD` asks the enum's metaclass: 0.10 us instead of 0.01 (CPython 3.11), several times an event.
ABSENT, ANNOUNCED, STOPPING, GIVEN_UP, HELD, LEAVING, RELEASED, REFUSED = State
ANNOUNCE, EXTEND, STOP, GIVE_UP, LEAVE, DROP_COPY, LANDED, STOPPED, LEFT, SEEN, RENEW = Move
_AT_REST = (ABSENT, HELD, REFUSED)
_UNCHANGED = {state: state for state in State}
_FORGIVEN = {**_UNCHANGED, GIVEN_UP: STOPPING, RELEASED: LEAVING, REFUSED: HELD}
BY_MOVE: Mapping[Move, Mapping[State, State]] = {
    ANNOUNCE: {ABSENT: ANNOUNCED, HELD: ANNOUNCED},
    EXTEND: {ANNOUNCED: ANNOUNCED},
    STOP: {ANNOUNCED: STOPPING},
    GIVE_UP: {
        ABSENT: REFUSED, HELD: REFUSED, REFUSED: REFUSED, LEAVING: RELEASED, RELEASED: RELEASED,
        ANNOUNCED: GIVEN_UP, STOPPING: GIVEN_UP, GIVEN_UP: GIVEN_UP,
    },
    LEAVE: {HELD: LEAVING, LEAVING: LEAVING, REFUSED: RELEASED, RELEASED: RELEASED},
    DROP_COPY: {state: state for state in _AT_REST},
    LANDED: {**_UNCHANGED, ABSENT: HELD, ANNOUNCED: HELD, STOPPING: HELD, GIVEN_UP: REFUSED},
    STOPPED: {**_UNCHANGED, ABSENT: HELD, ANNOUNCED: REFUSED, STOPPING: HELD, GIVEN_UP: REFUSED},
    LEFT: {**_UNCHANGED, LEAVING: HELD, RELEASED: REFUSED},
    SEEN: {**_UNCHANGED, ABSENT: HELD},
    RENEW: _FORGIVEN,
}  # fmt: skip
# Where the table says HELD and no byte is there, the record is ABSENT.
MOVES: Mapping[tuple[State, Move], State] = {(before, move): after for move, row in BY_MOVE.items() for before, after in row.items()}
COMING = frozenset({ANNOUNCED, STOPPING, GIVEN_UP})
MAY_COME = frozenset({ABSENT, HELD, ANNOUNCED, STOPPING})


class IllegalMoveError(Exception):
    """The core contradicts itself. Names the component, the tier, the state and the move; nothing has changed."""
