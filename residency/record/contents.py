"""The contents of the tiers when a prompt began, and the rates: a simulator needs them to run the prompt again under other terms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..core.component import Tier
from ..core.events import BudgetChanged, DeviceObserved, Event, HostObserved, RatesMeasured

TELLING = frozenset({HostObserved, DeviceObserved, RatesMeasured, BudgetChanged})


@dataclass(frozen=True, slots=True)
class Contents:
    """The last word on each; None: nothing was told yet. Bytes of limits: (those that weights may take, those kept free beyond that, the
    computing program's own headroom)."""

    host: HostObserved | None = None
    device: DeviceObserved | None = None
    rates: RatesMeasured | None = None
    host_limit: tuple[int, int, int] | None = None
    device_limit: tuple[int, int, int] | None = None

    def after(self, event: Event) -> Contents:
        """With the event's word on them. Called for TELLING events only: the match below asks class by class, 0.4 us an event."""
        match event:
            case HostObserved():
                return replace(self, host=event)
            case DeviceObserved():
                return replace(self, device=event)
            case RatesMeasured():
                return replace(self, rates=event)
            case BudgetChanged(tier=Tier.HOST):
                return replace(self, host_limit=(event.limit_bytes, event.reserve_bytes, event.headroom_bytes))
            case BudgetChanged(tier=Tier.DEVICE):
                return replace(self, device_limit=(event.limit_bytes, event.reserve_bytes, event.headroom_bytes))
            case _:
                return self

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; docs/trace.md describes the keys of `began`."""
        host, device, rates = self.host, self.device, self.rates
        return {
            "host_limit_bytes": self.host_limit[0] if self.host_limit else None,
            "host_reserve_bytes": self.host_limit[1] if self.host_limit else 0,
            "host_headroom_bytes": self.host_limit[2] if self.host_limit else 0,
            "device_limit_bytes": self.device_limit[0] if self.device_limit else None,
            "cached_bytes": dict(host.held) if host is not None and host.held is not None else None,
            "loaded_bytes": dict(host.loaded) if host is not None else {},
            "device_bytes": dict(device.held) if device is not None else None,
            "pinned_bytes": dict(device.in_host) if device is not None and device.in_host is not None else None,
            "read_bytes_per_s": dict(rates.read) if rates is not None else {},
            "onload_bytes_per_s": rates.onload if rates is not None else None,
        }
