"""A fleet in a file: what is right is read, what is wrong is told with its place, itself and the way out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from residency.fleet.plan import Plan, is_loopback, read_plan
from residency.installation.locate import ComfyUI
from residency.units import UsageError


@pytest.fixture
def here(tmp_path: Path) -> ComfyUI:
    folder = tmp_path / "ComfyUI"
    (folder / "comfy").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "main.py").touch()
    return ComfyUI(folder, Path(sys.executable), "a test")


def read(text: str, here: ComfyUI | None, tmp_path: Path, token: str | None = None) -> Plan:
    (tmp_path / "fleet.yaml").write_text(text)
    return read_plan(tmp_path / "fleet.yaml", here, token)


def test_an_empty_file_is_one_worker_here(here: ComfyUI, tmp_path: Path):
    plan = read("", here, tmp_path)
    assert (plan.workers, plan.gpus, plan.cluster, plan.url) == (1, 1, None, "http://127.0.0.1:8200")
    assert plan.folder == tmp_path / "residency-fleet"
    assert plan.nodes[0].models == here.path / "models"


def test_a_cluster_with_two_kinds_of_workers(here: ComfyUI, tmp_path: Path):
    text = f"""
        address: 10.0.0.1:6379
        private_network: true
        folder: shared
        port: 8300
        hang_after_s: 900
        policy: least_queue
        arguments: [--lowvram]
        nodes:
          - {{name: big, address: 10.0.0.2, workers: 2, comfyui: /opt/ComfyUI, python: /opt/python, models: /models}}
          - {{name: small, cpu: true, pack: false, arguments: [--fast], models: {here.path / "models"}}}
    """
    plan = read(text, here, tmp_path, "secret")
    assert (plan.cluster, plan.port, plan.hang_s, plan.policy, plan.token) == ("10.0.0.1:6379", 8300, 900.0, "least_queue", "secret")
    big, small = plan.nodes
    assert (big.names(), big.models, big.gpus, big.pack) == (["big-0", "big-1"], Path("/models"), True, True)
    assert (small.arguments, small.gpus, small.pack) == (("--lowvram", "--fast", "--cpu"), False, False)
    assert (plan.workers, plan.gpus, plan.sharing(big), plan.sharing(small)) == (3, 2, 2, 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", "fleet.yaml: [1] is no mapping; docs/fleet.md"),
        ("a: [", "fleet.yaml: cannot be read"),
        ("ports: 1", "fleet.yaml: ports is not known here; known are address, "),
        ("port: 70000", "fleet.yaml: port is 70000; give a number from 1 to 65535"),
        ("port: yes", "fleet.yaml: port is True; give a number"),
        ("policy: mine", "fleet.yaml: policy is 'mine'; there are residency, "),
        ("nodes: []", "fleet.yaml: nodes is []; give a list"),
        ("nodes: [{workers: 0}]", "nodes[0]: workers is 0; give a number from 1"),
        ("nodes: [{cpu: maybe}]", "nodes[0]: cpu is 'maybe'; say true or false"),
        ("nodes: [{arguments: --lowvram}]", "nodes[0]: arguments is '--lowvram'; give a list"),
        ("nodes: [{models: /nowhere}]", "nodes[0]: models is /nowhere: no such folder"),
        ("nodes: [{comfyui: /nowhere}]", "nodes[0]: comfyui is /nowhere: there is no ComfyUI"),
        ("nodes: [{python: /nowhere}]", "nodes[0]: python is /nowhere: no such file"),
        ("nodes: [{name: a/b}]", "nodes[0]: name is 'a/b'; folders are named by it"),
        ("nodes: [{name: a}, {name: a}]", "two workers are called a-0"),
        (
            "nodes: [{address: 10.0.0.2}]",
            "node node-0 would answer everybody who reaches 10.0.0.2, without a token; say private_network: true",
        ),
        ("private_network: true\nnodes: [{address: 10.0.0.2}]", "give the address of the Ray cluster that it belongs to"),
    ],
)
def test_what_is_wrong_is_told_with_the_way_out(text: str, said: str, here: ComfyUI, tmp_path: Path):
    with pytest.raises(UsageError) as error:
        read(text, here, tmp_path)
    assert said in str(error.value)


def test_without_a_comfyui_one_has_to_be_named(tmp_path: Path):
    with pytest.raises(UsageError, match="no ComfyUI is found here; say comfyui: FOLDER"):
        read("", None, tmp_path)


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("127.0.0.2", True),
        ("0.0.0.0", False),  # noqa: S104 - looked at, not bound
        ("::", False),
        ("10.0.0.1", False),
        ("gpu.example", False),
    ],
)
def test_who_is_reached_from_this_machine_alone(host: str, is_own: bool):
    assert is_loopback(host) is is_own
