"""A fleet on a Ray cluster that runs already: it takes its place there, and leaves nothing but the cluster. Marked `fleet`: needs Ray."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
from comfy_story import until
from test_fleet import Client, Fleet, drawn, free_port, own_processes

from residency.fleet.cluster import RAY_OPTIONS, SCRATCH_PREFIX
from residency.installation.locate import PACK, ComfyUI

pytestmark = [
    pytest.mark.fleet,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="NO FLEET WAS TESTED: Ray is not here; pip install 'residency[fleet]'"
    ),
]
ADDRESS = "127.0.0.1"
ACCESS = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # the cluster's own, so that no other one answers


@pytest.fixture
def cluster() -> Iterator[tuple[str, psutil.Process]]:
    """The address of a Ray cluster of one node, and its process."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        asked = ["--head", "--block", f"--node-ip-address={ADDRESS}", f"--port={port}", "--num-cpus=8", "--include-dashboard=false"]
        asked += ["--object-store-memory=104857600", f"--temp-dir={folder}", "--disable-usage-stats"]
        ray = [str(Path(sys.executable).with_name("ray")), "start", *asked]
        process = subprocess.Popen(
            ray, env={**os.environ, **RAY_OPTIONS, **ACCESS}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if "Ray runtime started" in line:
                break
        else:
            raise AssertionError("".join(said))
        yield f"{ADDRESS}:{port}", psutil.Process(process.pid)
        everything = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(60)
        for one in psutil.wait_procs(everything, timeout=10)[1]:
            one.kill()


def serving(head: psutil.Process) -> list[str]:
    """Names of the cluster's processes that are Ray Serve's."""
    names = []
    for one in head.children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            names.append(" ".join(one.cmdline()).strip())
    return [name for name in names if name.startswith(("ray::Serve", "ray::ProxyActor"))]


def scratch_folders() -> set[str]:
    return {one for one in os.listdir(tempfile.gettempdir()) if one.startswith((SCRATCH_PREFIX, "residency-turns"))}


@dataclass(frozen=True)
class Joining:
    """All that `fleet up` needs on the cluster, with the node's workers named `big` and `small`."""

    comfyui: ComfyUI
    models: Path
    folder: Path
    address: str

    @property
    def environment(self) -> dict[str, str]:
        cache = {"RESIDENCY_CACHE": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"}
        return {**os.environ, "PYTHONPATH": str(PACK), **cache, **ACCESS}

    def begin(self, port: int) -> subprocess.Popen[str]:
        here = {"comfyui": str(self.comfyui.path), "python": str(self.comfyui.python), "models": str(self.models), "cpu": True}
        nodes = [{**here, "name": "big", "address": ADDRESS}, {**here, "name": "small"}]
        (self.folder / "fleet.yaml").write_text(json.dumps({"address": self.address, "port": port, "folder": "kept", "nodes": nodes}))
        asked = [sys.executable, "-m", "residency", "fleet", "up", "fleet.yaml"]
        return subprocess.Popen(asked, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self.folder)

    def up(self, port: int) -> Fleet:
        process = self.begin(port)
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if "workers behind" in line:
                break
        assert "workers behind" in "".join(said), "".join(said)
        return Fleet(port, process, self.environment, self.folder / "kept")


@pytest.fixture
def joining(cluster: tuple[str, psutil.Process], comfyui: ComfyUI, models: Path, tmp_path: Path) -> Joining:
    return Joining(comfyui, models, tmp_path, cluster[0])


def test_a_fleet_takes_its_place_on_a_cluster_that_runs_and_leaves_it_as_it_was(
    cluster: tuple[str, psutil.Process], joining: Joining, tmp_path: Path
):
    head = cluster[1]
    before = scratch_folders()
    fleet = joining.up(free_port())
    try:
        client = Client(fleet)
        ids = [client.queue(drawn(seed)) for seed in (1, 2)]
        for prompt_id in ids:
            assert fleet.ended(prompt_id)["status"]["status_str"] == "success"
        shown = fleet.command("status").stdout
        assert "big-0" in shown and "small-0" in shown
        assert fleet.command("drain", "big-0").returncode == 0
        last = client.queue(drawn(3))
        assert fleet.ended(last)["status"]["status_str"] == "success"
        assert fleet.worker_of(last) == "small-0"
    finally:
        down = fleet.command("down")
        fleet.process.wait(60)
    assert down.returncode == 0, down.stderr
    assert until(lambda: not own_processes()), [(one.pid, one.ppid(), one.cmdline()) for one in own_processes()]
    assert head.is_running() and until(lambda: not serving(head)), serving(head)
    assert scratch_folders() == before
    assert sorted(one.name for one in (tmp_path / "kept" / "output").iterdir()) == ["big-0", "small-0"]
    with pytest.raises(urllib.error.URLError, match="refused"):
        fleet.get("/queue")


def serve_theirs(address: str, route: str) -> int:
    """Run somebody else's application on the cluster's Serve, and tell that one's port."""
    port = free_port()
    driver = [sys.executable, str(Path(__file__).with_name("serve_driver.py")), address, str(port), route]
    subprocess.run(driver, env={**os.environ, **RAY_OPTIONS, **ACCESS}, check=True, timeout=120)
    return port


def test_a_fleet_shares_a_serve_that_runs_others_applications_and_leaves_them(cluster: tuple[str, psutil.Process], joining: Joining):
    fleet = joining.up(serve_theirs(cluster[0], "/theirs"))
    try:
        assert fleet.get("/theirs") == b"theirs"
        assert fleet.ended(Client(fleet).queue(drawn(1)))["status"]["status_str"] == "success"
    finally:
        down = fleet.command("down")
        fleet.process.wait(60)
    assert down.returncode == 0, down.stderr
    assert until(lambda: not own_processes()), [(one.pid, one.ppid(), one.cmdline()) for one in own_processes()]
    assert fleet.get("/theirs") == b"theirs" and serving(cluster[1])
    with pytest.raises(urllib.error.HTTPError, match="404"):
        fleet.get("/queue")


def test_a_second_fleet_is_refused_on_a_cluster_and_takes_the_place_of_one_that_was_killed(
    cluster: tuple[str, psutil.Process], joining: Joining, tmp_path: Path
):
    (tmp_path / "second").mkdir()
    second = replace(joining, folder=tmp_path / "second")
    first = joining.up(free_port())
    try:
        said, _ = (refused := second.begin(free_port())).communicate(timeout=200)
        assert (
            refused.returncode == 2 and f"runs a fleet already (http://{ADDRESS}:{first.port}, process {first.process.pid} on " in said
        ), said
        assert first.ended(Client(first).queue(drawn(1)))["status"]["status_str"] == "success"
    finally:
        first.process.kill()
        first.process.wait(60)
    assert serving(cluster[1])  # with the door of nobody
    fleet = second.up(free_port())
    try:
        assert fleet.ended(Client(fleet).queue(drawn(2)))["status"]["status_str"] == "success"
        assert sorted(one.name for one in (second.folder / "kept" / "output").iterdir()) == ["big-0", "small-0"]
    finally:
        down = fleet.command("down")
        fleet.process.wait(60)
    assert down.returncode == 0, down.stderr
    assert until(lambda: not serving(cluster[1])), serving(cluster[1])
    assert first.command("status").returncode == 2  # what it has left is ended by whoever looks
    assert until(lambda: not own_processes()), [(one.pid, one.ppid(), one.cmdline()) for one in own_processes()]


@pytest.mark.parametrize(
    ("route", "same_port", "told"),
    [
        ("/theirs", False, "the cluster's Serve, which ran before, does not listen there; give its port"),
        ("/", True, "the cluster's Serve does not take the door, which answers at /"),
    ],
)
def test_a_fleet_that_a_serve_has_no_place_for_says_so_and_leaves_nothing(
    cluster: tuple[str, psutil.Process], joining: Joining, route: str, same_port: bool, told: str
):
    theirs = serve_theirs(cluster[0], route)
    said, _ = (up := joining.begin(theirs if same_port else free_port())).communicate(timeout=200)
    assert up.returncode == 2 and told in said, said
    assert until(lambda: not own_processes()), [(one.pid, one.ppid(), one.cmdline()) for one in own_processes()]
    with urllib.request.urlopen(f"http://{ADDRESS}:{theirs}{route}", timeout=60) as answer:
        assert answer.read() == b"theirs"
