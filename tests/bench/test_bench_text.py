"""The table in the docs and at the terminal, and the command line's one clear line for bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_story import GB, ran, results, scenario

from residency.bench import markdown
from residency.bench.markdown import BEGIN, END, MarkdownError
from residency.bench.results import PACK, STOCK, summarise, write
from residency.bench.scenarios import Target
from residency.cli.main import main


def measured() -> dict[str, object]:
    warm = scenario(ran(STOCK, 9.0), ran(PACK, 9.05), target=Target(0.99))
    cold = scenario(ran(STOCK, 70.0), ran(PACK, 50.0, digest="other"), cold=True)
    return summarise(results(S4=warm, S1=cold, S3=scenario(ran(STOCK, 12.0), device_free_bytes=24 * GB)))


def test_the_table_tells_times_ratios_images_and_targets_and_a_dash_for_what_is_not_known():
    rows = {line.split(":")[0].removeprefix("| "): line.split(" | ") for line in markdown.table(measured())[2:]}
    assert rows["S4"][1:4] == ["9.00", "9.05", "0.99×"] and rows["S4"][-1] == "≥ 0.99×: reached |"
    assert rows["S1"][1:7] == ["70.00", "50.00", "1.40×", "9.00", "28.80", "1.74"]
    assert rows["S1"][-2:] == ["**DIFFERENT**", "≥ 1.2×, ≤ 2 of the bound: **missed** |"]
    assert rows["S3"][2:4] == ["–", "–"] and rows["S3"][-1] == "≥ 1.2×, ≤ 2 of the bound: – |"


def test_the_section_says_that_small_models_prove_nothing():
    assert "not what the pack gains" not in markdown.section(measured())
    assert "not what the pack gains" in markdown.section({**measured(), "size": "tiny"})


def test_the_section_goes_between_the_marks_and_again_in_place_of_the_last_one(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for text in ("first", "second"):
        markdown.insert(page, text)
    assert page.read_text() == f"before\n{BEGIN}\nsecond\n{END}\nafter\n"


def test_a_page_without_marks_is_left_alone_and_named(tmp_path: Path):
    (tmp_path / "page.md").write_text("no marks")
    with pytest.raises(MarkdownError, match=r"page\.md has no place"):
        markdown.insert(tmp_path / "page.md", "text")
    assert (tmp_path / "page.md").read_text() == "no marks"


def test_a_file_is_shown_again_without_measuring(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write(measured(), tmp_path / "results.json")
    assert main(["bench", "--from", str(tmp_path / "results.json")]) == 1  # one pair of images differs
    said = capsys.readouterr().out
    assert "targets: 1 reached, 1 missed" in said and "DIFFERENT" in said


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--scenarios", "S99"], "no scenario 'S99'"),
        (["--rounds", "0"], "--rounds is 0"),
        (["--repeats", "-1"], "--repeats is -1"),
        (["--warm-ups", "-1"], "--warm-ups is -1"),
        (["--time-limit", "0"], "--time-limit is 0.0"),
        (["--from", "nowhere.json"], "nowhere.json"),
    ],
)
def test_arguments_that_cannot_be_used_end_with_status_2_and_one_line(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *arguments]) == 2
    said = capsys.readouterr()
    assert told in said.err and said.err.count("\n") == 1 and not said.out
