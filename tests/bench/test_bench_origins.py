"""Merged files: each figure keeps the run and the machine that it comes from, and the page names them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench_story import CUDA, DRIVE, GB, MACHINE, ran, results, scenario

from residency.bench import markdown
from residency.bench import results as book
from residency.bench.results import PACK, STOCK, summarise

OTHER = {"machine": {**MACHINE, **CUDA, "device": "A100"}, "drive": {"direct, 1 thread": 3.0 * GB}}
OLD = ("machine", "drive", "command", "started")


def both(*, cold: bool = False, **own: Any) -> dict[str, Any]:
    return {**scenario(ran(STOCK, 9.0), ran(PACK, 9.0), cold=cold), **own}


def head(found: dict[str, Any]) -> list[str]:
    """The lines of the page above the table."""
    return [line for line in markdown.section(summarise(found)).partition("| scenario")[0].splitlines() if line]


def test_one_run_on_one_machine_is_told_in_one_line_and_one_paragraph():
    run, machine, measured = head(results(S4=both(), S1=both(cold=True)))
    assert run == "`python -m residency bench`, 2026-11-23 12:00:00 +0000, models of size full."
    assert machine.startswith("Machine: H100 (74.5 GiB), torch 2.13; 4 cores, ")
    assert measured.startswith("Measured: drive 2.00 GB/s at best (direct, 4 threads); link ")


def test_every_run_and_every_machine_is_named_with_its_scenarios():
    found = results(S4=both(), S1=both(cold=True, **OTHER, command="bench --scenarios S1"), S3=both(started="later"))
    told = [line.partition(",")[0] for line in head(found)[:3]]
    assert told == ["- S1: `bench --scenarios S1`", "- S3: `python -m residency bench`", "- S4: `python -m residency bench`"]
    assert [line.partition(" (")[0] for line in head(found)[3:5]] == ["Machine of S1: A100", "Machine of S3, S4: H100"]
    assert [line.partition(" GB/s")[0] for line in head(found)[5:]] == ["Measured with S1: drive 3.00", "Measured with S3, S4: drive 2.00"]
    assert "Machine of S1: A100" in markdown.terminal(summarise(found))


def test_what_the_page_does_not_tell_makes_no_two_machines_of_one():
    busy = {**MACHINE, **CUDA, "ram_available_bytes": 50 * GB}
    assert sum(line.startswith("Machine") for line in head(results(S4=both(), S3=both(machine=busy)))) == 1


def test_where_nothing_has_run_the_run_and_the_machine_are_told_all_the_same():
    run, machine, _ = head({**results(), "skipped": {"S4": "the time limit came first"}})
    assert run.startswith("`python -m residency bench`") and machine.startswith("Machine: H100")


def test_a_file_of_before_gives_its_scenarios_its_own_run_and_a_merged_one_is_merged_again(tmp_path: Path):
    bare = {key: value for key, value in both().items() if key not in OLD}
    files = {
        "first": {**results(S4=bare), "command": "first"},
        "second": {**results(S1=both(cold=True, **OTHER, command="second")), **OTHER, "command": "second"},
        "third": {**results(S3=both(command="third")), "command": "third"},
    }
    for name, one in files.items():
        book.write(one, tmp_path / f"{name}.json")
    book.write(book.read([tmp_path / "first.json", tmp_path / "second.json"]), tmp_path / "merged.json")
    again = book.read([tmp_path / "merged.json", tmp_path / "third.json"])
    assert again == book.read([tmp_path / f"{name}.json" for name in files])
    assert {name: raw["command"] for name, raw in again["scenarios"].items()} == {"S4": "first", "S1": "second", "S3": "third"}
    assert (again["scenarios"]["S4"]["drive"], again["scenarios"]["S1"]["drive"]) == (DRIVE, OTHER["drive"])


def test_a_skipped_scenario_is_missed_until_a_file_has_it(tmp_path: Path):
    early = {**results(S4=both()), "skipped": {"S3": "no device", "S1": "no time", "S2": "no room"}}
    late = {**results(S3=both(), S1=both()), "skipped": {"S4": "no device", "S1": "no time for its last round"}}
    for name, one in (("early", early), ("late", late)):
        book.write(one, tmp_path / f"{name}.json")
    merged = book.read([tmp_path / "early.json", tmp_path / "late.json"])
    assert merged["skipped"] == {"S2": "no room", "S1": "no time for its last round"}


def test_another_kind_of_device_does_not_tell_how_long_computing_takes():
    elsewhere = both(cold=True, **OTHER)
    told = {name: raw["summary"]["compute_s"] for name, raw in summarise(results(S4=both(), S1=elsewhere))["scenarios"].items()}
    assert told == {"S4": 9.0, "S1": None}
