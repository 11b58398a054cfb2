"""The ledger of what the device features rest on."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from residency.comfyui.device import proofs as ledger
from residency.comfyui.device.copy_fence import Gate
from residency.comfyui.device.coverage import Coverage

FLUX = ledger.Kind("patcher", "comfy.Flux", "compiler=off")


def test_the_first_pass_of_each_kind_of_model_is_on_the_safe_path_until_it_was_seen():
    proofs = ledger.Proofs()
    assert "not yet seen with Flux" in proofs.why_not(ledger.Feature.BEHIND, FLUX)
    proofs.prove(ledger.Behaviour.GATED, FLUX)
    assert proofs.why_not(ledger.Feature.BEHIND, FLUX) == ""
    assert proofs.why_not(ledger.Feature.BEHIND, ledger.Kind("patcher", "comfy.Wan", "compiler=off"))
    assert all(state.on for state in proofs.states())


def test_another_setting_of_the_compiler_and_another_signature_need_another_proof():
    proofs = ledger.Proofs()
    proofs.settle("compiler=off")
    proofs.prove(ledger.Behaviour.GATED, FLUX)
    proofs.settle("compiler=on")
    assert proofs.why_not(ledger.Feature.BEHIND, ledger.Kind("patcher", "comfy.Flux", "compiler=on"))
    proofs.settle("compiler=off")
    assert proofs.why_not(ledger.Feature.BEHIND, FLUX)


def test_what_was_disproved_stays_off_and_says_once_what_is_lost(caplog: pytest.LogCaptureFixture):
    proofs = ledger.Proofs()
    with caplog.at_level(logging.WARNING, "residency"):
        for _ in range(2):
            proofs.disprove(ledger.Behaviour.WRITTEN_BACK_EQUAL, FLUX, "a page read otherwise")
    proofs.prove(ledger.Behaviour.WRITTEN_BACK_EQUAL, FLUX)
    proofs.forgive()
    assert proofs.why_not(ledger.Feature.EXCHANGE, FLUX) == "a page read otherwise"
    assert [record.getMessage() for record in caplog.records] == [
        (
            "residency: one copy over two tiers is off for Flux: a page read otherwise; "
            "what leaves the device is read from its file again where host memory is short"
        )
    ]
    assert [state.feature for state in proofs.states() if not state.on] == [ledger.Feature.EXCHANGE]


def test_failures_count_by_feature_and_only_those_one_after_the_other_turn_it_off():
    proofs = ledger.Proofs()
    for _ in range(2):
        proofs.failed(ledger.Feature.ONLOAD, RuntimeError("unpin"))
        proofs.failed(ledger.Feature.ONLOAD, RuntimeError("unpin"))
        proofs.went_well(ledger.Feature.ONLOAD)
    assert proofs.failures[ledger.Feature.ONLOAD] == 4 and proofs.why_not(ledger.Feature.ONLOAD, FLUX) == ""
    for _ in range(3):
        proofs.failed(ledger.Feature.ONLOAD, RuntimeError("unpin"))
    assert "the last one RuntimeError: unpin" in proofs.why_not(ledger.Feature.ONLOAD, FLUX)
    assert proofs.why_not(ledger.Feature.EXCHANGE, FLUX) == "" == proofs.why_not(ledger.Feature.EVICT, FLUX)
    proofs.forgive()
    assert proofs.why_not(ledger.Feature.ONLOAD, FLUX) == ""


class Module(SimpleNamespace):
    __hash__ = object.__hash__


class Event:
    def __init__(self, waited: list[str], name: str) -> None:
        self.waited, self.name = waited, name

    def wait(self) -> None:
        self.waited.append(self.name)


def model(count: int = 4, buffer: Any = "buffer") -> list[Module]:
    return [Module(_v=(buffer, 100 * number, 100), _v_signature=None) for number in range(count)]


def passes(modules: list[Module], *seen: list[int]) -> str:
    """One pass for each list of numbers of modules that pass the gate; all are filled in the first."""
    gate = Gate()
    gate.watch(on=True)
    coverage = Coverage(modules)
    for numbers in seen:
        gate.wait([modules[number] for number in numbers])
        for module in modules:
            module._v_signature = module._v_signature or object()
        against = coverage.pass_ends(gate)
        if against:
            return against
        gate.watch(on=True)
    return coverage.ends()


def test_a_weight_that_was_filled_and_not_asked_for_was_used_behind_the_gate():
    assert passes(model(), [0, 1, 2, 3]) == ""
    assert passes(model(), [0, 1, 3]) == "1 of 4 weights were filled without passing the gate"


def test_a_block_that_is_replayed_from_the_third_pass_on_is_seen_and_one_that_is_passed_over_for_some_steps_is_not():
    every = [0, 1, 2, 3]
    assert passes(model(), every, every, [0], [0], [0]) == "3 of 4 weights passed the gate in the first passes and in no later one"
    assert passes(model(), every, every, [0], [0], every) == ""
    assert passes(model(), every, every, [0]) == ""  # too few to say


def test_a_block_that_is_asked_for_as_a_whole_counts_for_its_modules():
    modules, gate = model(), Gate()
    buffer = modules[0]._v[0]
    gate.watch(on=True)
    coverage = Coverage(modules)
    for module in modules:
        module._v_signature = object()
    gate.wait_for_range(buffer, 0, 250)
    gate.wait_for_range(buffer, 250, 150)
    assert coverage.pass_ends(gate) == "" and coverage.passes == 1


def test_what_is_asked_for_as_a_whole_waits_for_the_copies_that_lie_in_it_and_for_no_other():
    waited: list[str] = []
    modules, gate = model(), Gate()
    gate.open = False
    for number, module in enumerate(modules):
        gate.announce(module, SimpleNamespace(record_event=lambda name=str(number): Event(waited, name)))
    with gate.aside():
        gate.wait_for_range(modules[0]._v[0], 0, 400)
    assert waited == []
    gate.wait_for_range(modules[0]._v[0], 150, 100)
    assert waited == ["1", "2"]
    gate.wait_for_range("another", 0, 400)
    gate.wait(modules)
    assert waited == ["1", "2", "0", "3"]
