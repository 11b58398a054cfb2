"""What the host has told of its memory: components with their bytes in the order that it has seen, and its last look."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .component import Component
from .component_state import ComponentState
from .events import HostObserved


class HostLooks:
    """Of one host tier. A look holds until the next one, but for components of which a mover has told something since."""

    def __init__(self) -> None:
        self.components: dict[str, Component] = {}
        self._laid_out: dict[str, Component] = {}  # as the host has seen them last
        self._last = HostObserved(0.0, None)
        self._answered: set[str] = set()  # since then, by movers

    def new_prompt(self, components: Mapping[str, Component], stays: Callable[[str], bool]) -> list[str]:
        """Its components, and those of earlier ones that stay; as `know`."""
        self.components = {key: component for key, component in self.components.items() if stays(key)}
        new = self.know(components)
        self._laid_out = {key: component for key, component in self._laid_out.items() if key in self.components}
        return new

    def know(self, components: Mapping[str, Component]) -> list[str]:
        """These may be used; the order of bytes that the host has seen of one stands. Returns those of which nothing was known: the last
        look holds for them."""
        new = [key for key in components if key not in self.components and key not in self._answered]
        self.components.update((key, self._laid_out.get(key, component)) for key, component in components.items())
        return new

    def looked(self, look: HostObserved) -> None:
        """The host has looked."""
        self._laid_out.update(look.laid_out)
        self.components.update((key, component) for key, component in look.laid_out.items() if key in self.components)
        self._last = look
        self._answered.clear()

    def laid_out(self, component: Component) -> None:
        """The host has seen the order of its bytes."""
        self._laid_out[component.key] = self.components[component.key] = component

    def answered(self, key: str) -> None:
        """A mover has told something of it: the last look holds no longer."""
        self._answered.add(key)

    def held_bytes(self, key: str, record: ComponentState) -> int:
        """Bytes in the page cache by the last look; as recorded where that says nothing, or they are on their way or leaving."""
        if self._last.held is None or record.coming_bytes or record.answers_due:
            return record.held_bytes
        # the user may ask for a component outside the graph that the host looks at: it would be read again at each look
        return self._last.held.get(key, 0 if record.asked is None else record.held_bytes)
