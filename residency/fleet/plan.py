"""A fleet as it was asked for: by options for this machine, by a file for a Ray cluster. Everything is checked before anything starts."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..installation.locate import ComfyUI, find_python, is_comfyui
from ..units import UsageError, shown
from .policies import OURS, policies
from .seats import HANG_S

POLICIES = (OURS, *policies(0))
PORT = 8200
LOOPBACK = "127.0.0.1"
MOST_WORKERS = 1000


@dataclass(frozen=True, slots=True)
class Node:
    """Workers of one kind on one machine. `address`: which node of the Ray cluster; None: this machine. `pack` false: ComfyUI alone."""

    name: str
    workers: int
    comfyui: Path
    python: Path
    models: Path
    arguments: tuple[str, ...] = ()
    gpus: bool = False
    address: str | None = None
    pack: bool = True

    def names(self) -> list[str]:
        """Of its workers."""
        return [f"{self.name}-{number}" for number in range(self.workers)]

    @property
    def machine(self) -> str:
        return self.address or LOOPBACK


@dataclass(frozen=True, slots=True)
class Plan:
    """`folder` gets inputs, outputs, users' files, and the door's ledger; every node sees it. `cluster`: the address of a Ray that runs;
    None: one of its own."""

    nodes: tuple[Node, ...]
    folder: Path
    host: str = LOOPBACK
    port: int = PORT
    token: str | None = None
    hang_s: float = HANG_S
    policy: str = OURS
    cluster: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def workers(self) -> int:
        return sum(node.workers for node in self.nodes)

    @property
    def gpus(self) -> int:
        return sum(node.workers for node in self.nodes if node.gpus)

    def sharing(self, node: Node) -> int:
        """The number of workers on this node's machine."""
        return sum(one.workers for one in self.nodes if one.machine == node.machine)

    @property
    def url(self) -> str:
        host = LOOPBACK if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104 - compared, not bound
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Whether nobody on another machine can reach it."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


FLEET_KEYS = {"address", "arguments", "folder", "hang_after_s", "host", "nodes", "policy", "port", "private_network"}
NODE_KEYS = {"name", "address", "arguments", "comfyui", "cpu", "models", "pack", "python", "workers"}
HOW = "docs/fleet.md has an example"


def read_plan(path: Path, here: ComfyUI | None, token: str | None) -> Plan:
    """The fleet that a file describes; `here` is the ComfyUI that is taken where a node names none. Raises UsageError, with the place."""
    try:
        import yaml
    except ImportError as error:
        raise UsageError(f"{path}: PyYAML is not here to read it: pip install 'residency[fleet]'") from error
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    at = _Place(str(path), told, FLEET_KEYS)
    address = at.text("address")
    arguments = at.texts("arguments")
    listed = at.told.get("nodes", [{}])
    if not isinstance(listed, list) or not listed:
        raise UsageError(f"{path}: nodes is {shown(listed)}; give a list of nodes; {HOW}")
    nodes = [_node(_Place(f"{path}: nodes[{number}]", one, NODE_KEYS), number, here, arguments) for number, one in enumerate(listed)]
    names = [name for node in nodes for name in node.names()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"{path}: two workers are called {twice[0]}; give each node a name of its own")
    if not 0 < len(names) <= MOST_WORKERS:
        raise UsageError(f"{path}: there are {len(names)} workers; 1 to {MOST_WORKERS} can be had")
    open_to = [node for node in nodes if node.address is not None and not is_loopback(node.address)]
    if open_to and not at.flag("private_network", False):
        node = open_to[0]
        why = f"node {node.name} would answer everybody who reaches {node.address}, without a token"
        raise UsageError(f"{path}: {why}; say private_network: true where that is you alone")
    if open_to and address is None:
        raise UsageError(
            f"{path}: node {open_to[0].name} is on {open_to[0].address}: give the address of the Ray cluster that it belongs to"
        )
    host = at.text("host") or LOOPBACK
    return Plan(
        tuple(nodes),
        (path.parent / Path(at.text("folder") or "residency-fleet").expanduser()).resolve(),
        host,
        at.number("port", PORT, 1, 65535),
        token,
        float(at.number("hang_after_s", int(HANG_S), 1, 10**6)),
        at.one_of("policy", POLICIES),
        address,
    )


def _node(at: _Place, number: int, here: ComfyUI | None, arguments: Sequence[str]) -> Node:
    named = at.text("comfyui")
    if named is None and here is None:
        raise UsageError(f"{at.where}: no ComfyUI is found here; say comfyui: FOLDER")
    address = at.text("address")
    comfyui = Path(named).expanduser() if named is not None else here.path if here is not None else Path()
    told_python = at.text("python")
    python = Path(told_python).expanduser() if told_python is not None else find_python(comfyui)
    models = Path(at.text("models") or comfyui / "models").expanduser()
    if address is None or is_loopback(address):  # else it lies on another machine, whose own word comes when it starts
        if not is_comfyui(comfyui):
            raise UsageError(f"{at.where}: comfyui is {comfyui}: there is no ComfyUI (main.py and comfy/) in it")
        if not python.is_file():
            raise UsageError(f"{at.where}: python is {python}: no such file; give the Python that runs this ComfyUI")
        if not models.is_dir():
            raise UsageError(f"{at.where}: models is {models}: no such folder")
        models = models.resolve()
    cpu = at.flag("cpu", False)
    own = (*arguments, *at.texts("arguments"), *(["--cpu"] if cpu else []))
    name = at.text("name") or f"node-{number}"
    if "/" in name or name.startswith("."):
        raise UsageError(f"{at.where}: name is {shown(name)}; folders are named by it, so no / and no dot in front")
    return Node(name, at.number("workers", 1, 1, MOST_WORKERS), comfyui, python, models, own, not cpu, address, at.flag("pack", True))


class _Place:
    """A mapping of the file, and where it stands. Every wrong value is told with its place, itself and the way out."""

    def __init__(self, where: str, told: Any, keys: set[str]) -> None:
        told = {} if told is None else told
        if not isinstance(told, dict):
            raise UsageError(f"{where}: {shown(told)} is no mapping; {HOW}")
        unknown = sorted(str(key) for key in told if key not in keys)
        if unknown:
            raise UsageError(f"{where}: {unknown[0]} is not known here; known are {', '.join(sorted(keys))}")
        self.where, self.told = where, told

    def text(self, key: str) -> str | None:
        value = self.told.get(key)
        if value is not None and (not isinstance(value, str) or not value):
            raise UsageError(f"{self.where}: {key} is {shown(value)}; give a text, or leave it out")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.told.get(key, [])
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise UsageError(f"{self.where}: {key} is {shown(value)}; give a list of texts, like ['--lowvram']")
        return tuple(value)

    def number(self, key: str, default: int, least: int, most: int) -> int:
        value = self.told.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise UsageError(f"{self.where}: {key} is {shown(value)}; give a number from {least} to {most}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.told.get(key, default)
        if not isinstance(value, bool):
            raise UsageError(f"{self.where}: {key} is {shown(value)}; say true or false")
        return value

    def one_of(self, key: str, values: Sequence[str]) -> str:
        value = self.told.get(key, values[0])
        if value not in values:
            raise UsageError(f"{self.where}: {key} is {shown(value)}; there are {', '.join(values)}")
        return str(value)
