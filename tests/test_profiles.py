"""What earlier runs taught: who speaks for whom, how wrong it was, and that nothing can poison or break it."""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import logging
import math
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residency.cli import profiles as command
from residency.profiles import Estimate, Level, NodeKey, Profiles, Quantity, _profiles, database_in, node_keys
from residency.profiles._estimate import Track, estimate, learned
from residency.profiles._store import Store

ROOT = Path(__file__).parents[1]
GB = 10**9

PROMPT: dict[str, Any] = {
    "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "flux.safetensors", "weight_dtype": "default"}},
    "2": {"class_type": "LoraLoaderModelOnly", "inputs": {"model": ["1", 0], "strength_model": 0.8, "lora_name": "ink.safetensors"}},
    "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["9", 0], "text": "a cat that reads a newspaper"}},
    "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 1024, "height": 1024, "batch_size": 1}},
    "5": {
        "class_type": "KSampler",
        "inputs": {
            "model": ["2", 0],
            "positive": ["3", 0],
            "latent_image": ["4", 0],
            "seed": 7,
            "steps": 20,
            "cfg": 3.5,
            "sampler_name": "euler",
            "denoise": 1.0,
        },
    },
}
USES = {"1": ["flux-1"], "2": ["flux-1", "ink-1"], "5": ["flux-1", "ink-1"]}
VERSION = "0.33.0, cuda, dynamic"


def prompt(**changes: tuple[str, Any]) -> dict[str, Any]:
    """The prompt with changed inputs: prompt(width=("4", 512))."""
    changed = copy.deepcopy(PROMPT)
    for name, (node_id, value) in changes.items():
        changed[node_id]["inputs"][name] = value
    return changed


def sampler(graph: dict[str, Any] | None = None, version: str = VERSION, uses: dict[str, list[str]] | None = None) -> NodeKey:
    return node_keys(PROMPT if graph is None else graph, version, USES if uses is None else uses)["5"]


def ran(
    *nodes: tuple[str, float], outcome: str = "success", stall_s: float = 0.0, steps: Sequence[Any] = (), **more: float
) -> dict[str, Any]:
    """A trace of nodes that computed for so many seconds, one after the other."""
    records, now_s = [], 0.0
    for node_id, compute_s in nodes:
        end_s = now_s + compute_s + stall_s + sum(more.values())
        node = {"node_id": node_id, "start_s": now_s, "end_s": end_s, "stall_s": stall_s, "steps": steps}
        records.append({**node, "loads": [], "computes": [], **more})
        now_s = end_s
    return {"prompt_id": "p", "outcome": outcome, "nodes": records, "components": [], "dropped_records": 0}


def keyed(**class_types: str) -> dict[str, NodeKey]:
    """keyed(a="KSampler"): a key of its own for each node."""
    return {node_id: NodeKey.of(VERSION, class_type, (), node_id, node_id) for node_id, class_type in class_types.items()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return database_in(tmp_path)


@pytest.fixture
def profiles(path: Path) -> Iterator[Profiles]:
    opened = Profiles.open(path)
    yield opened
    opened.close()


def said(answer: Estimate | None) -> tuple[float, Level] | None:
    """To nine digits, as they are stored."""
    return None if answer is None else (float(f"{answer.value:.9g}"), answer.source)


# --- who speaks for whom ---


def test_the_second_run_of_a_workflow_is_foretold_by_the_first_also_after_a_restart(profiles: Profiles, path: Path):
    assert profiles.duration(sampler()) is None
    profiles.observe(ran(("5", 12.0)), {"5": sampler()})
    assert said(profiles.duration(sampler())) == (12.0, Level.EXACT)
    profiles.close()
    again = Profiles.open(path)
    assert said(again.duration(sampler())) == (12.0, Level.EXACT)
    again.close()


@pytest.mark.parametrize("change", [{"seed": ("5", 2**40)}, {"seed": ("5", 8)}, {"text": ("3", "two dogs that sleep on the sofa")}])
def test_seeds_and_texts_change_no_key(change: dict[str, tuple[str, Any]]):
    assert sampler(prompt(**change)) == sampler()


@pytest.mark.parametrize(
    ("change", "source"),
    [
        ({"strength_model": ("2", 0.5)}, Level.SHAPE),  # blends: the same work
        ({"cfg": ("5", 4.0)}, Level.SHAPE),
        ({"cfg": ("5", 1.0)}, Level.WEIGHTS),  # no negative prompt: half the work
        ({"unet_name": ("1", "same-file-renamed-link.safetensors")}, Level.SHAPE),
        ({"width": ("4", 512)}, Level.WEIGHTS),
        ({"batch_size": ("4", 4)}, Level.WEIGHTS),
        ({"steps": ("5", 4)}, Level.WEIGHTS),
        ({"sampler_name": ("5", "heun")}, Level.WEIGHTS),
    ],
)
def test_a_change_is_answered_from_what_is_still_the_same_and_never_as_exact(
    profiles: Profiles, change: dict[str, tuple[str, Any]], source: Level
):
    profiles.observe(ran(("5", 12.0)), {"5": sampler()}, peaks={"5": 20 * GB})
    key = sampler(prompt(**change))
    answer, exact = profiles.duration(key), profiles.duration(sampler())
    assert answer is not None and exact is not None
    assert answer.source is source and answer.margin > exact.margin
    assert (profiles.peak(key) is not None) == (source is Level.SHAPE)  # a peak of another size says nothing


def test_another_resolution_learns_for_itself_and_leaves_the_first_alone(profiles: Profiles):
    small = sampler(prompt(width=("4", 512), height=("4", 512)))
    profiles.observe(ran(("5", 12.0)), {"5": sampler()}, peaks={"5": 20 * GB})
    for _ in range(5):
        profiles.observe(ran(("5", 3.0)), {"5": small}, peaks={"5": 8 * GB})
    assert said(profiles.duration(small)) == (3.0, Level.EXACT)
    assert said(profiles.duration(sampler())) == (12.0, Level.EXACT)
    assert said(profiles.peak(sampler())) == (20 * GB, Level.EXACT)


def test_a_replaced_file_leaves_only_the_class_and_another_version_nothing(profiles: Profiles):
    profiles.observe(ran(("5", 12.0)), {"5": sampler()}, peaks={"5": 20 * GB})
    replaced = sampler(uses={**USES, "5": ["flux-2", "ink-1"]})
    answer = profiles.duration(replaced)
    assert answer is not None and answer.source is Level.CLASS and answer.margin > answer.value
    assert profiles.peak(replaced) is None
    assert profiles.duration(sampler(version="0.34.0, cuda, dynamic")) is None


def test_a_node_put_in_between_that_changes_no_work_keeps_the_shape():
    graph = prompt(model=("5", ["8", 0]))
    graph["8"] = {"class_type": "ModelSamplingFlux", "inputs": {"model": ["2", 0], "max_shift": 1.15}}
    exact, shape, *rest = zip(sampler(graph).ids, sampler().ids, strict=True)
    assert exact[0] != exact[1] and shape[0] == shape[1] and all(a == b for a, b in rest)


def test_another_picture_is_another_shape_until_the_host_tells_its_size():
    def encoder(picture: str, shapes: dict[str, tuple[int, int]] | None = None) -> NodeKey:
        graph = {
            "1": {"class_type": "LoadImage", "inputs": {"image": picture}},
            "2": {"class_type": "VAEEncode", "inputs": {"pixels": ["1", 0]}},
        }
        return node_keys(graph, VERSION, shapes=shapes)["2"]

    assert encoder("a.png").ids[1] != encoder("b.png").ids[1]
    assert encoder("a.png", {"1": (640, 480)}).ids[1] == encoder("b.png", {"1": (640, 480)}).ids[1]
    assert encoder("a.png", {"1": (640, 480)}).ids[1] != encoder("a.png", {"1": (1280, 960)}).ids[1]


def test_a_chain_longer_than_the_stack_and_a_cycle_have_keys():
    chain = {str(i): {"class_type": "Blur", "inputs": {"radius": i, "image": [str(i - 1), 0]}} for i in range(3000)}
    assert len({key.ids[0] for key in node_keys(chain, VERSION).values()}) == 3000
    cycle = {"a": {"class_type": "A", "inputs": {"x": ["b", 0]}}, "b": {"class_type": "B", "inputs": {"x": ["a", 0]}}}
    assert set(node_keys(cycle, VERSION)) == {"a", "b"}


@given(st.sampled_from(["width", "height", "batch_size"]), st.integers(1, 2**30), st.integers(1, 2**30))
def test_any_number_of_an_ancestor_that_is_no_seed_tells_work_apart(name: str, one: int, other: int):
    a, b = sampler(prompt(**{name: ("4", one)})), sampler(prompt(**{name: ("4", other)}))
    assert (a == b) == (one == other)
    assert (a.ids[1] == b.ids[1]) == (one == other)


json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3))


@given(st.dictionaries(st.text(max_size=3), st.dictionaries(st.text(max_size=9), json_values, max_size=4), max_size=5))
def test_whatever_a_prompt_holds_has_keys(inputs: dict[str, Any]):
    graph = {node_id: {"class_type": "Any", "inputs": values} for node_id, values in inputs.items()}
    assert set(node_keys(graph, VERSION)) == set(graph)


# --- what teaches ---


def test_stall_is_no_compute_and_a_node_that_went_back_is_one_run(profiles: Profiles):
    profiles.observe(ran(("a", 1.0), ("b", 2.0), ("a", 3.0), stall_s=5.0), keyed(a="Switch", b="Node"))
    assert said(profiles.duration(keyed(a="Switch")["a"])) == (4.0, Level.EXACT)


@pytest.mark.parametrize(("first", "taught_s"), [({"5"}, 4.0), (set(), 9.0)])
def test_of_a_processs_first_run_the_first_step_counts_as_one_of_the_later_ones(profiles: Profiles, first: set[str], taught_s: float):
    """6 s of computing in the first step and 1 s in each of three others, 2 s of waiting: of Wan 2.2 a second prompt was foretold 24.7 s of
    computing, which took 11.1 s."""
    trace = ran(("5", 9.0), stall_s=2.0, steps=[[7.5, 1.5, 1], [1.5, 0.5, 1], [1.0, 0.0, 1], [1.0, 0.0, 1]])

    profiles.observe(trace, {"5": sampler()}, first=first)

    assert said(profiles.duration(sampler())) == (pytest.approx(taught_s), Level.EXACT)


def test_a_node_of_one_step_teaches_all_of_its_first_run(profiles: Profiles):
    profiles.observe(ran(("5", 9.0), steps=[[9.0, 0.0, 1]]), {"5": sampler()}, first={"5"})
    assert said(profiles.duration(sampler())) == (9.0, Level.EXACT)


@pytest.mark.parametrize(
    ("first", "loaded_gb", "reads", "taught_s"),
    [({"5"}, 0.0, "w", 5.0), ({"5"}, 4.6, "w", 7.0), ({"5"}, 9.2, "w", 9.0), ({"5"}, 0.0, "", 9.0), (set(), 0.0, "w", 9.0)],
)
def test_pinning_weights_for_the_first_time_is_no_compute(
    profiles: Profiles, first: set[str], loaded_gb: float, reads: str, taught_s: float
):
    """9.2 GB that the node reads itself: 4 s of its 9, as far as the process did not hold them before."""
    trace = ran(("5", 9.0))
    trace["nodes"][0] |= {"computes": ["w"], "reads": list(reads)}
    trace |= {
        "components": [{"key": "w", "name": "w", "size_bytes": 9_200_000_000}],
        "began": {"loaded_bytes": {"w": int(loaded_gb * 1e9)}},
    }

    profiles.observe(trace, {"5": sampler()}, first=first)

    assert said(profiles.duration(sampler())) == (pytest.approx(taught_s), Level.EXACT)


def test_a_loaders_time_that_is_not_split_teaches_no_compute_nor_does_the_packs_own(profiles: Profiles):
    profiles.observe(ran(("a", 1.0), unsplit_s=5.0, own_s=0.5), keyed(a="Loader"))
    assert said(profiles.duration(keyed(a="Loader")["a"])) == (1.0, Level.EXACT)


@pytest.mark.parametrize("outcome", ["error", "interrupted", "abandoned", "running"])
def test_a_run_that_did_not_end_well_teaches_nothing(profiles: Profiles, outcome: str):
    taught = profiles.observe(ran(("5", 0.5), outcome=outcome), {"5": sampler()}, peaks={"5": GB}, rates={"nvme0n1": 1.0})
    assert taught == 0
    assert profiles.summary()["tracks"] == 0
    assert profiles.duration(sampler()) is None and profiles.rate("nvme0n1") is None


def test_results_from_the_cache_and_nodes_without_weight_are_left_out(profiles: Profiles):
    keys = keyed(a="KSampler", b="PrimitiveInt", c="KSampler")
    assert profiles.observe(ran(("a", 0.02), ("b", 0.0002), ("c", 9.0), ("unknown", 1.0)), keys, cached={"a"}) == 1
    assert profiles.duration(keys["c"]) is not None and profiles.duration(keys["b"]) is None


def test_bytes_rates_and_loads_are_kept_under_their_names(profiles: Profiles, path: Path):
    trace = ran(("5", 1.0))
    trace["nodes"][0]["computes"] = ["flux-1", "flux-1", "ink-1"]
    trace["components"] = [{"key": "flux-1", "name": "flux.safetensors"}]
    profiles.observe(trace, {"5": sampler()}, loaded_bytes={"flux-1": 12 * GB}, rates={"nvme0n1": 3.0 * GB, "host>device": 20.0 * GB})
    profiles.close()
    again = Profiles.open(path)
    assert said(again.loaded_bytes("flux-1")) == (12 * GB, Level.EXACT)
    assert said(again.rate("host>device")) == (20 * GB, Level.EXACT)
    assert again.loads(sampler()) == ("flux-1", "ink-1") and again.loads(sampler(version="other")) is None
    known = again.summary()
    again.close()
    assert [one["name"] for one in known["components"]] == ["flux.safetensors"]
    assert known["loads"] == [{"class_type": "KSampler", "components": ["flux-1", "ink-1"]}]


def test_a_file_name_that_is_no_text_teaches_all_the_same(profiles: Profiles):
    trace = ran(("5", 1.0))
    trace["components"] = [{"key": "odd-1", "name": "odd\udcff.safetensors"}]
    assert profiles.observe(trace, {"5": sampler()}, loaded_bytes={"odd-1": 1.0 * GB}) == 2
    assert profiles.summary()["components"][0]["name"] == "odd?.safetensors"


@given(st.floats(), st.floats(), st.floats())
@settings(max_examples=30, deadline=None)
def test_values_that_cannot_be_are_passed_over(seconds: float, peak: float, rate: float):
    opened = Profiles.open(":memory:")
    key = sampler()
    opened.observe(ran(("5", seconds)), {"5": key}, peaks={"5": peak}, rates={"nvme0n1": rate})
    for answer in (opened.duration(key), opened.peak(key), opened.rate("nvme0n1")):
        assert answer is None or (0 < answer.value < math.inf and answer.margin >= 0)
    opened.close()


def test_a_trace_that_is_none_is_logged_and_never_raises(profiles: Profiles, caplog: pytest.LogCaptureFixture):
    assert profiles.observe({"outcome": "success"}, {"5": sampler()}) == 0
    assert "learned nothing" in caplog.text
    assert profiles.failures == 1


# --- how wrong it was ---


def learned_from(values: list[float], quantity: Quantity = Quantity.DURATION) -> Estimate:
    track: Track | None = None
    for value in values:
        track = learned(track, quantity, Level.EXACT, value)
    assert track is not None
    return estimate(track, quantity, Level.EXACT)


def test_one_odd_run_moves_the_margin_and_not_the_value():
    steady, odd = learned_from([10.0] * 6), learned_from([10.0] * 5 + [100.0])
    assert odd.value == steady.value == 10.0
    assert odd.margin > steady.margin and odd.spread == 90.0


def test_a_cold_first_run_is_forgotten_by_the_second():
    assert learned_from([30.0, 10.0]).value == 10.0


def test_a_lasting_change_is_followed_after_five_runs():
    assert learned_from([10.0] * 9 + [20.0] * 5).value == 20.0


def test_a_peak_is_the_largest_and_what_was_missing_once_is_kept_in_reserve():
    steady, missed = learned_from([8.0 * GB] * 3, Quantity.PEAK), learned_from([8.0 * GB, 12.0 * GB, 8.0 * GB], Quantity.PEAK)
    assert steady.value == 8 * GB and steady.high < 9 * GB
    assert missed.value == 12 * GB and missed.high > 17 * GB


samples = st.lists(st.floats(1e-3, 1e12), min_size=1, max_size=30)


@given(samples, st.sampled_from(Quantity))
def test_an_estimate_is_finite_and_lies_among_its_samples(values: list[float], quantity: Quantity):
    answer = learned_from(values, quantity)
    assert min(values) <= answer.value <= max(values)
    assert 0 <= answer.margin < math.inf and answer.samples == len(values)


@given(samples, st.floats(1.0, 50.0), st.floats(1.0, 50.0), st.booleans())
def test_the_worse_a_prediction_was_the_wider_the_margin(values: list[float], one: float, other: float, above: bool):
    track: Track | None = None
    for value in values:
        track = learned(track, Quantity.DURATION, Level.EXACT, value)
    assert track is not None
    expected = estimate(track, Quantity.DURATION, Level.EXACT).value
    near, far = sorted((one, other))
    errors = [
        learned(track, Quantity.DURATION, Level.EXACT, expected * factor if above else expected / factor).error for factor in (near, far)
    ]
    assert errors[0] <= errors[1]


@given(st.floats(1e-2, 1e6), st.integers(2, 20))
def test_a_predictor_that_is_right_narrows_its_margin(value: float, runs: int):
    assert learned_from([value] * runs).margin < learned_from([value] * (runs - 1)).margin


def test_what_was_answered_is_held_against_what_came(profiles: Profiles):
    for seconds in (10.0, 10.0, 10.0, 40.0):
        profiles.observe(ran(("5", seconds)), {"5": sampler()})
    small = sampler(prompt(width=("4", 512)))
    profiles.observe(ran(("5", 2.5)), {"5": small})
    by_level = {one["level"]: one for one in profiles.summary()["accuracy"]}
    assert by_level["exact"]["predictions"] == 3
    assert by_level["exact"]["error"] == pytest.approx(math.log(4) / 3, rel=0.01)
    assert by_level["exact"]["inside_share"] == pytest.approx(2 / 3)
    assert by_level["weights"]["predictions"] == 1


# --- the file ---


def test_the_file_stays_bounded_and_forgets_what_was_seen_longest_ago(path: Path):
    clock = itertools.count()
    small = Profiles.open(path, unix_clock=lambda: float(next(clock)), max_rows=40)
    keys = [NodeKey.of(VERSION, "KSampler", (), str(i), str(i)) for i in range(60)]
    for key in keys:
        small.observe(ran(("5", 1.0)), {"5": key}, loads={"5": ["flux-1"]})
        small.observe(ran(("5", 1.0)), {"5": keys[0]})  # used all along
        assert small.summary()["tracks"] <= 40
    assert said(small.duration(keys[0])) == said(small.duration(keys[-1])) == (1.0, Level.EXACT)
    assert said(small.duration(keys[1])) == (1.0, Level.WEIGHTS)
    assert small.loads(keys[1]) is None and small.loads(keys[-1]) == ("flux-1",)
    small.close()


def test_clearing_forgets_on_disk_and_in_memory(profiles: Profiles, path: Path):
    profiles.observe(ran(("5", 12.0)), {"5": sampler()}, rates={"nvme0n1": 1.0 * GB}, loads={"5": ["flux-1"]})
    assert profiles.duration(sampler()) is not None
    assert profiles.clear() == 6  # four levels, a rate, a list of loads
    assert profiles.duration(sampler()) is None and profiles.loads(sampler()) is None
    assert profiles.summary()["tracks"] == 0
    assert b"KSampler" not in path.read_bytes()


def test_clearing_from_outside_is_noticed(profiles: Profiles, path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_profiles, "FRESH_S", 0.0)
    profiles.observe(ran(("5", 12.0)), {"5": sampler()})
    assert profiles.duration(sampler()) is not None
    other = Profiles.open(path)
    other.clear()
    other.close()
    assert profiles.duration(sampler()) is None


def test_what_is_recalled_at_once_is_answered_as_if_asked_one_by_one(profiles: Profiles, path: Path):
    keys = keyed(a="KSampler", b="VAEDecode", c="CLIPTextEncode")
    profiles.observe(ran(("a", 3.0), ("b", 1.0)), keys, peaks={"a": 2.0 * GB})
    other = Profiles.open(path)
    other.recall(keys.values())
    for key in keys.values():
        assert (other.duration(key), other.peak(key)) == (profiles.duration(key), profiles.peak(key))
    other.close()


def test_profiles_are_empty_until_something_is_learned_and_again_when_it_is_forgotten(profiles: Profiles, path: Path):
    assert profiles.is_empty()
    profiles.observe(ran(("5", 12.0)), {"5": sampler()})
    assert not profiles.is_empty()
    profiles.clear()
    assert profiles.is_empty()


def test_no_text_of_the_users_is_in_the_file(profiles: Profiles, path: Path):
    keys = node_keys(PROMPT, VERSION, USES)
    profiles.observe(ran(*((node_id, 1.0) for node_id in keys)), keys)
    profiles.close()
    assert b"KSampler" in path.read_bytes() and b"newspaper" not in path.read_bytes()


@pytest.mark.parametrize("damage", ["text", "torn"])
def test_a_corrupt_file_is_moved_aside_and_begun_anew(path: Path, damage: str, caplog: pytest.LogCaptureFixture):
    first = Profiles.open(path)
    for i in range(40):
        first.observe(ran(("5", 1.0)), {"5": NodeKey.of(VERSION, f"Node{i}", (), "", "")})
    first.close()
    good = path.read_bytes()
    bad = b"not a database, but long enough to look like a file" * 40 if damage == "text" else good[:4096] + os.urandom(len(good) - 4096)
    path.write_bytes(bad)
    opened = Profiles.open(path)
    assert opened.off == "" and opened.summary()["tracks"] == 0
    assert opened.observe(ran(("5", 1.0)), {"5": sampler()}) == 1
    opened.close()
    assert path.with_name(path.name + ".corrupt-1").read_bytes() == bad
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


def test_a_file_that_turns_out_corrupt_while_in_use_is_moved_aside_once(path: Path):
    def broken(connection: sqlite3.Connection) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    store = Store(path)
    assert store.read(broken) is None and store.off == ""
    assert path.exists() and path.with_name(path.name + ".corrupt-1").exists()
    assert store.read(broken) is None and "corrupt again" in store.off
    store.close()


@given(st.binary(max_size=300))
@settings(max_examples=30, deadline=None)
def test_whatever_lies_in_the_files_place_the_profiles_open(content: bytes):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "profiles.sqlite3")
        path.write_bytes(content)
        opened = Profiles.open(path)
        assert opened.observe(ran(("5", 1.0)), {"5": sampler()}) == 1
        opened.close()


def test_a_database_of_another_program_is_left_alone(path: Path):
    path.parent.mkdir()
    with sqlite3.connect(path) as theirs:
        theirs.execute("CREATE TABLE tracks (song TEXT)")
    theirs.close()
    before = path.read_bytes()
    opened = Profiles.open(path)
    assert "another program" in opened.off
    opened.observe(ran(("5", 1.0)), {"5": sampler()})
    opened.close()
    assert path.read_bytes() == before


def test_a_file_of_an_older_schema_is_rebuilt_and_that_is_said(profiles: Profiles, path: Path, caplog: pytest.LogCaptureFixture):
    profiles.observe(ran(("5", 1.0)), {"5": sampler()})
    profiles.close()
    with sqlite3.connect(path) as file:
        file.execute("ALTER TABLE tracks ADD COLUMN past TEXT")
        file.execute("PRAGMA user_version = 0")
    file.close()
    opened = Profiles.open(path)
    assert opened.off == "" and opened.duration(sampler()) is None
    assert opened.observe(ran(("5", 1.0)), {"5": sampler()}) == 1
    opened.close()
    assert ["is of version 0: profiles begin anew" in record.message for record in caplog.records] == [True]


def test_a_file_of_a_newer_schema_is_never_touched(profiles: Profiles, path: Path, caplog: pytest.LogCaptureFixture):
    profiles.observe(ran(("5", 1.0)), {"5": sampler()})
    profiles.close()
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA user_version = 99")
    file.close()
    before = path.read_bytes()
    opened = Profiles.open(path)
    assert "version 99, this pack knows 1: get a newer pack" in opened.off
    assert opened.observe(ran(("5", 12.0)), {"5": sampler()}) == 1
    opened.retry()
    assert said(opened.duration(sampler())) == (12.0, Level.EXACT)  # of this session
    opened.close()
    assert path.read_bytes() == before
    assert len(caplog.records) == 1


@pytest.mark.parametrize("obstacle", ["locked", "a folder in its place"])
def test_what_stands_in_the_way_is_said_once_and_the_file_is_used_when_it_has_gone(
    path: Path, obstacle: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("residency.profiles._store.BUSY_TIMEOUT_S", 0.01)
    path.parent.mkdir()
    other = None
    if obstacle == "locked":
        Profiles.open(path).close()
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
    else:
        path.mkdir()
    opened = Profiles.open(path)
    assert opened.off
    for _ in range(3):
        opened.retry()
        assert opened.off and opened.observe(ran(("5", 12.0)), {"5": sampler()}) == 1
    if other is not None:
        other.close()
    else:
        path.rmdir()
    opened.retry()
    assert opened.off == "" and opened.duration(sampler()) is None
    assert opened.observe(ran(("5", 3.0)), {"5": sampler()}) == 1
    opened.close()
    again = Profiles.open(path)
    assert said(again.duration(sampler())) == (3.0, Level.EXACT)
    again.close()
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


def test_rows_that_somebody_edited_into_nonsense_are_learned_anew(profiles: Profiles, path: Path):
    profiles.observe(ran(("5", 1.0)), {"5": sampler()}, loads={"5": ["flux-1"]})
    profiles.close()
    with sqlite3.connect(path) as file:
        file.execute("UPDATE tracks SET samples = '[1e999, \"x\"' WHERE level = 'exact'")
        file.execute("UPDATE tracks SET samples = '[-1]', error = 'bad' WHERE level <> 'exact'")
        file.execute("UPDATE loads SET components = 7")
    file.close()
    opened = Profiles.open(path)
    assert opened.duration(sampler()) is None and opened.loads(sampler()) == ()
    opened.observe(ran(("5", 3.0)), {"5": sampler()})
    assert said(opened.duration(sampler())) == (3.0, Level.EXACT)
    opened.close()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="nothing can be made read-only this way")
@pytest.mark.parametrize("what", ["folder", "file"])
def test_where_nothing_can_be_written_profiles_last_as_long_as_the_session(what: str, caplog: pytest.LogCaptureFixture):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "profiles.sqlite3")
        root = os.geteuid() == 0
        if root:  # whom no mode keeps out
            os.chown(name, 65534, -1)
        if what == "file":
            Profiles.open(path).close()
            path.chmod(0o444)
        else:
            os.chmod(name, 0o500)
        before = sorted(Path(name).iterdir())
        if root:
            os.seteuid(65534)
        try:
            opened = Profiles.open(path)
            assert opened.off
            opened.observe(ran(("5", 12.0)), {"5": sampler()})
            assert said(opened.duration(sampler())) == (12.0, Level.EXACT)
            opened.close()
        finally:
            if root:
                os.seteuid(0)
            os.chmod(name, 0o700)
        assert [entry for entry in sorted(Path(name).iterdir()) if not entry.name.endswith(("-wal", "-shm"))] == before
    assert ["this session only" in record.message for record in caplog.records] == [True]


def test_a_full_drive_is_said_once_and_ends_nothing(path: Path, caplog: pytest.LogCaptureFixture):
    store = Store(path)
    store.read(lambda connection: connection.execute("PRAGMA max_page_count = 1").fetchone())
    store.change(lambda connection: connection.execute("CREATE TABLE big AS SELECT zeroblob(1000000)"))
    assert "full" in store.off
    assert store.change(lambda connection: connection.execute("SELECT count(*) FROM tracks").fetchone()) == (0,)
    store.close()
    assert len(caplog.records) == 1


def test_after_closing_nothing_is_found_and_nothing_raises(profiles: Profiles):
    profiles.observe(ran(("5", 1.0)), {"5": sampler()})
    profiles.close()
    assert profiles.observe(ran(("5", 1.0)), {"5": sampler()}) == 0
    assert profiles.duration(sampler()) is None and profiles.loads(sampler()) is None
    assert profiles.clear() == 0 and profiles.summary()["tracks"] == 0


# --- several at once ---

WRITER = """
import sys
from residency.profiles import NodeKey, Profiles, _rows
path, runs, stop = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "stop"
profiles = Profiles.open(path)
print("ready", flush=True)
sys.stdin.readline()
if stop:
    write = _rows.write
    def stopping(*arguments):
        write(*arguments)
        print("middle", flush=True)
        sys.stdin.readline()
    _rows.write = stopping
nodes = [{"node_id": n, "start_s": 0.0, "end_s": 1.0, "stall_s": 0.0, "loads": [], "computes": []} for n in ("a", "b")]
trace = {"prompt_id": "p", "outcome": "success", "nodes": nodes, "components": [], "dropped_records": 0}
keys = {n: NodeKey.of("v", n, (), n, n) for n in ("a", "b")}
for run in range(runs):
    print(profiles.observe(trace, keys), flush=True)
"""


def writer(path: Path, runs: int, stop: str = "") -> subprocess.Popen[str]:
    command_line = [sys.executable, "-c", WRITER, str(path), str(runs), stop]
    return subprocess.Popen(command_line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def counts(path: Path) -> list[int]:
    """Samples of the nodes a and b that a new server finds, in a sound file."""
    opened = Profiles.open(path)
    assert opened.off == "" and not path.with_name(path.name + ".corrupt-1").exists()
    answers = [opened.duration(NodeKey.of("v", name, (), name, name)) for name in ("a", "b")]
    opened.close()
    return [answer.samples if answer else 0 for answer in answers]


def test_two_servers_that_start_and_write_at_once_lose_nothing(path: Path):
    servers = [writer(path, 40), writer(path, 40)]
    for server in servers:
        assert server.stdout is not None and server.stdout.readline() == "ready\n"
    for server in servers:
        assert server.stdin is not None
        server.stdin.write("\n")
        server.stdin.flush()
    outputs = [server.communicate(timeout=120) for server in servers]
    assert [errors for _, errors in outputs] == ["", ""]
    taught = sum(int(line) for output, _ in outputs for line in output.split())
    assert taught > 80  # both got through; one that found the file locked for a whole second would have said 0
    assert counts(path) == [taught // 2, taught // 2]


def test_a_server_killed_in_the_middle_of_a_write_leaves_the_last_whole_prompt(path: Path):
    counts(path)
    with writer(path, 1) as healthy:
        healthy.communicate("\n", timeout=60)
    with writer(path, 1, "stop") as server:
        assert server.stdin is not None and server.stdout is not None
        server.stdout.readline()
        server.stdin.write("\n")
        server.stdin.flush()
        assert server.stdout.readline() == "middle\n"  # written, not committed
        server.kill()
    assert counts(path) == [1, 1]


def test_a_server_killed_at_any_moment_leaves_whole_prompts_only(path: Path):
    known = 0
    for lines in (1, 7, 23):
        with writer(path, 10_000) as server:
            assert server.stdin is not None and server.stdout is not None
            server.stdout.readline()
            server.stdin.write("\n")
            server.stdin.flush()
            acknowledged = [server.stdout.readline() for _ in range(lines)]
            server.kill()
        a, b = counts(path)
        assert a == b >= known + len(acknowledged)
        known = a


def test_threads_of_one_server_share_it(profiles: Profiles):
    def work() -> None:
        for _ in range(20):
            profiles.observe(ran(("5", 1.0)), {"5": sampler()})
            profiles.duration(sampler())
            profiles.summary()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answer = profiles.duration(sampler())
    assert answer is not None and answer.samples == 80


# --- for people ---


def ask(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    options = parser.parse_args(["profiles", *arguments])
    status: int = options.run(options)
    return status


def test_the_command_shows_and_clears(profiles: Profiles, path: Path, capsys: pytest.CaptureFixture[str]):
    for _ in range(2):
        trace = ran(("5", 12.0))
        trace["nodes"][0]["computes"] = ["flux-1"]
        profiles.observe(trace, {"5": sampler()}, peaks={"5": 20 * GB}, loaded_bytes={"flux-1": 12 * GB}, rates={"nvme0n1": 3 * GB})
    profiles.close()
    assert ask("--database", str(path)) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("KSampler", "12 s ±", "18.6 GiB", "flux-1", "nvme0n1", "2.79 GiB", "inside margin", "exact"))
    assert ask("--database", str(path), "--json") == 0
    assert json.loads(capsys.readouterr().out)["classes"][0]["duration"]["value"] == 12.0
    assert ask("--database", str(path), "--clear") == 0
    assert "forgot" in capsys.readouterr().out
    assert ask("--database", str(path), "--json") == 0
    assert json.loads(capsys.readouterr().out)["tracks"] == 0


def test_the_command_touches_nothing_that_is_not_its_own(path: Path, capsys: pytest.CaptureFixture[str]):
    assert ask("--database", str(path)) == 0 and "nothing learned yet" in capsys.readouterr().out
    assert not path.parent.exists()
    path.parent.mkdir()
    path.write_text("my novel")
    assert ask("--database", str(path), "--clear") == 2
    assert path.read_text() == "my novel" and list(path.parent.iterdir()) == [path]
