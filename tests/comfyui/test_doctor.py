"""What a running server tells of itself for a bug report, and the line that it begins with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from comfy_story import two_experts

from residency.cli.main import main
from residency.installation.locate import ComfyUI
from residency.installation.server_process import Server, serve


def test_the_log_says_in_one_line_how_much_works_here(server: Server):
    said = [line for line in server.tail(1000).splitlines() if "reads ahead only, because ComfyUI computes on the CPU" in line]
    assert len(said) == 1
    assert server.get_json("/residency/status")["works"] == "reads ahead only, because ComfyUI computes on the CPU"


def test_a_pack_that_is_off_says_so_in_that_line_and_who_chose_it(comfyui: ComfyUI, models: Path):
    with serve(comfyui, models, ["--cpu"], environment={"RESIDENCY_MODE": "off"}) as server:
        assert "residency: off: mode off, chosen by" in server.tail(1000)


def test_the_doctor_tells_options_drives_features_and_how_each_model_was_placed(server: Server, capsys: pytest.CaptureFixture[str]):
    server.run(two_experts())
    told = server.get("/residency/doctor").decode()
    assert "a probe failed" not in told
    assert "--cpu" in told and "drives" in told and "prompt start and end" in told
    assert "residency_expert_a" in told.partition("models of the last prompt")[2]
    assert main(["doctor", "--url", server.url.rstrip("/")]) == 0
    assert "works here" in capsys.readouterr().out


def test_a_pack_that_changes_the_same_function_is_named(start: Callable[..., Server]):
    told = start(packs=("neighbour",)).get("/residency/doctor").decode().partition("other packs")[2]
    assert "neighbour" in told


def test_an_address_that_is_no_server_is_one_line_with_the_way_out(capsys: pytest.CaptureFixture[str]):
    assert main(["doctor", "--url", "http://127.0.0.1:9"]) == 2
    assert "leave --url out" in capsys.readouterr().err
