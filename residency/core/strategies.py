"""The meaning of a memory mode: the strategy of each component, and why.

A mode is the user's word; a strategy is the planner's way with one component. `auto` is resolved here, once per plan, with a
reason that the log and the panel show.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..units import size
from .component import Component, Mode, Policy, Strategy


@dataclass(frozen=True, slots=True)
class ResolvedMode:
    """A mode that is not auto, and the reason in plain words."""

    mode: Mode
    reason: str


def resolve(mode: Mode, components: Iterable[Component], device_limit_bytes: int | None) -> ResolvedMode:
    """Turn `auto` into the mode that fits; every other mode stays as the user chose it.

    The device may hold `device_limit_bytes` of weights; None when the device shares the host's memory or is unknown.
    """
    if mode is not Mode.AUTO:
        return ResolvedMode(mode, f"{mode.value} was chosen")
    sizes = [component.size_bytes for component in components]
    if device_limit_bytes is None:
        return ResolvedMode(Mode.BALANCED, "the device shares the host's memory")
    total, largest = sum(sizes), max(sizes, default=0)
    fits = f"of {size(device_limit_bytes)} on the device"
    if total <= device_limit_bytes:
        return ResolvedMode(Mode.HIGH_VRAM, f"all components, {size(total)}, fit {fits}")
    if largest <= device_limit_bytes:
        return ResolvedMode(Mode.BALANCED, f"the largest component, {size(largest)}, fits {fits}, all {size(total)} do not")
    return ResolvedMode(Mode.LOW_VRAM, f"the largest component, {size(largest)}, does not fit {fits}")


_BY_MODE = {
    Mode.HIGH_VRAM: Strategy.RESIDENT,
    Mode.BALANCED: Strategy.OFFLOAD,
    Mode.LOW_VRAM: Strategy.RELEASE,
}


def strategy_of(mode: Mode) -> Strategy | None:
    """The strategy a resolved mode asks for; None for off: the component is left to ComfyUI."""
    return _BY_MODE.get(mode)


class Placements:
    """The strategy of each component of a prompt: its policy's, or that of the mode of the whole; off for the whole overrules both."""

    def __init__(self) -> None:
        self.mode = ResolvedMode(Mode.OFF, "no prompt has run yet")
        self.off = True  # everything is left to the host
        self.asked = Mode.OFF
        self.policies: Mapping[str, Policy] = {}
        self.may_release = True  # whether the strategy of any component is RELEASE, as far as that has been looked at
        self._found: dict[str, Strategy | None] = {}

    def set_policies(self, policies: Mapping[str, Policy]) -> None:
        """The wishes of nodes by component key, in place of all earlier ones."""
        self.policies = policies
        self._found.clear()
        self.may_release = True

    def set_mode(self, mode: Mode, used: Iterable[Component], device_limit_bytes: int | None) -> None:
        """The mode of the whole, for the components `used`; again when the device's limit has changed (bytes; None: unknown)."""
        self.asked = mode
        self.mode = resolve(mode, used, device_limit_bytes)
        self.off = self.mode.mode is Mode.OFF
        self._found.clear()
        by_mode = strategy_of(self.mode.mode) is Strategy.RELEASE
        self.may_release = by_mode or any(self._find(key) is Strategy.RELEASE for key in self.policies)

    def of(self, key: str) -> Strategy | None:
        """The component's strategy; None: it is left to the host."""
        if key not in self._found:
            self._found[key] = self._find(key)
        return self._found[key]

    def is_auto(self, key: str) -> bool:
        """Whether the component's strategy is auto's finding, and nobody's word."""
        policy = self.policies.get(key)
        return self.asked is Mode.AUTO and (policy is None or (policy.strategy is None and policy.mode in (None, Mode.AUTO)))

    def may_come_to_device(self, key: str) -> bool:
        """Whether the component may be brought there ahead."""
        policy = self.policies.get(key)
        return self.of(key) is not None and (policy is None or policy.prefetch)

    def may_leave_device(self, key: str) -> bool:
        """Whether it may leave ahead of its turn: not where it is left to the host, or where the user, and not auto, wants it kept."""
        strategy = self.of(key)
        return strategy is not None and (strategy is not Strategy.RESIDENT or self.is_auto(key))

    def priority(self, key: str) -> int:
        """The priority that the user gave the component; 0 for none."""
        policy = self.policies.get(key)
        return 0 if policy is None else policy.priority

    def _find(self, key: str) -> Strategy | None:
        if self.off:
            return None
        policy = self.policies.get(key)
        if policy is not None and policy.strategy is not None:
            return policy.strategy
        if policy is None or policy.mode in (None, Mode.AUTO):
            return strategy_of(self.mode.mode)
        return strategy_of(policy.mode)
