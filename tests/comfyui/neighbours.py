"""The packs of others that are tried beside ours, and what is seen of each in a real server.

    NEIGHBOURS=FOLDER python tests/comfyui/neighbours.py             # writes their table into docs/compatibility.md
    NEIGHBOURS=FOLDER python tests/comfyui/neighbours.py NAME …      # these rows of it

FOLDER holds clones under the names below. What they import beside ComfyUI's own requirements may lie in FOLDER/site
(`pip install --no-deps --target FOLDER/site …`); only these servers see it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comfy_story import forget, mode, pixels, two_experts

from residency.installation.locate import PACK, ComfyUI, find_comfyui
from residency.installation.server_process import Server, link_pack, serve

GAUGES = Path(__file__).with_name("packs") / "gauges"
PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
BEGIN, END = "<!-- neighbours: begin -->", "<!-- neighbours: end -->"
ORDERS = ("ours first", "theirs first")

PACKS = {
    "ComfyUI-MultiGPU": "pollockjj",
    "ComfyUI-KJNodes": "kijai",
    "ComfyUI-GGUF": "city96",
    "rgthree-comfy": "rgthree",
    "ComfyUI-WanVideoWrapper": "kijai",
    "ComfyUI-Crystools": "crystian",
    "ComfyUI-MemoryVisualization": "kijai",
    "Comfyui-Memory_Cleanup": "LAOGOU-666",
    "ComfyUI-Unload-Model": "SeanScripts",
}


def clone_of(name: str) -> Path | None:
    """Where the pack lies on this machine."""
    folder = os.environ.get("NEIGHBOURS")
    place = Path(folder, name) if folder else None
    return place if place is not None and (place / "__init__.py").is_file() else None


@dataclass(slots=True)
class Seen:
    """`fails`: why the neighbour does not load here, in ComfyUI's words. `others`: by function, whom the pack has found there.
    `changed`: functions of ComfyUI that the neighbour alone has changed, before and after ours was switched off."""

    fails: str = ""
    off: list[str] = field(default_factory=list)
    others: dict[str, str] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    first_when_off: dict[str, str] = field(default_factory=dict)
    same_images: list[bool] = field(default_factory=list)
    failures: int = 0
    outcomes: list[str] = field(default_factory=list)
    threads_when_off: list[str] = field(default_factory=list)


@contextmanager
def beside(comfyui: ComfyUI, models: Path, theirs: Path, order: str) -> Iterator[Server]:
    """A server with both. ComfyUI loads what lies in its own folder before what lies in a folder that a file names."""
    site = theirs.parent / "site"
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))} if site.is_dir() else {}
    with tempfile.TemporaryDirectory(prefix="neighbours-") as name:
        late = Path(name, "custom_nodes")
        late.mkdir()
        link_pack(theirs if order == ORDERS[0] else PACK, late / (theirs.name if order == ORDERS[0] else "residency"))
        paths = Path(name, "paths.yaml")
        paths.write_text(f"late:\n  base_path: {name}\n  custom_nodes: custom_nodes\n", encoding="utf-8")
        pack, others = (PACK, [GAUGES]) if order == ORDERS[0] else (None, [theirs, GAUGES])
        arguments = ["--cpu", "--extra-model-paths-config", str(paths)]
        with serve(comfyui, models, arguments, pack=pack, others=others, environment=environment) as server:
            yield server


def seen(server: Server, name: str) -> Seen:
    """Images of prompts with the pack on, off and on again, beside the neighbour."""
    log = server.log.read_text(encoding="utf-8", errors="replace")
    if re.search(rf"IMPORT FAILED\): \S*/{re.escape(name)}\b", log):
        why = re.search(rf"Cannot import \S*/{re.escape(name)} module for custom nodes: (.*)", log)
        return Seen(fails=why.group(1).strip() if why else "it does not load")
    stock = [drawn(server, seed, mode("off")) for seed in (1, 2)]
    told = Seen()
    for on in (True, False, True):
        server.post("/residency/mode", {"mode": "auto" if on else "off"})
        forget(server)
        for seed in (1, 2):
            told.same_images.append(drawn(server, seed) == stock[seed - 1])
            if on:
                told.outcomes.append(server.get_json("/residency/trace")["outcome"])
        owners = server.get_json("/gauges/owners")
        first = {function: owner["first"] for function, owner in owners.items()}
        if on:
            told.others, told.first = {function: owner["others"] for function, owner in owners.items() if owner["others"]}, first
            status = server.get_json("/residency/status")
            told.off = [f"{one['name']}: {one['reason']}" for one in status["features"] if not one["on"]]
            told.failures += status["failures"] + sum(status["contained_failures"].values())
        else:
            told.first_when_off = first
            told.threads_when_off = server.get_json("/residency/status")["threads"]
    return told


def drawn(server: Server, seed: int, extra: dict[str, Any] | None = None) -> list[bytes]:
    return [pixels(image) for image in server.run(two_experts(seed), extra).images]


def version(place: Path) -> str:
    """As the pack's own pyproject.toml says."""
    text = (place / "pyproject.toml").read_text(encoding="utf-8") if (place / "pyproject.toml").is_file() else ""
    found = re.search(r'^version\s*=\s*"([^"]+)"', text, re.MULTILINE)
    return found.group(1) if found else "without a version"


def row(name: str, place: Path | None, told: list[Seen]) -> str:
    if place is None:
        return f"| {name} | – | not tried: NEIGHBOURS names no folder with it | | | |"
    failed = next((one.fails for one in told if one.fails), "")
    if failed:
        return f"| {name} | {version(place)} | does not load here, without ours either way: {failed} | | | |"
    others = {function: pack for one in told for function, pack in one.others.items()}
    owned = "; ".join(f"{function} ({pack})" for function, pack in sorted(others.items())) or "nothing that ours does"
    off = sorted({one for seen in told for one in seen.off})
    cells = [
        "both orders",
        owned,
        "the same" if all(all(one.same_images) for one in told) else "DIFFERENT",
        "; ".join(off) or "all of ours works; off and on again leaves theirs",
    ]
    return f"| {name} | {version(place)} | " + " | ".join(cells) + " |"


HEAD = "| pack | version | loads | changes of ComfyUI's functions | images | besides |\n| --- | --- | --- | --- | --- | --- |"


def rows_of(page: str) -> dict[str, str]:
    """The rows that are in the page, by pack."""
    lines = page.partition(BEGIN)[2].partition(END)[0].splitlines()
    return {name: line for line in lines for name in PACKS if line.startswith(f"| {name} |")}


def with_rows(page: str, rows: dict[str, str]) -> str:
    """The page with its table anew, packs in the order of the list."""
    before, _, rest = page.partition(BEGIN)
    table = "\n".join([HEAD, *(rows.get(name, f"| {name} | – | not tried yet | | | |") for name in PACKS)])
    return f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}"


def main(names: Sequence[str]) -> int:
    comfyui = find_comfyui()
    unknown = set(names) - PACKS.keys()
    if comfyui is None or unknown:
        print(f"not in the list: {', '.join(unknown)}" if unknown else "no ComfyUI found: set COMFYUI_PATH to its folder", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="neighbours-models-") as models:
        maker = PACK / "residency" / "comfyui" / "sample_models" / "tiny.py"
        subprocess.run([str(comfyui.python), str(maker), str(comfyui.path), models, "12"], check=True, capture_output=True)
        for name in names or PACKS:
            place, told = clone_of(name), []
            for order in ORDERS if place is not None else ():
                with beside(comfyui, Path(models), place, order) as server:
                    told.append(seen(server, name))
            page = PAGE.read_text(encoding="utf-8")
            written = row(name, place, told)
            print(written, flush=True)
            PAGE.write_text(with_rows(page, rows_of(page) | {name: written}), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
