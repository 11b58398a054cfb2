"""Which of the ready nodes runs next, where the executor is free to choose.

ComfyUI's executor takes the first ready node by its own rule and knows nothing of weights: two models whose samplers do not depend on each
other alternate, and a device that holds only one of them loads at every node. Here a node that computes with what is on the device goes
before one that would displace it. The order of ready nodes never changes a result: none of them waits for another.

What stays as it is: output and async nodes go first, a node that feeds an output node directly gives way only to another such node
(previews come as soon as they can), and nothing is moved when the components of the prompt fit on the device together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

# ComfyUI's own ranks of ready nodes, the first one first
URGENT, FEEDS_OUTPUT, FEEDS_FEEDER, REST = range(4)


def choose(
    own: str,
    ready: Iterable[str],
    computes: Mapping[str, Collection[str]],
    recent: Collection[str],
    fit: Callable[[Iterable[str]], bool],
) -> str:
    """`own`, ComfyUI's choice, or the first node of `ready` that computes with nothing but what was just used, where that pays.

    It pays if `own` computes with something that was not just used and that does not `fit` on the device beside the other node's
    components. `ready` is walked only if `own` would load.
    """
    wants = computes.get(own, ())
    if all(key in recent for key in wants):
        return own
    for node_id in ready:
        uses = computes.get(node_id, ())
        if uses and all(key in recent for key in uses) and not fit({*wants, *uses}):
            return node_id
    return own


def rivals(own: str, ready: Iterable[str], rank: Callable[[str], int]) -> Iterable[str]:
    """The ready nodes that `own` may give way to. `ready` is in ComfyUI's order; `rank` gives ComfyUI's ranks."""
    own_rank = rank(own)
    if own_rank == URGENT:
        return ()
    if own_rank == FEEDS_OUTPUT:
        return (node_id for node_id in ready if rank(node_id) == FEEDS_OUTPUT)
    return ready


class Grouping:
    """The rule for one prompt, with what the nodes that ran have left on the device.

    `computes` are the component keys by node, `size_bytes` gives their sizes, `limit_bytes` is what the device holds. What was just used
    are the components used last, as many as the device holds; those of the last node always.
    """

    def __init__(
        self,
        computes: Mapping[str, Collection[str]],
        size_bytes: Callable[[str], int],
        limit_bytes: int,
        recent: Iterable[str] = (),
    ) -> None:
        self._computes = computes
        self._size_bytes = size_bytes
        self._limit_bytes = limit_bytes
        self._recent: dict[str, None] = dict.fromkeys(recent)  # the last used one last

    @property
    def pays(self) -> bool:
        """Whether the components of the prompt do not all fit on the device; if they do the rule would change nothing."""
        return not self._fit({key for keys in self._computes.values() for key in keys})

    @property
    def recent(self) -> tuple[str, ...]:
        """Component keys, the last used one last."""
        return tuple(self._recent)

    def choose(self, own: str, ready: Iterable[str], rank: Callable[[str], int]) -> str:
        """The node to run: `own`, or a node of `ready`."""
        return choose(own, rivals(own, ready, rank), self._computes, self._recent, self._fit)

    def ran(self, node_id: str) -> None:
        """The node has run: its components were used last."""
        used = self._computes.get(node_id, ())
        if not used:
            return
        for key in used:
            self._recent.pop(key, None)
            self._recent[key] = None
        total_bytes = sum(map(self._size_bytes, self._recent))
        for key in [key for key in self._recent if key not in used]:
            if total_bytes <= self._limit_bytes:
                return
            del self._recent[key]
            total_bytes -= self._size_bytes(key)

    def copy(self) -> Grouping:
        """The same as it is now, to look ahead with."""
        return Grouping(self._computes, self._size_bytes, self._limit_bytes, self._recent)

    def _fit(self, keys: Iterable[str]) -> bool:
        return sum(map(self._size_bytes, keys)) <= self._limit_bytes
