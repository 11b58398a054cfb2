"""What real prompts teach a real server, and what the next ones are told."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comfy_story import mode, two_experts
from PIL import Image

from residency.cli.main import main
from residency.installation.locate import ComfyUI
from residency.installation.server_process import Server, ServerError, serve
from residency.profiles import Profiles, database_in


@pytest.fixture
def taught(start: Callable[..., Server]) -> Server:
    """A server of its own: what other stories ran has taught it nothing."""
    return start("--cache-lru", "7")


def database(server: Server) -> Path:
    return database_in(server.log.parent / "user")


def settled(server: Server) -> None:
    """Wait until what the last prompt taught is written."""
    deadline_s = time.monotonic() + 30
    while server.get_json("/residency/status")["threads"] and time.monotonic() < deadline_s:
        time.sleep(0.02)


def ran(server: Server, **prompt: int) -> dict[str, Any]:
    """The trace of two_experts(**prompt), all of it learned."""
    run = server.run(two_experts(**prompt))
    settled(server)
    trace: dict[str, Any] = server.get_json(f"/residency/trace?prompt_id={run.prompt_id}")
    return trace


def node(trace: dict[str, Any], node_id: str) -> dict[str, Any]:
    (found,) = [one for one in trace["nodes"] if one["node_id"] == node_id]
    return dict(found)


def compute_s(trace: dict[str, Any], node_id: str) -> float:
    one = node(trace, node_id)
    return float(one["end_s"] - one["start_s"] - one["stall_s"] - one["own_s"])


def first_compute_s(trace: dict[str, Any], node_id: str) -> float:
    """Of a sampler that runs for the first time in its process: its first step is taken to be as long as the others' median."""
    own_s = [(taken_s - stall_s) / together for taken_s, stall_s, together in node(trace, node_id)["steps"]]
    return compute_s(trace, node_id) - max(0.0, own_s[0] - statistics.median_low(own_s[1:]))


def known(server: Server) -> dict[str, Any]:
    """The file's content, read as a second server would."""
    profiles = Profiles.open(database(server))
    try:
        summary = profiles.summary()
    finally:
        profiles.close()
    return {key: summary[key] for key in ("tracks", "classes", "accuracy", "loads")}


def test_the_first_run_teaches_and_the_second_is_foretold_by_it_whatever_its_seed_and_text(taught: Server):
    first = ran(taught, seed=41, steps=3)
    assert first["summary"]["predicted_compute_s"] is None and first["summary"]["predicted_nodes"] == 0
    second = ran(taught, seed=42, steps=3)
    assert node(second, "6")["predicted_s"] == pytest.approx(first_compute_s(first, "6"), rel=1e-6)
    assert node(second, "8")["predicted_s"] == pytest.approx(first_compute_s(first, "8"), rel=1e-6)
    said = second["summary"]
    assert said["predicted_nodes"] >= 2 and said["predicted_margin_s"] > 0
    assert said["predicted_compute_s"] >= first_compute_s(first, "6") + first_compute_s(first, "8")
    assert said["replans"] == 0  # the order was right: knowing more of it is no other order
    samplers = [one for one in known(taught)["classes"] if one["class_type"] == "KSampler"]
    assert samplers[0]["duration"]["samples"] == 4 and "ComfyUI" in samplers[0]["environment"]


def test_another_resolution_is_another_key_and_leaves_the_first_alone(taught: Server):
    small = ran(taught, seed=43, steps=2)
    large = ran(taught, seed=44, steps=2, size=192)
    again = ran(taught, seed=45, steps=2, size=192)
    assert node(again, "6")["predicted_s"] == pytest.approx(first_compute_s(large, "6"), rel=1e-6)
    back = ran(taught, seed=46, steps=2)
    assert node(back, "6")["predicted_s"] == pytest.approx(first_compute_s(small, "6"), rel=1e-6)


def foreseen(server: Server, **size: int) -> list[dict[str, Any]]:
    """What was still to come of two_experts(**size), whose end is told by nodes that are over at once, asked again and again while its
    first sampler ran."""
    prompt = two_experts(**size)
    prompt["11"] = {"class_type": "GetImageSize", "inputs": {"image": ["9", 0]}}
    prompt["12"] = {"class_type": "PreviewAny", "inputs": {"source": ["11", 0]}}

    def run() -> None:
        server.run(prompt)
        settled(server)

    thread = threading.Thread(target=run)
    found: list[dict[str, Any]] = []
    known = server.get_json("/residency/status")["last_prompt_id"]
    thread.start()
    while thread.is_alive():
        trace = server.get_json("/residency/trace") or {"prompt_id": known}
        if trace["prompt_id"] != known and trace["nodes"] and trace["nodes"][-1]["node_id"] == "6" and trace["ahead"]:
            found.append(trace["ahead"])
        time.sleep(0.02)  # who asks without a pause takes half of the processor time that the sampler needs
    thread.join()
    return found


def test_the_end_is_told_only_of_work_that_has_run_before_or_by_the_steps_so_far(taught: Server):
    ran(taught, seed=59, steps=2)
    first = foreseen(taught, seed=60, steps=60, size=256)
    # the look that follows the trace may come when the sampler has ended
    told = [{node["node_id"]: node["unknown"] for node in ahead["nodes"]} for ahead in first]
    unknown = [one for one in told if "6" in one]
    assert all(one["8"] == "new" for one in unknown)  # the other size's runs say nothing
    assert unknown[-1]["6"] is None, unknown  # its own steps do
    again = foreseen(taught, seed=61, steps=60, size=256)
    # also of nodes that were over before they could be timed: they were so the first time
    assert again and all(node["unknown"] is None for node in again[0]["nodes"]), again[:1]
    assert {"11", "12"} <= {node["node_id"] for node in again[0]["nodes"]}
    assert again[0]["low_s"] <= again[0]["end_s"] <= again[0]["high_s"]


def test_another_picture_of_the_same_size_is_the_same_work(taught: Server):
    def resized(name: str, side: int) -> None:
        folder = taught.log.parent / "input"
        Image.effect_noise((side, side), 50).save(folder / name)
        prompt = {
            "1": {"class_type": "LoadImage", "inputs": {"image": name}},
            "2": {"class_type": "VAEEncode", "inputs": {"pixels": ["1", 0], "vae": ["3", 0]}},
            "3": {"class_type": "VAELoader", "inputs": {"vae_name": "residency_tae.safetensors"}},
            "4": {"class_type": "VAEDecode", "inputs": {"samples": ["2", 0], "vae": ["3", 0]}},
            "5": {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}},
        }
        taught.run(prompt)
        settled(taught)

    def answers() -> int:
        """How often a node was foretold by one whose widgets were other ones, and the work the same."""
        return sum(one["predictions"] for one in known(taught)["accuracy"] if one["level"] == "shape")

    resized("one.png", 400)
    before = answers()
    resized("larger.png", 500)
    assert answers() == before
    resized("other.png", 400)
    assert answers() > before


def test_the_report_holds_the_prediction_against_what_it_took(taught: Server):
    ran(taught, seed=47, steps=2)
    prompt = two_experts(seed=48, steps=2)
    prompt["21"] = {"class_type": "ResidencyReport", "inputs": {"after": ["9", 0]}}
    run = taught.run(prompt)
    (text,) = taught.get_json(f"/history/{run.prompt_id}")[run.prompt_id]["outputs"]["21"]["text"]
    assert "Predicted: " in text and "from earlier runs of" in text
    settled(taught)


def test_the_trace_of_a_real_run_can_be_replayed(taught: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    trace = ran(taught, seed=56, steps=2)
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(trace))
    assert main(["replay", str(path), "--vram", "8GB", "--ram", "16GB", "--passes", "2", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["recorded"]["total_s"] == trace["duration_s"]
    computed_s = sum(compute_s(trace, one["node_id"]) for one in trace["nodes"])
    assert min(one["total_s"] for one in answer["policies"]) >= computed_s * 0.999


def test_a_prompt_that_fails_or_is_interrupted_teaches_nothing(taught: Server):
    ran(taught, seed=49)
    before = known(taught)
    broken = two_experts(seed=50)
    broken["9"]["inputs"]["samples"] = ["33", 0]
    video = {"width": 64, "height": 64, "length": 1, "batch_size": 1}
    broken["34"] = {"class_type": "EmptyHunyuanLatentVideo", "inputs": video}
    inputs = {"samples_to": ["8", 0], "samples_from": ["34", 0], "x": 0, "y": 0, "feather": 0}
    broken["33"] = {"class_type": "LatentComposite", "inputs": inputs}
    with pytest.raises(ServerError, match="failed"):
        taught.run(broken)
    settled(taught)
    assert known(taught) == before

    def interrupt() -> None:
        while True:
            trace = taught.get_json("/residency/trace")
            if trace["outcome"] == "running" and trace["nodes"] and trace["nodes"][-1]["node_id"] == "6":
                taught.post("/interrupt", {})
                return
            time.sleep(0.05)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    with pytest.raises(ServerError, match="interrupted"):
        taught.run(two_experts(seed=51, size=512, steps=200))
    thread.join()
    settled(taught)
    assert known(taught) == before


def test_off_writes_no_file_and_keeps_no_thread_and_one_prompt_that_is_off_teaches_nothing(
    comfyui: ComfyUI, models: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RESIDENCY_MODE", "off")
    with serve(comfyui, models, ["--cpu"]) as server:
        server.run(two_experts(seed=52))
        assert not database(server).parent.exists()
        assert server.get_json("/residency/status")["threads"] == []
        server.post("/residency/mode", {"mode": "auto"})
        server.run(two_experts(seed=53), mode("off"))
        settled(server)
        assert known(server)["tracks"] == 0
        ran(server, seed=54)
        taught = known(server)
        assert taught["tracks"] > 0
        server.post("/residency/mode", {"mode": "off"})
        server.run(two_experts(seed=55))
        assert known(server) == taught
