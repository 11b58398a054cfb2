"""What a fleet asks of a worker, on a real server: what is warm, what a prompt would take, and that weights be read now."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from comfy_story import forget, two_experts, until, without_models

from residency.installation.locate import ComfyUI
from residency.installation.server_process import Server, ServerError, serve
from residency.transfers.pagecache import drop_files, not_cached_bytes
from residency.weights.content import content_of

EXPERT = "residency_expert_a.safetensors"
HEADER_BYTES = 1 << 16  # of a prompt's files the tensors are read, not what describes them


def ended(server: Server, seconds: float = 30.0) -> dict[str, Any]:
    """The last request to be warm, once nothing is read for it any more."""
    until_s = time.monotonic() + seconds
    while not (state := server.get_json("/residency/state"))["ready"] and time.monotonic() < until_s:
        time.sleep(0.05)
    return state["warming"]


def path_of(models: Path, name: str) -> Path:
    return next(models.rglob(name)).resolve()


def test_after_a_prompt_the_state_names_its_weights_by_content(server: Server, models: Path):
    server.run(two_experts(seed=41))
    state = server.get_json("/residency/state")
    (expert,) = [one for one in state["files"] if one["identity"] == content_of(str(path_of(models, EXPERT)))]
    # another story has read it through a link of another name: one content has the name that was read first
    assert expert["name"] in {path.name for path in models.rglob("*") if path.is_file() and content_of(str(path)) == expert["identity"]}
    assert expert["size_bytes"] == expert["local_bytes"] == path_of(models, EXPERT).stat().st_size
    assert expert["network_bytes"] == 0
    assert {"MODEL", "CLIP", "VAE"} <= {one["kind"] for one in state["components"]}
    assert state["queue"] == {"running": [], "pending": []}
    assert state["ready"] and state["installed"]
    assert state["exchanges"] is False  # without a GPU there is nothing to exchange with
    assert str(models) not in json.dumps(state)


def test_an_estimate_says_what_would_come_from_where(server: Server, models: Path):
    server.run(two_experts(seed=42))
    forget(server)
    files = list(models.rglob("*.safetensors"))
    drop_files(path.resolve() for path in files)
    cold = json.loads(server.post("/residency/estimate", {"prompt": two_experts(seed=43)}))
    assert [step["class_type"] for step in cold["steps"] if step["components"]] == ["CLIPTextEncode", "KSampler", "KSampler", "VAEDecode"]
    assert sum(cold["bytes_from"].values()) == sum(one["size_bytes"] for one in cold["components"].values())
    assert cold["total_s"] >= cold["first_step_s"] > 0
    if not_cached_bytes([path_of(models, EXPERT)]):
        assert cold["read_bytes"] == cold["bytes_from"]["disk"] > 0

        def estimated() -> dict[str, Any] | None:
            for path in files:
                path.resolve().read_bytes()
            told: dict[str, Any] = json.loads(server.post("/residency/estimate", {"prompt": two_experts(seed=43)}))
            return told if told["read_bytes"] == told["bytes_from"]["disk"] == 0 else None

        warm = until(estimated)  # stories beside this one drop the same files' pages
        assert warm is not None
        assert "all is warm" in warm["why"]


def test_what_the_last_prompt_has_run_alike_takes_no_time(start: Callable[..., Server]):
    server = start()
    server.run(two_experts(seed=61))
    told = json.loads(server.post("/residency/estimate", {"prompt": two_experts(seed=62)}))
    again = json.loads(server.post("/residency/estimate", {"prompt": two_experts(seed=61)}))
    loaders = [step["class_type"] for step in told["steps"] if step["cached"]]
    assert {"UNETLoader", "CLIPLoader", "VAELoader"} <= {*loaders} and not {"KSampler", "VAEDecode", "SaveImage"} & {*loaders}
    assert all(step["cached"] for step in again["steps"]) and again["total_s"] == again["compute_unknown_nodes"] == 0
    nothing_stays = start("--cache-none")
    nothing_stays.run(two_experts(seed=61))
    told = json.loads(nothing_stays.post("/residency/estimate", {"prompt": two_experts(seed=61)}))
    assert not any(step["cached"] for step in told["steps"])


def test_the_names_are_those_of_another_server(start: Callable[..., Server]):
    prompt = {"prompt": two_experts(seed=44)}
    one, other = (json.loads(server.post("/residency/estimate", prompt)) for server in (start(), start("--cache-none")))
    assert one["components"].keys() == other["components"].keys() != set()


def test_what_is_asked_for_is_read(server: Server, models: Path):
    path = path_of(models, EXPERT)
    drop_files([path])
    asked = json.loads(server.post("/residency/warm", {"files": [content_of(str(path))]}))
    assert asked["asked_bytes"] == path.stat().st_size
    assert ended(server)["state"] == "done"
    assert not not_cached_bytes([path])
    drop_files([path])
    server.post("/residency/warm", {"prompt": two_experts(seed=45)})
    assert ended(server)["state"] == "done"
    assert (not_cached_bytes([path]) or 0) <= HEADER_BYTES


def test_no_more_is_read_than_the_budget_allows(server: Server, models: Path):
    path = path_of(models, EXPERT)
    drop_files([path])
    if not not_cached_bytes([path]):
        pytest.skip("this system does not drop files from its cache")
    server.post("/residency/settings", {"ram_budget_gib": 0.005})
    try:
        asked = json.loads(server.post("/residency/warm", {"files": [content_of(str(path))]}))
        assert 0 < asked["asked_bytes"] <= int(0.005 * 2**30)
        assert asked["left_out_bytes"] == path.stat().st_size - asked["asked_bytes"]
    finally:
        ended(server)
        server.post("/residency/settings", {"ram_budget_gib": 0})


def test_a_prompt_comes_before_what_is_asked_to_be_warm(server: Server):
    slow = two_experts(seed=46, size=256, steps=12)
    client = json.loads(server.post("/prompt", {"prompt": slow}))
    with pytest.raises(ServerError, match=r"409: .*a prompt runs or is queued"):
        server.post("/residency/warm", {"prompt": slow})
    pending = server.get_json("/residency/state")["queue"]
    assert client["prompt_id"] in [*pending["running"], *(one["prompt_id"] for one in pending["pending"])]
    until_s = time.monotonic() + 120
    while client["prompt_id"] not in server.get_json("/history") and time.monotonic() < until_s:
        time.sleep(0.1)
    assert client["prompt_id"] in server.get_json("/history")


@pytest.mark.parametrize(
    ("route", "body", "said"),
    [
        ("estimate", {}, r"400: .*the body must be JSON like"),
        ("estimate", {"prompt": {"1": "no node"}}, r"400: .*the body must be JSON like"),
        ("warm", {"files": ["/etc/passwd"]}, r"400: .*no file of the model folders is '/etc/passwd'"),
        ("warm", {"files": []}, r"400: .*send 1 to 256 identities"),
        ("warm", {"files": [1]}, r"400: .*send 1 to 256 identities"),
        ("warm", {"cancel": 1}, r"400: .*cancel is 1; say true"),
        ("warm", {"cancel": True, "files": ["a"]}, r"400: .*with one of"),
        ("warm", {"prompt": without_models()}, r"400: .*nothing of the prompt can be read"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_a_line(route: str, body: dict[str, Any], said: str, server: Server):
    with pytest.raises(ServerError, match=said):
        server.post(f"/residency/{route}", body)


def test_a_prompt_of_classes_that_are_not_here_is_estimated_as_far_as_it_goes(server: Server):
    told = json.loads(server.post("/residency/estimate", {"prompt": {"1": {"class_type": "NowhereLoader", "inputs": {}}}}))
    assert told["warnings"] == ["node 1: the class NowhereLoader is not installed"]
    assert told["total_s"] == 0


def test_a_file_that_cannot_be_used_is_named_and_its_folder_is_not(server: Server, models: Path):
    broken = models / "diffusion_models" / "broken.safetensors"
    broken.write_bytes(b"short")
    loader = {"class_type": "UNETLoader", "inputs": {"unet_name": "broken.safetensors", "weight_dtype": "default"}}
    try:
        (warning,) = json.loads(server.post("/residency/estimate", {"prompt": {"1": loader}}))["warnings"]
        assert warning.startswith("UNETLoader: broken.safetensors: 5 bytes is too short")
        with pytest.raises(ServerError, match=r"can be read: UNETLoader: broken.safetensors: 5 bytes [^;]*; download it again, and 2 more"):
            server.post("/residency/warm", {"prompt": {"1": loader, "2": {"class_type": "No", "inputs": {}}, "3": loader}})
    finally:
        broken.unlink()


def test_a_read_that_fails_is_told_without_the_files_folder(start: Callable[..., Server], models: Path):
    server, path = start(packs=("faults",)), path_of(models, EXPERT)
    drop_files([path])
    if not not_cached_bytes([path]):
        pytest.skip("this system does not drop files from its cache")
    server.post("/faults", {"fault": "thread ended"})
    try:
        server.post("/residency/warm", {"files": [content_of(str(path))]})
        told = ended(server)
    finally:
        server.post("/faults", {"fault": None})
    assert (told["state"], told["reason"]) == ("stopped", f"{path.name}: SystemExit: a thread is ended from outside")
    assert str(models) not in json.dumps(server.get_json("/residency/state"))


def test_off_reads_nothing(server: Server):
    server.post("/residency/mode", {"mode": "off"})
    with pytest.raises(ServerError, match=r"409: .*nothing is read ahead: .*choose a mode"):
        server.post("/residency/warm", {"prompt": two_experts(seed=47)})
    assert json.loads(server.post("/residency/warm", {"cancel": True}))["state"] in ("idle", "done", "stopped")


@contextmanager
def copied(models: Path, folder: Path) -> Iterator[Path]:
    """The models again, in files that nobody has read."""
    shutil.copytree(models, folder)
    drop_files(folder.rglob("*.safetensors"))
    yield folder


def test_at_the_start_a_workflow_is_warm_before_the_server_says_that_it_is_ready(comfyui: ComfyUI, models: Path, tmp_path: Path):
    workflow = tmp_path / "workflow.json"
    workflow.write_text(json.dumps(two_experts(seed=48)))
    with (
        copied(models, tmp_path / "models") as own,
        serve(comfyui, own, ["--cpu"], environment={"RESIDENCY_WARM": str(workflow)}) as server,
    ):
        assert ended(server)["state"] == "done"
        assert server.get_json("/residency/ready")["ready"]
        assert (not_cached_bytes([path_of(own, EXPERT)]) or 0) <= HEADER_BYTES


def test_a_start_that_cannot_be_warm_is_a_start(comfyui: ComfyUI, models: Path, tmp_path: Path):
    with serve(comfyui, models, ["--cpu"], environment={"RESIDENCY_WARM": str(tmp_path / "none.json")}) as server:
        told = ended(server)
        assert told["state"] == "stopped" and "RESIDENCY_WARM=none.json: " in told["reason"] and str(tmp_path) not in told["reason"]
        assert server.get_json("/residency/ready")["ready"]
        assert "nothing is read for it" in server.tail(1000)


def test_a_workflow_in_the_editors_format_is_told_how_to_be_saved(comfyui: ComfyUI, models: Path, tmp_path: Path):
    (tmp_path / "editor.json").write_text(json.dumps({"nodes": [], "links": [], "version": 0.4}))
    with serve(comfyui, models, ["--cpu"], environment={"RESIDENCY_WARM": str(tmp_path / "editor.json")}) as server:
        assert "File > Export (API)" in ended(server)["reason"]
