"""Running scenarios: each on fresh servers, side by side in turn; each queue's times are on disk as soon as it has ended."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..comfyui.sample_models.families import OWN_NODES
from ..installation.locate import PACK, ComfyUI
from ..installation.server_process import Server, ServerError, serve
from ..transfers.memory import available_bytes
from . import families, flags, limits, models, queues, rates, results, traces
from .clock import DeviceClock
from .origins import OWN
from .pace import Kind, Pace, Rest, Seen, Side, kinds, least, one_more
from .queues import Asked
from .reads import Reads
from .scenarios import SCENARIOS, Scenario, Size, Temperature, references
from .sessions import Work, sessions, works
from .ways import Way, choose, with_nodes
from .workflows import of
from .workflows import sizes as component_sizes

SMALL_SIZES = PACK / "residency" / "comfyui" / "sample_models" / "small_sizes_pack"
WARM_UP_NUMBER = 5000
NUMBERS_APART = 100


@dataclass(frozen=True, slots=True)
class Plan:
    """The user's request. `ways`: the sides, in their turn. `prompts` and `warm_ups` replace each warm scenario's own number of queues
    that are measured on a server and of those before them; fewer are where `time_limit_s` has no room for more, and no side is begun that
    would end later with one.

    `resume`: the results in the folder of an earlier run on this machine stay, and only missing ones are run; those behind a side may then
    be left for the next time. `verbose`: the servers' logs, which are kept beside the results, tell everything.
    """

    scenarios: tuple[Scenario, ...]
    size: Size
    ways: tuple[Way, ...] = choose(())
    rounds: int = 2
    prompts: int | None = None
    time_limit_s: float | None = None
    prompt_timeout_s: float = 600.0
    with_references: bool = True
    warm_ups: int | None = None
    command: str = ""
    resume: bool = False
    verbose: bool = False


@dataclass(slots=True)
class Bench:
    """One run of the plan; `data`: the results without the summaries."""

    plan: Plan
    comfyui: ComfyUI
    models: Path
    folder: Path
    say: Callable[[str], None]
    started_s: float = field(default_factory=time.monotonic)
    pace: Pace = field(default_factory=Pace)
    clock: DeviceClock = field(default_factory=DeviceClock)
    references: frozenset[str] = frozenset()
    numbers: dict[str, int] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.folder / "results.json"

    @property
    def names(self) -> tuple[str, ...]:
        """Of the sides, in the first round's order."""
        return tuple(way.side for way in self.plan.ways)

    def elapsed_s(self) -> float:
        return time.monotonic() - self.started_s

    def sides(self, scenarios: Sequence[Scenario], sides: Iterable[str], round_number: int) -> list[Side]:
        """The works left to these sides in a round: scenarios for compute times alone run once, on the first one."""
        told: list[Side] = []
        for side in sides:
            wanted = [one for one in scenarios if one.name not in self.references or (side == self.names[0] and round_number == 0)]
            mine = [one for one in wanted if not self.has(one, side, round_number)]
            told.append((side, works(mine, self.plan.prompts, self.references, self.plan.warm_ups)))
        return told

    def has(self, scenario: Scenario, side: str, round_number: int) -> bool:
        """Whether a prompt of it was measured there, now or by the run that this one resumes."""
        runs = self.data["scenarios"].get(scenario.name, {}).get("runs", ())
        return any((run["side"], run["round"]) == (side, round_number) for run in runs)

    def is_over(self, session: Sequence[Scenario]) -> bool:
        """Whether every side of every round has something of each of them."""
        return not any(works for number in range(self.plan.rounds) for _, works in self.sides(session, self.names, number))

    def fits(self, rest: Rest) -> bool:
        """Whether all this would end before the limit."""
        limit_s = self.plan.time_limit_s
        return limit_s is None or self.elapsed_s() + rest.seconds(self.pace) <= limit_s

    def write(self) -> None:
        results.write(results.summarise(self.data), self.path)


def run(plan: Plan, comfyui: ComfyUI, models_folder: Path, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """All scenarios of the plan; returns the results. A scenario whose server fails is left with its error, the others run.

    Raises ServerError when the models cannot be made or the machine not be measured, ResultsError for a run that cannot be resumed.
    """
    bench = Bench(plan, comfyui, models_folder, folder, say)
    say("looking at the machine")
    machine = rates.machine(comfyui, models_folder)
    head = {"version": results.VERSION, "size": plan.size.value, "command": plan.command, "rounds": plan.rounds, "prompts": plan.prompts}
    now = time.strftime("%Y-%m-%d %H:%M:%S %z")
    before = results.to_resume(bench.path, plan.size.value, machine) if plan.resume else {"drive": {}, "scenarios": {}}
    bench.data = {**head, "started": now, "machine": machine, **before, "skipped": {}}
    asked = _possible(bench, plan.scenarios, "device_bytes" in machine)
    extra = _references(asked) if plan.with_references else ()
    bench.references = frozenset(one.name for one in extra)
    bench.numbers = {name: place for place, name in enumerate(dict.fromkeys(one.name for one in (*SCENARIOS, *asked, *extra)))}
    shared = [session for session in sessions(asked, extra) if not bench.is_over(session)]
    # a family's files have just been written, and its references leave all memory free: now nothing of them is read from the drive
    shared.sort(key=lambda session: not all(one.family and one.name in bench.references for one in session))
    try:
        with bench.clock:
            for index, session in enumerate(shared):
                if not bench.fits(least(bench.sides(session, bench.names, 0))):
                    _skip(bench, session, "the time limit came first")
                    continue
                _make_models(bench, session, [scenario for other in shared[index + 1 :] for scenario in other])
                _session(bench, session)
                bench.write()
    finally:
        bench.write()
    return results.summarise(bench.data)


def _references(asked: Sequence[Scenario]) -> tuple[Scenario, ...]:
    """Those that tell compute times besides these."""
    told = {one.name for one in asked}
    of_families = families.references(dict.fromkeys(one.family for one in asked if one.family))
    return (*references([one for one in asked if not one.family]), *(one for one in of_families if one.name not in told))


def _possible(bench: Bench, scenarios: Sequence[Scenario], cuda: bool) -> tuple[Scenario, ...]:
    # what is cold waits for the drive, however much the device holds
    on_device = [one for one in scenarios if one.limits.device_free_bytes is not None and not cuda and one.temperature is Temperature.WARM]
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
    spare += [one for name in families.NAMES for one in models.family_files(name) if one.name not in needed]
    if models.make(bench.comfyui, bench.models, size, wanted, dict.fromkeys(spare), bench.say) and hasattr(os, "sync"):
        bench.say("waiting until they are on the drive")
        os.sync()  # else they are still being written while others are read, and dirty pages cannot be dropped
    if not bench.data["drive"]:
        bench.say("measuring the drive")
        largest = max((one.at(bench.models) for one in wanted), key=lambda path: path.stat().st_size)
        bench.data["drive"] = rates.drive(largest)


# --- one session ---


def _session(bench: Bench, session: Sequence[Scenario]) -> None:
    """Its rounds: the sides in their order, backwards, and so on. A failure is kept as the error of the scenario that ran.

    Where time is short, a side is begun when it and those after it in its round fit with one measured queue of each scenario; in the
    first round one that does not is left out.
    """
    before = bench.data["scenarios"]
    raws = {one.name: _again(bench, before[one.name], one) if one.name in before else _head(bench, one) for one in session}
    seen = {one.name: traces.Traces(bench.folder / "traces" / f"{one.name}.json", keep=one.name in before) for one in session}
    bench.data["scenarios"].update(raws)
    there_and_back = [bench.plan.ways, tuple(reversed(bench.plan.ways))]
    turns = [(number, way, rest) for number in range(bench.plan.rounds) for way, *rest in _tails(there_and_back[number % 2])]
    with limits.Holder(bench.comfyui, "device_bytes" in bench.data["machine"]) as holder:
        for number, way, later in turns:
            sound = [one for one in session if not raws[one.name]["error"]]
            # the sides after it in a round that has begun; where the next run can do them, they need not fit in here
            after = [] if bench.plan.resume else [other.side for other in later]
            (_, mine), *coming = bench.sides(sound, (way.side, *after), number)
            if not mine:
                continue
            if not bench.fits(least([(way.side, mine), *coming])):
                _skip(bench, session, f"the time limit came before round {number + 1}, {way.side}")
                if number:
                    return
                continue  # the last side of a first round may still fit: without the pack nobody has a ratio
            _side(bench, mine, raws, seen, holder, (way, number), coming)
    for name, raw in raws.items():
        raw["complete"] = raw["error"] is None and name not in bench.data["skipped"]


def _tails(ways: Sequence[Way]) -> Iterator[Sequence[Way]]:
    return (ways[place:] for place in range(len(ways)))


def _again(bench: Bench, raw: dict[str, Any], scenario: Scenario) -> dict[str, Any]:
    """An earlier run's results of a scenario, to go on with."""
    ways = {way.side: _way(way, scenario).told() for way in bench.plan.ways}
    return {**raw, "error": None, "ways": {**raw.get("ways", {}), **ways}}


def _head(bench: Bench, scenario: Scenario) -> dict[str, Any]:
    """The scenario's part of the results before anything has run."""
    files = models.files_of(scenario, bench.plan.size)
    prompts = {workflow.value: of(scenario, workflow, bench.plan.size, 0, bench.models) for workflow in scenario.queue}
    return {
        **{key: bench.data[key] for key in OWN},
        "what": scenario.what,
        "precision": scenario.weights,
        "family": scenario.family,
        "hardware": scenario.hardware,
        "queue": [workflow.value for workflow in scenario.queue],
        "limits": asdict(scenario.limits),
        "temperature": scenario.temperature.value,
        "resident": scenario.resident,
        "target": asdict(scenario.target),
        "arguments": list(scenario.server_arguments),
        "ways": {way.side: _way(way, scenario).told() for way in bench.plan.ways},
        "sizes": {one.name: one.at(bench.models).stat().st_size for one in files} | component_sizes(scenario, bench.models),
        "prompts": {name: {"uses": one.uses, "passes": one.passes} for name, one in prompts.items()},
        "runs": [],
        "held": [],
        "complete": False,
        "error": None,
    }


def _way(way: Way, scenario: Scenario) -> Way:
    """How its servers are started for this scenario."""
    return with_nodes(way) if scenario.family in OWN_NODES else way


def _side(
    bench: Bench,
    session: Sequence[Work],
    raws: dict[str, Any],
    seen: dict[str, traces.Traces],
    holder: limits.Holder,
    turn: tuple[Way, int],
    coming: Sequence[Side],
) -> None:
    """One server: each scenario's warm-ups, then its measured queues, as many as leave time for as many of those coming after it."""
    way, round_number = turn
    way = _way(way, session[0].scenario)
    side = way.side
    arguments = ["--cpu"] if "device_bytes" not in bench.data["machine"] else []
    arguments += ["--verbose", "DEBUG"] if bench.plan.verbose else []
    arguments += flags.together(session[0].scenario.server_arguments, way.arguments)
    current = session[0].scenario.name
    before_s, before = bench.elapsed_s(), len(bench.pace.queues)
    try:
        with ExitStack() as stack:
            _leave(bench, holder, session[0], raws)
            before_s = bench.elapsed_s()  # holding 100 GB takes half a minute, once for all sides
            small = bench.plan.size is not Size.FULL and session[0].scenario.family
            others = [SMALL_SIZES] if small else []
            server = stack.enter_context(
                serve(bench.comfyui, bench.models, arguments, way.pack, others=others, environment=way.environment)
            )
            stack.callback(_keep, server.log, bench.folder / "logs" / f"{current}-{side}-{round_number + 1}.log")
            bench.pace.around.append((side, bench.elapsed_s() - before_s))
            if way.pack is not None:
                _check_pack(server)
            if way.settings:
                server.post("/residency/settings", way.settings)
            reads = Reads(server.process.pid)
            for place, work in enumerate(session):
                current = work.scenario.name
                _leave(bench, holder, work, raws)
                rest = Rest(side, session[place + 1 :], coming)
                asked = Asked(work.scenario, bench.plan.size, server, way.pack is not None, bench.plan.prompt_timeout_s, bench.models)
                _measure(bench, work, asked, reads, raws[current], seen[current], (side, round_number), rest)
        queues_s = sum(one.seconds for one in bench.pace.queues[before:])
        bench.pace.around[-1] = (side, bench.elapsed_s() - before_s - queues_s)  # with its end, too
    except ServerError as error:
        raws[current]["error"] = str(error)
        bench.say(f"{current} failed: {error}")
    finally:
        bench.write()


def _leave(bench: Bench, holder: limits.Holder, work: Work, raws: dict[str, Any]) -> None:
    """Hold the memory that the scenario shall not have. Raises ServerError."""
    told = holder.leave(work.scenario.limits)
    if told is None:
        return
    for name, raw in raws.items():
        if raw["limits"] == asdict(work.scenario.limits):
            raw["held"] = told
            for sentence in told:
                bench.say(f"{name}: {sentence}")


def _measure(
    bench: Bench, work: Work, asked: Asked, reads: Reads, raw: dict[str, Any], seen: traces.Traces, turn: tuple[str, int], rest: Rest
) -> None:
    """One scenario on a server that runs. `rest`: the works after it. Raises ServerError."""
    scenario, (side, round_number) = work.scenario, turn
    files = [one.at(bench.models) for one in models.files_of(scenario, bench.plan.size)]
    name = f"{scenario.name}, {side}, round {round_number + 1}"
    apart = NUMBERS_APART * bench.numbers[scenario.name]  # no two scenarios draw the same: ComfyUI would answer from its cache
    in_round = scenario.prompts if bench.plan.prompts is None else bench.plan.prompts
    for index, kind in enumerate(kinds(work)):
        done = index - work.warm_ups
        if done > 0 and not bench.fits(one_more(rest, work, done)):
            _skip(bench, [scenario], f"the time limit left room for {done} of {work.measured} prompts in round {round_number + 1}, {side}")
            return
        began_s = bench.elapsed_s()
        if done < 0:
            seconds = queues.post(asked, WARM_UP_NUMBER + apart + 10 * round_number + index, reads).seconds
            reads.since()
            bench.say(f"{name}: warm-up {index + 1}, {seconds:.2f} s")
        else:
            # by the number of the plan, not of this side: the same number is the same prompt on every side, whichever measures less
            number = 1 + apart + round_number * in_round + done
            not_cached = limits.make_cold(files) if kind is Kind.COLD else limits.cold_bytes(files)
            told, trace = queues.measured(asked, number, reads, bench.clock)
            place = {"side": side, "round": round_number, "place": index + 1, "cold_bytes": not_cached}
            raw["runs"].append(told | place)
            seen.add(side, told["seconds"], trace)
            seen.write()
            bench.write()
            bench.say(f"{name}: {told['seconds']:.2f} s{_read(told)}")  # last: whoever reads it may end us
        bench.pace.queues.append(Seen(side, scenario.name, kind, len(scenario.queue), bench.elapsed_s() - began_s))


def _read(told: Mapping[str, Any]) -> str:
    return "" if told["drive_bytes"] is None else f", {told['drive_bytes'] / 1e9:.1f} GB read"


def _keep(log: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(log, place)


def _check_pack(server: Server) -> None:
    reasons = server.why_off()
    if reasons is not None:
        raise ServerError(f"the pack is off with this ComfyUI: {reasons}\n{server.tail()}")
