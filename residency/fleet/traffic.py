"""Requests to a fleet: generated with the shape of production traces, or read from a file.

The shape is published, the traces cannot be had: Li et al., "SwiftDiffusion" (arXiv 2407.02031; its trace is Katz's), characterise a
commercial text-to-image service: base models, ControlNets and LoRAs are each asked for by a skewed law with a long tail, most requests
carry add-ons, several at once; services of this kind have a day curve and bursts. The numbers below have that shape. They are chosen here
and fitted to no trace, except sizes, which are those of public files.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..simulate import GB, Step
from ..units import UsageError, parse_size, shown
from .forecast import Job

MB = 10**6
DAY_S = 86_400.0
LORAS_OF_REQUEST = (0.35, 0.30, 0.18, 0.10, 0.05, 0.02)  # share of requests with 0, 1, … 5 LoRAs
CONTROLNET_SHARE = 0.3
LORA_BYTES = (40 * MB, 150 * MB, 300 * MB)
LORAS = 200  # of a family
CONTROLNETS = 8  # of a family
RUN = 4.0  # prompts that a person sends with one base model before the next, on average
DAY_SWING = 0.4  # of the mean rate, up and down
BURST_SHARE = 0.05  # of the time
BURST_S = 60.0
BURST_RATE = 2.0  # times the rate around it


@dataclass(frozen=True, slots=True)
class Family:
    """Base models of one architecture. `shared` encoders and VAE are one file for all of them. Seconds are those of a prompt's three nodes
    on one 24 GB device, chosen here."""

    name: str
    share: float
    model_bytes: int
    encoder_bytes: int
    vae_bytes: int
    controlnet_bytes: int
    encode_s: float
    sample_s: float
    decode_s: float
    passes: int
    shared: bool
    working_set_bytes: int = GB


FAMILIES = (
    Family("sd15", 0.25, 1_720 * MB, 246 * MB, 167 * MB, 723 * MB, 0.05, 2.0, 0.3, 20, shared=False),
    Family("sdxl", 0.40, 5_135 * MB, 1_636 * MB, 167 * MB, 2_502 * MB, 0.1, 5.0, 0.5, 25, shared=False),
    Family("flux", 0.25, 11_900 * MB, 5_139 * MB, 168 * MB, 3_300 * MB, 0.3, 12.0, 0.5, 20, shared=True),
    Family("qwen", 0.10, 20_431 * MB, 9_385 * MB, 254 * MB, 3_536 * MB, 0.6, 20.0, 0.6, 20, shared=True),
)


@dataclass(frozen=True, slots=True)
class Request:
    """`compute_share`: the part of its job's seconds of computing that the prompt really takes; above 1 where it takes longer."""

    time_s: float
    client: str
    job: Job
    compute_share: float = 1.0


@dataclass(frozen=True, slots=True)
class Traffic:
    """The traffic to generate. `load` is the share of the workers' time that computing alone takes, on average."""

    requests: int
    workers: int
    models: int = 40
    load: float = 0.6
    zipf: float = 1.0
    noise: float = 0.15
    seed: int = 0
    families: Sequence[Family] = field(default=FAMILIES)

    def __post_init__(self) -> None:
        for name, value, least in (("requests", self.requests, 1), ("workers", self.workers, 1), ("models", self.models, 1)):
            if value < least:
                raise UsageError(f"{name} is {value}; give at least {least}")
        if not 0 < self.load <= 2:
            raise UsageError(f"load is {self.load:g}; give the share of the workers' time that computing takes, like 0.6")

    @property
    def described(self) -> dict[str, Any]:
        """Every parameter, for whoever reads the figures."""
        return {
            "requests": self.requests,
            "workers": self.workers,
            "models": self.models,
            "load": self.load,
            "zipf_exponent": self.zipf,
            "compute_noise": self.noise,
            "seed": self.seed,
            "families": [family.name for family in self.families],
            "loras_of_request": list(LORAS_OF_REQUEST),
            "controlnet_share": CONTROLNET_SHARE,
            "prompts_per_run": RUN,
            "day_swing": DAY_SWING,
            "bursts": {"share_of_time": BURST_SHARE, "seconds": BURST_S, "rate": BURST_RATE},
            "source": "shape: arXiv 2407.02031; numbers chosen, fitted to no trace; sizes of public files",
        }


def generate(traffic: Traffic) -> list[Request]:
    """Requests in the order of their arrival; the same traffic gives the same ones."""
    chance = random.Random(traffic.seed)
    jobs = _Jobs(traffic, chance)
    drawn = [jobs.draw() for _ in range(traffic.requests)]
    demand_s = sum(job.compute_s for _, job in drawn)
    length_s = demand_s / (traffic.workers * traffic.load)
    times = _arrivals(traffic.requests, length_s, chance)
    spread = traffic.noise
    return [
        Request(time_s, client, job, math.exp(chance.gauss(0.0, spread) - spread * spread / 2))
        for time_s, (client, job) in zip(times, drawn, strict=True)
    ]


class _Jobs:
    """Draws jobs; equal ones are one object."""

    def __init__(self, traffic: Traffic, chance: random.Random) -> None:
        self._chance = chance
        families = chance.choices(traffic.families, [family.share for family in traffic.families], k=traffic.models)
        self._models = [(family, f"{family.name}-{number}") for number, family in enumerate(families)]
        self._popular = list(itertools.accumulate(_zipf(traffic.models, traffic.zipf)))
        self._loras = list(itertools.accumulate(_zipf(LORAS, traffic.zipf)))
        self._controlnets = list(itertools.accumulate(_zipf(CONTROLNETS, traffic.zipf)))
        self._lora_bytes = {(family.name, n): chance.choice(LORA_BYTES) for family in traffic.families for n in range(LORAS)}
        self._clients = max(2, 4 * traffic.workers)
        self._using: dict[int, tuple[Family, str]] = {}
        self._made: dict[tuple[str, ...], Job] = {}

    def draw(self) -> tuple[str, Job]:
        chance = self._chance
        client = chance.randrange(self._clients)
        if client not in self._using or chance.random() < 1 / RUN:
            self._using[client] = chance.choices(self._models, cum_weights=self._popular)[0]
        family, model = self._using[client]
        count = chance.choices(range(len(LORAS_OF_REQUEST)), LORAS_OF_REQUEST)[0]
        loras = sorted(set(chance.choices(range(LORAS), cum_weights=self._loras, k=count)))
        extra = [f"{family.name}-lora-{number}" for number in loras]
        sizes = {name: self._lora_bytes[family.name, number] for name, number in zip(extra, loras, strict=True)}
        if chance.random() < CONTROLNET_SHARE:
            name = f"{family.name}-controlnet-{chance.choices(range(CONTROLNETS), cum_weights=self._controlnets)[0]}"
            extra.append(name)
            sizes[name] = family.controlnet_bytes
        key = (model, *extra)
        if key not in self._made:
            self._made[key] = _job(family, model, extra, sizes)
        return f"client-{client}", self._made[key]


def _job(family: Family, model: str, extra: Sequence[str], sizes: dict[str, int]) -> Job:
    owner = family.name if family.shared else model
    encoder, vae = f"{owner}-encoder", f"{owner}-vae"
    sizes = {**sizes, model: family.model_bytes, encoder: family.encoder_bytes, vae: family.vae_bytes}
    steps = (
        Step("1", "Encode", family.encode_s, (encoder,)),
        Step("2", "Sample", family.sample_s, (model, *extra), family.passes, family.working_set_bytes),
        Step("3", "Decode", family.decode_s, (vae,), 1, family.working_set_bytes),
    )
    return Job(steps, sizes, model)


def _zipf(count: int, exponent: float) -> list[float]:
    return [(rank + 1) ** -exponent for rank in range(count)]


def _arrivals(count: int, length_s: float, chance: random.Random) -> list[float]:
    """Times of a process whose rate follows one day (or the whole trace, where it is shorter) and is higher in bursts."""
    period_s = min(DAY_S, length_s)
    cells = max(1, math.ceil(length_s / BURST_S))
    bursts = [chance.random() < BURST_SHARE for _ in range(cells)]
    weights = [
        (1 + DAY_SWING * math.sin(2 * math.pi * (cell + 0.5) * length_s / cells / period_s)) * (BURST_RATE if bursts[cell] else 1.0)
        for cell in range(cells)
    ]
    chosen = chance.choices(range(cells), weights, k=count)
    return sorted((cell + chance.random()) * length_s / cells for cell in chosen)


def read_trace(path: Path) -> list[Request]:
    """Requests of a file of JSON lines. Raises UsageError.

    A line: {"time_s": 0.0, "client": "a", "steps": [{"compute_s": 5.0, "passes": 20, "components": {"a.safetensors": "6.5GB"}}]}.
    Components of one name are the same one.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); give a file of JSON lines, or generated") from error
    found = [_request(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise UsageError(f"{path}: no request in it; write one JSON object a line")
    return sorted(found, key=lambda request: request.time_s)


def _request(line: str, where: str) -> Request:
    try:
        told = json.loads(line)
        steps, sizes = [], {}
        for number, step in enumerate(told["steps"]):
            parts = {str(key): parse_size(value, f"{where}: {key}") for key, value in dict(step.get("components", {})).items()}
            sizes.update(parts)
            steps.append(Step(str(number), "Step", float(step["compute_s"]), tuple(parts), int(step.get("passes", 1))))
        most = max(steps, key=lambda step: step.compute_s if step.components else -1.0)
        model = max(most.components, key=sizes.__getitem__, default="")
        return Request(float(told["time_s"]), str(told.get("client", "")), Job(tuple(steps), sizes, model))
    except UsageError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{where}: {shown(line)} is no request ({type(error).__name__}: {error}); see docs/fleet.md") from error
