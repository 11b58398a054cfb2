"""A node that frees memory in the middle of a workflow: what is cached is not copied again, and what is read is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comfy_story import between_prompts, mode, pixels, two_experts

from residency.installation.locate import ComfyUI
from residency.installation.server_process import Server, serve
from residency.transfers._chunks import LEAST_GAP_BYTES

MIB = 1024**2
EVERY_BYTES = 5 * MIB  # of a file: the node lets go of a page there
MODELS_BYTES = 300 * MIB
FEW = 8  # gaps that the system makes by itself where memory is short
PACK = Path(__file__).with_name("packs") / "cleanup"


@pytest.fixture(scope="module")
def server(comfyui: ComfyUI, models: Path) -> Iterator[Server]:
    with serve(comfyui, models, ["--cpu"], others=[PACK]) as server:
        yield server


def cleaned(seed: int, pages: str) -> dict[str, Any]:
    """Between the text encoder and the first sampler, which takes its conditioning from it. `pages` leave the page cache as well."""
    prompt = two_experts(seed)
    prompt["20"] = {"class_type": "FreeMemory", "inputs": {"anything": ["4", 0], "take": seed, "pages": pages}}
    prompt["6"]["inputs"]["positive"] = ["20", 0]
    return prompt


def copied_bytes(server: Server) -> int:
    """Bytes that the server has read by calls so far, from the page cache or the drive."""
    counts = Path(f"/proc/{server.process.pid}/io").read_text(encoding="ascii")
    return int(dict(line.split(": ") for line in counts.splitlines())["rchar"])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system does not count what a process reads")
@pytest.mark.parametrize("pages", ["none", "some", "all"])
def test_what_a_cleanup_node_leaves_cached_is_not_copied_again(server: Server, pages: str):
    counts, drawn, told = {}, {}, {}
    for name in ("off", "auto"):
        server.run(cleaned(1, pages), mode(name))
        between_prompts(server, mode(name))  # ComfyUI frees what the node has asked for
        before_bytes = copied_bytes(server)
        second = server.run(cleaned(2, pages), mode(name))
        counts[name] = copied_bytes(server) - before_bytes
        drawn[name] = [pixels(image) for image in second.images]
        told = server.get_json(f"/residency/trace?prompt_id={second.prompt_id}") if name == "auto" else {}
    assert drawn["auto"] == drawn["off"]
    moved_bytes, read_bytes = (sum(one[what] for one in told["transfers"]) for what in ("moved_bytes", "read_bytes"))
    assert told["summary"]["read_bytes"] == read_bytes
    assert abs(counts["auto"] - counts["off"] - read_bytes) < MIB  # what is read is told
    gaps = MODELS_BYTES // EVERY_BYTES if pages == "some" else FEW
    assert read_bytes <= moved_bytes + gaps * 2 * LEAST_GAP_BYTES
