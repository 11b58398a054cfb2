"""The demo: the shipped workflow with the pack off and on, cold and warm, on small models with random weights.

With a ComfyUI it runs on a real server; without one, the same timeline runs on the plain PyTorch host. Both give the same table, the
traces as JSON and the timeline as PNG and HTML.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import time
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.component import Mode
from ..core.timeline import UseKind, Visit
from ..installation import maker
from ..installation.locate import PACK, ComfyUI
from ..installation.server_process import Server, ServerError, serve
from ..record import outside
from ..record.image import html
from ..record.png import png
from ..transfers import pagecache
from ..workflow.file import read_workflow
from ..workflow.predict import predict
from .runs import MODES, Measured, Progress, measure, name, typical

WORKFLOW = PACK / "example_workflows" / "two_experts.json"
LOCAL_MIB = {"residency_expert_a": None, "residency_expert_b": None, "residency_clip_l": 200, "residency_tae": 16}  # None: as chosen
SAMPLER_PASSES = 3  # of the local host's samplers: about as long as their file takes to read from a common SSD
STEPS, SIDE = 1, 128  # the random models draw noise: one step of a small image computes about as long as its model takes to read
DROP_TIMEOUT_S = 10.0
FREE_S = 0.5
COLD_TRIES = 4


# --- on a real ComfyUI ---


def make_models(comfyui: ComfyUI, folder: Path, progress: Progress, expert_mib: int | None = None) -> None:
    """Make the demo's models with ComfyUI's own Python; quick when they are there. Raises ServerError with its words."""
    script = Path(__file__).parents[1] / "comfyui" / "sample_models" / "tiny.py"
    arguments = [str(script), str(comfyui.path), str(folder), *([str(expert_mib)] if expert_mib else [])]
    try:
        maker.make(comfyui, arguments, lambda name, done, total: progress(f"making {name}", done, total))
    finally:
        for part in folder.rglob("*.part"):
            part.unlink(missing_ok=True)


def needs_cpu(comfyui: ComfyUI) -> bool:
    """Whether ComfyUI's torch sees no accelerator, so that the server wants --cpu."""
    code = "import torch; print(torch.cuda.is_available() or torch.backends.mps.is_available() or torch.xpu.is_available())"
    answer = subprocess.run([str(comfyui.python), "-c", code], capture_output=True, text=True, check=False)
    if answer.returncode:
        wrong = f"{comfyui.python} cannot import torch; set COMFYUI_PYTHON to the Python that runs ComfyUI"
        raise ServerError(f"{wrong}:\n{answer.stderr[-800:]}")
    return answer.stdout.strip() != "True"


def on_comfyui(comfyui: ComfyUI, models: Path, progress: Progress, pairs: int | None) -> list[Measured]:
    """Cold and warm pairs of runs on one fresh server. Raises ServerError."""
    files = model_files(models)
    # --cache-classic: an earlier prompt's results are not kept, so that the same seed computes again in the other mode
    arguments = ["--cache-classic", *(["--cpu"] if needs_cpu(comfyui) else [])]
    workflow = read_workflow(WORKFLOW).prompt
    progress("starting ComfyUI", 0, 0)
    with serve(comfyui, models, arguments) as server:
        reasons = server.why_off()
        if reasons is not None:
            raise ServerError(f"the pack is off with ComfyUI {comfyui.version}: {reasons}")

        def run_once(scenario: str, mode: Mode, seed: int) -> Measured:
            prompt = prompt_of(workflow, seed)
            if scenario == "cold":
                return _cold(server, mode, prompt, seed, files)
            return _measure(server, scenario, mode, prompt, seed, files)

        return measure(run_once, pairs, progress)


def model_files(folder: Path) -> list[Path]:
    """The demo's models under a folder."""
    return sorted(folder.rglob("residency_*.safetensors"))


def prompt_of(workflow: Mapping[str, Any], seed: int, steps: int = STEPS) -> dict[str, Any]:
    """The demo's prompt with its own seed and text, small enough for a CPU."""
    prompt = deepcopy(dict(workflow))
    for node in prompt.values():
        if node["class_type"] == "KSampler":
            node["inputs"] |= {"seed": seed, "steps": steps}
        if node["class_type"] == "EmptySD3LatentImage":
            node["inputs"] |= {"width": SIDE, "height": SIDE}
        if node["class_type"] == "CLIPTextEncode" and node["inputs"]["text"]:
            node["inputs"]["text"] += f", {seed}"
    return prompt


def _measure(server: Server, scenario: str, mode: Mode, prompt: Mapping[str, Any], seed: int, files: list[Path]) -> Measured:
    cold = pagecache.not_cached_bytes(files)
    before = _read_bytes(server.process.pid)
    run = server.run(prompt, {"residency": {"mode": mode.value}})
    after = _read_bytes(server.process.pid)
    read = None if before is None or after is None else after - before
    if mode is Mode.OFF:
        seen = [outside.node(one, prompt[one]["class_type"], start_s, end_s) for one, start_s, end_s in run.nodes if one in prompt]
        trace = outside.trace(run.prompt_id, run.seconds, seen)
    else:
        trace = server.get_json(f"/residency/trace?prompt_id={run.prompt_id}")
    return Measured(scenario, mode, run.seconds, cold, read, pixels(run.images), trace, seed)


def _cold(server: Server, mode: Mode, prompt: Mapping[str, Any], seed: int, files: list[Path]) -> Measured:
    """One cold run. ComfyUI honours /free between prompts and does not say when: a prompt that was quicker finds its results kept, and
    is run again."""
    for _ in range(COLD_TRIES):
        _make_cold(server, files)
        measured = _measure(server, "cold", mode, prompt, seed, files)
        if len(measured.trace["nodes"]) >= len(prompt):
            return measured
    raise ServerError(f"ComfyUI kept its results through /free {COLD_TRIES} times: no cold run to measure\n{server.tail()}")


def _make_cold(server: Server, files: list[Path]) -> None:
    """Have ComfyUI forget its models, then the system their pages. Mapped pages stay: wait until ComfyUI has let go.

    Where they stay all the same, the run's `cold_bytes` say so.
    """
    server.post("/free", {"unload_models": True, "free_memory": True})
    time.sleep(FREE_S)
    deadline_s = time.monotonic() + DROP_TIMEOUT_S
    while time.monotonic() < deadline_s:
        pagecache.drop_files(files)
        if pagecache.not_cached_bytes(files) in (None, total_bytes(files)):
            return
        time.sleep(0.2)


def total_bytes(files: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in files)


def _read_bytes(pid: int) -> int | None:
    import psutil

    try:
        return int(psutil.Process(pid).io_counters().read_bytes)
    except (AttributeError, psutil.Error, OSError):  # macOS has no such counter
        return None


def pixels(images: Iterable[bytes]) -> str:
    """A digest of the decoded pixels of PNG files; the prompt inside them does not count."""
    from PIL import Image

    digest = hashlib.sha256()
    for data in images:
        with Image.open(io.BytesIO(data)) as drawn:
            digest.update(f"{drawn.mode} {drawn.size} ".encode() + drawn.tobytes())
    return digest.hexdigest()


# --- on plain PyTorch ---


def make_local_models(folder: Path, expert_mib: int, progress: Progress) -> None:
    """The files that on_local_host reads; quick when they are there. Raises OSError."""
    from .local.models import make_weights

    for seed, (stem, size_mib) in enumerate(LOCAL_MIB.items()):
        path = folder / "local" / f"{stem}.safetensors"
        if not path.exists():
            label = f"making {path.name}"
            make_weights(path, (size_mib or expert_mib) << 20, seed, lambda done, total, label=label: progress(label, done, total))  # type: ignore[misc]


def on_local_host(models: Path, progress: Progress, pairs: int | None) -> list[Measured]:
    """The same workflow's timeline with stacks of linear layers in place of the models, reading on demand and planned."""
    from .local.host import LocalHost

    files = model_files(models)
    predicted = predict(read_workflow(WORKFLOW), models, UseKind.LOAD)
    host = LocalHost()

    def run_once(scenario: str, mode: Mode, seed: int) -> Measured:
        if scenario == "cold":
            pagecache.drop_files(files)
        cold, before = pagecache.not_cached_bytes(files), _read_bytes(os.getpid())
        run = host.run(predicted.timeline, predicted.components, mode, _passes)
        after = _read_bytes(os.getpid())
        read = None if before is None or after is None else after - before
        return Measured(scenario, mode, run.trace["duration_s"], cold, read, run.digest, run.trace, seed)

    try:
        return measure(run_once, pairs, progress)
    finally:
        host.close()


def _passes(visit: Visit) -> int:
    return SAMPLER_PASSES if visit.class_type == "KSampler" else 1


# --- what is left behind ---


def write(measured: list[Measured], folder: Path) -> dict[str, Path]:
    """Write trace.json (the cold run of the median with the pack on), timeline.png and timeline.html; returns their paths by name."""
    folder.mkdir(parents=True, exist_ok=True)
    runs = [run for mode in MODES if (run := typical(measured, "cold", mode)) is not None]
    runs = _coloured_alike(runs)
    traces = [(f"cold, pack {name(run.mode)}", run.trace) for run in runs]
    paths = {"trace": folder / "trace.json", "picture": folder / "timeline.png", "page": folder / "timeline.html"}
    paths["trace"].write_text(json.dumps(runs[-1].trace, indent=1), encoding="utf-8")
    paths["picture"].write_bytes(png(traces))
    paths["page"].write_text(html(traces), encoding="utf-8")
    return paths


def _coloured_alike(runs: list[Measured]) -> list[Measured]:
    """A trace seen from outside knows no components: its nodes' uses are told by the trace of the same workflow with the pack on."""
    told = next((run.trace for run in runs if run.trace["components"]), None)
    if told is None:
        return runs
    uses = {node["node_id"]: {"loads": node["loads"], "computes": node["computes"]} for node in told["nodes"]}
    alike = []
    for run in runs:
        trace = dict(run.trace)
        if not trace["components"]:
            trace["components"] = told["components"]
            trace["nodes"] = [{**node, **uses.get(node["node_id"], {})} for node in trace["nodes"]]
        alike.append(replace(run, trace=trace))
    return alike
