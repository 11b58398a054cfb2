"""The door without its servers: whose file it is, who may ask, what is known of a worker."""

from __future__ import annotations

import asyncio
import json
import urllib.parse
from pathlib import Path

import pytest

from residency.cli.main import main
from residency.fleet.access import refused
from residency.fleet.door import Door
from residency.fleet.messages import named
from residency.fleet.seats import Answer, Found, Seat


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"host": "127.0.0.1:8200"}, None),
        ({"host": "127.0.0.1:8200", "origin": "http://127.0.0.1:8200", "sec-fetch-site": "same-origin"}, None),
        ({"host": "127.0.0.1:8200", "origin": "http://evil.example"}, "a page of 'http://evil.example'"),
        ({"host": "127.0.0.1:8200", "origin": "http://127.0.0.1:8188"}, "a page of"),
        ({"host": "127.0.0.1:8200", "sec-fetch-site": "cross-site"}, "another site's page"),
    ],
)
def test_pages_of_other_sites_are_refused(headers: dict[str, str], said: str | None):
    why = refused(headers, None)
    assert (why is None) if said is None else said in (why or "")


def test_a_token_is_asked_for_where_there_is_one():
    assert "token is missing" in (refused({}, "secret") or "")
    assert "token is missing" in (refused({"authorization": "Bearer other"}, "secret") or "")
    assert refused({"authorization": "Bearer secret"}, "secret") is None
    assert refused({}, "secret", "secret") is None


def test_files_are_named_by_their_worker_and_inputs_are_nobodys():
    told = {
        "images": [{"filename": "a.png", "subfolder": "", "type": "output"}, {"filename": "b.png", "subfolder": "deep", "type": "temp"}],
        "input": {"filename": "c.png", "subfolder": "", "type": "input"},
        "type": "executed",
    }
    found = named(told, "worker-1")
    assert [one["subfolder"] for one in found["images"]] == ["worker-1", "worker-1/deep"]
    assert found["input"] == told["input"]
    assert found["type"] == "executed"


def nowhere() -> list[Seat]:
    async def find() -> Found | None:
        return None

    return [Seat("worker-0", find), Seat("worker-1", find)]


def test_a_look_that_fails_is_counted_told_and_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("residency.fleet.door.LOOK_S", 0.01)

    async def story() -> None:
        looks = 0

        async def find() -> Found | None:
            nonlocal looks
            looks += 1
            if looks in (3, 4):
                raise ValueError("what nobody has thought of")
            return None

        door = Door([Seat("worker-0", find)], tmp_path)
        await door.open()
        while looks < 8:
            await asyncio.sleep(0.01)
        told = door.status()
        await door.close()
        assert told["contained_failures"] == {"watch": 2}
        assert "looking at the workers has failed 2 times; the door's log says why" in told["warnings"]

    asyncio.run(story())


async def ask(door: Door, method: str, path: str, body: object = None) -> Answer:
    return await door.answer(method, path, {}, b"" if body is None else json.dumps(body).encode())


def test_without_a_worker_a_prompt_is_refused_and_the_door_stands(tmp_path: Path):
    async def story() -> None:
        door = Door(nowhere(), tmp_path)
        await door.open()
        try:
            answer = await ask(door, "POST", "/prompt", {"prompt": {"1": {"class_type": "A", "inputs": {}}}})
            assert answer.status == 503
            assert "worker-0 takes no prompts" in json.loads(answer.body)["error"]["message"]
            assert (await ask(door, "GET", "/object_info")).status == 503
            assert (await ask(door, "GET", "/queue")).json == {"queue_running": [], "queue_pending": []}
            assert (await ask(door, "POST", "/prompt", [])).status == 400
        finally:
            await door.close()

    asyncio.run(story())


def test_of_a_worker_that_has_gone_its_outputs_are_kept_and_nothing_else_is_given_out(tmp_path: Path):
    outputs = tmp_path / "output"
    (outputs / "worker-0" / "deep").mkdir(parents=True)
    (outputs / "worker-0" / "deep" / "a.png").write_bytes(b"picture")
    (outputs / "secret.txt").write_text("no")
    (tmp_path / "outside.txt").write_text("no")

    async def story() -> None:
        door = Door(nowhere(), outputs)

        async def view(filename: str, subfolder: str, kind: str = "output") -> Answer:
            asked = urllib.parse.urlencode({"filename": filename, "subfolder": subfolder, "type": kind})
            return await door.answer("GET", f"/view?{asked}", {}, b"")

        await door.open()
        try:
            kept = await view("a.png", "worker-0/deep")
            assert (kept.status, kept.body, kept.headers["content-type"]) == (200, b"picture", "image/png")
            for name, subfolder in (("secret.txt", "worker-0/.."), ("../secret.txt", "worker-0"), ("outside.txt", "worker-0/../..")):
                assert (await view(name, subfolder)).status == 404
            assert (await view("a.png", "worker-0/deep", "temp")).status == 404
        finally:
            await door.close()

    asyncio.run(story())


@pytest.fixture
def comfyui_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that is found as the ComfyUI of this machine."""
    (tmp_path / "ComfyUI" / "comfy").mkdir(parents=True)
    (tmp_path / "ComfyUI" / "models").mkdir()
    (tmp_path / "ComfyUI" / "main.py").touch()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "ComfyUI"))
    monkeypatch.setenv("RESIDENCY_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RESIDENCY_FLEET_TOKEN", raising=False)
    return tmp_path / "ComfyUI"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: others can reach that; give --token, or set RESIDENCY_FLEET_TOKEN"),  # noqa: S104 - refused
        (["--cpu", "--models-directory", "/nowhere"], "--models-directory /nowhere: no such folder"),
        (["--cpu", "nowhere.yaml"], "--cpu and nowhere.yaml: the file says it all"),
        (["nowhere.yaml"], "nowhere.yaml: cannot be read"),
    ],
)
def test_a_fleet_that_cannot_be_is_refused_before_anything_starts(
    arguments: list[str], said: str, comfyui_here: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["fleet", "up", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_file_that_opens_the_door_to_others_needs_a_token(comfyui_here: Path, capsys: pytest.CaptureFixture[str]):
    file = comfyui_here.parent / "fleet.yaml"
    file.write_text("host: 10.0.0.1")
    assert main(["fleet", "up", str(file)]) == 2
    assert "--host 10.0.0.1: others can reach that" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "down"])
def test_where_no_fleet_runs_that_is_said(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("RESIDENCY_CACHE", str(tmp_path))
    assert main(["fleet", command, "--port", "8399"]) == 2
    assert "--port 8399: no fleet runs there; start one with fleet up" in capsys.readouterr().err
