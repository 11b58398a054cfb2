"""Sizes and rates as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from residency.units import MAX_BYTES, UsageError, parse_rate, parse_size, without_folders, written


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("24GB", 24 * 10**9), ("24 gb", 24 * 10**9), ("9.8GB", 9_800_000_000), ("8GiB", 8 * 2**30), ("512 MiB", 512 * 2**20),
        (".5TB", 5 * 10**11), ("1e3MB", 10**9), ("0B", 0), ("960B", 960), (7, 7), (1.5e9, 1_500_000_000),
    ],
)  # fmt: skip
def test_a_size_is_read_as_it_is_meant(text: object, size_bytes: int) -> None:
    assert parse_size(text, "--vram") == size_bytes


@pytest.mark.parametrize(
    "text", ["", "24", "GB", "24 G", "24GBs", "1.2.3GB", "24iB", "twenty GB", "∞GB", "２4GB", None, True, [], {}, float("nan")]
)
def test_what_is_no_size_is_named_with_the_option_and_the_way_out(text: object) -> None:
    with pytest.raises(UsageError) as caught:
        parse_size(text, "--vram")
    assert "--vram" in str(caught.value) and repr(text) in str(caught.value) and "24GB" in str(caught.value)


@pytest.mark.parametrize(("text", "why"), [("-3GB", "negative"), (-1, "negative"), ("1e30GB", "more than"), (float("inf"), "more than")])
def test_sizes_that_cannot_be_say_why(text: object, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse_size(text, "--ram")


def test_a_rate_is_a_size_by_second_and_above_zero() -> None:
    assert parse_rate("1.5GB/s", "--disk") == 1.5e9 and parse_rate("500 MB / sec", "--disk") == 5e8
    for text in ("1.5GB", "1.5GB/h", "/s", "0GB/s", "-1GB/s", "s", ""):
        with pytest.raises(UsageError, match="--disk"):
            parse_rate(text, "--disk")


@given(st.integers(0, 10**6), st.sampled_from(["", "K", "M", "G", "T"]), st.booleans(), st.sampled_from(["", " ", "  "]))
def test_every_whole_number_of_a_unit_is_that_many_bytes(count: int, prefix: str, binary: bool, space: str) -> None:
    unit = f"{prefix}{'i' if binary and prefix else ''}B"
    expected = count * (1024 if binary and prefix else 1000) ** " KMGT".index(prefix or " ")
    if expected <= MAX_BYTES:
        assert parse_size(f"{count}{space}{unit}", "size") == expected
        assert parse_size(f"{count}{space}{unit}".lower(), "size") == expected


@given(st.integers(0, MAX_BYTES))
def test_what_is_written_for_people_reads_back_to_three_digits(size_bytes: int) -> None:
    assert parse_size(written(size_bytes), "size") == pytest.approx(size_bytes, rel=0.006)


@given(st.text(max_size=12))
def test_any_text_is_a_size_or_one_clear_line(text: str) -> None:
    try:
        assert 0 <= parse_size(text, "--vram") <= MAX_BYTES
    except UsageError as error:
        assert "--vram" in str(error) and "\n" not in str(error)


texts = st.text() | st.from_regex(r"-?[0-9.e]{1,8} ?[kKMGT]?i?B(/s)?", fullmatch=True) | st.sampled_from(["9" * 400 + "GB", "x" * 9_000])
numbers = st.integers() | st.floats() | st.sampled_from([10**400, -(10**400)])


@given(texts | numbers | st.none() | st.binary() | st.lists(st.text(max_size=3), max_size=2))
def test_whatever_stands_for_a_size_is_bytes_or_one_short_sentence(value: object) -> None:
    try:
        assert 0 <= parse_size(value, "--option") <= MAX_BYTES
    except UsageError as error:
        assert "--option" in str(error) and "\n" not in str(error) and len(str(error)) < 200


@given(texts)
def test_whatever_stands_for_a_rate_is_bytes_by_second_or_one_short_sentence(value: str) -> None:
    try:
        assert 0 < parse_rate(value, "--option") <= MAX_BYTES
    except UsageError as error:
        assert "--option" in str(error) and "\n" not in str(error) and len(str(error)) < 200


@pytest.mark.parametrize(
    ("text", "paths", "told"),
    [
        ("/a/b/x.pt: too short", ["/a/b/x.pt"], "x.pt: too short"),
        ("[Errno 2] No such file: '/a/b/c/x.pt'", ["/a/b/y.pt", "/a/b/c/x.pt"], "[Errno 2] No such file: 'x.pt'"),
        (f"no {'/a/it' + chr(39) + 's' + chr(92) + '/x.pt'!r}", ["/a/it's\\/x.pt"], 'no "x.pt"'),
        ("1.5GB/s of x.pt", ["/x.pt", "x.pt"], "1.5GB/s of x.pt"),
    ],
)
def test_to_other_machines_a_file_is_a_name_without_its_folder(text: str, paths: list[str], told: str):
    assert without_folders(text, paths) == told
