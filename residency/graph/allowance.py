"""How much predicting one prompt may cost, counted in operations and not in seconds, so that it ends at the same place every time.

An operation is a node or a link looked at, a node queued or taken, a component carried over a link. A prediction is linear in nodes and
links; an allowance stops a graph that makes it be done again and again, and any other way without an end.
"""

from __future__ import annotations

from math import inf

# Of a prompt: so many, and so many for each of its nodes. An operation takes 1.8 us on two old cores. A first prediction takes 5
# to 13 for each node, 140 in a chain of LoRAs in which each link carries the most it can; the official workflow with the most switches, 24
# among 193 nodes, 1,291 in all. So this is for some two hundred predictions of a prompt, 4 ms for each of its nodes.
OPERATIONS = 100_000
NODE_OPERATIONS = 2_000


class AllowanceError(Exception):
    """A prediction took more operations than it was allowed."""


class Allowance:
    """`operations`: that may be taken in all; None: any number. `spent`: those taken so far."""

    def __init__(self, operations: int | None = None) -> None:
        self._most = inf if operations is None else operations
        self.spent = 0

    def spend(self, operations: int = 1) -> None:
        """Raises AllowanceError when there are not so many left."""
        self.spent += operations
        if self.spent > self._most:
            raise AllowanceError(f"predicting the order took {self.spent} operations, more than it may")

    def grant(self, operations: int) -> None:
        """More may be taken: nodes have been added."""
        self._most += operations
