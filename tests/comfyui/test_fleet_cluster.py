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
from collections.abc import Iterator
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
    names = [" ".join(one.cmdline()).strip() for one in head.children(recursive=True)]
    return [name for name in names if name.startswith(("ray::Serve", "ray::ProxyActor"))]


def scratch_folders() -> set[str]:
    return {one for one in os.listdir(tempfile.gettempdir()) if one.startswith((SCRATCH_PREFIX, "residency-turns"))}


def test_a_fleet_takes_its_place_on_a_cluster_that_runs_and_leaves_it_as_it_was(
    cluster: tuple[str, psutil.Process], comfyui: ComfyUI, models: Path, tmp_path: Path
):
    address, head = cluster
    before = scratch_folders()
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": str(PACK), "RESIDENCY_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1", **ACCESS}
    here = {"comfyui": str(comfyui.path), "python": str(comfyui.python), "models": str(models), "cpu": True}
    nodes = [{**here, "name": "big", "address": ADDRESS}, {**here, "name": "small"}]
    (tmp_path / "fleet.yaml").write_text(json.dumps({"address": address, "port": port, "folder": "kept", "nodes": nodes}))
    asked = [sys.executable, "-m", "residency", "fleet", "up", "fleet.yaml"]
    process = subprocess.Popen(asked, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
    assert process.stdout is not None
    fleet = Fleet(port, process, environment, tmp_path / "kept")
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if "workers behind" in line:
                break
        assert "workers behind" in "".join(said), "".join(said)
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
        process.wait(60)
    assert down.returncode == 0, down.stderr
    assert until(lambda: not own_processes()), [(one.pid, one.ppid(), one.cmdline()) for one in own_processes()]
    assert head.is_running() and until(lambda: not serving(head)), serving(head)
    assert scratch_folders() == before
    assert sorted(one.name for one in (tmp_path / "kept" / "output").iterdir()) == ["big-0", "small-0"]
    with pytest.raises(urllib.error.URLError, match="refused"):
        fleet.get("/queue")
