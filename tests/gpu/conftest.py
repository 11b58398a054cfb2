"""A ComfyUI whose torch finds a device, models that weigh something on it, and a server; else each test says that nothing was tried."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from residency.installation.locate import PACK, ComfyUI, find_comfyui
from residency.installation.server_process import Server, serve

PACKS = PACK / "tests" / "comfyui" / "packs"
EXPERT_MIB = 1200


@pytest.fixture(scope="session")
def gpu_comfyui() -> ComfyUI:
    comfyui = find_comfyui()
    if comfyui is None:
        pytest.skip("NOTHING WAS TRIED ON A REAL DEVICE: no ComfyUI found; set COMFYUI_PATH")
    looks = [str(comfyui.python), "-c", "import torch; print(torch.cuda.is_available())"]
    if "True" not in subprocess.run(looks, capture_output=True, text=True, timeout=120, check=False).stdout:
        pytest.skip("NOTHING WAS TRIED ON A REAL DEVICE: ComfyUI's torch finds no CUDA device here")
    return comfyui


@pytest.fixture(scope="session")
def gpu_models(gpu_comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu_models")
    maker = PACK / "residency" / "comfyui" / "sample_models" / "tiny.py"
    command = [str(gpu_comfyui.python), str(maker), str(gpu_comfyui.path), str(folder), str(EXPERT_MIB)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-3000:]
    return folder


@pytest.fixture(scope="session")
def gpu_server(gpu_comfyui: ComfyUI, gpu_models: Path) -> Iterator[Server]:
    with serve(gpu_comfyui, gpu_models, others=[PACKS / "gauges", PACKS / "working_set"]) as server:
        yield server
