"""ComfyUI's event loop waits for nobody: whatever a drive, a lock or a database does, and whatever is sent, every route answers."""

from __future__ import annotations

import json
import sqlite3
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import websocket
from comfy_story import drop_pages, forget, pixels, two_experts, until

from residency.installation.locate import ComfyUI
from residency.installation.server_process import Server, serve
from residency.profiles import database_in
from residency.settings.user import UserSettings

PACKS = Path(__file__).parent / "packs"
ROUTES = ("/queue", "/prompt", "/object_info", "/history", "/residency/status", "/residency/settings", "/residency/traces")


@pytest.fixture(scope="module")
def base(comfyui: ComfyUI, models: Path) -> Iterator[Server]:
    with serve(comfyui, models, ["--cpu"], others=[PACKS / "hanging_drive"]) as server:
        yield server


@pytest.fixture
def server(base: Server) -> Iterator[Server]:
    """A server whose drive can hang; it does not afterwards, and all is at its default."""
    yield base
    base.post("/hang", {"name": None})
    base.post("/residency/settings", UserSettings().as_dict())
    assert base.get_json("/residency/status")["failures"] == 0


def threads(server: Server) -> list[str]:
    names: list[str] = server.get_json("/residency/status")["threads"]
    return names


def everything_answers(server: Server) -> None:
    for route in ROUTES:
        server.get(route)
    with closing(websocket.create_connection(f"ws://127.0.0.1:{server.port}/ws", timeout=30)) as link:
        assert json.loads(link.recv())["type"] == "status"
        link.ping("there?")
        while link.recv_data(control_frame=True)[0] != websocket.ABNF.OPCODE_PONG:
            pass


@contextmanager
def reading_hangs(server: Server, models: Path, seed: int) -> Iterator[None]:
    """A prompt has run; threads of the pack hang in the drive that holds expert b."""
    forget(server)
    drop_pages(models)
    server.post("/hang", {"name": "residency_expert_b"})
    try:
        server.run(two_experts(seed=seed))
        assert [name for name in threads(server) if name.startswith("residency-read")]
        yield
    finally:
        server.post("/hang", {"name": None})


def test_while_a_drive_hangs_every_route_answers_and_off_means_off_once_it_has_ended(server: Server, models: Path):
    with reading_hangs(server, models, seed=41):
        everything_answers(server)
        assert server.get_json("/residency/trace")["outcome"] == "success"
        server.post("/residency/settings", {"read_threads": 2})
        server.post("/residency/settings", {"read_threads": 7})
        off = json.loads(server.post("/residency/mode", {"mode": "off"}))
        assert (off["installed"], off["closing"]) == (False, True) and off["threads"]
        everything_answers(server)
        stock = server.run(two_experts(seed=42))
        assert threads(server)
    assert until(lambda: threads(server) == [])
    assert not server.get_json("/residency/status")["closing"]
    server.post("/residency/mode", {"mode": "auto"})
    ours = server.run(two_experts(seed=42) | {"11": {"class_type": "PreviewImage", "inputs": {"images": ["9", 0]}}})
    assert {pixels(image) for image in ours.images} == {pixels(stock.images[0])}


def test_off_and_on_again_while_a_drive_hangs_begins_with_threads_of_its_own(server: Server, models: Path):
    with reading_hangs(server, models, seed=43):
        server.post("/residency/mode", {"mode": "off"})
        on = json.loads(server.post("/residency/mode", {"mode": "balanced"}))
        assert on["installed"] and not on["closing"]
        server.post("/hang", {"name": "no such file"})  # new calls pass, the old ones still wait
        forget(server)
        drop_pages(models)
        run = server.run(two_experts(seed=44))
        trace = server.get_json(f"/residency/trace?prompt_id={run.prompt_id}")
        assert {transfer["status"] for transfer in trace["transfers"]} == {"done"}
    assert until(lambda: threads(server) == [])


def test_whoever_asks_a_drive_that_hangs_takes_no_thread_from_other_routes(server: Server, models: Path):
    """Panels and fleets ask again and again, and do not wait for ever."""

    def impatient(path: str) -> None:
        with suppress(OSError):
            urllib.request.urlopen(f"{server.url}{path}", timeout=1).read()

    with reading_hangs(server, models, seed=56):
        asking = [threading.Thread(target=impatient, args=(path,)) for path in ("/residency/memory", "/residency/state") * 30]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        everything_answers(server)
        assert server.get_json("/residency/trace")["outcome"] == "success"
        code, text = said(server, "/residency/memory", None)
        assert code == 503 and "has not come within" in json.loads(text)["error"]
    assert until(lambda: said(server, "/residency/memory", None)[0] == 200)
    assert server.get_json("/residency/state")["components"]


def test_no_route_needs_a_lock_under_which_movers_work(server: Server):
    server.run(two_experts(seed=45))
    server.post("/hang", {"locks": True})
    everything_answers(server)
    server.get("/residency/trace")
    server.get("/residency/trace?format=chrome")
    server.post("/residency/settings", {"vram_headroom_gib": 1, "ram_budget_gib": 2, "read_threads": 3, "queue_depth": 1})
    server.post("/residency/mode", {"mode": "off"})
    server.post("/residency/mode", {"mode": "low-vram"})
    queued = json.loads(server.post("/prompt", {"prompt": two_experts(seed=46)}))["prompt_id"]
    server.post("/queue", {"delete": ["nobody"]})
    everything_answers(server)
    server.post("/hang", {"name": None})
    assert until(lambda: queued in server.get_json("/history"))
    assert server.get_json(f"/residency/trace?prompt_id={queued}")["mode"] == "low-vram"


def test_the_server_ends_while_a_drive_hangs(comfyui: ComfyUI, models: Path):
    with serve(comfyui, models, ["--cpu"], others=[PACKS / "hanging_drive"]) as server, reading_hangs(server, models, seed=47):
        server.process.terminate()
        assert server.process.wait(60) is not None
        server.post = lambda path, body: b""  # type: ignore[method-assign, assignment]


@pytest.fixture
def device(comfyui: ComfyUI, models: Path) -> Iterator[Server]:
    """A server on which what was copied to the device for the pack does not arrive, and the pack has been switched off and on."""
    with serve(comfyui, models, ["--cpu"], others=[PACKS / "hanging_device"]) as server:
        server.run(two_experts(seed=61))
        server.post("/device", {"hangs": True})
        off = json.loads(server.post("/residency/mode", {"mode": "off"}))
        assert off["closing"] and off["threads"] == ["residency device"]
        server.post("/residency/mode", {"mode": "auto"})
        yield server
        server.post("/device", {"hangs": False})


def test_while_a_device_hangs_every_route_answers_and_a_prompt_is_comfyuis_after_a_moment(device: Server):
    server = device
    everything_answers(server)
    for route in ("doctor", "memory", "state", "ready", "trace", "assessment"):
        server.get(f"/residency/{route}")
    assert server.get_json("/residency/status")["installed"]
    run = server.run(two_experts(seed=62))  # as nobody waits for the device any more, so does the next one
    assert server.tail(1000).count("residency: the device has not answered for 2 s, taking every hook out; choose a mode again") == 1
    status = server.get_json("/residency/status")
    assert not status["installed"] and status["closing"] and "residency device" in status["threads"]
    again = server.run(two_experts(seed=62) | {"11": {"class_type": "PreviewImage", "inputs": {"images": ["9", 0]}}})
    assert {pixels(image) for image in again.images} == {pixels(image) for image in run.images} and len(run.images) == 1
    everything_answers(server)
    server.post("/device", {"hangs": False})
    assert until(lambda: threads(server) == [])
    server.post("/residency/mode", {"mode": "auto"})
    ours = server.run(two_experts(seed=63))
    assert server.get_json(f"/residency/trace?prompt_id={ours.prompt_id}")["outcome"] == "success"


def test_the_server_ends_while_a_device_hangs(device: Server):
    device.process.terminate()
    assert device.process.wait(60) is not None
    device.post = lambda path, body: b""  # type: ignore[method-assign, assignment]


def said(server: Server, path: str, body: bytes | None, content_type: str = "application/json") -> tuple[int, str]:
    """Status and text of the answer to a body as it stands."""
    request = urllib.request.Request(server.url + path, body, {"Content-Type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize("path", ["/residency/mode", "/residency/settings"])
@pytest.mark.parametrize(
    ("body", "content_type", "words"),
    [
        (b'{"mode": "auto"}', "application/json; charset=klingon", "'klingon' is not a charset"),
        (b'{"mode": "auto"}', "application/json; charset=base64", "'base64' is not a charset"),
        (b"\xff\xfe{", "application/json", "not JSON in"),
        (b"", "application/json", ""),
        (b"{", "application/json", "not JSON in"),
        (b"[" * 200_000, "application/json", "nested too deeply"),
        (b'{"mode": ' + b"[" * 900 + b"]" * 900 + b"}", "application/json", "choose one of"),
        (b'"mode"', "application/json", '{"mode": "auto"}'),
        (b"[1]", "application/json", '{"mode": "auto"}'),
        (b"null", "application/json", '{"mode": "auto"}'),
        (b'{"mode": "off", "mode": "auto"}', "application/json", "names 'mode' twice"),
        (b'{"mode": 1e999}', "application/json", "inf"),
        (b'{"mode": ' + b"9" * 4000 + b"}", "application/json", "choose one of"),
        (b'{"mode": ' + b"9" * 5000 + b"}", "application/json", "not JSON in"),
        (b'{"mode": "\\ud800"}', "application/json", "choose one of"),
        (b'{"mode": "' + b"x" * (50 * 2**20) + b'"}', "application/json", "xxx...xxx"),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else "",
)
def test_a_body_of_any_shape_is_refused_in_one_short_sentence(server: Server, path: str, body: bytes, content_type: str, words: str):
    before = server.get_json("/residency/settings")
    code, text = said(server, path, body, content_type)
    assert code == 400 and set(json.loads(text)) == {"error"}
    assert words in json.loads(text)["error"] and len(text) < 400 and "\\n" not in text
    assert server.get_json("/residency/settings") == before
    assert "Traceback" not in server.tail(50)


def test_another_method_a_huge_body_and_a_huge_name_are_refused_too(server: Server):
    assert said(server, "/residency/status", b"{}")[0] == 405
    assert said(server, "/residency/settings", b"x" * (101 * 2**20))[0] == 413
    for query in ("format=xml", f"format={'x' * 5000}", f"prompt_id={'x' * 5000}"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{server.url}/residency/trace?{query}")
        assert refused.value.code in (400, 404) and len(refused.value.read()) < 200


@pytest.mark.parametrize("budget", ["Infinity", "1e999", "-Infinity", "NaN", "1e308", "9" * 400, '"8"', "true", "[[8]]", "-1"])
def test_a_budget_of_any_size_is_a_warning_and_the_default_holds(server: Server, budget: str):
    workflow = {"extra": {"residency": {"host_budget_gib": "BUDGET"}}}
    body = {
        "prompt": two_experts(seed=48),
        "extra_data": {"residency": {"device_budget_gib": "BUDGET"}, "extra_pnginfo": {"workflow": workflow}},
    }
    code, text = said(server, "/prompt", json.dumps(body).replace('"BUDGET"', budget).encode())
    assert code == 200
    prompt_id = json.loads(text)["prompt_id"]
    entry = until(lambda: server.get_json("/history").get(prompt_id))
    assert entry["status"]["status_str"] == "success"
    log = server.tail(80)
    assert "the workflow asks for host_budget_gib" in log and "extra_data asks for device_budget_gib" in log and "Traceback" not in log
    assert until(lambda: server.get_json(f"/residency/trace?prompt_id={prompt_id}")["outcome"] == "success")


@pytest.mark.parametrize(
    "extra_data",
    [{"extra_pnginfo": value} for value in (7, "text", ["workflow"], {"workflow": "text"}, {"workflow": {"extra": [1]}})]
    + [{"residency": value} for value in (7, "low-vram", [1], {"nodes": [1], "mode": {}, "version": []}, {"nodes": {"6": 7}})],
    ids=str,
)
def test_extra_data_of_any_shape_runs_as_if_it_were_not_there(server: Server, extra_data: dict[str, Any]):
    prompt = two_experts(seed=49)
    prompt["10"] = {"class_type": "PreviewAny", "inputs": {"source": ["9", 0]}}  # ComfyUI's SaveImage itself wants an object
    prompt["20"] = {"class_type": "PreviewAny", "inputs": {"source": json.dumps(extra_data)}}
    run = server.run(prompt, extra_data)
    assert server.get_json(f"/residency/trace?prompt_id={run.prompt_id}")["prompt_id"] == run.prompt_id


def test_nodes_that_no_output_needs_may_have_any_shape(server: Server):
    loose: dict[str, Any] = {  # as far as ComfyUI itself takes them
        "l1": {"class_type": "UNETLoader", "inputs": {"unet_name": [1, 2, 3], "weight_dtype": {}}},
        "l2": {"class_type": "KSampler", "inputs": {"model": ["1"], "positive": ["4", 0], "seed": {"a": [1]}}},
    }
    run = server.run(two_experts(seed=50) | loose)
    assert server.get_json(f"/residency/trace?prompt_id={run.prompt_id}")["prompt_id"] == run.prompt_id


def test_a_locked_profile_store_is_said_once_and_used_again_when_it_is_free(comfyui: ComfyUI, models: Path, tmp_path: Path):
    user = tmp_path / "user"
    file = database_in(user)
    file.parent.mkdir(parents=True)
    with serve(comfyui, models, ["--cpu", "--user-directory", str(user)]) as server:
        server.run(two_experts(seed=51))
        assert until(lambda: threads(server) == [])
        rows = lambda: sqlite3.connect(file).execute("SELECT count(*) FROM tracks").fetchone()[0]  # noqa: E731
        learned = until(rows)
        assert learned > 0
        server.post("/residency/mode", {"mode": "off"})
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            server.post("/residency/mode", {"mode": "auto"})
            server.run(two_experts(seed=52, size=128))
            server.run(two_experts(seed=53, size=128))
            assert until(lambda: threads(server) == [])
            other.execute("ROLLBACK")
        assert server.tail(10_000).count("kept for this session only") == 1
        server.run(two_experts(seed=54, size=192))
        assert until(lambda: rows() > learned)
        assert server.get_json("/residency/status")["failures"] == 0
