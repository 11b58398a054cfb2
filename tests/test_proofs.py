"""The ledger of what the device features rest on."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

PATH = Path(__file__).parents[1] / "residency" / "comfyui" / "device" / "proofs.py"


def _ledger() -> Any:
    """It needs no ComfyUI, which its package does."""
    name = "residency_proofs_alone"
    spec = importlib.util.spec_from_file_location(name, PATH)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


L = _ledger()
FLUX = L.Kind("patcher", "comfy.Flux", "compiler=off")


def test_the_first_pass_of_each_kind_of_model_is_on_the_safe_path_until_it_was_seen():
    proofs = L.Proofs()
    assert "not yet seen with Flux" in proofs.why_not(L.Feature.BEHIND, FLUX)
    proofs.prove(L.Behaviour.GATED, FLUX)
    assert proofs.why_not(L.Feature.BEHIND, FLUX) == ""
    assert proofs.why_not(L.Feature.BEHIND, L.Kind("patcher", "comfy.Wan", "compiler=off"))
    assert all(state.on for state in proofs.states())


def test_another_setting_of_the_compiler_and_another_signature_need_another_proof():
    proofs = L.Proofs()
    proofs.settle("compiler=off")
    proofs.prove(L.Behaviour.GATED, FLUX)
    proofs.settle("compiler=on")
    assert proofs.why_not(L.Feature.BEHIND, L.Kind("patcher", "comfy.Flux", "compiler=on"))
    proofs.settle("compiler=off")
    assert proofs.why_not(L.Feature.BEHIND, FLUX)


def test_what_was_disproved_stays_off_and_says_once_what_is_lost(caplog: pytest.LogCaptureFixture):
    proofs = L.Proofs()
    with caplog.at_level(logging.WARNING, "residency"):
        for _ in range(2):
            proofs.disprove(L.Behaviour.WRITTEN_BACK_EQUAL, FLUX, "a page read otherwise")
    proofs.prove(L.Behaviour.WRITTEN_BACK_EQUAL, FLUX)
    proofs.forgive()
    assert proofs.why_not(L.Feature.EXCHANGE, FLUX) == "a page read otherwise"
    assert [record.getMessage() for record in caplog.records] == [
        (
            "residency: one copy over two tiers is off for Flux: a page read otherwise; "
            "what leaves the device is read from its file again where host memory is short"
        )
    ]
    assert [state.feature for state in proofs.states() if not state.on] == [L.Feature.EXCHANGE]


def test_failures_count_by_feature_and_only_those_one_after_the_other_turn_it_off():
    proofs = L.Proofs()
    for _ in range(2):
        proofs.failed(L.Feature.ONLOAD, RuntimeError("unpin"))
        proofs.failed(L.Feature.ONLOAD, RuntimeError("unpin"))
        proofs.went_well(L.Feature.ONLOAD)
    assert proofs.failures[L.Feature.ONLOAD] == 4 and proofs.why_not(L.Feature.ONLOAD, FLUX) == ""
    for _ in range(3):
        proofs.failed(L.Feature.ONLOAD, RuntimeError("unpin"))
    assert "the last one RuntimeError: unpin" in proofs.why_not(L.Feature.ONLOAD, FLUX)
    assert proofs.why_not(L.Feature.EXCHANGE, FLUX) == "" == proofs.why_not(L.Feature.EVICT, FLUX)
    proofs.forgive()
    assert proofs.why_not(L.Feature.ONLOAD, FLUX) == ""
