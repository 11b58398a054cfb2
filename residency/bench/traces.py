"""One trace of each side per scenario, kept small beside the results: the median run, stock's as a client saw it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..installation.server_process import Ran
from ..record import outside
from . import link
from .results import write
from .workflows import Prompt

MAX_DECISIONS = 200

Trace = dict[str, Any]


class Traces:
    """Those of one scenario, as they come; `write` keeps the median one of each side. With `keep` a side of which none comes keeps its
    trace in the file."""

    def __init__(self, path: Path, *, keep: bool = False) -> None:
        self.path = path
        self._runs: dict[str, list[tuple[float, Trace]]] = {}
        self._before: dict[str, Trace] = json.loads(path.read_text(encoding="utf-8")) if keep and path.exists() else {}

    def add(self, side: str, seconds: float, trace: Trace) -> None:
        self._runs.setdefault(side, []).append((seconds, trace))

    def write(self) -> None:
        kept = dict(self._before)
        for side, runs in self._runs.items():
            _, trace = sorted(runs, key=lambda run: run[0])[(len(runs) - 1) // 2]
            kept[side] = {**trace, "decisions": trace["decisions"][:MAX_DECISIONS]}
        write(kept, self.path, indent=None)


def seen(seconds: float, ran: Sequence[Ran], prompts: Sequence[Prompt]) -> Trace:
    """A queue as its client sees it, in the shape of one trace. It knows no components: nodes load and compute with files."""
    nodes = []
    for one, prompt in zip(ran, prompts, strict=True):
        for node_id, start_s, end_s in one.nodes:
            asked = prompt.graph[node_id]
            loads = [value for value in asked["inputs"].values() if str(value).endswith(".safetensors")]
            computes = list(prompt.uses.get(node_id, ()))
            nodes.append(outside.node(node_id, asked["class_type"], start_s, end_s, loads=loads, computes=computes))
    return outside.trace(ran[0].prompt_id, seconds, nodes)


def joined(told: Sequence[Trace]) -> Trace:
    """The traces of a queue as one: times count from the first prompt's start, bytes and seconds add up.

    A figure that one prompt does not know, the queue does not: None. A rate is no sum.
    """
    if len(told) == 1:
        return told[0]
    first = told[0]
    whole: Trace = {**first, "components": [], "nodes": [], "transfers": [], "evictions": [], "decisions": [], "summary": {}}
    for one in told:
        shift_s = one["started_unix_s"] - first["started_unix_s"]
        known = {component["key"] for component in whole["components"]}
        whole["components"] += [component for component in one["components"] if component["key"] not in known]
        for kind in ("nodes", "transfers", "evictions", "decisions"):
            whole[kind] += [_later(record, shift_s, one["duration_s"]) for record in one[kind]]
        whole["duration_s"] = shift_s + one["duration_s"]
        for key, value in one["summary"].items():
            before = whole["summary"].get(key, 0)
            whole["summary"][key] = None if value is None or before is None else before + value
    if any(link.RATE in one["summary"] for one in told):
        whole["summary"][link.RATE] = link.rate(one["summary"] for one in told)
    return whole


def _later(record: Mapping[str, Any], shift_s: float, end_s: float) -> Trace:
    """A record of a prompt that took `end_s`; a transfer that had not ended by then has another one in the next prompt."""
    times = {key: (end_s if record[key] is None else record[key]) + shift_s for key in ("start_s", "end_s", "time_s") if key in record}
    return {**record, **times}


def coloured_alike(stock: Trace, pack: Trace) -> Trace:
    """Stock's trace with the pack's components in place of the files that they are read from."""

    def keys(files: Sequence[str]) -> list[str]:
        stems = [Path(file).stem for file in files]
        return [one["key"] for one in pack["components"] if any(stem in one["name"] for stem in stems)]

    nodes = [{**node, "loads": keys(node["loads"]), "computes": keys(node["computes"])} for node in stock["nodes"]]
    return {**stock, "components": pack["components"], "nodes": nodes}
