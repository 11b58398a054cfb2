"""The placement of one prompt's weights: in both tiers, or in one of the two; then also the weights that a node's model displaces.

With copies in both tiers leaving the device costs nothing: the host copy stays. Where host memory cannot hold them, a weight lies on the
device or in host memory. Then a model that comes is exchanged with those that leave, which are written back as far as there is room; the
mover carries that out when the host loads the model. Those needed last leave first (Belady 1966). A model that is passed through once gets
no room for the part of it that has been lost: in prompts that repeat it is always the end of that one that is read again, not the ends of
all in turn. Where both tiers together are too small, that end is settled ahead (`outside`): it leaves the device without an image, and the
page cache, where it has just been read, is the place that holds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from .component import Component, Tier
from .events import DeviceObserved
from .instructions import Cancel, Exchange

GB = 10**9
# Of both tiers, left free where the bytes that fit neither are reckoned: pages are rounded up, slots taken 0.5 GiB at a time, and torch's
# allocator keeps more than the working set says.
SPARE_BYTES = 2**30


class Copies(Enum):
    """Of a weight that lies on the device."""

    BOTH = "both"  # host memory may hold it as well
    ONE = "one"  # it lies on the device or in host memory


@dataclass(slots=True)
class Placement:
    """The decision for one prompt, and the exchanges that the mover has been told and has not answered.

    Decided once, from the host's look when the first node starts: a model is not written back in the one half of a prompt and copied
    in the other.
    """

    copies: Copies = Copies.BOTH
    reason: str = ""
    fits: bool = False  # it has been seen that host memory can hold copies of all of the prompt's weights
    outside: Mapping[str, int] = field(default_factory=dict)  # bytes by component, from its end, that are meant for neither tier
    standing: dict[str, Exchange] = field(default_factory=dict)
    _total_bytes: int = 0
    _is_open: bool = False

    def begin(self, components: Iterable[Component]) -> None:
        """A prompt that computes with these has started; until its first node starts the decision of the one before holds."""
        self._total_bytes = sum(component.size_bytes for component in components)
        self._is_open = True

    def decide(self, seen: DeviceObserved | None) -> None:
        """Settle where the prompt's weights lie, if that is open and the device has been seen."""
        if not self._is_open or seen is None:
            return
        self._is_open = False
        capacity_bytes = seen.host_copies_bytes
        if not seen.exchanges or capacity_bytes is None:
            self.copies, self.reason, self.fits = Copies.BOTH, "the mover of this host exchanges nothing", False
            return
        told = f"{self._total_bytes / GB:.1f} GB of weights; host memory can hold copies of {capacity_bytes / GB:.1f} GB"
        self.fits = self._total_bytes <= capacity_bytes
        self.copies, self.reason = (Copies.BOTH if self.fits else Copies.ONE), told

    def settle(self, seen: DeviceObserved | None, passed_once: Iterable[Component], working_set_bytes: int) -> None:
        """Set `outside`, the bytes meant for neither tier, from the sizes known by now. `passed_once`: components that every node of the
        prompt goes through once; `working_set_bytes`: the most that a node computes with beside its weights, unknown in a first prompt."""
        self.outside = {}
        if self.copies is Copies.ONE and seen is not None and seen.host_copies_bytes is not None:
            device_bytes = sum(seen.held.values()) + seen.room_bytes - working_set_bytes
            self.outside = _ends(passed_once, self._total_bytes + SPARE_BYTES - device_bytes - seen.host_copies_bytes)

    def exchange(
        self, coming: Sequence[Component], leaving: Sequence[Component], *, passed_once: bool, reason: str
    ) -> list[Exchange | Cancel]:
        """For the node that starts: each of its components in exchange for those that may leave, best victim first. Others that
        stand are cancelled."""
        keys = {component.key for component in coming}
        cancels = self.cancel("another node has started", spared=keys)
        outside = {component.key: self.outside[component.key] for component in leaving if component.key in self.outside}
        terms = reason, tuple(leaving), passed_once, outside
        told = [Exchange(component, Tier.DEVICE, component.size_bytes, *terms) for component in coming]
        self.standing.update((one.component.key, one) for one in told)
        return [*cancels, *told]

    def cancel(self, reason: str, spared: Iterable[str] = ()) -> list[Cancel]:
        """Exchanges that have not been answered, and shall not take place any more."""
        keep = set(spared)
        return [Cancel(one.component, one.tier, reason) for key, one in self.standing.items() if key not in keep]

    def answered(self, key: str) -> bool:
        """The mover has carried it out, or refused. Whether one stood."""
        return self.standing.pop(key, None) is not None


def _ends(components: Iterable[Component], size_bytes: int) -> dict[str, int]:
    """`size_bytes` of the ends of these, of the largest first: few models with an end that is read while they compute."""
    found: dict[str, int] = {}
    for component in sorted(components, key=lambda component: (-component.size_bytes, component.key)):
        if size_bytes <= 0:
            break
        found[component.key] = min(size_bytes, component.size_bytes)
        size_bytes -= found[component.key]
    return found
