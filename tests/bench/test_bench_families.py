"""What people run on the hardware that they have: which scenarios that is, and the table of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bench_story import ran, results, scenario

from residency.bench import family_table, flags, markdown, models, workflows
from residency.bench.families import CLASSES, EVERYTHING, IN_QUEUE, NAMES, Part, references, scenarios
from residency.bench.results import PACK, STOCK, identical, summarise, write
from residency.bench.run import SMALL_SIZES
from residency.bench.scenarios import GB, GIB, Limits, Size, Temperature, Workflow
from residency.bench.sessions import sessions
from residency.bench.ways import Way, choose, with_nodes
from residency.cli.main import main
from residency.comfyui.sample_models.families import OWN_NODES
from residency.comfyui.sample_models.family_prompts import PROMPTS

EVERY_PART = list(Part)


def test_a_family_in_a_class_is_four_parts_on_one_server_the_cold_one_first():
    found = scenarios(["wan2.2"], ["12/32"], EVERY_PART)
    assert [one.name for one in found] == [f"wan2.2-12-32-{part.value}" for part in Part]
    assert {one.limits for one in found} == {Limits(12 * GIB, 32 * GB)}
    assert sessions(found, ()) == [found]
    assert len(sessions(scenarios(["wan2.2", "krea2"], ["12/32"], [Part.TEXT]), ())) == 2
    assert found[0].temperature is Temperature.COLD and [one.warm_ups for one in found] == [0, 0, 0, 0]
    assert found[2].queue == (Workflow.FAMILY, Workflow.OTHER, Workflow.FAMILY) and not found[2].at_once
    assert len(found[3].queue) == IN_QUEUE and found[3].at_once
    # ComfyUI keeps free what it would on such a machine
    assert all(one.server_arguments[:2] == ("--cache-ram", "3.0") for one in found)


def test_without_a_cold_part_the_first_warm_one_warms_up():
    found = scenarios(["krea2"], ["8/16"], [Part.QUEUE, Part.TEXT])
    assert [(one.name.rpartition("-")[2], one.warm_ups) for one in found] == [("text", 1), ("queue", 0)]


def test_of_small_files_nothing_is_held_for_they_fit_whatever_is_left():
    (one,) = scenarios(["wan2.2"], ["12/32"], [Part.TEXT], hold=False)
    assert (one.name, one.hardware, one.limits) == ("wan2.2-12-32-text", "12/32", Limits())
    assert one.what == "wan2.2, nothing held, warm, new text"


def test_what_tells_compute_times_has_all_memory_and_a_server_of_its_own():
    (alone,) = references(["z_image"])
    assert alone.resident and alone in scenarios(["z_image"], [EVERYTHING], [Part.TEXT])
    held = scenarios(["z_image"], ["8/32"], EVERY_PART)
    assert not any(one.resident for one in held) and sessions(held, [alone]) == [held, (alone,)]


@pytest.mark.parametrize("family", NAMES)
def test_the_switch_goes_to_a_file_that_the_family_does_not_have(family: str):
    cold, _, switch, _ = scenarios([family], list(CLASSES)[:1], EVERY_PART)
    files = models.files_of(cold, Size.FULL)
    assert files == models.family_files(family) and {one.recipe for one in files} == {family}
    more = set(models.files_of(switch, Size.FULL)) - set(files)
    assert {one.folder for one in more} == {"diffusion_models", "text_encoders", "vae"}


def test_the_pack_that_small_files_need_is_there():
    assert (SMALL_SIZES / "__init__.py").is_file()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--family", "sd9"], "no family 'sd9'; choose from wan2.2"),
        (["--family", "krea2", "--class", "3/4"], "no class of hardware '3/4'; choose from 8/16"),
        (["--family", "krea2", "--parts", "warm"], "no 'warm'; choose from cold"),
        (["--family", "krea2", "--size", "small"], "full and tiny, not small"),
        (["--family", "krea2", "--scenarios", "S8"], "two benches"),
        (["--class", "8/16"], "--class 8/16 is for a --family"),
    ],
)
def test_what_goes_together_with_a_family(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]):
    assert main(["bench", *arguments]) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1


def test_a_side_that_says_how_comfyui_caches_says_it_in_place_of_the_scenario():
    scenario = ("--cache-ram", "3.2", "32.0", "--fast-disk")
    assert flags.together(scenario, ("--high-ram",)) == ["--fast-disk", "--high-ram"]
    assert flags.together(scenario, ("--reserve-vram", "1")) == [*scenario, "--reserve-vram", "1"]
    assert Way("high-ram", None, arguments=("--high-ram",)).told() == "without the pack with --high-ram"


def of_a_family(hardware: str, part: str, stock_s: float, pack_s: float, **more: Any) -> dict[str, Any]:
    runs = [{**ran(STOCK, stock_s), "drive_bytes": 9 * GB}, {**ran(PACK, pack_s), "drive_bytes": GB}]
    held = 12 * GIB if hardware != EVERYTHING else None
    told = scenario(*runs, cold=part == "cold", device_free_bytes=held)
    return {**told, "precision": "wan2.2", "family": "wan2.2", "hardware": hardware, **more}


def measured() -> dict[str, Any]:
    text = of_a_family("12/32", "text", 30.0, 15.0)
    text["runs"].append({**ran("high-ram", 25.0), "drive_bytes": 0})
    text["ways"] = {"high-ram": "without the pack with --high-ram", "short": "the pack with read_threads=1"}
    found = {
        "wan2.2-12-32-text": text,
        "wan2.2-12-32-cold": of_a_family("12/32", "cold", 60.0, 40.0),
        "wan2.2-8-16-text": of_a_family("8/16", "text", 50.0, 40.0),
        "wan2.2-all-text": {**of_a_family(EVERYTHING, "text", 10.0, 10.0), "resident": True},
    }
    return summarise({**results(**found)})


def test_the_table_has_a_row_for_each_workflow_on_each_hardware_the_smallest_first():
    table = {row[1]: dict(zip(family_table.HEAD, row, strict=True)) for row in family_table.rows(measured())}
    assert list(table) == ["8 / 16", "12 / 32", "all of the machine"]
    mine = table["12 / 32"]
    assert [mine[name] for name in family_table.HEAD[2:6]] == ["30.00", "15.00", "–", "2.00×"]
    assert mine["waiting s, stock → pack"] == "20.00 → 5.00"
    assert mine["a step s, stock → pack"] == "0.20 → 0.20" and mine["read GB, stock → pack"] == "9.00 → 1.00"
    assert mine["first prompt s, stock → pack"] == "60.00 → 40.00" and mine["five at once s, stock → pack"] == "–"
    assert mine["stock's best options s"] == "25.00 (high-ram)" and mine["images"] == "identical"
    told = markdown.terminal(measured()).splitlines()
    assert ["stock", "÷", "pack", "1.25×", "2.00×", "1.00×"] in [line.split() for line in told]  # a column each: so many cells make no line


def test_what_was_foretold_stands_beside_what_it_took_and_by_how_much_it_was_off():
    found = measured()
    told = [(15.0, 16.5), (20.0, 18.0), (16.0, None)]
    numbered = enumerate(told)
    runs = [{**ran(PACK, seconds, number), "drive_bytes": GB, "predicted_s": foretold_s} for number, (seconds, foretold_s) in numbered]
    found["scenarios"]["wan2.2-12-32-text"]["runs"] = [{**ran(STOCK, 30.0), "drive_bytes": GB}, *runs]
    rows = {row[1]: dict(zip(family_table.HEAD, row, strict=True)) for row in family_table.rows(summarise(found))}
    assert rows["12 / 32"]["foretold s"] == "17.25 (-10% to +10%)" and rows["8 / 16"]["foretold s"] == "–"


def test_a_row_says_so_when_any_part_drew_something_else():
    found = measured()
    found["scenarios"]["wan2.2-12-32-cold"]["runs"][1]["digest"] = "other"
    assert {row[1]: row[-1] for row in family_table.rows(summarise(found))}["12 / 32"] == "**DIFFERENT**"


def test_where_nothing_could_be_run_the_reasons_are_all_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write(summarise({**results(), "skipped": {"wan2.2-12-32-text": "there is no CUDA device"}}), tmp_path / "results.json")
    assert main(["bench", "--from", str(tmp_path / "results.json")]) == 1
    said = capsys.readouterr().out
    assert "wan2.2-12-32-text was not run to its end: there is no CUDA device." in said and "stock s" not in said


def test_the_page_gets_the_table_in_its_place_and_none_without_results(tmp_path: Path):
    page = tmp_path / "page.md"
    empty = f"{family_table.BEGIN}\n{family_table.END}\n{markdown.BEGIN}\nother\n{markdown.END}\n"
    page.write_text(empty)
    write(measured(), tmp_path / "results.json")
    assert main(["bench", "--from", str(tmp_path / "results.json"), "--markdown", str(page)]) == 0
    text = page.read_text()
    assert "| wan2.2 | 12 / 32 |" in text.partition(family_table.END)[0] and f"{markdown.BEGIN}\nother\n" in text
    page.write_text(empty)
    write(summarise(results(S8=scenario(ran(STOCK, 9.0), ran(PACK, 9.0)))), tmp_path / "results.json")
    assert main(["bench", "--from", str(tmp_path / "results.json"), "--markdown", str(page)]) == 0
    assert page.read_text().startswith(f"{family_table.BEGIN}\n{family_table.END}\n") and "| S8: " in page.read_text()


def test_the_documents_page_has_a_place_for_it_at_its_top():
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert page.index(family_table.BEGIN) < page.index(family_table.END) < page.index("\n## ")


def test_workflows_with_nodes_of_the_pack_run_on_both_sides_with_them():
    stock, pack = (with_nodes(way) for way in choose(()))
    assert stock.pack == pack.pack and stock.settings == {"mode": "off"} and not pack.settings
    assert stock.told() == "without the pack, but its nodes"
    assert with_nodes(Way("lru", None, arguments=("--cache-lru", "9"))).told() == "without the pack, but its nodes with --cache-lru 9"
    assert all("Residency" in str(PROMPTS[name](1)) for name in OWN_NODES)


def test_other_words_are_another_result():
    stock, pack = ({**ran(side, 9.0), "words": ["a sea"]} for side in (STOCK, PACK))
    assert identical([stock, pack]) is True
    assert identical([stock, {**pack, "words": ["a lake"]}]) is False


def test_every_family_has_a_picture_of_published_size():
    assert workflows.PICTURES.keys() == set(NAMES)
