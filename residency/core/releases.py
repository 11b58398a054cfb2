"""Components that the user gives up: their bytes leave both tiers at once, or when the node that uses them has ended."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from .component import Tier
from .device_tier import DeviceTier
from .events import ReleaseAsked, TransferDone, TransferStopped
from .host_tier import HostTier
from .instructions import Instruction

GIVEN_UP = "the user gave it up"


class Releases:
    """Every method that gives bytes back returns the instructions for it."""

    def __init__(self, host: HostTier, device: DeviceTier) -> None:
        self._host, self._device = host, device
        self._put_off: list[ReleaseAsked] = []  # of components in use
        self._released: set[str] = set()  # by a node, and not used since

    def __contains__(self, key: str) -> bool:
        """Whether the component was released and nothing has used or asked for it since."""
        return key in self._released

    def now(self, event: ReleaseAsked) -> list[Instruction]:
        """The release of a component that no running node uses."""
        self._released.add(event.component)
        instructions = self._device.release(self._host.components[event.component], event.reason)
        return instructions + self._host.release(event.component, event.reason) if event.host else instructions

    def put_off(self, event: ReleaseAsked) -> None:
        """The component is in use: `due` releases it."""
        self._put_off.append(event)

    def due(self) -> list[Instruction]:
        """The releases that were put off: the node that used the components has ended, well or not."""
        if not self._put_off:
            return []
        asked, self._put_off = self._put_off, []
        return [instruction for one in asked if one.component in self._host.components for instruction in self.now(one)]

    def drop_put_off(self) -> None:
        """Their prompt was abandoned."""
        self._put_off.clear()

    def arrived(self, event: TransferDone | TransferStopped, running: Collection[str]) -> list[Instruction]:
        """Evictions of a component that the user gave up while it was on its way; none while a node that has begun meanwhile uses it."""
        key = event.component
        if key in running:
            self.put_off(ReleaseAsked(event.time_s, key, event.tier is Tier.HOST, GIVEN_UP))
            return []
        if event.tier is Tier.HOST:
            return self._host.release(key, GIVEN_UP)
        return self._device.release(self._host.components[key], GIVEN_UP)

    def used(self, keys: Iterable[str]) -> None:
        """A node uses these again, or asks for them."""
        if self._released:
            self._released.difference_update(keys)
