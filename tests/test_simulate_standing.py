"""What a running server tells of itself, as the simulator takes it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_simulate_exchange import CLASS_1

from residency.core.component import Component
from residency.core.events import DeviceObserved, HostObserved
from residency.record.contents import Contents
from residency.simulate import GB, GIB, OURS, run
from residency.simulate.policies import OURS_EXCHANGING
from residency.simulate.standing import bytes_from, machine_of, policy_of, start_of
from residency.simulate.workload import Program, Step

C1_PACK_S = 11.47  # docs/benchmarks.md


def test_memory_that_the_process_holds_of_weights_is_memory_for_weights():
    told = Contents(HostObserved(0.0, {}, {"a": 7 * GB}), DeviceObserved(0.0, {"a": 5 * GB}, 0, {"a": 3 * GB}))
    assert machine_of(told, 12 * GIB, 10 * GB, GB, 4 * GB, GB, 50 * GB).host_bytes == 13 * GB  # what lies on the device takes none of it
    assert machine_of(replace(told, device=None), None, 10 * GB, GB, 4 * GB, GB, 50 * GB).host_bytes == 17 * GB
    assert machine_of(Contents(), 12 * GIB, 10 * GB, GB, 4 * GB, GB, 50 * GB).host_bytes == 10 * GB


def test_the_pack_is_simulated_with_what_its_movers_can():
    assert policy_of(None, exchanges=True) == OURS
    assert policy_of(12 * GIB, exchanges=False).device_prefetch
    assert not policy_of(12 * GIB, exchanges=False).exchanges and policy_of(12 * GIB, exchanges=True).exchanges


def test_a_warm_prompt_where_memory_is_short_is_foretold_within_twenty_percent_of_what_was_measured():
    """Told as 17.1 s without exchanges, as 10.3 with the device's 80 GB: what another program holds of it counts."""
    program, machine = CLASS_1
    rates = machine.drives[0].read_bytes_per_s, machine.pinned_bytes_per_s
    mine = machine_of(Contents(), 12 * GIB, machine.host_bytes, GIB, 10 * GIB, *rates)
    assert run(program, mine, policy_of(12 * GIB, exchanges=True)).prompts_s[-1] == pytest.approx(C1_PACK_S, rel=0.2)


def test_a_byte_counts_where_it_is_nearest():
    components = {"a": Component("a", "a", "MODEL", 10 * GB)}
    lies = {"a": {"device_bytes": 4 * GB, "pinned_bytes": 6 * GB, "loaded_bytes": 10 * GB, "cached_bytes": None}}
    assert bytes_from(components, lies) == {"device": 4 * GB, "pinned": 6 * GB, "cached": 0, "disk": 0}
    lies = {"a": {"device_bytes": 4 * GB, "pinned_bytes": 3 * GB, "loaded_bytes": 4 * GB, "cached_bytes": 9 * GB}}
    assert (start_of(components, lies).loaded, start_of(components, lies).cached) == ({"a": 4 * GB}, {"a": 6 * GB})


@pytest.mark.parametrize(("policy", "seconds"), [(OURS_EXCHANGING, 1.0), (OURS, 5.0)])
def test_one_copy_over_both_tiers_is_all_of_a_model_where_weights_may_have_one(policy, seconds):
    """Taken for two copies of its beginning, 4 GB of it would be read again: 41 s were foretold of a prompt of 20."""
    part = Component("a", "a", "MODEL", 10 * GB)
    lies = {"a": {"device_bytes": 4 * GB, "pinned_bytes": 6 * GB, "loaded_bytes": 10 * GB, "cached_bytes": 0}}
    machine = machine_of(Contents(), 5 * GB, 8 * GB, GB // 2, 0, GB, 50 * GB)
    program = Program("p", {"a": part}, ((Step("1", "KSampler", 1.0, ("a",), 2),),))
    told = run(program, machine, policy, start=start_of({"a": part}, lies))
    assert told.prompts_s[0] == pytest.approx(seconds, rel=0.3)
