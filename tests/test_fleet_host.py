"""Two workers of one host whose page cache does not hold all models, and whose drive is slow: the door's choices from arrival to end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from scripted_host import TICK_S, Host, HostWorker
from scripted_worker import MODEL_BYTES
from test_fleet_prompts import fleet

from residency.fleet.policies import policies
from residency.fleet.simulation import at
from residency.fleet.traffic import Family, Traffic, generate

COMPUTE_S = 2.5
SHOWN_S = 40.0
LONG_S = 400.0  # computing takes 50 s of two workers, reading a model anew for each prompt 400


@dataclass
class Outcome:
    ended: int  # after SHOWN_S
    seconds: float  # of all
    read_models: float
    moves: int
    p50_s: float
    p95_s: float


def drawn(seed: int, count: int = 40) -> list[tuple[float, str, str]]:
    """(arrival, client, model) in the shape of `residency fleet simulate`: a queue grows."""
    family = Family("flux", 1.0, MODEL_BYTES, 0, 0, 0, 0.0, COMPUTE_S, 0.0, 20, shared=True)
    requests = generate(Traffic(count, 2, models=4, load=1.5, seed=seed, families=(family,)))
    return [(one.time_s, one.client, one.job.model) for one in requests]


def outcome(way: str, seed: int, room_models: float = 1.8, on_device: int = 1) -> Outcome:
    async def run() -> Outcome:
        host = Host(int(room_models * MODEL_BYTES), on_device=on_device)
        workers = [await HostWorker(host, f"worker-{n}", f"flux-{n}", COMPUTE_S).start() for n in range(2)]
        choose: Any = None if way == "residency" else (way, policies(0)[way])
        came: dict[str, float] = {}
        ends: dict[str, float] = {}
        now_s, looked_s, moves = 0.0, 0.0, 0
        try:
            async with fleet(*workers, choose=choose) as it:
                left = drawn(seed)
                first_s = left[0][0]
                while left or len(ends) < len(came):
                    it.clock.now_s = max(it.clock.now_s, now_s)
                    while left and left[0][0] - first_s <= now_s:
                        time_s, client, model = left.pop(0)
                        came[await it.post(model, client)] = time_s - first_s
                    now_s += TICK_S
                    ends.update(dict.fromkeys(await host.passes(), now_s))
                    if now_s >= looked_s + 0.3:
                        looked_s = now_s
                        await it.look()
                    assert now_s < LONG_S, f"{len(came) - len(ends)} have not ended"
                moves = sum("moved from" in one["reason"] for one in it.door.chooser.decisions.values())
        finally:
            for worker in workers:
                await worker.die()
        latencies = [ends[one] - came[one] for one in came]
        ended = sum(end_s <= SHOWN_S for end_s in ends.values())
        return Outcome(ended, now_s, host.read_bytes / MODEL_BYTES, moves, at(latencies, 0.5), at(latencies, 0.95))

    return asyncio.run(run())


@pytest.mark.parametrize("seed", [0, 1])
def test_a_fleet_behind_one_drive_reads_less_and_ends_sooner_than_by_the_shortest_queue(seed: int):
    ours, theirs = outcome("residency", seed), outcome("least_queue", seed)
    assert 2 * ours.read_models < theirs.read_models
    assert ours.seconds < theirs.seconds
