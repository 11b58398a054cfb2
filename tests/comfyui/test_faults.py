"""One fault at a time on a real server: the outcome is stock's, the log has one line, the next prompt is as ever, nothing is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from comfy_story import asking, drop_pages, forget, mode, pixels, two_experts, until
from faults import ASKED, DRIVE, FILES, INTERRUPTS, LIMITS, MEMORY, OURS, SHUTDOWNS, Fault, FileFault

from residency.installation.locate import ComfyUI
from residency.installation.server_process import Server, serve
from residency.settings.user import UserSettings
from residency.transfers import memory

PACKS = Path(__file__).with_name("packs")
PATHS = {
    "diffusion model": "diffusion_models/residency_expert_a.safetensors",
    "second diffusion model": "diffusion_models/residency_expert_b.safetensors",
    "VAE": "vae/residency_tae.safetensors",
}
OVERTAKEN = "its node has read the rest itself"  # a node quicker than the reading ahead of its file stops it
OTHER = {"diffusion model": "second diffusion model", "second diffusion model": "diffusion model", "VAE": "VAE"}
SEED = 77
ROOM_BYTES = 600 << 20  # beside what a server without models takes: the models are copied into the process
takes = count(1)


@pytest.fixture(scope="module")
def place(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder of which files may be broken."""
    return shutil.copytree(models, tmp_path_factory.mktemp("faults") / "models")


@pytest.fixture(scope="module")
def base(comfyui: ComfyUI, place: Path) -> Iterator[Server]:
    with serve(comfyui, place, ["--cpu"], others=[PACKS / "faults", PACKS / "files"]) as server:
        yield server


class Case:
    """A server in which something fails."""

    def __init__(self, server: Server, models: Path, place: Path) -> None:
        self.server, self.models, self.place = server, models, place

    def begin(self) -> None:
        """Nothing fails, each file is as it was, nothing is loaded, nothing cached."""
        self.server.post("/faults", {"fault": None})
        for name in PATHS.values():
            here, whole = self.place / name, self.models / name
            if not here.exists() or here.read_bytes() != whole.read_bytes():
                shutil.copy(whole, here)
        forget(self.server)
        drop_pages(self.place)

    def asked(self, prompt: dict[str, Any], **extra: Any) -> str:
        return str(json.loads(self.server.post("/prompt", {"prompt": prompt, "extra_data": extra}))["prompt_id"])

    def outcome(self, prompt_id: str) -> Any:
        """The pixels of its images, the node and type of its error, or that it was interrupted."""
        assert until(lambda: self.server.get_json(f"/history/{prompt_id}"))
        messages = self.server.get_json(f"/history/{prompt_id}")[prompt_id]["status"]["messages"]
        failed = [(data["node_type"], data["exception_type"]) for event, data in messages if event == "execution_error"]
        stopped = [event for event, _ in messages if event == "execution_interrupted"]
        return failed or stopped or [pixels(image) for image in self.server.images(prompt_id)]

    def log(self) -> list[str]:
        return self.server.log.read_text(encoding="utf-8", errors="replace").splitlines()

    def opened(self) -> list[str]:
        """The models' files that are open, and the pack's threads."""
        told = self.server.get_json("/faults/open")
        return [one for one in told["files"] if str(self.place) in one] + told["threads"]

    def next_prompt_is_as_ever(self, stock: Any) -> None:
        self.begin()
        prompt_id = self.asked(two_experts(SEED))
        assert self.outcome(prompt_id) == stock
        trace = self.server.get_json(f"/residency/trace?prompt_id={prompt_id}")
        assert trace["outcome"] == "success" and {node["node_id"] for node in trace["nodes"]} >= {"1", "6", "8", "9"}
        stopped = [one for one in trace["transfers"] if one["status"] != "done" and one["reason"] != OVERTAKEN]
        assert not stopped, json.dumps([stopped, trace["decisions"]], indent=1)
        assert until(lambda: not self.opened())
        status = self.server.get_json("/residency/status")
        assert status["installed"] and not status["failures"]


@pytest.fixture(scope="module")
def stock(base: Server, models: Path, place: Path) -> Any:
    """The image without the pack."""
    case = Case(base, models, place)
    case.begin()
    return case.outcome(case.asked(two_experts(SEED), **mode("off")))


@pytest.fixture
def case(base: Server, models: Path, place: Path, stock: Any) -> Case:
    case = Case(base, models, place)
    case.begin()
    return case


@pytest.mark.parametrize("fault", [*DRIVE, *MEMORY, *OURS], ids=lambda fault: fault.name)
def test_what_fails_in_the_pack_or_under_it_costs_time_and_one_line(case: Case, stock: Any, fault: Fault):
    mark = len(case.log())
    case.server.post("/faults", {"fault": fault.name})
    prompt = two_experts(SEED)
    prompt_id = case.asked(asking(prompt) if fault.name.endswith(ASKED) else prompt)
    assert case.outcome(prompt_id) == stock
    if not fault.abandons:
        assert case.server.get_json(f"/residency/trace?prompt_id={prompt_id}")["outcome"] == "success"
        assert not case.server.get_json("/residency/status")["failures"]
    assert until(lambda: not case.opened())
    new = case.log()[mark:]
    assert not fault.says or sum(fault.says in line for line in new) == 1, "\n".join(new)
    assert any("Traceback" in line for line in new) == fault.traced, "\n".join(new)
    case.next_prompt_is_as_ever(stock)


@pytest.mark.parametrize("threads", [1, 3])
def test_no_more_threads_read_than_the_setting_allows(case: Case, threads: int):
    case.server.post("/residency/settings", {"read_threads": threads})
    case.server.post("/faults", {"fault": "slow drive"})
    prompt_id = case.asked(two_experts(SEED))
    seen: set[int] = set()

    def ended() -> bool:
        seen.add(sum(name.startswith("residency-read") for name in case.opened()))
        return bool(case.server.get_json(f"/history/{prompt_id}"))

    assert until(ended)
    case.server.post("/residency/settings", UserSettings().as_dict())
    assert max(seen) == 1 if threads == 1 else 1 < max(seen) <= threads


@pytest.mark.parametrize("fault", FILES, ids=lambda fault: f"{fault.what} {fault.how}")
def test_what_happens_to_a_file_in_mid_prompt_comes_out_as_without_the_pack(case: Case, stock: Any, fault: FileFault):
    path, other = str(case.place / PATHS[fault.what]), str(case.models / PATHS[OTHER[fault.what]])
    inputs: dict[str, Any] = {"path": path, "how": fault.how, "other": other}

    def changing() -> dict[str, Any]:
        return two_experts(SEED) | {"99": {"class_type": "ChangeFile", "inputs": inputs | {"take": next(takes), "after": [fault.after, 0]}}}

    ours = case.asked(changing())
    told = case.outcome(ours)
    case.begin()
    assert told == case.outcome(case.asked(changing(), **mode("off")))
    assert case.server.get_json(f"/residency/trace?prompt_id={ours}")["outcome"] == ("success" if isinstance(told[0], bytes) else "error")
    case.next_prompt_is_as_ever(stock)


def nodes(case: Case, prompt_id: str) -> list[str]:
    """Those that have begun."""
    if case.server.get_json("/residency/status")["last_prompt_id"] != prompt_id:
        return []
    return [node["node_id"] for node in case.server.get_json("/residency/trace")["nodes"]]


@pytest.mark.parametrize("what", INTERRUPTS)
def test_whoever_stops_a_prompt_finds_nothing_going_on_behind_it(case: Case, stock: Any, what: str):
    if "ahead" in what:
        case.server.post("/faults", {"fault": "slow drive"})
    begun = "1" if "loaded" in what else "8" if "second" in what else "6"
    prompt = two_experts(SEED, size=512, steps=400)
    if begun == "8":
        prompt["6"]["inputs"]["steps"] = 1
    first = case.asked(prompt)
    behind = case.asked(two_experts(SEED + 1)) if "queue" in what else None  # deleted or cleared before its turn
    if "ahead" in what:
        assert until(lambda: any(name.startswith("residency-read") for name in case.opened()))
    else:
        assert until(lambda: begun in nodes(case, first))
    if behind is not None:
        case.server.post("/queue", {"delete": [behind]} if "deleted" in what else {"clear": True})
    if "switched off" in what:
        case.server.post("/residency/mode", {"mode": "off"})
    if "off and on" in what:
        case.server.post("/residency/mode", {"mode": "auto"})
    if "free" in what:
        case.server.post("/free", {"unload_models": True, "free_memory": True})
    case.server.post("/interrupt", {})
    assert case.outcome(first) == ["execution_interrupted"]
    assert behind is None or behind not in case.server.get_json("/history")
    assert until(lambda: case.server.get_json("/residency/trace")["outcome"] in ("interrupted", "abandoned"))
    case.server.post("/residency/mode", {"mode": "auto"})
    assert until(lambda: not case.opened())
    case.next_prompt_is_as_ever(stock)


@pytest.fixture(scope="module")
def limit() -> Iterator[Path | str]:
    """The file that limits the memory of a control group without processes; or why there is none."""
    own = memory.memory_groups()
    if not own:
        yield "this system has no control groups that limit memory"
        return
    group = Path(own[0].usage).parent / f"residency-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        yield f"this process may make no control group ({error})"
        return
    file = group / Path(own[0].limits[0]).name
    yield file if file.exists() else "a control group below this process's has no limit of its own"
    assert until(lambda: not (group / "cgroup.procs").read_text(encoding="ascii").strip())
    group.rmdir()


@pytest.fixture(scope="module")
def limited(comfyui: ComfyUI, place: Path, limit: Path | str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """In that control group, where there is one."""
    if isinstance(limit, Path):
        within = tmp_path_factory.mktemp("limited") / "python"
        within.write_text(f'#!/bin/sh\necho $$ > {limit.parent}/cgroup.procs\nexec {comfyui.python} "$@"\n', encoding="utf-8")
        within.chmod(0o755)
        comfyui = replace(comfyui, python=within)
    # a run in the background ignores Ctrl-C, and so would the server that it starts
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with serve(comfyui, place, ["--cpu"], others=[PACKS / "faults"]) as server:
            yield server
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("what", LIMITS)
def test_a_limit_that_is_lowered_is_seen_and_costs_nothing_but_time(
    limited: Server, models: Path, place: Path, stock: Any, limit: Path | str, what: str
):
    if isinstance(limit, str):
        pytest.skip(f"NO LIMIT WAS LOWERED: {limit}")
    before = limit.read_text(encoding="ascii").strip()
    case = Case(limited, models, place)
    case.begin()
    limited.post("/faults", {"fault": "slow drive"})
    prompt_id = case.asked(two_experts(SEED))
    assert until(lambda: any(name.startswith("residency-read") for name in case.opened()))
    rss_bytes = int(Path(f"/proc/{limited.process.pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    limit.write_text(str(rss_bytes + ROOM_BYTES), encoding="ascii")
    assert case.outcome(prompt_id) == stock
    assert limited.get_json("/residency/status")["budget"]["host_limit_bytes"] < ROOM_BYTES
    limit.write_text("max" if before == "max" else "-1", encoding="ascii")
    case.next_prompt_is_as_ever(stock)
    assert limited.get_json("/residency/status")["budget"]["host_limit_bytes"] > ROOM_BYTES


@pytest.mark.parametrize(("what", "by"), list(zip(SHUTDOWNS, (signal.SIGTERM, signal.SIGINT), strict=True)))
def test_a_server_that_is_ended_in_the_middle_of_a_read_is_gone(
    base: Server, limited: Server, models: Path, place: Path, what: str, by: int
):
    server = base if by == signal.SIGTERM else limited  # the last story of either
    Case(server, models, place).begin()
    server.post("/faults", {"fault": "slow drive"})
    server.post("/prompt", {"prompt": two_experts(SEED, size=512, steps=400)})
    assert until(lambda: any(name.startswith("residency-read") for name in server.get_json("/residency/status")["threads"]))
    before = len(server.tail(10_000))
    server.process.send_signal(by)
    server.process.wait(30)
    assert "Traceback" not in server.tail(10_000)[before:]
