"""plan, simulate and replay as a user meets them: what they say of real workflow files, and one clear line for bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from comfy_story import two_experts
from PIL import Image
from test_simulate_exchange import CLASS_1

from residency.cli.machines import machine as described
from residency.cli.main import main
from residency.cli.plan import forecast
from residency.cli.replay import recorded_of
from residency.core.component import Mode
from residency.installation.locate import PACK
from residency.profiles import NodeKey, Profiles, node_keys
from residency.simulate import GB, GIB

WORKFLOW = str(PACK / "example_workflows" / "two_experts.json")
SIZES = {
    "residency_expert_a.safetensors": "23.8GB",
    "residency_expert_b.safetensors": "23.8 GB",
    "residency_clip_l.safetensors": 9_800_000_000,
    "residency_tae.safetensors": "0.2GB",
}
MACHINE = ["--vram", "24GB", "--ram", "64GB", "--disk", "1.65GB/s", "--link", "25GB/s"]

pytestmark = pytest.mark.usefixtures("no_comfyui")


@pytest.fixture
def sizes(tmp_path: Path) -> list[str]:
    (tmp_path / "sizes.json").write_text(json.dumps(SIZES))
    return ["--sizes", str(tmp_path / "sizes.json")]


@pytest.fixture
def api(tmp_path: Path) -> str:
    """The same models in API format."""
    (tmp_path / "api.json").write_text(json.dumps(two_experts(steps=20)))
    return str(tmp_path / "api.json")


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(said(capsys, *arguments, "--json"))
    return answer


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of an exit with status 2; nothing else is printed."""
    try:
        status: object = main(list(arguments))
    except SystemExit as left:  # argparse's own way
        status = left.code
    heard = capsys.readouterr()
    assert (status, heard.out) == (2, "")
    assert heard.err.count("\n") == 1 and heard.err.startswith("residency: ")
    return heard.err


# --- plan ---


def test_plan_tells_for_each_mode_how_long_where_it_waits_and_what_it_holds(capsys: pytest.CaptureFixture[str], sizes: list[str]) -> None:
    answer = told(capsys, "plan", WORKFLOW, *sizes, *MACHINE)
    assert [one["mode"] for one in answer["modes"]] == ["high-vram", "balanced", "low-vram", "off"]
    assert answer["missing"] == [] and sum(one["size_bytes"] for one in answer["components"]) == 57_600_000_000
    for one in answer["modes"]:
        assert one["first_stall_s"] == pytest.approx(sum(node["stall_s"] for node in one["nodes"]))
        assert one["first_s"] >= 57.6 / 1.65 - 0.1  # nothing reads faster than the drive
        assert 0 < one["peak_vram_bytes"] <= 24_000_000_000 and 0 < one["peak_ram_bytes"] <= 64_000_000_000
        assert one["trouble"].startswith("CLIPTextEncode")
    balanced, stock = answer["modes"][1], answer["modes"][3]
    assert balanced["first_s"] < stock["first_s"]
    text = said(capsys, "plan", WORKFLOW, *sizes, *MACHINE)
    assert "KSampler 7" in text and "off (stock)" in text and "Machine: 24 GB of VRAM, 64 GB of RAM, disk 1.65 GB/s" in text
    assert "Compute is unknown and counts as 0 s" in text


def test_a_model_larger_than_the_device_is_the_first_trouble_and_says_by_how_much(
    capsys: pytest.CaptureFixture[str], sizes: list[str], api: str
) -> None:
    small = ["--vram", "12GB", "--ram", "128GB", "--mode", "balanced"]
    (mode,) = told(capsys, "plan", api, *sizes, *small)["modes"]
    assert mode["mode"] == "balanced"
    # 23.8 GB beside half a gigabyte of overhead; the text encoder before it fits, and waits
    assert mode["trouble"].startswith("CLIPTextEncode 4 waits")
    tiny = ["--vram", "9GB", "--ram", "128GB", "--mode", "balanced"]
    (mode,) = told(capsys, "plan", api, *sizes, *tiny)["modes"]
    assert mode["trouble"] == "CLIPTextEncode 4: 1.3 GB of residency_clip_l do not fit the device and cross the link again"


def test_the_editors_file_and_the_api_prompt_of_the_same_models_read_the_same_bytes(
    capsys: pytest.CaptureFixture[str], sizes: list[str], api: str
) -> None:
    editor, prompt = (told(capsys, "plan", path, *sizes, *MACHINE) for path in (WORKFLOW, api))
    assert {one["name"]: one["size_bytes"] for one in editor["components"]} == {
        one["name"]: one["size_bytes"] for one in prompt["components"]
    }


def test_seconds_that_earlier_runs_took_count_and_those_nobody_knows_are_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, sizes: list[str], api: str
) -> None:
    timeline = told(capsys, "plan", api, *sizes, *MACHINE)
    used: dict[str, list[str]] = {}
    for visit in timeline["visits"]:
        used[visit["node_id"]] = [use["component"] for use in visit["uses"]]
    keys: dict[str, NodeKey] = node_keys(two_experts(steps=20), "ComfyUI 0", used)
    node = {"start_s": 0.0, "end_s": 30.0, "stall_s": 0.0, "loads": [], "computes": [], "node_id": "6"}
    trace = {"prompt_id": "p", "outcome": "success", "nodes": [node], "components": [], "dropped_records": 0}
    profiles = Profiles.open(tmp_path / "profiles.sqlite3")
    profiles.observe(trace, keys)
    profiles.close()
    database = ["--database", str(tmp_path / "profiles.sqlite3")]
    answer = told(capsys, "plan", api, *sizes, *MACHINE, *database, "--mode", "off")
    computed = {one["node_id"]: one["compute_s"] for one in answer["modes"][0]["nodes"]}
    assert computed["6"] == pytest.approx(30.0) and computed["4"] == 0.0
    # node 8 is a sampler too: of its class a run is known
    assert computed["8"] == pytest.approx(30.0)
    assert answer["compute_unknown_nodes"] == len(computed) - 2
    assert "Compute is known of 2 of 10 nodes" in said(capsys, "plan", api, *sizes, *MACHINE, *database)


def test_pictures_of_what_was_simulated_are_written_and_named(capsys: pytest.CaptureFixture[str], tmp_path: Path, sizes: list[str]) -> None:
    png, html = tmp_path / "plan.png", tmp_path / "plan.html"
    text = said(capsys, "plan", WORKFLOW, *sizes, *MACHINE, "--png", str(png), "--html", str(html))
    assert str(png) in text and str(html) in text
    assert Image.open(png).width > 500
    page = html.read_text(encoding="utf-8")
    assert page.count("<svg") == 4 and "residency_expert_a" in page


def test_a_graph_that_would_keep_plan_busy_for_ever_is_refused_in_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, sizes: list[str]
) -> None:
    links = {f"image{i}": ["1", 0] for i in range(60_000)}
    prompt = {"1": {"class_type": "EmptyImage", "inputs": {}}, "2": {"class_type": "PreviewImage", "inputs": links}}
    path = tmp_path / "knot.json"
    path.write_text(json.dumps(prompt))
    line = refused(capsys, "plan", str(path), *sizes)
    assert "knot.json" in line and "operations, more than it may" in line


def test_our_own_nodes_are_planned_like_those_they_wrap(capsys: pytest.CaptureFixture[str], tmp_path: Path, sizes: list[str]) -> None:
    prompt = two_experts()
    for node_id in ("1", "2", "3", "6", "7", "8"):
        prompt[node_id]["class_type"] = "Residency" + prompt[node_id]["class_type"]
    (tmp_path / "ours.json").write_text(json.dumps(prompt))
    answer = told(capsys, "plan", str(tmp_path / "ours.json"), *sizes, *MACHINE)
    assert answer["warnings"] == [] and len(answer["components"]) == 4


# --- simulate ---


def test_simulate_compares_the_policies_over_a_queue_of_workflows(capsys: pytest.CaptureFixture[str], sizes: list[str], api: str) -> None:
    answer = told(capsys, "simulate", WORKFLOW, api, *sizes, *MACHINE)
    found = {one["policy"]: one for one in answer["policies"]}
    assert list(found) == ["stock", "lru", "mru", "ours"]
    for one in found.values():
        assert len(one["prompts_s"]) == 2 and sum(one["prompts_s"]) == pytest.approx(one["total_s"])
        assert one["total_s"] >= answer["bound_s"] * 0.999
    assert found["ours"]["total_s"] <= found["stock"]["total_s"] * 1.01
    text = said(capsys, "simulate", WORKFLOW, api, *sizes, *MACHINE)
    assert [line.split()[0] for line in text.splitlines()[-5:]] == ["stock", "lru", "mru", "ours", "bound"]


def test_simulate_without_a_workflow_still_shows_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert "S1-24" in said(capsys, "simulate")


# --- replay ---


def recorded(**changes: Any) -> dict[str, Any]:
    """A run of two experts of 20 GB: the second was read ahead at 2 GB/s while the first computed."""
    parts = [{"key": key, "name": f"expert {key}", "kind": "MODEL", "size_bytes": 20 * 10**9} for key in "ab"]
    transfer = {
        "component": "b", "tier": "host", "start_s": 2.0, "end_s": 12.0, "moved_bytes": 20 * 10**9, "present_bytes": 20 * 10**9,
        "status": "done", "reason": "next",
    }  # fmt: skip
    nodes = [
        {"node_id": "1", "class_type": "KSampler", "start_s": 0.0, "end_s": 25.0, "stall_s": 15.0, "loads": [], "computes": ["a"]},
        {"node_id": "2", "class_type": "KSampler", "start_s": 25.0, "end_s": 36.0, "stall_s": 1.0, "loads": [], "computes": ["b"]},
    ]
    summary = {"compute_s": 20.0, "stall_s": 16.0, "wait_s": 0.0, "prefetched_bytes": 20 * 10**9, "wasted_bytes": 0, "nodes": 2}
    trace = {
        "version": 1, "prompt_id": "p", "mode": "balanced", "mode_reason": "", "outcome": "success", "started_unix_s": 0.0,
        "duration_s": 36.0, "components": parts, "nodes": nodes, "transfers": [transfer], "evictions": [], "decisions": [],
        "dropped_records": 0, "summary": summary,
    }  # fmt: skip
    return trace | changes


def saved(tmp_path: Path, trace: object) -> str:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(trace))
    return str(path)


def test_replay_tells_what_the_same_run_takes_on_another_machine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = saved(tmp_path, recorded())
    ample = told(capsys, "replay", path, "--vram", "48GB", "--ram", "128GB")
    assert ample["recorded"] == {"total_s": 36.0, "stall_s": 16.0}
    assert "disk 2 GB/s (as this trace read)" in ample["machine"]
    found = {one["policy"]: one["total_s"] for one in ample["policies"]}
    assert found["ours"] <= found["stock"] and min(found.values()) >= 20.0  # it computes as long as it did
    slow = told(capsys, "replay", path, "--vram", "48GB", "--ram", "128GB", "--disk", "500MB/s")
    assert min(one["total_s"] for one in slow["policies"]) > max(found.values())
    text = said(capsys, "replay", path, "--vram", "48GB", "--ram", "32GB", "--policy", "ours")
    assert "recorded" in text and "it took 36.0 s" in text and "stock" not in text


def test_replay_goes_over_the_weights_as_often_as_the_trace_tells_steps(tmp_path: Path) -> None:
    """And takes neither what was waited for nor what the pack or a loader took for compute."""
    trace = recorded()
    trace["nodes"][0] |= {"own_s": 0.5, "unsplit_s": 1.5, "steps": [[15.0, 15.0, 1], [8.0, 0.0, 7]]}
    (steps,) = recorded_of(trace, 20, "t").program.prompts
    assert [(step.passes, step.compute_s) for step in steps] == [(8, 8.0), (20, 10.0)]


def test_replay_draws_the_recorded_run_above_the_others(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "replay.html"
    said(capsys, "replay", saved(tmp_path, recorded()), "--html", str(page), "--policy", "stock", "--ram", "64GB")
    written = page.read_text(encoding="utf-8")
    assert written.index("recorded") < written.index("stock") and written.count("<svg") == 2


# --- bad input ---


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--vram", "24"], ["--vram", "'24'", "24GB"]),
        (["--vram", "-3GB"], ["--vram", "'-3GB'", "negative"]),
        (["--ram", "lots"], ["--ram", "'lots'", "8GiB"]),
        (["--ram", "0GB"], ["--ram", "64GB"]),
        (["--disk", "3GB"], ["--disk", "'3GB'", "1.5GB/s"]),
        (["--link", "0GB/s"], ["--link", "'0GB/s'"]),
        (["--mode", "turbo"], ["--mode", "'turbo'", "balanced", "--help"]),
        (["--png", "nowhere/plan.png"], ["nowhere", "No such file"]),
        (["--sizes", "nowhere.json"], ["nowhere.json", "sizes"]),
    ],
)
def test_an_option_that_cannot_be_used_is_named_with_its_value_and_the_way_out(
    capsys: pytest.CaptureFixture[str], sizes: list[str], arguments: list[str], names: list[str]
) -> None:
    line = refused(capsys, "plan", WORKFLOW, *sizes, *arguments)
    assert [name for name in names if name not in line] == []


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("{", ["not JSON"]),
        ("[1]", ["list", "9.8GB"]),
        ('{"a.safetensors": "big"}', ["a.safetensors", "'big'"]),
        ('{"a.safetensors": -5}', ["a.safetensors", "negative"]),
        ('{"a.safetensors": true}', ["a.safetensors", "True"]),
        ('{"other.safetensors": 5}', ["other.safetensors", "named by no workflow"]),
    ],
)
def test_sizes_that_cannot_be_used_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str, names: list[str]) -> None:
    path = tmp_path / "sizes.json"
    path.write_text(content)
    line = refused(capsys, "plan", WORKFLOW, "--sizes", str(path))
    assert [name for name in [*names, "sizes.json"] if name not in line] == []


def test_an_unknown_class_is_named_and_guess_goes_on(capsys: pytest.CaptureFixture[str], tmp_path: Path, sizes: list[str]) -> None:
    prompt = two_experts()
    prompt["5"]["class_type"] = "NobodysLatent"
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(prompt))
    for command in ("plan", "simulate"):
        line = refused(capsys, command, str(path), *sizes)
        assert "odd.json" in line and "node 5" in line and "'NobodysLatent'" in line and "--guess" in line
    assert "NobodysLatent" in said(capsys, "plan", str(path), *sizes, "--guess", "--ram", "64GB")


@pytest.mark.parametrize("command", ["plan", "simulate", "replay"])
@pytest.mark.parametrize("content", [None, "{", "[]", "{}", "\x00", '{"traceEvents": []}'])
def test_a_file_that_is_none_of_ours_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str, content: str | None
) -> None:
    path = tmp_path / "odd.json"
    if content is not None:
        path.write_text(content)
    assert "odd.json" in refused(capsys, command, str(path))


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2}, {"nodes": None}, {"nodes": [{}]}, {"nodes": [3]}, {"components": [{"key": "a"}]}, {"summary": {}},
        {"duration_s": "long"}, {"transfers": [{"tier": "host"}]}, {"components": []},
    ],
)  # fmt: skip
def test_a_trace_that_was_edited_into_nonsense_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, changes: dict[str, Any]
) -> None:
    assert "trace.json" in refused(capsys, "replay", saved(tmp_path, recorded(**changes)))


def test_profiles_are_on_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "nothing learned yet" in said(capsys, "profiles", "--database", str(tmp_path / "none.sqlite3"))
    assert "--database" in refused(capsys, "profiles")


def test_a_plan_foretells_a_warm_prompt_where_memory_is_short_within_twenty_percent_of_what_was_measured():
    """C1 of docs/benchmarks.md: stock 25.1 s, with the pack 11.5. Without exchanges the plan told 18.9 s of either."""
    program, measured_on = CLASS_1
    machine = described(12 * GIB, 32 * GB, measured_on.drives[0].read_bytes_per_s, measured_on.pinned_bytes_per_s)
    again_s = forecast(Mode.BALANCED, replace(program, prompts=program.prompts[:2]), machine).outcome.prompts_s[1]
    assert again_s == pytest.approx(11.5, rel=0.2)
