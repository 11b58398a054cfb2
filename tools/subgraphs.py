"""Write subgraphs/*.json, the blueprints that ComfyUI's node library offers beside the nodes.

    python tools/subgraphs.py

Told like the example workflows (tools/example_workflows.py), with ends that the user connects.
"""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from example_workflows import ROOT, Sheet, two_stages

INPUT, OUTPUT = -10, -20  # the ids of a subgraph's ends, as ComfyUI's editor has them


class Blueprint(Sheet):
    """A subgraph: links come from `INPUT`, slots of `inputs` as (name, type), and go to its outputs by `gives`."""

    def __init__(self, name: str, title: str, about: str, inputs: list[tuple[str, str]]) -> None:
        super().__init__(name)
        self._title, self._about, self._inputs = title, about, inputs
        self._outputs: list[tuple[str, str, int]] = []

    def gives(self, name: str, origin: int, slot: int = 0) -> None:
        kind = self._kind(origin, slot)
        link_id = len(self._links) + 1
        self._nodes[origin - 1]["outputs"][slot]["links"].append(link_id)
        self._links.append([link_id, origin, slot, OUTPUT, len(self._outputs), kind])
        self._outputs.append((name, kind, link_id))

    def _kind(self, origin: int, slot: int) -> Any:
        return self._inputs[slot][1] if origin == INPUT else super()._kind(origin, slot)

    def _link(self, origin: int, slot: int, target: int, target_slot: int) -> int:
        if origin != INPUT:
            return super()._link(origin, slot, target, target_slot)
        link_id = len(self._links) + 1
        self._links.append([link_id, origin, slot, target, target_slot, self._kind(origin, slot)])
        return link_id

    def _id(self, what: str = "") -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"residency/subgraph/{self.name}/{what}"))

    def saved(self) -> dict[str, Any]:
        """A workflow of one node, the subgraph, as ComfyUI publishes it."""
        keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        links = [dict(zip(keys, link, strict=True)) for link in self._links]
        ends = [
            {"id": self._id(f"in {name}"), "name": name, "type": kind, "linkIds": [one["id"] for one in links if _from(one, slot)]}
            for slot, (name, kind) in enumerate(self._inputs)
        ]
        given = [{"id": self._id(f"out {name}"), "name": name, "type": kind, "linkIds": [link_id]} for name, kind, link_id in self._outputs]
        right = max(node["pos"][0] + node["size"][0] for node in self._nodes)
        definition = {
            "id": self._id(),
            "version": 1,
            "state": {"lastGroupId": 0, "lastNodeId": len(self._nodes), "lastLinkId": len(links), "lastRerouteId": 0},
            "revision": 0,
            "config": {},
            "name": self._title,
            "inputNode": {"id": INPUT, "bounding": [-160, 60, 120, 40 + 20 * len(ends)]},
            "outputNode": {"id": OUTPUT, "bounding": [right + 60, 60, 120, 40 + 20 * len(given)]},
            "inputs": [{**end, "pos": [-60, 80 + 20 * slot]} for slot, end in enumerate(ends)],
            "outputs": [{**end, "pos": [right + 80, 80 + 20 * slot]} for slot, end in enumerate(given)],
            "widgets": [],
            "nodes": self._nodes,
            "groups": [],
            "links": links,
            "extra": {},
            "category": "residency",
            "description": self._about,
        }
        node = {
            "id": 1,
            "type": definition["id"],
            "pos": [0, 0],
            "size": [260, 60 + 20 * len(ends)],
            "flags": {},
            "order": 0,
            "mode": 0,
            "inputs": [{"name": name, "type": kind, "link": None} for name, kind in self._inputs],
            "outputs": [{"name": name, "type": kind, "links": None} for name, kind, _ in self._outputs],
            "title": self._title,
            "properties": {},
            "widgets_values": [],
        }
        root = {"revision": 0, "last_node_id": 1, "last_link_id": 0, "nodes": [node], "links": []}
        return {**root, "version": 0.4, "definitions": {"subgraphs": [definition]}, "extra": {}}


def _from(link: dict[str, Any], slot: int) -> bool:
    return link["origin_id"] == INPUT and link["origin_slot"] == slot


def two_experts() -> Blueprint:
    ends = [
        ("high noise", "MODEL"),
        ("low noise", "MODEL"),
        ("positive", "CONDITIONING"),
        ("negative", "CONDITIONING"),
        ("latent", "LATENT"),
    ]
    about = "Two experts share the steps; the second is read ahead while the first computes."
    sheet = Blueprint("two_experts", "Residency: two experts", about, ends)
    steps = {"noise_seed": 7, "steps": 20, "cfg": 3.5, "sampler_name": "euler", "scheduler": "simple"}
    texts = {"positive": (INPUT, 2), "negative": (INPUT, 3)}
    second = two_stages(sheet, 0, (INPUT, 0), (INPUT, 1), (INPUT, 4), 10, **steps, **texts)
    sheet.gives("latent", second)
    return sheet


def main() -> None:
    sheet = two_experts()
    path = ROOT / "subgraphs" / f"{sheet.name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(sheet.saved(), indent=1) + "\n", encoding="utf-8")
    print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
