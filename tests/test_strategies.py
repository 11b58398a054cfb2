import pytest
from story import MB, components

from residency.core.component import Mode, Strategy
from residency.core.strategies import resolve, strategy_of


@pytest.mark.parametrize(
    ("limit_mb", "mode", "reason"),
    [(30, Mode.HIGH_VRAM, "all components"), (20, Mode.BALANCED, "the largest component"), (15, Mode.LOW_VRAM, "does not fit")],
)
def test_auto_is_what_fits_and_says_why(limit_mb, mode, reason):
    resolved = resolve(Mode.AUTO, components(a=20, b=10).values(), limit_mb * MB)
    assert resolved.mode is mode and reason in resolved.reason


def test_without_a_device_of_its_own_memory_auto_is_balanced():
    assert resolve(Mode.AUTO, components(a=20).values(), None).mode is Mode.BALANCED


@pytest.mark.parametrize("mode", [mode for mode in Mode if mode is not Mode.AUTO])
def test_what_the_user_chose_stays(mode):
    assert resolve(mode, components(a=20).values(), 1).mode is mode


def test_each_mode_has_its_strategy_and_off_none():
    chosen = {mode: strategy_of(mode) for mode in Mode}
    assert chosen[Mode.HIGH_VRAM] is Strategy.RESIDENT and chosen[Mode.LOW_VRAM] is Strategy.RELEASE
    assert chosen[Mode.BALANCED] is Strategy.OFFLOAD and chosen[Mode.OFF] is None
