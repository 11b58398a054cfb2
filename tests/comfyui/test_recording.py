"""What a real server's host saw, told to another session, gives the very instructions that it gave there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from comfy_story import drop_pages, mode
from test_examples import EXAMPLES, MODES, small

from residency.installation.locate import ComfyUI
from residency.installation.server_process import serve
from residency.record.facts import read, replayed
from residency.workflow.convert import to_residency
from residency.workflow.core_nodes import core_nodes
from residency.workflow.file import parse_workflow


def test_the_facts_of_a_real_run_give_the_same_instructions_again(
    comfyui: ComfyUI, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    recording = tmp_path / "facts.jsonl"
    monkeypatch.setenv("RESIDENCY_RECORD", str(recording))
    with serve(comfyui, models, ["--cpu"]) as server:
        drop_pages(models)  # what other tests have left cached is not read
        for seed, path in enumerate(EXAMPLES):
            prompt = parse_workflow(to_residency(json.loads(path.read_text(encoding="utf-8")), core_nodes().keys()).data).prompt
            server.run(small(prompt, seed), mode(MODES[seed % 4]))
        assert server.get_json("/residency/status")["failures"] == 0
    done = replayed(recording)
    assert done.difference is None and done.instructions > len(EXAMPLES)
    kinds = [type(told.fact).__name__ for told in read(recording)]
    assert kinds.count("PromptBegins") == kinds.count("PromptEnds") == len(EXAMPLES)
    assert {"NodeBegins", "NodeEnds", "TransferDone"} <= set(kinds)
