"""A real fleet on the GPUs of one host: the same prompts under each way of choosing a worker, one after the other.

    python benchmarks/fleet_gpu.py --models-directory DIR [--workers 2] [--tiny --cpu]

Run it with ComfyUI's own Python: it needs aiohttp and nothing of Ray, the door stands in this process. Four fp8 models of 12 GB with random
weights are written first where they are missing (48 GB; a small text encoder and VAE). Other processes hold device memory and RAM, so that
neither a card nor the page cache holds all four. Before each way the files are dropped from the page cache, fresh servers are started, and
each runs one prompt that is not counted. What has not ended when the time is up is told, and is no part of the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import json
import os
import sys
import time
import urllib.parse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
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

OURS = "residency"
WAYS = (OURS, "round_robin", "least_queue")
MODELS = 4
CONTEXT = 768  # of CLIP-L alone: T5 would be 10 GB that every prompt shares
TINY_MIB = 12
WARM_UP = 10_000
ENDING_S = 15.0  # kept back for ending servers and writing results


@dataclass(frozen=True, slots=True)
class Figures:
    """One way. Seconds from a prompt's arrival to its success; `makespan_s` from the first arrival to the last end; `read_bytes` of
    all servers from drives, None where the system does not tell; `identical` images are those of the first way."""

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


def files_of(tiny: bool) -> list[ModelFile]:
    """The experts first."""
    shape = (*expert_shape(TINY_MIB), CONTEXT) if tiny else (*FLUX_DEV[:3], CONTEXT)
    dtype = "float16" if tiny else "float8_e4m3fn"

    def file(folder: str, name: str, recipe: str, dtype: str, seed: int) -> ModelFile:
        return ModelFile(folder, f"residency_fleet_{name}.safetensors", recipe, dtype, seed, shape)

    experts = [file("diffusion_models", f"expert_{n}{'_tiny' if tiny else ''}", "flux", dtype, 11 + n) for n in range(MODELS)]
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


class Fleet:
    """Servers that run, and their door with one way of choosing."""

    def __init__(self, way: str, servers: Sequence[Server]) -> None:
        self._servers = servers
        self.way = way
        seats = [Seat(f"worker-{n}", _finder(server), machine="host") for n, server in enumerate(servers)]
        choose = None if way == OURS else (way, policies(0)[way])
        self.door = Door(seats, Path("nowhere"), choose=choose)

    async def run(self, prompts: Sequence[tuple[float, str, dict[str, Any]]], until_s: float) -> tuple[Figures, dict[int, str]]:
        """The figures, and a digest of each prompt's pixels by its number."""
        await self.door.open()
        try:
            started_s, read = time.time(), self._read()
            arrivals: dict[str, float] = {}
            for time_s, client, one in prompts:
                await asyncio.sleep(max(0.0, started_s + time_s - time.time()))
                arrived_s = time.time()
                answer = await self.door.prompts.take({"prompt": one, "client_id": client})
                if answer.status != 200:
                    raise RuntimeError(f"{self.way}: {answer.body[:500]!r}")
                arrivals[answer.json["prompt_id"]] = arrived_s
            while len(self.door.prompts.register) and time.monotonic() < until_s:
                await asyncio.sleep(0.1)
            read_bytes = None if read is None else (self._read() or 0) - read
            return await self._figures(arrivals, read_bytes)
        finally:
            await self.door.close()

    async def _figures(self, arrivals: dict[str, float], read_bytes: int | None) -> tuple[Figures, dict[int, str]]:
        latencies, ends, digests, failed = [], [], {}, 0
        by_worker: dict[str, int] = {}
        for number, (prompt_id, arrived_s) in enumerate(arrivals.items()):
            told = (await self.door.answer("GET", f"/history/{prompt_id}", {}, b"")).json.get(prompt_id)
            if told is None:
                continue
            at_ms = {name: data.get("timestamp") for name, data in told["status"]["messages"]}
            if "execution_success" not in at_ms:
                failed += 1
                continue
            end_s = at_ms["execution_success"] / 1000
            latencies.append(end_s - arrived_s)
            ends.append(end_s)
            (image,) = told["outputs"]["8"]["images"]
            by_worker[image["subfolder"]] = by_worker.get(image["subfolder"], 0) + 1
            digests[number] = _pixels((await self.door.answer("GET", f"/view?{urllib.parse.urlencode(image)}", {}, b"")).body)
        if not ends:
            raise RuntimeError(f"{self.way}: nothing has ended ({failed} failed): {self._servers[0].tail(40)}")
        makespan_s = max(ends) - min(arrivals.values())
        moved = sum("moved from" in one["reason"] for one in self.door.chooser.decisions.values())
        told_p = at(latencies, 0.5), at(latencies, 0.95)
        return Figures(self.way, len(ends), failed, 60 * len(ends) / makespan_s, makespan_s, *told_p, read_bytes, moved, by_worker), digests

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
    """All servers, begun at once."""

    def one(number: int) -> Server:
        arguments = ["--cpu"] if options.cpu else []
        environment = {"OMP_NUM_THREADS": "1"} if options.cpu else {"CUDA_VISIBLE_DEVICES": str(number)}
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
    files = files_of(options.tiny)
    models.make(comfyui, folder, Size.TINY if options.tiny else Size.FULL, files, (), _say)
    steps, side = (2, 64) if options.tiny else (options.steps, options.side)
    compute_s = 0.3 if options.tiny else options.compute_s
    drawn = trace(options.prompts, options.workers, compute_s, options.load, options.seed)
    prompts = [(time_s, client, prompt(files, expert, n, steps, side)) for n, (time_s, client, expert) in enumerate(drawn)]
    counts = [sum(expert == n for _, _, expert in drawn) for n in range(MODELS)]
    _say(f"{len(prompts)} prompts within {drawn[-1][0]:.0f} s; by model {counts}")
    results: dict[str, Any] = {"options": {key: str(value) for key, value in vars(options).items()}, "by_model": counts, "ways": []}
    first: dict[int, str] = {}
    with ExitStack() as held:
        results["held"] = hold(comfyui, options, held)
        _say("; ".join(results["held"]) or "nothing is held")
        for number, way in enumerate(options.ways):
            left_s = options.limit_s - (time.monotonic() - started_s) - ENDING_S
            until_s = time.monotonic() + left_s / (len(options.ways) - number)
            cold_bytes = limits.make_cold([one.at(folder) for one in files])
            _say(f"{way}: {cold_bytes / 1e9:.1f} GB are cold; {until_s - time.monotonic():.0f} s for it")
            with ExitStack() as stack:
                servers = start(comfyui, folder, options, stack)
                with ThreadPoolExecutor(len(servers)) as pool:
                    numbered = list(enumerate(servers))
                    list(pool.map(lambda one: one[1].run(prompt(files, one[0] % MODELS, WARM_UP + one[0], steps, side)), numbered))
                figures, digests = asyncio.run(Fleet(way, servers).run(prompts, until_s))
            same = sum(first.get(one) == digest for one, digest in digests.items()) if first else None
            first = first or digests
            results["ways"].append({**asdict(figures), "identical": same})
            _say(f"{way}: {json.dumps(results['ways'][-1])}")
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return results


def table(ways: Sequence[dict[str, Any]]) -> str:
    """Markdown; throughput and p95 beside the first way's."""
    lines = [
        "| way | ended | prompts a minute | p50 | p95 | read | moved | images as the first's |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in ways:
        read = "" if one["read_bytes"] is None else f"{one['read_bytes'] / 1e9:.1f} GB"
        slower = ways[0]["prompts_per_minute"] / one["prompts_per_minute"]
        pace = f"{one['prompts_per_minute']:.1f} (1/{slower:.2f})"
        same = "" if one["identical"] is None else f"{one['identical']} of {one['ended']}"
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
    parser.add_argument("--tiny", action="store_true", help="tiny models")
    parser.add_argument("arguments", nargs="*", metavar="-- ARGUMENT", help="of every ComfyUI")
    options = parser.parse_args()
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    comfyui = find_comfyui()
    if comfyui is None:
        parser.error("no ComfyUI is found; set COMFYUI_PATH and COMFYUI_PYTHON")
    print(table(measure(comfyui, options, started_s)["ways"]))


if __name__ == "__main__":
    main()
