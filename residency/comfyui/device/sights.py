"""Looks at both tiers, as the facts have them: the weights in host memory and on the device, and the room beside them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from ...core.component import Component
from ...core.events import DeviceObserved, Taken
from ...session import NOTHING_SEEN, Sight
from .contents import Contents
from .headroom import Headroom
from .host_contents import HostContents


class Sights:
    """`exchanges()`: whether the mover can enact an Exchange. On the executor's thread."""

    def __init__(self, contents: Contents, headroom: Headroom, clock: Callable[[], float], exchanges: Callable[[], bool]) -> None:
        self._in_host = HostContents(contents, clock)
        self._on_device, self._headroom, self._clock, self._exchanges = contents, headroom, clock, exchanges

    def of_host(
        self, components: Mapping[str, Component], in_use: Collection[str] = (), *, changed: bool = False, must: bool = False
    ) -> Sight:
        """As `HostContents.look`; nothing is seen when it is too soon for another look."""
        host = self._in_host.look(components, in_use, changed=changed, must=must)
        return NOTHING_SEEN if host is None else Sight(host)

    def in_pass(self, components: Mapping[str, Component], in_use: Collection[str]) -> Sight | Taken | None:
        """In the middle of a node: a look at host memory, or, while it is too soon for one, the weights that the process has taken.
        None when it is too soon for either."""
        host = self._in_host.look(components, in_use, changed=True)
        return self._in_host.taken(components, in_use) if host is None else Sight(host)

    def of_both(
        self, components: Mapping[str, Component], budget_bytes: int | None, in_use: Collection[str] = (), *, must: bool = False
    ) -> Sight:
        """Of host memory as `of_host`. `budget_bytes`: device memory that weights may take in all, where the user has set that."""
        host, device = self._in_host.look(components, in_use, must=must), self._of_device(budget_bytes)
        # most nodes of a prompt come too soon for another look at host memory, and some machines have no device to look at
        return NOTHING_SEEN if host is None and device is None else Sight(host, device)

    def _of_device(self, budget_bytes: int | None) -> DeviceObserved | None:
        there = self._on_device
        room_bytes = there.room_bytes(self._headroom.size_bytes)
        if room_bytes is None:
            return None
        held = there.held()
        if budget_bytes is not None:
            room_bytes = min(room_bytes, budget_bytes - sum(held.values()))
        return DeviceObserved(self._clock(), held, room_bytes, there.in_host(), there.host_capacity_bytes(), self._exchanges())
