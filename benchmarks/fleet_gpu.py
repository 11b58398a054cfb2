"""A real fleet on the GPUs of one host: the same prompts under each way of choosing a worker, one after the other.

    python benchmarks/fleet_gpu.py --models-directory DIR [--workers 2] [--cpu (--tiny | --expert-mib 1500 --steps 2 --side 64)]

Run it with ComfyUI's own Python: it needs aiohttp and nothing of Ray, the door stands in this process. Four fp8 models of 12 GB with random
weights are written first where they are missing (48 GB; a small text encoder and VAE). Other processes hold device memory and RAM, so that
neither a card nor the page cache holds all four. Before each way the files are dropped from the page cache, fresh servers are started, and
each runs one prompt that is not counted; they share the host as a fleet's do. Every way has the same time from its first arrival. What has
not ended when it is up is no part of the figures, and is told prompt by prompt in the JSON, with all that the door has decided about it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import json
import logging
import math
import os
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from residency.bench import limits, models
from residency.bench.models import FLUX_DEV, ModelFile
from residency.bench.reads import drive_bytes
from residency.bench.scenarios import Limits, Size
from residency.comfyui.sample_models.tiny import expert_shape
from residency.fleet.door import Door
from residency.fleet.policies import policies
from residency.fleet.seats import Found, Seat
from residency.fleet.simulation import at
from residency.fleet.traffic import Family, Traffic, generate
from residency.installation.locate import ComfyUI, find_comfyui
from residency.installation.server_process import Server, serve
from residency.transfers.memory import SERVERS_VARIABLE
from residency.transfers.turns import TURNS_VARIABLE

OURS = "residency"
WAYS = (OURS, "round_robin", "least_queue")
MODELS = 4
CONTEXT = 768  # of CLIP-L alone: T5 would be 10 GB that every prompt shares
TINY_MIB = 12
WARM_UP = 10_000
ENDING_S = 15.0  # of each way, for asking about its prompts and ending its servers


@dataclass(frozen=True, slots=True)
class Figures:
    """One way, in the time that it has. Seconds from a prompt's arrival to its success; `makespan_s` from the first arrival to the last
    end, without bound where none has ended; `read_bytes` of all servers from drives, None where the system does not tell; `identical`
    images of those `compared`, whose prompts have ended in the first way, too."""

    way: str
    ended: int
    failed: int
    prompts_per_minute: float
    makespan_s: float
    p50_s: float
    p95_s: float
    read_bytes: int | None
    moved: int
    by_worker: dict[str, int]
    identical: int | None = None
    compared: int | None = None


@dataclass(slots=True)
class Told:
    """One prompt. Seconds since the first arrival, None of what has not happened; its id is empty until the door has taken it.
    `read_bytes`: those that its worker has read ahead or waited for from drives while it ran, by its trace (None where it is not
    kept any more); `decisions`: (seconds, the door's words), the moves among them."""

    expert: int
    arrival_s: float
    prompt_id: str = ""
    worker: str = ""
    start_s: float | None = None
    end_s: float | None = None
    read_bytes: int | None = None
    trace: dict[str, Any] | None = None
    decisions: list[tuple[float, str]] = field(default_factory=list)


class Listening(logging.Handler):
    """Keeps the door's words about each prompt with their time, wall clock."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.said: dict[str, list[tuple[float, str]]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg == "prompt %s -> %s" and isinstance(record.args, tuple):
            self.said.setdefault(str(record.args[0]), []).append((record.created, str(record.args[1])))


def files_of(expert_mib: int | None) -> list[ModelFile]:
    """The experts first; in 16 bit where their size is given."""
    shape = (*expert_shape(expert_mib), CONTEXT) if expert_mib else (*FLUX_DEV[:3], CONTEXT)
    dtype = "float16" if expert_mib else "float8_e4m3fn"
    suffix = f"_{expert_mib}_mib" if expert_mib else ""

    def file(folder: str, name: str, recipe: str, dtype: str, seed: int) -> ModelFile:
        return ModelFile(folder, f"residency_fleet_{name}.safetensors", recipe, dtype, seed, shape)

    experts = [file("diffusion_models", f"expert_{n}{suffix}", "flux", dtype, 11 + n) for n in range(MODELS)]
    return [*experts, file("text_encoders", "clip_l", "clip_l", "float16", 3), file("vae", "tae", "tae", "float16", 5)]


def prompt(files: Sequence[ModelFile], expert: int, seed: int, steps: int, side: int) -> dict[str, Any]:
    clip, vae = files[MODELS], files[MODELS + 1]
    sampling = {"seed": seed, "steps": steps, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    links = {"model": ["1", 0], "positive": ["4", 0], "negative": ["4", 0], "latent_image": ["5", 0]}
    return {
        "1": {"class_type": "UNETLoader", "inputs": {"unet_name": files[expert].name, "weight_dtype": "default"}},
        "2": {"class_type": "CLIPLoader", "inputs": {"clip_name": clip.name, "type": "stable_diffusion", "device": "default"}},
        "3": {"class_type": "VAELoader", "inputs": {"vae_name": vae.name}},
        "4": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 0], "text": f"a lighthouse above a calm sea, take {seed}"}},
        "5": {"class_type": "EmptySD3LatentImage", "inputs": {"width": side, "height": side, "batch_size": 1}},
        "6": {"class_type": "KSampler", "inputs": {**sampling, **links}},
        "7": {"class_type": "VAEDecode", "inputs": {"samples": ["6", 0], "vae": ["3", 0]}},
        "8": {"class_type": "SaveImage", "inputs": {"images": ["7", 0], "filename_prefix": "fleet"}},
    }


def trace(count: int, workers: int, compute_s: float, load: float, seed: int) -> list[tuple[float, str, int]]:
    """(arrival in seconds, client, expert) of each prompt, in the shape of `residency fleet simulate`."""
    family = Family("flux", 1.0, 12 * 10**9, 0, 0, 0, 0.0, compute_s, 0.0, 20, shared=True)
    traffic = Traffic(requests=count, workers=workers, models=MODELS, load=load, seed=seed, families=(family,))
    return [(one.time_s, one.client, int(one.job.model.rpartition("-")[2])) for one in generate(traffic)]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Of the trace."""

    time_s: float
    client: str
    expert: int
    nodes: dict[str, Any]


class Fleet:
    """Servers that run, and their door with one way of choosing."""

    def __init__(self, way: str, servers: Sequence[Server]) -> None:
        self._servers = servers
        self.way = way
        seats = [Seat(f"worker-{n}", _finder(server), machine="host") for n, server in enumerate(servers)]
        choose = None if way == OURS else (way, policies(0)[way])
        self.door = Door(seats, Path("nowhere"), choose=choose)

    async def run(self, prompts: Sequence[Prompt], way_s: float) -> tuple[Figures, dict[int, str], list[Told]]:
        """The figures after `way_s` from the first arrival, a digest of each prompt's pixels by its number, and each prompt."""
        listening, log = Listening(), logging.getLogger("residency.fleet")
        log.addHandler(listening)
        log.setLevel(logging.INFO)
        await self.door.open()
        try:
            first_s, read = time.time(), self._read()
            until_s = first_s + way_s
            came = [Told(one.expert, one.time_s - prompts[0].time_s) for one in prompts]

            async def comes(one: Prompt, told: Told) -> None:
                await asyncio.sleep(first_s + told.arrival_s - time.time())
                answer = await self.door.prompts.take({"prompt": one.nodes, "client_id": one.client})
                if answer.status != 200:
                    raise RuntimeError(f"{self.way}: {answer.body[:500]!r}")
                told.prompt_id = answer.json["prompt_id"]

            coming = [asyncio.create_task(comes(*both)) for both in zip(prompts, came, strict=True)]
            try:
                done, left = await asyncio.wait(coming, timeout=way_s, return_when=asyncio.FIRST_EXCEPTION)
                while not left and len(self.door.prompts.register) and time.time() < until_s:
                    await asyncio.sleep(0.1)
                for task in done:
                    task.result()
            finally:
                for task in coming:
                    task.cancel()
                await asyncio.gather(*coming, return_exceptions=True)
            read_bytes = None if read is None else (self._read() or 0) - read
            for told in came:
                told.decisions = [(at_s - first_s, words) for at_s, words in listening.said.get(told.prompt_id, ())]
            return *await self._figures(came, first_s, until_s, read_bytes), came
        finally:
            log.removeHandler(listening)
            await self.door.close()

    async def _figures(
        self, came: Sequence[Told], first_s: float, until_s: float, read_bytes: int | None
    ) -> tuple[Figures, dict[int, str]]:
        latencies, ends, digests, failed = [], [], {}, 0
        by_worker: dict[str, int] = {}
        for number, one in enumerate(came):
            told = (await self.door.answer("GET", f"/history/{one.prompt_id}", {}, b"")).json.get(one.prompt_id) if one.prompt_id else None
            if told is None:
                placed = self.door.prompts.register.get(one.prompt_id)
                if placed is not None and placed.worker >= 0:
                    one.worker = self.door.seats[placed.worker].name
                continue
            at_ms = {name: data.get("timestamp") for name, data in told["status"]["messages"]}
            one.start_s = at_ms["execution_start"] / 1000 - first_s if "execution_start" in at_ms else None
            if "execution_success" not in at_ms:
                failed += 1
                continue
            one.end_s = at_ms["execution_success"] / 1000 - first_s
            (image,) = told["outputs"]["8"]["images"]
            one.worker = image["subfolder"]
            if first_s + one.end_s > until_s:  # while its worker was asked about others
                continue
            latencies.append(one.end_s - one.arrival_s)
            ends.append(one.end_s)
            by_worker[one.worker] = by_worker.get(one.worker, 0) + 1
            digests[number] = _pixels((await self.door.answer("GET", f"/view?{urllib.parse.urlencode(image)}", {}, b"")).body)
            await self._traced(one)
        if failed:
            _say(f"{self.way}: {failed} failed: {self._servers[0].tail(40)}")
        makespan_s = max(ends, default=math.inf)
        moved = sum("moved from" in words for one in came for _, words in one.decisions)
        told_p = (at(latencies, 0.5), at(latencies, 0.95)) if latencies else (math.inf, math.inf)
        figures = Figures(self.way, len(ends), failed, 60 * len(ends) / makespan_s, makespan_s, *told_p, read_bytes, moved, by_worker)
        return figures, digests

    async def _traced(self, one: Told) -> None:
        """Of its worker's trace: the bytes read, its summary, and the transfers to RAM."""
        index = self.door.seats.named(one.worker)
        answer = await self.door.seats.ask(index or 0, "GET", f"/residency/trace?prompt_id={one.prompt_id}")
        if answer.status != 200 or not answer.json:
            return
        trace = answer.json
        kept = ("component", "tier", "start_s", "end_s", "moved_bytes", "read_bytes", "status", "reason")
        transfers = [{key: moved.get(key) for key in kept} for moved in trace["transfers"] if moved["tier"] == "host"]
        one.read_bytes = trace["summary"]["read_bytes"]
        names = {component["key"]: component["name"] for component in trace["components"]}
        for moved in transfers:
            moved["component"] = names.get(moved["component"], moved["component"])
        one.trace = {"summary": trace["summary"], "transfers": transfers}

    def _read(self) -> int | None:
        read = [drive_bytes(server.process.pid) for server in self._servers]
        return None if None in read else sum(filter(None, read))


def _finder(server: Server) -> Any:
    async def find() -> Found:
        return Found("1", server.url)

    return find


def _pixels(picture: bytes) -> str:
    from PIL import Image

    return hashlib.sha256(Image.open(io.BytesIO(picture)).tobytes()).hexdigest()


def start(comfyui: ComfyUI, folder: Path, options: argparse.Namespace, stack: ExitStack) -> list[Server]:
    """All servers, begun at once, sharing the host's memory and drives as `residency fleet up` has them."""
    turns = stack.enter_context(tempfile.TemporaryDirectory(prefix="residency-turns-"))
    shared = {SERVERS_VARIABLE: str(options.workers), TURNS_VARIABLE: turns}

    def one(number: int) -> Server:
        arguments = ["--cpu"] if options.cpu else []
        environment = {**shared, **({"OMP_NUM_THREADS": "1"} if options.cpu else {"CUDA_VISIBLE_DEVICES": str(number)})}
        return stack.enter_context(serve(comfyui, folder, [*arguments, *options.arguments], environment=environment))

    with ThreadPoolExecutor(options.workers) as pool:
        return list(pool.map(one, range(options.workers)))


def hold(comfyui: ComfyUI, options: argparse.Namespace, stack: ExitStack) -> list[str]:
    """Leave only so much memory of each device and of the host."""
    told = []
    if options.device_gb and not options.cpu:
        for number in range(options.workers):
            command = ["env", f"CUDA_VISIBLE_DEVICES={number}", str(comfyui.python), "-c", limits.DEVICE, str(int(options.device_gb * 1e9))]
            got = stack.enter_context(limits.holding(command, "device memory"))
            told.append(f"{got / 1e9:.1f} GB of device {number} are held")
    if options.ram_gb:
        told += stack.enter_context(limits.held(Limits(None, int(options.ram_gb * 1e9)), comfyui))
    return told


def measure(comfyui: ComfyUI, options: argparse.Namespace, started_s: float) -> dict[str, Any]:
    folder = options.models_directory.resolve()
    files = files_of(TINY_MIB if options.tiny else options.expert_mib)
    models.make(comfyui, folder, Size.FULL, files, (), _say)
    steps, side = (2, 64) if options.tiny else (options.steps, options.side)
    compute_s = 0.3 if options.tiny else options.compute_s
    drawn = trace(options.prompts, options.workers, compute_s, options.load, options.seed)
    prompts = [Prompt(time_s, client, expert, prompt(files, expert, n, steps, side)) for n, (time_s, client, expert) in enumerate(drawn)]
    counts = [sum(expert == n for _, _, expert in drawn) for n in range(MODELS)]
    _say(f"{len(prompts)} prompts within {drawn[-1][0]:.0f} s; by model {counts}")
    results: dict[str, Any] = {"options": {key: str(value) for key, value in vars(options).items()}, "by_model": counts, "ways": []}
    first: dict[int, str] = {}
    with ExitStack() as held:
        results["held"] = hold(comfyui, options, held)
        _say("; ".join(results["held"]) or "nothing is held")
        way_s = None
        for number, way in enumerate(options.ways):
            begun_s = time.monotonic()
            cold_bytes = limits.make_cold([one.at(folder) for one in files])
            _say(f"{way}: {cold_bytes / 1e9:.1f} GB are cold")
            with ExitStack() as stack:
                servers = start(comfyui, folder, options, stack)
                with ThreadPoolExecutor(len(servers)) as pool:
                    numbered = list(enumerate(servers))
                    list(pool.map(lambda one: one[1].run(prompt(files, one[0] % MODELS, WARM_UP + one[0], steps, side)), numbered))
                if way_s is None:
                    ways, now_s = len(options.ways), time.monotonic()
                    way_s = (options.limit_s - (now_s - started_s) - (ways - 1) * (now_s - begun_s)) / ways - ENDING_S
                    if way_s <= 0:
                        raise RuntimeError(f"{now_s - begun_s:.0f} s to begin a way leave no time for {ways}; give a longer --limit-s")
                    results["way_s"] = way_s
                _say(f"{way}: begins after {time.monotonic() - begun_s:.0f} s; {way_s:.0f} s for it")
                figures, digests, came = asyncio.run(Fleet(way, servers).run(prompts, way_s))
            both = [one for one in digests if one in first] if number else None
            same = None if both is None else sum(first[one] == digests[one] for one in both)
            first = first or digests
            told = {**asdict(figures), "identical": same, "compared": None if both is None else len(both)}
            _say(f"{way}: {json.dumps(told)}")
            results["ways"].append({**told, "prompts": [asdict(one) for one in came]})
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return results


def table(ways: Sequence[dict[str, Any]]) -> str:
    """Markdown; throughput and p95 beside the first way's."""
    lines = [
        "| way | ended | prompts a minute | p50 | p95 | read | moved | images as the first's, of those that ended in both |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in ways:
        read = "" if one["read_bytes"] is None else f"{one['read_bytes'] / 1e9:.1f} GB"
        slower = ways[0]["prompts_per_minute"] / one["prompts_per_minute"] if one["ended"] else math.inf
        pace = f"{one['prompts_per_minute']:.1f} (1/{slower:.2f})"
        same = "" if one["identical"] is None else f"{one['identical']} of {one['compared']}"
        lines.append(
            f"| {one['way']} | {one['ended']} | {pace} | {one['p50_s']:.1f} s | {one['p95_s']:.1f} s | {read} | {one['moved']} | {same} |"
        )
    return "\n".join(lines)


def _say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def main() -> None:
    started_s = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models-directory", type=Path, required=True, metavar="DIR", help="where the models are, or are written to")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="one a GPU (default: %(default)s)")
    parser.add_argument("--ways", nargs="+", choices=[*policies(0), OURS], default=list(WAYS), help="default: %(default)s")
    parser.add_argument("--prompts", type=int, default=40, metavar="N")
    parser.add_argument("--steps", type=int, default=8, metavar="N")
    parser.add_argument("--side", type=int, default=1024, metavar="PIXELS")
    parser.add_argument("--compute-s", type=float, default=2.5, metavar="S", help="of a prompt, about: what the arrivals are spread by")
    parser.add_argument("--load", type=float, default=1.5, metavar="SHARE", help="of the workers' time, by that; above 1 a queue grows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device-gb", type=float, default=30.0, metavar="GB", help="left free on each card (0: all of it)")
    parser.add_argument("--ram-gb", type=float, default=32.0, metavar="GB", help="left available of the host's (0: all of it)")
    parser.add_argument("--limit-s", type=float, default=570.0, metavar="S", help="for everything, models included")
    parser.add_argument("--out", type=Path, default=Path("fleet_gpu.json"), metavar="FILE")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="tiny models, a tiny picture")
    parser.add_argument("--expert-mib", type=int, metavar="MIB", help="of a model, about, in 16 bit (default: 12 GB in fp8)")
    parser.add_argument("arguments", nargs="*", metavar="-- ARGUMENT", help="of every ComfyUI")
    options = parser.parse_args()
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    comfyui = find_comfyui()
    if comfyui is None:
        parser.error("no ComfyUI is found; set COMFYUI_PATH and COMFYUI_PYTHON")
    print(table(measure(comfyui, options, started_s)["ways"]))


if __name__ == "__main__":
    main()
