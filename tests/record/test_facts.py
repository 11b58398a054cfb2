"""A recorded run, told to another session, gives the same instructions: what is recorded is all that decides."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residency.cli.main import main
from residency.core.component import Component, Extent, Mode, Policy, Strategy, Tier
from residency.core.events import BudgetChanged, Copied, DeviceObserved, HostObserved, Kept, TransferDone
from residency.core.timeline import Timeline, Use, UseKind, Visit
from residency.record.facts import FactsError, FactWriter, decoded, encoded, read, replayed
from residency.session import Limits, Looks, OrderChanges, PromptBegins, Sight
from residency.simulate import GB, H100, Managed, Program, Step, run

KEYS = "abcd"
KIND = {key: Component(key, key, "MODEL", (3 + number) * 5 * GB) for number, key in enumerate(KEYS)}
steps = st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 4), st.integers(1, 5)), min_size=1, max_size=5)


def program(prompts: list[list[tuple[str, int, int]]]) -> Program:
    def step(number: int, key: str, compute_s: int, passes: int) -> Step:
        return Step(str(number), "Node", float(compute_s), (key,), passes, GB)

    return Program("drawn", KIND, tuple(tuple(step(number, *one) for number, one in enumerate(prompt)) for prompt in prompts))


def record(path: Path, work: Program, policy: Managed) -> None:
    writer = FactWriter(path)
    run(work, H100, policy, recorder=writer)
    writer.close()


@settings(max_examples=40, deadline=None)
@given(st.lists(steps, min_size=1, max_size=3), st.sampled_from([mode for mode in Mode if mode is not Mode.OFF]), st.booleans())
def test_a_recorded_program_gives_the_same_instructions_again(tmp_path_factory, prompts, mode, ahead):
    path = tmp_path_factory.mktemp("facts") / "run.jsonl"
    record(path, program(prompts), Managed(mode=mode, device_prefetch=ahead))
    done = replayed(path)
    assert done.difference is None and done.facts > 3 * len(prompts)


def test_another_decision_is_told_with_the_fact_that_led_to_it(tmp_path, capsys):
    path = tmp_path / "run.jsonl"
    record(path, program([[("a", 1, 1), ("b", 2, 1)]]), Managed())
    assert main(["replay", str(path)]) == 0 and "the same as recorded" in capsys.readouterr().out
    path.write_text(path.read_text().replace('["Prefetch","b","host"', '["Prefetch","c","host"', 1))
    assert main(["replay", str(path)]) == 1
    said = capsys.readouterr().out
    assert "PromptBegins" in said and "'c'" in said and "'b'" in said


def test_a_recording_ends_at_its_limit_between_two_facts_and_can_be_replayed(tmp_path):
    path, ends = tmp_path / "run.jsonl", []
    writer = FactWriter(path, limit_bytes=20_000, ended=ends.append)
    run(program([[("a", 1, 1), ("b", 2, 1)]] * 40), H100, Managed(), recorder=writer)
    assert ends == ["its limit is reached"] and path.stat().st_size <= 20_000
    assert replayed(path).difference is None and replayed(path).facts > 3


def test_a_line_that_was_cut_off_is_the_end(tmp_path):
    path = tmp_path / "run.jsonl"
    record(path, program([[("a", 1, 1)]]), Managed())
    whole = len(list(read(path)))
    path.write_text(path.read_text()[:-5])
    assert len(list(read(path))) == whole - 1


@pytest.mark.parametrize("line", ['["NoSuchFact",[],[]]', '["NodeEnds",["now"],[]]', "[]", "{}", '["NodeEnds",[],[]]'])
def test_a_line_that_is_no_fact_is_named(tmp_path, line):
    path = tmp_path / "run.jsonl"
    path.write_text(f'["residency facts",1]\n{line}\n')
    with pytest.raises(FactsError, match="line 2"):
        list(read(path))


def test_every_field_comes_back():
    parts = {"a": Component("a", "A", "MODEL", 5, (Extent("/m", 0, 5),))}
    timeline = Timeline((Visit("p", "1", "Node", 0.5, 7),), (Use(0, "a", UseKind.COMPUTE, True),), 1)
    sight = Sight(HostObserved(1.0, {"a": 3}, {"a": 1}, {}, True), DeviceObserved(1.0, {"a": 2}, 9, None))
    policies = {"a": Policy(Mode.LOW_VRAM, Strategy.RELEASE, 2, False, True, "node 3")}
    facts = [
        PromptBegins(1.0, "p", timeline, parts, Mode.AUTO, policies, frozenset("a"), Limits(5, 1, None), sight),
        OrderChanges(2.0, timeline, parts),
        Looks(3.0, Limits(-2), sight),
        BudgetChanged(4.0, Tier.HOST, 5),
        TransferDone(5.0, "a", Tier.DEVICE, 1, 2, 0.5),
        Copied(6.0, "a", 1, 2, True, 0.1, 0.2),
        Kept(7.0, parts["a"], "wanted"),
    ]
    assert [decoded(type(fact), encoded(fact)) for fact in facts] == facts


@pytest.mark.parametrize(("kind", "told", "expected"), [(Limits, [5, 1, None], Limits(5, 1)), (Extent, ["/m", 0, 5], Extent("/m", 0, 5))])
def test_what_an_earlier_version_did_not_tell_yet_has_its_default(kind, told, expected):
    assert decoded(kind, told) == expected


@pytest.mark.parametrize("told", [["/m", 0], ["/m", 0, 5, 6]])
def test_a_value_that_is_missing_or_too_many_is_an_error(told):
    with pytest.raises(ValueError, match=f"{len(told)} values for the 3 fields of a Extent"):
        decoded(Extent, told)
