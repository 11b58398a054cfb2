"""A fleet of three real servers on Ray: its pictures are a single server's, its messages their owner's, and whatever may fail does.

Two workers are alike. The third, `odd`, is a ComfyUI without the pack, and lacks the second expert. Marked `fleet`: needs Ray.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import websocket
from comfy_story import pixels, two_experts, wait, with_ours, without_models
from front_end import NEEDS_A_BROWSER, command, open_graph, opened

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
HANG_S = 20
PACKS = Path(__file__).with_name("packs")
COMFY_CLI = shutil.which("comfy", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


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

    def status(self) -> dict[str, Any]:
        return self.json("/residency/fleet")

    def worker_of(self, prompt_id: str) -> str:
        return next(one["worker"] for one in self.status()["decisions"] if one["prompt_id"] == prompt_id)

    def reason(self, prompt_id: str) -> str:
        return next(one["reason"] for one in self.status()["decisions"] if one["prompt_id"] == prompt_id)

    def own_histories(self) -> list[dict[str, Any]]:
        """Prompts by worker, by its own word."""
        told = []
        for one in self.status()["workers"]:
            with urllib.request.urlopen(f"{one['url']}/history", timeout=60) as answer:
                told.append(json.loads(answer.read()))
        return told

    def wait_for_workers(self) -> None:
        """Until Ray has started every one anew."""
        wait(lambda: sum(one["answers"] for one in self.status()["workers"]) == WORKERS, 180.0)

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

    def listen_until_ended(self, prompt_ids: set[str]) -> None:
        """All of them, some of which may have ended before."""

        def left() -> set[str]:
            return prompt_ids - {one["data"]["prompt_id"] for one in self.heard if one["type"] == "execution_success"}

        if left():
            self.listen(lambda told: not left())

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


@pytest.fixture(scope="module")
def fleet(comfyui: ComfyUI, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": str(PACK), "RESIDENCY_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    fewer = shutil.copytree(models, folder / "fewer")
    (fewer / "diffusion_models" / "residency_expert_b.safetensors").unlink()
    shutil.copytree(PACKS / "fleet", folder / "nodes" / "fleet")
    (folder / "paths.yaml").write_text(json.dumps({"tests": {"base_path": str(folder), "custom_nodes": "nodes"}}))
    here = {"comfyui": str(comfyui.path), "python": str(comfyui.python), "cpu": True}
    nodes = [{**here, "name": "worker", "workers": WORKERS - 1, "models": str(models)}]
    nodes.append({**here, "name": "odd", "models": str(fewer), "pack": False})
    arguments = ["--extra-model-paths-config", str(folder / "paths.yaml")]
    described = {"port": port, "folder": "kept", "hang_after_s": HANG_S, "arguments": arguments, "nodes": nodes}
    (folder / "fleet.yaml").write_text(json.dumps(described))
    asked = [sys.executable, "-m", "residency", "fleet", "up", str(folder / "fleet.yaml")]
    process = subprocess.Popen(asked, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder)
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if "workers behind" in line:
            break
    else:
        raise AssertionError("".join(said))
    fleet = Fleet(port, process, environment, folder / "kept")
    yield fleet
    fleet.command("down")
    process.wait(60)


def drawn(seed: int, model: str = "a", steps: int = 2, size: int = 64) -> dict[str, Any]:
    """A prompt with one expert."""
    prompt = two_experts(seed=seed, steps=steps, size=size)
    prompt["1"]["inputs"]["unet_name"] = f"residency_expert_{model}.safetensors"
    prompt["9"]["inputs"]["samples"] = ["6", 0]
    return {node_id: node for node_id, node in prompt.items() if node_id not in ("7", "8")}


def mixed(number: int) -> dict[str, Any]:
    """One of several kinds."""
    kinds = (
        lambda: drawn(number),
        lambda: drawn(number, "b"),
        lambda: two_experts(seed=number),
        without_models,
        lambda: with_ours(drawn(number)),
    )
    return kinds[number % len(kinds)]()


def comfy_cli(fleet: Fleet, prompts: list[dict[str, Any]], folder: Path) -> None:
    """comfy-cli runs them, one after the other."""
    assert COMFY_CLI is not None
    environment = {**os.environ, "HOME": str(folder), "COMFY_NO_WATCH": "1", "DO_NOT_TRACK": "1"}
    for number, prompt in enumerate(prompts):
        (folder / f"{number}.json").write_text(json.dumps(prompt))
        asked = [COMFY_CLI, "--skip-prompt", "--where", "local", "run", "--workflow", str(folder / f"{number}.json"), "--wait"]
        asked += ["--host", "127.0.0.1", "--port", str(fleet.port)]
        told = subprocess.run(asked, env=environment, capture_output=True, text=True, check=False, timeout=180)
        assert told.returncode == 0, told.stdout + told.stderr


HEARS = """() => {
  window.heard = [];
  for (const kind of ['execution_start', 'executing', 'executed', 'progress_state', 'execution_success'])
    app.api.addEventListener(kind, (event) => { const id = event.detail?.prompt_id; if (id) window.heard.push([kind, id]); });
  return app.api.clientId;
}"""


@pytest.fixture(scope="module")
def sixty(fleet: Fleet, browser: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Three clients at once: what each has heard, and whose each prompt is."""
    if COMFY_CLI is None:
        pytest.skip("NOT TESTED: comfy-cli is not here; pip install comfy-cli")
    client = Client(fleet)
    by_cli = [mixed(number) for number in range(1000, 1010)]
    with ThreadPoolExecutor(2) as pool, opened(browser, f"http://127.0.0.1:{fleet.port}") as page:
        running = pool.submit(comfy_cli, fleet, by_cli, tmp_path_factory.mktemp("cli"))
        own = page.evaluate(HEARS)
        mine = {client.queue(mixed(number)) for number in range(2000, 2030)}
        left = set(mine)

        def is_last(told: dict[str, Any]) -> bool:
            if told["type"] == "execution_success":
                left.discard(told["data"]["prompt_id"])
            return not left

        listening = pool.submit(client.listen, is_last)  # at once: a websocket whose pings nobody answers is closed
        for number in range(3000, 3020):
            open_graph(page, mixed(number))
            command(page, "Comfy.QueuePrompt")
        running.result(300)
        listening.result(300)
        page.wait_for_function("() => window.heard.filter(([kind]) => kind === 'execution_success').length >= 20", timeout=180_000)
        heard = page.evaluate("() => window.heard")
    history = fleet.json("/history")
    return {"history": history, "websocket": (client.id, client.heard), "browser": (own, heard)}


@pytest.mark.parametrize("marked", [pytest.param(None, marks=NEEDS_A_BROWSER)])
def test_sixty_prompts_of_three_clients_are_a_single_servers(marked: None, sixty: dict[str, Any], fleet: Fleet, server: Server):
    history = sixty["history"]
    assert len(history) == 60
    for told in history.values():
        assert told["status"]["status_str"] == "success"
        prompt = told["prompt"][2]
        assert [*map(pixels, fleet.images(told))] == [*map(pixels, server.run(prompt).images)]
    workers = {image["subfolder"] for told in history.values() for out in told["outputs"].values() for image in out["images"]}
    assert workers == {"worker-0", "worker-1", "odd-0"}


@pytest.mark.parametrize("marked", [pytest.param(None, marks=NEEDS_A_BROWSER)])
def test_messages_come_to_their_owner_alone_and_each_prompt_begins_once(marked: None, sixty: dict[str, Any]):
    owners: dict[str, set[str]] = {}
    for prompt_id, told in sixty["history"].items():
        owners.setdefault(told["prompt"][3]["client_id"], set()).add(prompt_id)
    by_socket, heard = sixty["websocket"]
    about = [(one["type"], one["data"]["prompt_id"]) for one in heard if "prompt_id" in (one["data"] or {})]
    by_browser, seen = sixty["browser"]
    for client, told in ((by_socket, about), (by_browser, [tuple(one) for one in seen])):
        assert {prompt_id for _, prompt_id in told} == owners[client]
        begun = [prompt_id for kind, prompt_id in told if kind == "execution_start"]
        assert sorted(begun) == sorted(owners[client])


def test_every_decision_says_why(fleet: Fleet):
    fleet.ended(fleet.post("/prompt", {"prompt": drawn(50)})["prompt_id"])
    told = fleet.status()
    assert all(one["reason"] for one in told["decisions"])
    assert any(one["runners_up"] for one in told["decisions"])
    assert "odd-0 runs without the pack" in told["warnings"]


def test_what_a_worker_does_not_have_is_routed_around_and_said(fleet: Fleet):
    posted = [
        fleet.post("/prompt", {"prompt": prompt})["prompt_id"] for prompt in [drawn(n, "b") for n in range(60, 66)] + [with_ours(drawn(67))]
    ]
    for prompt_id in posted:
        assert fleet.ended(prompt_id)["status"]["status_str"] == "success"
        assert fleet.worker_of(prompt_id).startswith("worker-")
    odd = next(one for one in fleet.status()["workers"] if one["name"] == "odd-0")
    assert odd["pack"] is None


def test_a_file_that_only_others_have_is_named(fleet: Fleet):
    fleet.command("drain", "worker")
    try:
        with pytest.raises(urllib.error.HTTPError) as refusal:
            fleet.post("/prompt", {"prompt": drawn(70, "b")})
        said = refusal.value.read()  # ComfyUI's own refusal, or the door's where it is known by now
        assert refusal.value.code in (400, 503) and b"residency_expert_b.safetensors" in said
        odd = next(one for one in fleet.status()["workers"] if one["name"] == "odd-0")
        assert "unet_name residency_expert_b.safetensors" in odd["lacks"]
        prompt_id = fleet.post("/prompt", {"prompt": drawn(71)})["prompt_id"]
        assert fleet.worker_of(prompt_id) == "odd-0"
        fleet.ended(prompt_id)
    finally:
        assert "nobody is drained" in fleet.command("drain", "worker", "--undo").stdout


def test_the_door_answers_as_comfyui_does(fleet: Fleet, server: Server):
    for prefix in ("", "/api"):
        more = fleet.json(f"{prefix}/object_info").keys() - server.get_json("/object_info").keys()
        assert more == {"FleetHangOnce", "FleetSaveOnFullDisk"}
        assert fleet.json(f"{prefix}/queue").keys() == {"queue_running", "queue_pending"}
        assert len(fleet.json(f"{prefix}/system_stats")["devices"]) == WORKERS
    ended = fleet.post("/prompt", {"prompt": drawn(80)})["prompt_id"]
    fleet.ended(ended)
    jobs = fleet.json("/api/jobs?status=completed&limit=1")
    assert jobs["jobs"][0]["id"] == ended and jobs["pagination"]["total"] >= 1
    assert jobs["jobs"][0]["preview_output"]["subfolder"] in ("worker-0", "worker-1", "odd-0")
    assert fleet.json(f"/api/jobs/{ended}")["status"] == "completed"
    assert set(fleet.json("/residency/state")["workers"]) == {"worker-0", "worker-1", "odd-0"}
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
    slow = [fleet.post("/prompt", {"prompt": drawn(200 + n, size=512, steps=2000)})["prompt_id"] for n in range(2 * WORKERS)]
    wait(lambda: len(fleet.json("/queue")["queue_running"]) == WORKERS)
    running = [item[1] for item in fleet.json("/queue")["queue_running"]]
    behind = next(one for one in reversed(slow) if one not in running)
    fleet.post("/queue", {"delete": [behind]})
    assert behind not in {item[1] for item in fleet.json("/queue")["queue_pending"]}
    fleet.post("/interrupt", {"prompt_id": running[1]})
    assert fleet.ended(running[1])["status"]["status_str"] == "error"
    assert {running[0], running[2]} <= {item[1] for item in fleet.json("/queue")["queue_running"]}
    fleet.post("/queue", {"clear": True})
    for prompt_id in (running[0], running[2]):
        fleet.post("/interrupt", {"prompt_id": prompt_id})
        fleet.ended(prompt_id)
    fleet.post("/interrupt", {})  # what has begun meanwhile
    wait(lambda: not any(fleet.json("/queue").values()))
    assert fleet.json(f"/history/{behind}") == {}


def test_who_comes_later_with_one_prompt_is_not_behind_a_flood(fleet: Fleet):
    prompts = [drawn(400 + number, size=256, steps=120) for number in range(4 * WORKERS)]
    flood = [fleet.post("/prompt", {"prompt": prompt, "client_id": "many"})["prompt_id"] for prompt in prompts]
    waiting = {item[1] for item in fleet.json("/queue")["queue_pending"]}
    late = fleet.post("/prompt", {"prompt": drawn(450), "client_id": "one"})["prompt_id"]
    times = {one: dict(fleet.ended(one)["status"]["messages"])["execution_start"]["timestamp"] for one in [*flood, late]}
    assert len(waiting) > WORKERS  # else nothing was to be overtaken
    assert sum(times[one] > times[late] for one in waiting) >= len(waiting) - WORKERS


def test_a_prompt_whose_worker_is_killed_runs_elsewhere_under_its_id_and_its_client_is_told(fleet: Fleet, server: Server):
    client = Client(fleet)
    prompt = two_experts(seed=300, size=256, steps=60)
    prompt_id = client.queue(prompt)
    client.listen(lambda told: told["type"] == "executing" and told["data"].get("prompt_id") == prompt_id)
    name = fleet.worker_of(prompt_id)
    fleet.servers()[name].send_signal(signal.SIGKILL)
    client.listen(lambda told: told["type"] == "execution_success" and told["data"]["prompt_id"] == prompt_id)
    assert fleet.images(fleet.ended(prompt_id)) == list(server.run(prompt).images)
    about = [one["type"] for one in client.heard if one["type"] in ("execution_start", "residency.moved")]
    assert about == ["execution_start", "residency.moved", "execution_start"]
    fleet.wait_for_workers()


def test_a_full_disk_fails_the_prompt_alone_and_is_told(fleet: Fleet):
    client = Client(fleet)
    full = {**drawn(310), "10": {"class_type": "FleetSaveOnFullDisk", "inputs": {"images": ["9", 0]}}}
    failing, other = client.queue(full), client.queue(drawn(311))
    client.listen(lambda told: told["type"] == "execution_error")
    assert client.heard[-1]["data"]["prompt_id"] == failing
    assert "No space left on device" in client.heard[-1]["data"]["exception_message"]
    assert fleet.ended(failing)["status"]["status_str"] == "error"
    assert fleet.ended(other)["status"]["status_str"] == "success"
    assert sum(one["type"] == "execution_start" and one["data"]["prompt_id"] == failing for one in client.heard) == 1


def test_a_worker_that_hangs_and_one_that_is_stopped_are_ended_and_their_prompts_run_elsewhere(
    fleet: Fleet, server: Server, tmp_path: Path
):
    client = Client(fleet)
    (tmp_path / "hang").touch()
    hangs = {**drawn(320), "11": {"class_type": "FleetHangOnce", "inputs": {"images": ["9", 0], "file": str(tmp_path / "hang")}}}
    hangs["10"]["inputs"]["images"] = ["11", 0]
    hanging = client.queue(hangs)
    client.listen(lambda told: told["type"] == "executing" and told["data"]["node"] == "11")
    first = fleet.worker_of(hanging)
    slow = two_experts(seed=321, size=256, steps=60)
    stopped = client.queue(slow)
    client.listen(lambda told: told["type"] == "executing" and told["data"].get("prompt_id") == stopped)
    second = fleet.worker_of(stopped)
    assert first != second
    fleet.servers()[second].send_signal(signal.SIGSTOP)
    client.listen_until_ended({hanging, stopped})
    assert fleet.images(fleet.ended(stopped)) == list(server.run(slow).images)
    assert [*map(pixels, fleet.images(fleet.ended(hanging)))] == [*map(pixels, server.run(drawn(320)).images)]
    moved = {one["data"]["prompt_id"]: one["data"]["from"] for one in client.heard if one["type"] == "residency.moved"}
    assert moved == {hanging: first, stopped: second}
    fleet.wait_for_workers()


def test_a_door_that_is_killed_comes_back_and_has_forgotten_nothing(fleet: Fleet, server: Server):
    before = fleet.json("/history").keys()
    prompts = [two_experts(seed=330 + number, size=128, steps=20) for number in range(2 * WORKERS)]
    posted = [fleet.post("/prompt", {"prompt": prompt})["prompt_id"] for prompt in prompts]
    (door,) = [one for one in own_processes() if "ServeReplica" in " ".join(one.cmdline())]
    door.kill()
    door.wait(10)

    def is_back() -> bool:
        try:
            return set(before) <= fleet.json("/history").keys()
        except (OSError, ValueError):
            return False

    wait(is_back, 120)
    for prompt_id, prompt in zip(posted, prompts, strict=True):
        assert fleet.images(fleet.ended(prompt_id)) == list(server.run(prompt).images)
    begun = [told["prompt"][1] for one in fleet.own_histories() for told in one.values()]
    assert sorted(one for one in begun if one in posted) == sorted(posted)  # each on one worker, once


def test_status_shows_each_worker(fleet: Fleet):
    told = fleet.command("status")
    assert told.returncode == 0, told.stderr
    assert all(name in told.stdout for name in ("worker-0", "worker-1", "odd-0", "warning: odd-0 runs without the pack"))


def test_down_leaves_nothing_but_what_was_made(fleet: Fleet):
    assert own_processes()
    told = fleet.command("down")
    assert told.returncode == 0, told.stderr
    assert fleet.process.wait(60) == 0
    assert own_processes() == []
    assert list(fleet.folder.rglob("*.png"))
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", fleet.port)) != 0
