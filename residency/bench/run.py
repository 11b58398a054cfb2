"""Running scenarios: each on fresh servers, without the pack and with it in turn; what was measured is on disk after every prompt."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .. import demo
from ..launch import Server, ServerError, serve
from ..locate import PACK as PACK_FOLDER
from ..locate import ComfyUI
from ..transfers.memory import available_bytes
from . import limits, models, rates, results, traces
from .client import Ran, run_queue
from .origins import OWN
from .results import PACK, SIDES, STOCK
from .scenarios import SCENARIOS, Scenario, Size, Temperature, references
from .workflows import Prompt, prompt

WARM_UP_NUMBER = 5000
NUMBERS_APART = 100
REFERENCE_PROMPTS = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """What the user asked for. `prompts`: measured queues on each warm server; `time_limit_s`: no side is begun that would end later.
    `warm_ups` replaces each warm scenario's own number."""

    scenarios: tuple[Scenario, ...]
    size: Size
    rounds: int = 2
    prompts: int = 3
    time_limit_s: float | None = None
    prompt_timeout_s: float = 600.0
    with_references: bool = True
    warm_ups: int | None = None
    command: str = ""


@dataclass(slots=True)
class Bench:
    """One run of the plan; `data` is what is written."""

    plan: Plan
    comfyui: ComfyUI
    models: Path
    folder: Path
    say: Callable[[str], None]
    started_s: float = field(default_factory=time.monotonic)
    longest_side_s: float = 0.0
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.folder / "results.json"

    def elapsed_s(self) -> float:
        return time.monotonic() - self.started_s

    def out_of_time(self, sides: int) -> bool:
        """Whether so many more sides, each as long as the longest so far, would end after the limit."""
        return self.plan.time_limit_s is not None and self.elapsed_s() + sides * self.longest_side_s > self.plan.time_limit_s

    def write(self) -> None:
        self.data = results.summarise(self.data)
        results.write(self.data, self.path)


def run(plan: Plan, comfyui: ComfyUI, models_folder: Path, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """All scenarios of the plan; returns the results. A scenario whose server fails is left with its error, the others run.

    Raises ServerError when the models cannot be made or the machine not be measured.
    """
    bench = Bench(plan, comfyui, models_folder, folder, say)
    say("looking at the machine")
    machine = rates.machine(comfyui, models_folder)
    head = {"version": results.VERSION, "size": plan.size.value, "command": plan.command, "rounds": plan.rounds, "prompts": plan.prompts}
    now = time.strftime("%Y-%m-%d %H:%M:%S %z")
    bench.data = {**head, "started": now, "machine": machine, "drive": {}, "scenarios": {}, "skipped": {}}
    asked = _possible(bench, plan.scenarios, "device_bytes" in machine)
    extra = references(asked) if plan.with_references else ()
    shared = sessions(asked, extra)
    for index, session in enumerate(shared):
        later = [scenario for other in shared[index + 1 :] for scenario in other]
        if bench.out_of_time(len(SIDES)):
            _skip(bench, [*session, *later], "the time limit came first")
            break
        try:
            _make_models(bench, session, later)
            _session(bench, session, frozenset(one.name for one in extra))
        finally:
            bench.write()
    return bench.data


def sessions(asked: Sequence[Scenario], extra: Sequence[Scenario]) -> list[tuple[Scenario, ...]]:
    """Scenarios that one server of each side can run in turn: the same files, the same arguments, the same memory left free.

    The cold one first, for it needs a fresh server, then those that tell what computing takes.
    """
    groups: dict[tuple[Any, ...], list[Scenario]] = {}
    for one in [*asked, *extra]:
        cold_alone = one.name if one.temperature is Temperature.COLD and _has_cold(groups, one) else ""
        groups.setdefault((*_session_key(one), cold_alone), []).append(one)
    order = {Temperature.COLD: 0, Temperature.WARM: 1}
    return [tuple(sorted(group, key=lambda one: (order[one.temperature], not one.resident))) for group in groups.values()]


def _session_key(one: Scenario) -> tuple[Any, ...]:
    return (one.precision, one.arguments, one.limits)


def _has_cold(groups: dict[tuple[Any, ...], list[Scenario]], one: Scenario) -> bool:
    return any(other.temperature is Temperature.COLD for other in groups.get((*_session_key(one), ""), ()))


def _possible(bench: Bench, scenarios: Sequence[Scenario], cuda: bool) -> tuple[Scenario, ...]:
    on_device = [one for one in scenarios if one.limits.device_free_bytes is not None and not cuda]
    _skip(bench, on_device, "limits device memory, and there is no CUDA device")
    free_bytes = available_bytes()
    crowded = [one for one in scenarios if one not in on_device and (one.limits.host_free_bytes or 0) > free_bytes]
    _skip(bench, crowded, f"wants more RAM than the {free_bytes / 1e9:.1f} GB that are available")
    return tuple(one for one in scenarios if one not in on_device and one not in crowded)


def _skip(bench: Bench, scenarios: Iterable[Scenario], reason: str) -> None:
    for scenario in scenarios:
        bench.data["skipped"][scenario.name] = reason
        bench.say(f"{scenario.name} was not run to its end: {reason}")


def _make_models(bench: Bench, session: Sequence[Scenario], later: Sequence[Scenario]) -> None:
    """Files that no scenario from here on needs may go."""
    size = bench.plan.size
    wanted = tuple(dict.fromkeys(one for scenario in session for one in models.files_of(scenario, size)))
    needed = {one.name for other in (*session, *later) for one in models.files_of(other, size)}
    spare = [one for other in SCENARIOS for one in models.files_of(other, size) if one.name not in needed]
    if models.make(bench.comfyui, bench.models, wanted, dict.fromkeys(spare), bench.say) and hasattr(os, "sync"):
        bench.say("waiting until they are on the drive")
        os.sync()  # else they are still being written while others are read, and dirty pages cannot be dropped
    if not bench.data["drive"]:
        bench.say("measuring the drive")
        largest = max((one.at(bench.models) for one in wanted), key=lambda path: path.stat().st_size)
        bench.data["drive"] = rates.drive(largest)


# --- one session ---


def _session(bench: Bench, session: Sequence[Scenario], stock_only: frozenset[str]) -> None:
    """Its rounds: stock then pack, pack then stock, and so on. What fails is kept as the error of the scenario that ran."""
    raws = {scenario.name: _head(bench, scenario) for scenario in session}
    seen = {scenario.name: traces.Traces(bench.folder / "traces" / f"{scenario.name}.json") for scenario in session}
    bench.data["scenarios"].update(raws)
    with limits.held(session[0].limits, bench.comfyui) as told:
        for raw in raws.values():
            raw["held"] = told
        for sentence in told:
            bench.say(f"{', '.join(raws)}: {sentence}")
        for number in range(bench.plan.rounds):
            for side in SIDES if number % 2 == 0 else tuple(reversed(SIDES)):
                mine = [one for one in session if side == STOCK or one.name not in stock_only]
                mine = [one for one in mine if not raws[one.name]["error"] and (number == 0 or one.name not in stock_only)]
                if not mine:
                    continue
                if any(raw["runs"] for raw in raws.values()) and bench.out_of_time(1):
                    _skip(bench, session, "the time limit came before its last round")
                    return
                before_s = bench.elapsed_s()
                _side(bench, mine, raws, seen, side, number)
                bench.longest_side_s = max(bench.longest_side_s, bench.elapsed_s() - before_s)
    for raw in raws.values():
        raw["complete"] = raw["error"] is None


def _head(bench: Bench, scenario: Scenario) -> dict[str, Any]:
    """The scenario's part of the results before anything has run."""
    files = models.files_of(scenario, bench.plan.size)
    mine = models.family(bench.plan.size, scenario.precision)
    prompts = {workflow.value: prompt(workflow, mine, bench.plan.size, 0) for workflow in scenario.queue}
    return {
        **{key: bench.data[key] for key in OWN},
        "what": scenario.what,
        "precision": scenario.precision.value,
        "queue": [workflow.value for workflow in scenario.queue],
        "limits": asdict(scenario.limits),
        "temperature": scenario.temperature.value,
        "resident": scenario.resident,
        "target": asdict(scenario.target),
        "arguments": list(scenario.arguments),
        "sizes": {one.name: one.at(bench.models).stat().st_size for one in files},
        "prompts": {name: {"uses": one.uses, "passes": one.passes} for name, one in prompts.items()},
        "runs": [],
        "held": [],
        "complete": False,
        "error": None,
    }


def _side(
    bench: Bench,
    session: Sequence[Scenario],
    raws: dict[str, Any],
    seen: dict[str, traces.Traces],
    side: str,
    round_number: int,
) -> None:
    """One server: each scenario's warm-ups, then its measured queues."""
    arguments = [*(["--cpu"] if "device_bytes" not in bench.data["machine"] else []), *session[0].arguments]
    current = session[0]
    try:
        with serve(bench.comfyui, bench.models, arguments, PACK_FOLDER if side == PACK else None) as server:
            if side == PACK:
                _check_pack(server)
            fresh = True
            for current in session:
                _measure(bench, current, raws[current.name], seen[current.name], server, side, round_number, fresh=fresh)
                fresh = False
    except ServerError as error:
        raws[current.name]["error"] = str(error)
        bench.say(f"{current.name} failed: {error}")


def _measure(
    bench: Bench, scenario: Scenario, raw: dict[str, Any], seen: traces.Traces, server: Server, side: str, round_number: int, *, fresh: bool
) -> None:
    """One scenario on a server that runs. Raises ServerError."""
    cold = scenario.temperature is Temperature.COLD
    files = [one.at(bench.models) for one in models.files_of(scenario, bench.plan.size)]
    measured = 1 if cold else bench.plan.prompts if scenario in bench.plan.scenarios else REFERENCE_PROMPTS
    # a server that has run another scenario needs one prompt to settle under the new limits
    warm_ups = 0 if cold else min(1, scenario.warm_ups) if not fresh else scenario.warm_ups
    if bench.plan.warm_ups is not None and not cold:
        warm_ups = bench.plan.warm_ups
    name = f"{scenario.name}, {side}, round {round_number + 1}"
    apart = NUMBERS_APART * SCENARIOS.index(scenario)  # no two scenarios draw the same: ComfyUI would answer from its cache
    for index in range(warm_ups):
        seconds, _, _ = _queue(bench, scenario, server, WARM_UP_NUMBER + apart + 10 * round_number + index)
        bench.say(f"{name}: warm-up {index + 1}, {seconds:.2f} s")
    for index in range(measured):
        number = 1 + apart + round_number * measured + index
        not_cached = limits.make_cold(files) if cold else demo.cold_bytes(files)
        seconds, ran, prompts = _queue(bench, scenario, server, number)
        images = [image for one in ran for image in server.images(one.prompt_id)]
        told = {"side": side, "round": round_number, "number": number, "seconds": seconds, "cold_bytes": not_cached}
        told |= {
            "digest": demo.pixels(images),
            "blank": _blank(images),
            "prompts": [_seen(*pair) for pair in zip(ran, prompts, strict=True)],
        }
        if side == PACK:
            found = [json.loads(server.get(f"/residency/trace?prompt_id={one.prompt_id}")) for one in ran]
            told["pack"] = [one["summary"] for one in found]
            seen.add(side, seconds, traces.joined(found))
        else:
            seen.add(side, seconds, traces.seen(seconds, ran, prompts))
        raw["runs"].append(told)
        bench.say(f"{name}: {seconds:.2f} s")
        bench.write()
        seen.write()


def _queue(bench: Bench, scenario: Scenario, server: Server, number: int) -> tuple[float, list[Ran], list[Prompt]]:
    mine = models.family(bench.plan.size, scenario.precision)
    prompts = [prompt(workflow, mine, bench.plan.size, 100 * number + index) for index, workflow in enumerate(scenario.queue)]
    seconds, ran = run_queue(server, [one.graph for one in prompts], bench.plan.prompt_timeout_s * len(prompts))
    return seconds, ran, prompts


def _seen(ran: Ran, one: Prompt) -> dict[str, Any]:
    nodes = [(node_id, one.graph[node_id]["class_type"], round(start_s, 4), round(end_s, 4)) for node_id, start_s, end_s in ran.nodes]
    return {"workflow": one.workflow.value, "nodes": nodes, "end_s": ran.end_s, "free_s": ran.free_s}


def _check_pack(server: Server) -> None:
    status = server.get_json("/residency/status")
    if not status.get("installed", True):
        reasons = "; ".join(feature["reason"] for feature in status.get("features", ()) if not feature["on"])
        raise ServerError(f"the pack is off with this ComfyUI: {reasons}\n{server.tail()}")


def _blank(images: Iterable[bytes]) -> bool:
    """Whether one of them is a plain area: what weights that overflow draw, and no proof that two sides are alike."""
    from PIL import Image

    for data in images:
        with Image.open(io.BytesIO(data)) as image:
            low, high = image.convert("L").getextrema()
            if low == high:
                return True
    return False
