"""The user's settings: what is taken, what is refused and how that is said, and how they are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from residency.core.component import Mode
from residency.settings.user import LIMITS, NAMES, UNSET, UserSettings, parse, read, write

GIB = 2**30

numbers = {name: (st.integers(int(low), int(high)) if whole else st.floats(low, high)) for name, (low, high, whole) in LIMITS.items()}
within_limits = st.builds(UserSettings, mode=st.none() | st.sampled_from(Mode), console_line=st.booleans(), **numbers)


@given(within_limits)
def test_what_is_sent_as_json_comes_back_the_same(settings: UserSettings):
    assert parse(json.loads(json.dumps(settings.as_dict()))) == settings


@given(within_limits)
def test_what_was_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, settings: UserSettings):
    path = tmp_path_factory.mktemp("user") / "residency" / "settings.json"
    write(path, settings)
    assert read(path) == settings and [file.name for file in path.parent.iterdir()] == ["settings.json"]


def test_what_is_left_out_is_at_its_default():
    assert parse({}) == UserSettings()
    assert parse({"mode": "low-vram", "ram_budget_gib": 2}) == UserSettings(mode=Mode.LOW_VRAM, ram_budget_gib=2.0)


def test_the_mode_that_is_not_set_is_none():
    assert parse({"mode": UNSET}) == UserSettings(mode=None)


def test_zero_means_that_what_is_measured_decides():
    nothing, two = UserSettings(), UserSettings(ram_budget_gib=2, pin_budget_gib=2, vram_headroom_gib=2)
    assert (nothing.ram_budget_bytes, nothing.pin_budget_bytes, nothing.vram_headroom_bytes) == (None, None, 0)
    assert (two.ram_budget_bytes, two.pin_budget_bytes, two.vram_headroom_bytes) == (2 * GIB, 2 * GIB, 2 * GIB)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"mode": "turbo"}, "mode is 'turbo'; choose one of default, auto, high-vram"),
        ({"mode": ["auto"]}, "mode is ['auto']"),
        ({"vram_headroom_gib": -1}, "vram_headroom_gib is -1; choose a number from 0 to 1024"),
        ({"ram_budget_gib": "8"}, "ram_budget_gib is '8'"),
        ({"pin_budget_gib": float("nan")}, "pin_budget_gib is nan"),
        ({"read_threads": 2.5}, "read_threads is 2.5; choose a whole number from 0 to 64"),
        ({"queue_depth": True}, "queue_depth is True"),
        ({"idle_release_min": 1e9}, "choose a number from 0 to 10080"),
        ({"console_line": "yes"}, "console_line is 'yes'; choose true or false"),
        ({"colour": "red"}, "'colour' is not a setting; choose from mode, vram_headroom_gib"),
        ({"version": 2}, "of version 2, this pack knows 1: get a newer pack"),
        ([], "a JSON object, not list"),
    ],
)
def test_a_refusal_names_the_setting_the_value_and_the_way_out(values: object, said: str):
    refusal = parse(values)
    assert isinstance(refusal, str) and said in refusal and "\n" not in refusal


@given(st.dictionaries(st.sampled_from([*NAMES, "version"]), st.none() | st.booleans() | st.integers() | st.floats() | st.text()))
def test_whatever_is_sent_gives_settings_within_the_limits_or_a_sentence(values: dict[str, object]):
    found = parse(values)
    if isinstance(found, UserSettings):
        assert all(low <= getattr(found, name) <= high for name, (low, high, _) in LIMITS.items())
    else:
        assert found


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"mode": "turbo"}', "\x00\xff", '{"version": 9}'])
def test_a_broken_file_is_named_and_the_defaults_hold(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str):
    path = tmp_path / "settings.json"
    path.write_text(content, encoding="latin-1")
    assert read(path) == UserSettings()
    assert "settings.json" in caplog.text and "using the defaults" in caplog.text


def test_no_file_is_no_reason_to_warn(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert read(tmp_path / "settings.json") == UserSettings() and caplog.text == ""
