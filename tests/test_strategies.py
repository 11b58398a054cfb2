import pytest
from story import MB, VirtualHost, components, reads

from residency.core.component import Mode, Policy, Strategy, Tier
from residency.core.events import BudgetChanged, DeviceObserved, PromptStarted
from residency.core.instructions import Evict
from residency.core.strategies import resolve, strategy_of
from residency.settings.node_inputs import REMOVED, STRATEGY

DEVICE_MB = 14
SIZES_MB = {"a": 10, "b": 12}
# megabytes of `a` on the device after each visit of "aba": b lacks 8 when it starts
PLACES = {Strategy.RESIDENT: [10, 10, 10], Strategy.OFFLOAD: [10, 2, 10], Strategy.RELEASE: [10, 2, 0]}


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


def megabytes_of_a(asked: Policy, mode: Mode) -> list[int]:
    """Of `a` on the device after each visit of "aba"; a node loads of its own weights as much as there is room for."""
    parts = components(**SIZES_MB)
    policies = {"a": asked, "b": Policy(strategy=Strategy.OFFLOAD)}
    host = VirtualHost(reads("-"), parts, 0)
    host.give(BudgetChanged(0.0, Tier.DEVICE, sum(SIZES_MB.values()) * MB))  # so that auto finds high-vram; less is free later
    host.give(PromptStarted(1.0, "p", reads("aba"), parts, mode, policies))
    held = {"a": 10, "b": 0}

    def leave(instructions):
        for one in instructions:
            if isinstance(one, Evict) and one.tier is Tier.DEVICE:
                held[one.component.key] -= min(held[one.component.key], one.size_bytes // MB)

    found = []
    for position, key in enumerate("aba"):
        host.give(DeviceObserved(2.0, {name: size * MB for name, size in held.items()}, (DEVICE_MB - sum(held.values())) * MB))
        leave(host.start(position))
        held[key] = min(SIZES_MB[key], held[key] + DEVICE_MB - sum(held.values()))
        leave(host.finish(position))
        found.append(held["a"])
    return found


@pytest.mark.parametrize("mode", [mode for mode in Mode if mode is not Mode.OFF])
@pytest.mark.parametrize("strategy", PLACES)
def test_each_strategy_puts_bytes_where_no_other_does_whatever_the_mode(strategy, mode):
    assert megabytes_of_a(Policy(strategy=strategy), mode) == PLACES[strategy]


@pytest.mark.parametrize("mode", [Mode.HIGH_VRAM, Mode.BALANCED, Mode.LOW_VRAM])
def test_without_a_strategy_bytes_lie_as_the_mode_says_be_it_the_nodes_or_the_prompts(mode):
    assert megabytes_of_a(Policy(), mode) == PLACES[strategy_of(mode)]
    assert megabytes_of_a(Policy(mode), Mode.AUTO) == PLACES[strategy_of(mode)]


def test_what_auto_has_found_is_nobodys_word_and_makes_room():
    assert megabytes_of_a(Policy(), Mode.AUTO) == PLACES[Strategy.OFFLOAD]


def test_a_node_offers_what_the_planner_tells_apart_and_nothing_else():
    assert {STRATEGY.default, *(strategy.value for strategy in PLACES)} == set(STRATEGY.options)
    assert len({tuple(places) for places in PLACES.values()}) == len(Strategy)
    assert not REMOVED["strategy"].keys() & set(STRATEGY.options)
