"""One queue on a server: foretold, posted, followed to its end, and its record in the results."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..demo.sides import pixels
from ..installation.server_process import Ran, Server, ServerError
from . import traces
from .clock import DeviceClock
from .reads import Reads
from .scenarios import Scenario, Size, Temperature
from .workflows import Prompt, of

# ComfyUI's worker reaches its collection within this. Where the last message leaves before it (two cores, no GPU), a prompt of 0.15 s that
# was posted straight after it took 0.46 s.
BEFORE_COLLECTION_S = 0.05

ASKING_S = 0.25  # an estimate takes up to 0.1 s, in which the pack could read ahead: stock gets the same pause


@dataclass(frozen=True, slots=True)
class Asked:
    """A queue and its server. `with_pack`: the server has the pack's traces to tell; `models`: its models folder."""

    scenario: Scenario
    size: Size
    server: Server
    with_pack: bool
    prompt_timeout_s: float
    models: Path


@dataclass(frozen=True, slots=True)
class Done:
    """Seconds to the last success, on the clock of `ran`. `parts`: seconds and bytes read of each prompt that was posted alone.
    `predicted_s`: the pack's estimate before the queue was posted; None where it has none."""

    seconds: float
    ran: tuple[Ran, ...]
    prompts: tuple[Prompt, ...]
    parts: tuple[dict[str, Any], ...] = ()
    predicted_s: float | None = None


def post(asked: Asked, number: int, reads: Reads) -> Done:
    """The prompts of this number: together, or one by one without the time between them. Raises ServerError."""
    scenario = asked.scenario
    numbered = enumerate(scenario.queue, 100 * number)
    prompts = tuple(of(scenario, workflow, asked.size, seed, asked.models) for seed, workflow in numbered)
    if scenario.at_once:
        told_s = _foretold_s(asked, prompts[0]) if len(prompts) == 1 else None
        ran = _follow(asked, prompts)
        return Done(max(one.end_s for one in ran), tuple(ran), prompts, predicted_s=told_s)
    seconds, every, parts = 0.0, [], []
    for one in prompts:
        told_s = _foretold_s(asked, one)
        (ran_one,) = _follow(asked, [one])
        every.append(_later(ran_one, seconds))
        seconds += ran_one.end_s
        parts.append({"seconds": ran_one.end_s, "drive_bytes": reads.since(), "predicted_s": told_s})
    return Done(seconds, tuple(every), prompts, tuple(parts), _sum(part["predicted_s"] for part in parts))


def _foretold_s(asked: Asked, prompt: Prompt) -> float | None:
    """The pack's estimate, after ASKING_S on every side. None without the pack, where it has not seen such work of a diffusion model or
    does not answer, and behind a dropped page cache: whoever asks there has the files' headers read."""
    if asked.scenario.temperature is Temperature.COLD:
        return None
    began_s = time.monotonic()
    told_s = _estimate_s(asked, prompt)
    time.sleep(max(0.0, began_s + ASKING_S - time.monotonic()))
    return told_s


def _estimate_s(asked: Asked, prompt: Prompt) -> float | None:
    if not asked.with_pack or asked.server.why_off() is not None:
        return None
    try:
        told = json.loads(asked.server.post("/residency/estimate", {"prompt": prompt.graph}))
    except ServerError:
        return None  # the queue itself says what is wrong with the server
    models = {key for key, one in told["components"].items() if one["kind"] == "MODEL"}
    # an earlier checkout does not say of whose work its seconds are
    drawing = [step.get("same_work") and step["compute_s"] for step in told["steps"] if models.intersection(step["components"])]
    return float(told["total_s"]) if drawing and all(drawing) else None


def measured(asked: Asked, number: int, reads: Reads, clock: DeviceClock) -> tuple[dict[str, Any], traces.Trace]:
    """One queue's entry in the results, and its trace. Raises ServerError."""
    began_s = time.monotonic()
    done = post(asked, number, reads)
    told: dict[str, Any] = {"number": number, "seconds": done.seconds, "drive_bytes": _read(done, reads), "predicted_s": done.predicted_s}
    told["device_mhz"] = clock.mhz(began_s)
    images = [image for one in done.ran for image in asked.server.images(one.prompt_id)]
    told |= {"digest": pixels(images), "blank": _blank(images), "parts": list(done.parts)}
    if words := [text for one in done.ran for text in asked.server.texts(one.prompt_id)]:
        told["words"] = words
    told["prompts"] = [_seen(*pair) for pair in zip(done.ran, done.prompts, strict=True)]
    has = {one["prompt_id"] for one in asked.server.get_json("/residency/traces")["traces"]} if asked.with_pack else set()
    if not has.issuperset(one.prompt_id for one in done.ran):  # nor does the pack trace what it has been told to leave alone
        return told, traces.seen(done.seconds, done.ran, done.prompts)
    found = [json.loads(asked.server.get(f"/residency/trace?prompt_id={one.prompt_id}")) for one in done.ran]
    return {**told, "pack": [one["summary"] for one in found]}, traces.joined(found)


def _read(done: Done, reads: Reads) -> int | None:
    """Bytes of the whole queue, and of reads between the queue before it and this one."""
    if not done.parts:
        return reads.since()
    whole: int | None = _sum(part["drive_bytes"] for part in done.parts)
    return whole


def _sum(values: Iterable[Any]) -> Any:
    """None where one is not known."""
    every = list(values)
    return None if None in every else sum(every)


def _follow(asked: Asked, prompts: Iterable[Prompt]) -> list[Ran]:
    graphs = [one.graph for one in prompts]
    ran = asked.server.run_queue(graphs, asked.prompt_timeout_s * len(graphs))
    # until no collection holds the interpreter, so that the next prompt is not posted into one: an answer is only given then
    time.sleep(BEFORE_COLLECTION_S)
    asked.server.get("/prompt")
    return ran


def _later(ran: Ran, by_s: float) -> Ran:
    nodes = [(node_id, start_s + by_s, end_s + by_s) for node_id, start_s, end_s in ran.nodes]
    return replace(ran, nodes=nodes, end_s=ran.end_s + by_s, free_s=ran.free_s + by_s)


def _seen(ran: Ran, one: Prompt) -> dict[str, Any]:
    nodes = [(node_id, one.graph[node_id]["class_type"], round(start_s, 4), round(end_s, 4)) for node_id, start_s, end_s in ran.nodes]
    return {"workflow": one.workflow.value, "nodes": nodes, "end_s": ran.end_s, "free_s": ran.free_s}


def _blank(images: Iterable[bytes]) -> bool:
    """Whether one of them is a plain area: the picture of weights that overflow, and no proof that two sides are alike."""
    from PIL import Image

    for data in images:
        with Image.open(io.BytesIO(data)) as image:
            low, high = image.convert("L").getextrema()
            if low == high:
                return True
    return False
