"""The user's settings on a real server: taken, refused, enacted, and there again after a restart without a browser."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from comfy_story import running_node, two_experts, wait

from residency.installation.locate import ComfyUI
from residency.installation.server_process import Server, ServerError, serve
from residency.settings.user import UserSettings


@pytest.fixture
def settled(start: Callable[..., Server]) -> Server:
    server = start()
    server.post("/residency/settings", UserSettings().as_dict())
    return server


def line_count(server: Server, words: str) -> int:
    return server.tail(10_000).count(words)


def wait_for(told: Callable[[], bool], seconds: float = 30) -> bool:
    deadline_s = time.monotonic() + seconds
    while not told() and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return told()


def test_what_is_accepted_is_told_again_and_what_is_not_sent_stays(settled: Server):
    settled.post("/residency/settings", {"queue_depth": 5})
    answer = json.loads(settled.post("/residency/settings", {"mode": "low-vram", "idle_release_min": 7.5}))
    assert settled.get_json("/residency/settings") == answer
    assert (answer["queue_depth"], answer["idle_release_min"]) == (5, 7.5)
    assert settled.get_json("/residency/status")["mode"] == "low-vram"
    settled.post("/residency/settings", UserSettings().as_dict())
    assert settled.get_json("/residency/status")["mode"] == "auto"


def test_a_refusal_is_one_line_and_changes_nothing(settled: Server):
    before = settled.get_json("/residency/settings")
    with pytest.raises(ServerError, match=r"400: .*read_threads is 99; choose a whole number from 0 to 64"):
        settled.post("/residency/settings", {"mode": "off", "read_threads": 99})
    assert settled.get_json("/residency/settings") == before
    assert settled.get_json("/residency/status")["mode"] == "auto"


def test_a_mode_chosen_in_the_panel_is_a_setting(settled: Server):
    settled.post("/residency/mode", {"mode": "off"})
    assert settled.get_json("/residency/settings")["mode"] == "off"
    assert not settled.get_json("/residency/status")["installed"]
    settled.post("/residency/settings", UserSettings().as_dict())
    assert settled.get_json("/residency/status")["installed"]


def test_the_ram_budget_bounds_what_is_read_ahead(settled: Server):
    settled.post("/residency/settings", {"ram_budget_gib": 0.01, "read_threads": 2})
    settled.run(two_experts(seed=31))
    assert settled.get_json("/residency/status")["budget"]["host_limit_bytes"] == int(0.01 * 2**30)
    settled.post("/residency/settings", UserSettings().as_dict())
    settled.run(two_experts(seed=32))
    assert settled.get_json("/residency/status")["budget"]["host_limit_bytes"] > int(0.01 * 2**30)


@pytest.mark.parametrize("depth", [0, 1])
def test_the_queue_depth_says_how_many_prompts_behind_are_looked_at(settled: Server, depth: int):
    settled.post("/residency/settings", {"queue_depth": depth})
    first, behind = two_experts(seed=37, size=512, steps=400), two_experts(seed=38 + depth)
    for node_id in ("7", "8"):
        del first[node_id]  # a alone
    first["9"]["inputs"]["samples"] = ["6", 0]
    prompt_id = json.loads(settled.post("/prompt", {"prompt": first}))["prompt_id"]
    settled.post("/prompt", {"prompt": behind})
    wait(lambda: running_node(settled) == "6")

    def known() -> set[str]:
        return {one["name"] for one in settled.get_json(f"/residency/trace?prompt_id={prompt_id}")["components"]}

    if depth:
        wait(lambda: "residency_expert_b" in known())
    settled.post("/interrupt", {})
    wait(lambda: settled.get_json("/prompt")["exec_info"]["queue_remaining"] == 0)
    assert ("residency_expert_b" in known()) == bool(depth)
    settled.post("/residency/settings", UserSettings().as_dict())


def test_the_console_line_is_written_only_when_it_is_wanted(settled: Server):
    settled.run(two_experts(seed=33))
    written = line_count(settled, "Residency: ")
    settled.post("/residency/settings", {"console_line": False})
    settled.run(two_experts(seed=34))
    assert written > 0 and line_count(settled, "Residency: ") == written
    settled.post("/residency/settings", UserSettings().as_dict())


def test_models_leave_when_nothing_has_run_for_a_while_and_the_next_prompt_runs(settled: Server):
    settled.post("/residency/settings", {"idle_release_min": 0.02})
    settled.run(two_experts(seed=35))
    assert wait_for(lambda: line_count(settled, "models leave the device") >= 1)
    assert settled.get_json("/residency/status")["threads"] == []
    settled.post("/residency/settings", {"idle_release_min": 0})
    left = line_count(settled, "models leave the device")
    assert len(settled.run(two_experts(seed=36)).images) == 1
    assert not wait_for(lambda: line_count(settled, "models leave the device") > left, seconds=3)


def test_settings_hold_after_a_restart_and_a_broken_file_does_not(comfyui: ComfyUI, models: Path, tmp_path: Path, settled: Server):
    user = tmp_path / "user"
    user.mkdir()
    arguments = ["--cpu", "--user-directory", str(user)]
    settled.post("/residency/settings", {"mode": "balanced", "queue_depth": 1})
    kept = user / "residency" / "settings.json"
    kept.parent.mkdir()
    shutil.copy(settled.log.parent / "user" / "residency" / "settings.json", kept)
    settled.post("/residency/settings", UserSettings().as_dict())
    with serve(comfyui, models, arguments) as server:
        assert server.get_json("/residency/status")["mode"] == "balanced"
        assert server.get_json("/residency/settings")["queue_depth"] == 1
    kept.write_text(kept.read_text()[:-20])
    with serve(comfyui, models, arguments) as server:
        assert server.get_json("/residency/settings") == UserSettings().as_dict()
        assert "settings.json are left aside" in server.tail(10_000)
