"""Pictures of traces: what the trace says is in them, and odd traces do not break them."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from residency.record.image import COLOURS, LANES, PLAIN, STALL, STALL_DARK, headline, html, lanes_of
from residency.record.png import png
from residency.record.trace_events import chrome

WEB = Path(__file__).parents[1] / "web"
DONE = {"status": "done", "reason": ""}
TRACE: dict[str, Any] = {
    "version": 1, "prompt_id": "p", "mode": "auto", "outcome": "success", "started_unix_s": 0.0, "duration_s": 4.2,
    "components": [
        {"key": "clip-1", "name": "clip_l", "kind": "CLIP", "size_bytes": 246 << 20},
        {"key": "a-1", "name": "expert_a", "kind": "MODEL", "size_bytes": 300 << 20},
        {"key": "b-1", "name": "expert_b", "kind": "MODEL", "size_bytes": 300 << 20},
    ],
    "nodes": [
        {"node_id": "2", "class_type": "CLIPLoader", "start_s": 0.0, "end_s": 0.5, "stall_s": 0.4, "loads": ["clip-1"], "computes": []},
        {"node_id": "4", "class_type": "CLIPTextEncode", "start_s": 0.5, "end_s": 0.9, "stall_s": 0.0, "loads": [], "computes": ["clip-1"]},
        {"node_id": "7", "class_type": "KSampler", "start_s": 0.9, "end_s": 2.5, "stall_s": 0.3, "loads": [], "computes": ["a-1"]},
        {"node_id": "12", "class_type": "KSampler", "start_s": 2.5, "end_s": 4.0, "stall_s": 0.0, "loads": [], "computes": ["b-1"]},
        {"node_id": "9", "class_type": "SaveImage", "start_s": 4.0, "end_s": None, "stall_s": 0.0, "loads": [], "computes": []},
    ],
    "transfers": [
        {"component": "a-1", "tier": "host", "start_s": 0.4, "end_s": 1.2, "moved_bytes": 300 << 20, "present_bytes": 300 << 20, **DONE},
        {"component": "b-1", "tier": "host", "start_s": 1.0, "end_s": 2.1, "moved_bytes": 300 << 20, "present_bytes": 300 << 20, **DONE},
    ],
    "evictions": [{"component": "clip-1", "tier": "host", "time_s": 0.95, "freed_bytes": 246 << 20, "reason": "no <reader> left"}],
    "decisions": [],
    "summary": {"compute_s": 3.5, "stall_s": 0.7, "wait_s": 0.0, "prefetched_bytes": 600 << 20, "wasted_bytes": 0, "nodes": 5},
}  # fmt: skip


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def test_lanes_hold_every_record_in_the_colour_of_its_component() -> None:
    compute, disk, evictions = lanes_of(TRACE)
    assert [box.label for box in compute.boxes] == ["CLIPLoader", "CLIPTextEncode", "KSampler", "KSampler", "SaveImage"]
    assert [box.striped_s for box in compute.boxes] == [0.4, 0.0, 0.3, 0.0, 0.0]
    assert compute.boxes[0].colour == compute.boxes[1].colour == evictions.marks[0][1]
    assert [box.colour for box in disk.boxes] == [compute.boxes[2].colour, compute.boxes[3].colour]
    assert len({box.colour for box in compute.boxes}) == 4


def test_pictures_have_the_words_and_colours_of_the_panel() -> None:
    css = (WEB / "residency.css").read_text(encoding="utf-8")
    told = dict(re.findall(r"--residency-([\w-]+): (#\w{6});", css))
    assert tuple(told[str(index)] for index in range(len(COLOURS))) == COLOURS and str(len(COLOURS)) not in told
    assert (told["none"], told["stall"], told["stall-dark"]) == (PLAIN, STALL, STALL_DARK)
    words = (WEB / "words_en.js").read_text(encoding="utf-8")
    assert LANES.items() <= dict(re.findall(r'"lane\.(\w+)": "([^"]+)"', words)).items()
    named = [event["args"]["name"] for event in chrome(TRACE)["traceEvents"] if event["name"] == "thread_name"]
    assert sorted(named) == sorted(LANES.values())


def test_a_transfer_that_has_moved_nothing_yet_is_not_drawn() -> None:
    trace = deepcopy(TRACE)
    trace["transfers"] += [
        {**trace["transfers"][0], "start_s": 2.2, "end_s": None, "moved_bytes": 0},
        {**trace["transfers"][0], "start_s": 2.2, "end_s": None, "moved_bytes": 1 << 20},
    ]
    assert [(box.start_s, box.end_s) for box in lanes_of(trace)[1].boxes] == [(0.4, 1.2), (1.0, 2.1), (2.2, 4.2)]


def test_transfers_that_overlap_get_rows_of_their_own_and_later_ones_reuse_them() -> None:
    trace = deepcopy(TRACE)
    trace["transfers"].append({**trace["transfers"][0], "start_s": 2.0, "end_s": 2.4})
    assert [box.row for box in lanes_of(trace)[1].boxes] == [0, 1, 0]


def test_what_waited_for_room_on_the_device_to_its_end_is_not_drawn() -> None:
    trace = deepcopy(TRACE)
    waits = {**trace["transfers"][0], "tier": "device", "moved_bytes": 0, "end_s": None}
    trace["transfers"] += [waits, {**waits, "moved_bytes": 5, "start_s": 2.0}]
    device = next(lane for lane in lanes_of(trace) if lane.title == "To VRAM")
    assert [(box.row, box.start_s) for box in device.boxes] == [(0, 2.0)]


def test_what_has_not_ended_reaches_to_the_end() -> None:
    assert lanes_of(TRACE)[0].boxes[-1].end_s == TRACE["duration_s"]


def test_a_node_is_striped_where_it_waited() -> None:
    sampler = TRACE["nodes"][2] | {"stall_s": 0.5, "steps": [[0.5, 0.25, 1], [0.5, 0.0, 1], [0.5, 0.125, 1]]}
    (box,) = lanes_of({**TRACE, "nodes": [sampler]})[0].boxes
    assert [pytest.approx(wait) for wait in box.waits] == [(0.9, 0.25), (1.9, 0.125), (2.4, 0.1)]
    assert box.striped_s == 0.25


def test_the_picture_is_a_png_of_the_asked_width_with_the_stall_and_component_colours_in_it() -> None:
    image = opened(png([("cold", TRACE)], width_px=1000)).convert("RGB")
    assert image.width == 1000
    found = {colour for _, colour in image.getcolors(1 << 24) or []}
    for box in lanes_of(TRACE)[0].boxes:
        assert tuple(bytes.fromhex(box.colour[1:])) in found


def test_several_traces_share_one_picture() -> None:
    assert opened(png([("off", TRACE), ("on", TRACE)])).height > opened(png([("on", TRACE)])).height * 1.5


def test_a_trace_of_nothing_is_still_a_picture() -> None:
    empty = {**TRACE, "components": [], "nodes": [], "transfers": [], "evictions": [], "duration_s": 0.0}
    assert opened(png([("", empty)])).height > 50
    assert "<svg" in html([("", empty)])
    with pytest.raises(ValueError, match="run a prompt first"):
        png([])


def test_the_page_tells_each_story_on_hover_and_escapes_names() -> None:
    page = html([("cold & on", TRACE)])
    assert "KSampler (7): 0.90 to 2.50 s, of it 0.30 s stall" in page
    assert "evict clip_l from the host at 0.95 s: 246 MiB; no &lt;reader&gt; left" in page
    assert "cold &amp; on" in page
    assert "<script" not in page
    svg = page[page.index("<svg") : page.index("</svg>") + 6]
    assert len(list(ElementTree.fromstring(svg).iter("rect"))) >= 8  # noqa: S314 (our own text)


def test_the_headline_leaves_out_what_was_not_measured() -> None:
    assert headline(TRACE) == "mode auto  ·  4.20 s  ·  stall 0.70 s  ·  read ahead 600 MiB"
    assert headline({**TRACE, "mode": "off"}) == "mode off  ·  4.20 s"
    assert headline({**TRACE, "outcome": "interrupted"}).endswith("interrupted")
    assert headline({**TRACE, "outcome": "abandoned", "outcome_reason": "left to ComfyUI: a bug"}).endswith("left to ComfyUI: a bug")
