"""A fleet of three real servers on Ray: its pictures are a single server's, its messages their owner's, and a worker may die.

Marked `fleet`: needs Ray beside ComfyUI.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import websocket
from comfy_story import two_experts, without_models

from residency.fleet.cluster import SCRATCH_PREFIX
from residency.installation.locate import PACK, ComfyUI
from residency.installation.server_process import Server

pytestmark = [
    pytest.mark.fleet,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="NO FLEET WAS TESTED: Ray is not here; pip install 'residency[fleet]'"
    ),
]
WORKERS = 3


@dataclass
class Fleet:
    """A fleet that runs, and the folder of what it keeps."""

    port: int
    process: subprocess.Popen[str]
    environment: dict[str, str]
    folder: Path

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return answer.read()

    def json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Any:
        headers = {"Content-Type": "application/json", **(headers or {})}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"null")

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "residency", "fleet", *arguments, "--port", str(self.port)]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=120)

    def ended(self, prompt_id: str, seconds: float = 120.0) -> dict[str, Any]:
        """Its history, once there is one."""
        until_s = time.monotonic() + seconds
        while not (found := self.json(f"/history/{prompt_id}")) and time.monotonic() < until_s:
            time.sleep(0.2)
        return found[prompt_id]

    def images(self, told: dict[str, Any]) -> list[bytes]:
        shown = [image for node_id in sorted(told["outputs"]) for image in told["outputs"][node_id]["images"]]
        return [self.get("/view?" + urllib.parse.urlencode(image)) for image in shown]

    def servers(self) -> dict[str, psutil.Process]:
        """ComfyUI's processes by worker, told by where each listens."""
        ports = {one["name"]: urllib.parse.urlsplit(one["url"] or "").port for one in self.json("/residency/fleet")["workers"]}
        return {
            name: one
            for name, port in ports.items()
            for one in own_processes()
            if "main.py" in (args := one.cmdline()) and str(port) in args
        }


class Client:
    """A plain websocket client."""

    def __init__(self, fleet: Fleet) -> None:
        self.id = uuid.uuid4().hex
        self.fleet = fleet
        self.socket = websocket.create_connection(f"ws://127.0.0.1:{fleet.port}/ws?clientId={self.id}", timeout=120)
        self.heard: list[dict[str, Any]] = []

    def queue(self, prompt: dict[str, Any]) -> str:
        return self.fleet.post("/prompt", {"prompt": prompt, "client_id": self.id})["prompt_id"]

    def listen(self, until: Callable[[dict[str, Any]], bool]) -> None:
        while True:
            told = self.socket.recv()
            if isinstance(told, str):
                self.heard.append(json.loads(told))
                if until(self.heard[-1]):
                    return

    def prompts_heard_of(self) -> set[str]:
        return {one["data"]["prompt_id"] for one in self.heard if "prompt_id" in one["data"]}


def own_processes() -> list[psutil.Process]:
    """Everything that a fleet of this test has started, told by its folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if SCRATCH_PREFIX in process.environ().get("TMPDIR", "") and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def started(comfyui: ComfyUI, models: Path, folder: Path, *arguments: str) -> Fleet:
    port = free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": str(PACK),
        "COMFYUI_PATH": str(comfyui.path),
        "COMFYUI_PYTHON": str(comfyui.python),
        "RESIDENCY_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "residency", "fleet", "up", "--cpu", "--workers", str(WORKERS), "--port", str(port)]
    command += ["--models-directory", str(models), "--folder", str(folder / "kept"), *arguments]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder)
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if "workers behind" in line:
            return Fleet(port, process, environment, folder / "kept")
    raise AssertionError("".join(said))


@pytest.fixture(scope="module")
def fleet(comfyui: ComfyUI, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = started(comfyui, models, tmp_path_factory.mktemp("fleet"))
    yield fleet
    fleet.command("down")
    fleet.process.wait(60)


def test_pictures_are_those_of_one_server_and_messages_their_owners(fleet: Fleet, server: Server):
    clients = [Client(fleet), Client(fleet)]
    mine: list[dict[str, int]] = [{}, {}]
    for seed in range(6):
        number = seed % 2
        mine[number][clients[number].queue(two_experts(seed=100 + seed))] = 100 + seed
    for client, own in zip(clients, mine, strict=True):
        left = set(own)

        def is_last(told: dict[str, Any], left: set[str] = left) -> bool:
            if told["type"] == "execution_success":
                left.discard(told["data"]["prompt_id"])
            return not left

        client.listen(is_last)
        client.listen(lambda told: told["type"] == "status" and not told["data"]["status"]["exec_info"]["queue_remaining"])
        assert client.prompts_heard_of() == set(own)
        assert client.heard[0]["type"] == "status" and client.heard[0]["data"]["sid"] == client.id
    for own in mine:
        for prompt_id, seed in own.items():
            assert fleet.images(fleet.ended(prompt_id)) == list(server.run(two_experts(seed=seed)).images)
    decided = {one["prompt_id"]: one for one in fleet.json("/residency/fleet")["decisions"]}
    assert set(mine[0]) | set(mine[1]) <= decided.keys()
    assert all(one["reason"] and one["runners_up"] for one in decided.values())


def test_the_door_answers_as_comfyui_does(fleet: Fleet, server: Server):
    for prefix in ("", "/api"):
        assert fleet.json(f"{prefix}/object_info").keys() == server.get_json("/object_info").keys()
        assert fleet.json(f"{prefix}/queue").keys() == {"queue_running", "queue_pending"}
        assert len(fleet.json(f"{prefix}/system_stats")["devices"]) == WORKERS
    assert set(fleet.json("/residency/state")["workers"]) == {"worker-0", "worker-1", "worker-2"}
    assert b"<html" in fleet.get("/").lower()
    with pytest.raises(urllib.error.HTTPError) as refusal:
        fleet.post("/prompt", {"prompt": {"1": {"class_type": "SaveImage", "inputs": {}}}})
    assert refusal.value.code == 400 and json.load(refusal.value)["node_errors"]
    with pytest.raises(urllib.error.HTTPError) as foreign:
        fleet.post("/free", {}, {"Origin": "http://evil.example"})
    assert foreign.value.code == 403


def test_an_upload_reaches_the_worker_that_needs_it(fleet: Fleet, server: Server):
    drawn = fleet.post("/prompt", {"prompt": without_models()})["prompt_id"]
    picture = fleet.images(fleet.ended(drawn))[0]
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="uploaded.png"\r\nContent-Type: image/png\r\n\r\n'
    body = head.encode() + picture + f"\r\n--{boundary}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{fleet.port}/upload/image", body, headers), timeout=60) as answer:
        name = json.load(answer)["name"]
    for number in range(WORKERS):
        size = {"upscale_method": "area", "width": 8, "height": 8 + number, "crop": "disabled"}
        prompt = {
            "1": {"class_type": "LoadImage", "inputs": {"image": name}},
            "2": {"class_type": "ImageScale", "inputs": {"image": ["1", 0], **size}},
            "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "up"}},
        }
        assert fleet.images(fleet.ended(fleet.post("/prompt", {"prompt": prompt})["prompt_id"]))


def test_an_interrupt_and_a_deletion_reach_the_right_worker(fleet: Fleet):
    slow = [fleet.post("/prompt", {"prompt": two_experts(seed=200 + n, size=256, steps=400)})["prompt_id"] for n in range(WORKERS)]
    behind = fleet.post("/prompt", {"prompt": two_experts(seed=210)})["prompt_id"]
    until_s = time.monotonic() + 60
    while len(fleet.json("/queue")["queue_running"]) < WORKERS and time.monotonic() < until_s:
        time.sleep(0.2)
    fleet.post("/queue", {"delete": [behind]})
    assert behind not in {item[1] for item in fleet.json("/queue")["queue_pending"]}
    fleet.post("/interrupt", {"prompt_id": slow[1]})
    assert fleet.ended(slow[1])["status"]["status_str"] == "error"
    running = {item[1] for item in fleet.json("/queue")["queue_running"]}
    assert running == {slow[0], slow[2]}
    for prompt_id in (slow[0], slow[2]):
        fleet.post("/interrupt", {"prompt_id": prompt_id})
        fleet.ended(prompt_id)
    assert fleet.json(f"/history/{behind}") == {}


def test_who_comes_later_with_one_prompt_is_not_behind_a_flood(fleet: Fleet):
    prompts = [two_experts(seed=400 + number, size=128, steps=10) for number in range(4 * WORKERS)]
    flood = [fleet.post("/prompt", {"prompt": prompt, "client_id": "many"})["prompt_id"] for prompt in prompts]
    late = fleet.post("/prompt", {"prompt": two_experts(seed=450), "client_id": "one"})["prompt_id"]
    times = {one: dict(fleet.ended(one)["status"]["messages"])["execution_start"]["timestamp"] for one in [*flood, late]}
    assert sum(times[one] > times[late] for one in flood) >= WORKERS


def test_a_prompt_whose_worker_is_killed_runs_elsewhere_under_its_id(fleet: Fleet, server: Server):
    client = Client(fleet)
    prompt = two_experts(seed=300, size=256, steps=60)
    prompt_id = client.queue(prompt)
    client.listen(lambda told: told["type"] == "executing" and told["data"].get("prompt_id") == prompt_id)
    name = next(one["worker"] for one in fleet.json("/residency/fleet")["decisions"] if one["prompt_id"] == prompt_id)
    fleet.servers()[name].send_signal(signal.SIGKILL)
    client.listen(lambda told: told["type"] == "execution_success" and told["data"]["prompt_id"] == prompt_id)
    assert fleet.images(fleet.ended(prompt_id)) == list(server.run(prompt).images)
    until_s = time.monotonic() + 120  # Ray starts another one in its place
    while len(fleet.servers()) < WORKERS and time.monotonic() < until_s:
        time.sleep(0.5)
    assert len(fleet.servers()) == WORKERS


def test_status_shows_each_worker(fleet: Fleet):
    told = fleet.command("status")
    assert told.returncode == 0, told.stderr
    assert all(f"worker-{number}" in told.stdout for number in range(WORKERS))


def test_down_leaves_nothing_but_what_was_made(fleet: Fleet):
    assert own_processes()
    told = fleet.command("down")
    assert told.returncode == 0, told.stderr
    assert fleet.process.wait(60) == 0
    assert own_processes() == []
    assert list(fleet.folder.rglob("*.png"))
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", fleet.port)) != 0
