"""The nouns of the pack: components, tiers, strategies, memory modes. Frozen data, no behaviour beyond naming."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Tier(Enum):
    """A place for the bytes of a component, slowest first."""

    DISK = "disk"
    HOST = "host"  # page cache and pinned memory
    DEVICE = "device"


class Mode(Enum):
    """Memory mode: the user's word for the whole."""

    AUTO = "auto"
    HIGH_VRAM = "high-vram"
    BALANCED = "balanced"
    LOW_VRAM = "low-vram"
    OFF = "off"


class Strategy(Enum):
    """The placement of one component around its uses. Each puts bytes elsewhere than the others; the host's own way is none."""

    RESIDENT = "resident"  # stays on the device
    OFFLOAD = "offload"  # leaves the device as a whole when room is needed
    RELEASE = "release"  # dropped after its last use


@dataclass(frozen=True, slots=True)
class Extent:
    """One byte range of one file.

    `path` is absolute; `start` and `size_bytes` are bytes.
    """

    path: str
    start: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """The identity of a file: another one at its path, or the same one with other bytes, differs.

    Only as long as the system runs: an inode of a network's file system may change with a new connection. Times are nanoseconds.
    """

    path: str
    device: int
    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int


@dataclass(frozen=True, slots=True)
class Component:
    """One set of weights that is placed as a whole.

    `key` is stable across restarts and changes when a file is replaced or an option that changes the weights does.
    `name` is for people. `kind` is the link type that carries it (MODEL, CLIP, VAE, CONTROL_NET, …).
    `size_bytes` have to be read; `extents` say from where, in reading order, and sum to `size_bytes`.
    `files` are those it was made of, as they were then; empty where nobody has asked.
    """

    key: str
    name: str
    kind: str
    size_bytes: int
    extents: tuple[Extent, ...] = ()
    files: tuple[FileIdentity, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Policy:
    """A user's wishes for one component. `source` says who asked, for people.

    `mode` and `strategy` None: nothing was asked, the prompt's mode decides. `priority`: between two components that could leave, the
    one with the lower number goes, however soon it is needed. `keep`: it stays in host memory across prompts while the budget allows.
    """

    mode: Mode | None = None
    strategy: Strategy | None = None
    priority: int = 0
    prefetch: bool = True
    keep: bool = False
    source: str = ""
