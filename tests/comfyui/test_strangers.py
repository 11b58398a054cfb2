"""Whatever is sent to a route of the pack: an answer in one sentence, never a traceback, and settings within their limits.

`STRANGERS=10000 pytest tests/comfyui/test_strangers.py` sends that many requests of each kind.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
from comfy_story import two_experts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from residency.installation.server_process import Server
from residency.settings.user import LIMITS, UserSettings, parse

GET = ("status", "settings", "trace", "traces", "memory", "assessment", "doctor", "state", "ready")
POST = ("mode", "settings", "watch", "estimate", "warm")
LONGEST = 400  # characters of a refusal
STRANGE = "http://evil.example"

many = settings(
    max_examples=int(os.environ.get("STRANGERS", "400")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

methods = st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "BREW"])
endings = st.sampled_from([*GET, *POST]) | st.text("abc/.%~0", max_size=12)
texts = st.text(st.characters(codec="ascii", exclude_characters=" #\r\n\0"), max_size=20)
queries = st.lists(st.tuples(st.sampled_from(["prompt_id", "format", "x"]), texts), max_size=3)
FORM = "multipart/form-data; boundary=x"
kinds = st.sampled_from(["application/json", "text/plain", "application/x-www-form-urlencoded", FORM, "", "nonsense", "a/b; charset"])
CHARSETS = ["utf-8", "utf-16", "latin-1", "klingon", "base64", "idna", "unicode_escape", "zip", "utf-7", '"', "x" * 500]
charsets = st.sampled_from(["", *(f"; charset={name}" for name in CHARSETS)])
origins = st.sampled_from([None, None, None, "http://127.0.0.1", STRANGE, "null", "http://127.0.0.1:9999"])
NAMES = ["mode", *LIMITS, "version", "client_id", "on", "console_line", "queue_depth", "read_threads", "prompt", "files", "cancel", ""]
names = st.sampled_from(NAMES) | st.text(max_size=4)
numbers = st.booleans() | st.integers() | st.floats() | st.just(10**400)
scalars = st.none() | numbers | st.text(max_size=8) | st.sampled_from(["auto", "off", "low-vram", "x" * 9_000])
values: st.SearchStrategy[Any] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4), max_leaves=8
)
bodies = st.one_of(
    st.dictionaries(names, values, max_size=4).map(lambda value: json.dumps(value).encode()),
    values.map(lambda value: json.dumps(value).encode()),
    values.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-16", "surrogatepass")),
    st.binary(max_size=60),
    st.sampled_from([b"", b"{", b"[" * 100_000, b'{"mode": ' * 2_000, b'{"mode": "auto"', b"\xef\xbb\xbf{}", b"1" * 5_000, b"{}" * 2]),
)


def asked(server: Server, method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to a request as it stands."""
    lines = [f"{method} {target} HTTP/1.1", "Connection: close", f"Content-Length: {len(body)}", *(f"{k}: {v}" for k, v in headers.items())]
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as link:
        try:
            link.sendall("\r\n".join([*lines, "", ""]).encode("utf-8", "replace") + body)
        except OSError:
            pass  # refused before all was sent: what was answered is still there
        answer = b""
        try:
            while part := link.recv(1 << 16):
                answer += part
        except ConnectionResetError:
            assert answer, "the connection was closed without an answer"
    head, _, content = answer.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    told = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
    return int(first.split()[1]), told, content


@pytest.fixture
def server(start: Callable[..., Server]) -> Server:
    """A server that tells what it has opened of a stranger's, and has learned from a prompt."""
    server = start(packs=("opened",))
    if server.get_json("/residency/trace") is None:
        server.run(two_experts(seed=3))
    return server


@pytest.fixture
def watched(server: Server) -> Iterator[Server]:
    """A server: no traceback comes into its log while it is asked; afterwards all is at its default, and it answers."""
    before = len(server.log.read_bytes())
    yield server
    new = server.log.read_bytes()[before:].decode(errors="replace")
    server.post("/residency/settings", UserSettings().as_dict())
    assert "custom_nodes/residency/" not in new, new[-4_000:]  # no traceback goes through the pack
    assert server.get_json("/residency/status")["failures"] == 0


@many
@given(methods, endings, queries, kinds, charsets, origins, bodies)
def test_a_request_of_any_kind_is_answered_and_refused_in_one_sentence(
    watched: Server, method: str, ending: str, query: Any, kind: str, charset: str, origin: str | None, body: bytes
):
    target = f"/residency/{ending}" + "".join(f"{'&' if number else '?'}{name}={text}" for number, (name, text) in enumerate(query))
    headers = {"Host": f"127.0.0.1:{watched.port}", "Content-Type": kind + charset} | ({"Origin": origin} if origin else {})
    status, told, content = asked(watched, method, target, headers, body if method != "GET" else b"")
    assert status < 500, (status, content[:300])
    if origin == STRANGE and method in ("GET", "POST"):
        assert status in (400, 403), "a page of another origin is refused"
    if status >= 400 and method != "HEAD" and told.get("content-type", "").startswith("application/json"):
        (sentence,) = json.loads(content).values()
        assert len(sentence) < LONGEST and "\n" not in sentence and "Traceback" not in sentence
    settings_now = watched.get_json("/residency/settings")
    assert isinstance(parse(settings_now), UserSettings)


@many
@given(st.sampled_from(POST), bodies)
def test_a_body_is_taken_as_it_is_meant_or_changes_nothing(watched: Server, name: str, body: bytes):
    before = watched.get_json("/residency/settings")
    headers = {"Host": f"127.0.0.1:{watched.port}", "Content-Type": "application/json"}
    status, _, content = asked(watched, "POST", f"/residency/{name}", headers, body)
    after = watched.get_json("/residency/settings")
    assert status in (200, 400), (status, content[:300])
    if status == 400:
        assert set(json.loads(content)) == {"error"} and after == before
    elif name == "settings":
        sent = json.loads(body.decode(json.detect_encoding(body)))
        assert after == parse({**before, **sent}).as_dict()  # type: ignore[union-attr]


# --- prompts that a fleet asks about ---


@pytest.fixture(scope="module")
def canary(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a picture that lie in none of ComfyUI's folders."""
    folder = tmp_path_factory.mktemp("canary")
    shutil.copy(next(models.rglob("residency_tae.safetensors")), folder / "canary.safetensors")
    Image.new("RGB", (8, 8)).save(folder / "canary.png")
    return folder


KNOWN = ["UNETLoader", "CLIPLoader", "VAELoader", "CLIPTextEncode", "KSampler", "VAEDecode", "SaveImage", "LoadImage", "LoraLoader"]
KNOWN += ["ResidencyUNETLoader", "ResidencyKeep", "ResidencyPolicy", "ResidencyRelease", "CheckpointLoaderSimple", "DiffusersLoader"]
FILES = [
    "residency_expert_a.safetensors",
    "../residency_expert_a.safetensors",
    "\0.safetensors",
    "x" * 5_000 + ".sft",
    "\ud800.ckpt",
    "C:\\x.pt",
]
PATHS = [
    "{}.safetensors",
    "{}.png",
    "{}.png [input]",
    "../../../../../../../..{}.safetensors",
    "../../../../../../../..{}.png",
    "file://{}.png",
    "/",
]
INPUTS = ["unet_name", "clip_name", "vae_name", "lora_name", "ckpt_name", "image", "steps", "model", "samples", "model_path", "memory_mode"]
node_ids = st.sampled_from([*map(str, range(1, 11)), ""]) | st.text(max_size=3)
slots = st.integers(-2, 3) | numbers
nested = st.sampled_from([0, 100, 900]).map(lambda deep: json.loads("[" * deep + "7" + "]" * deep))
inputs_of = st.one_of(values, nested, st.tuples(node_ids, slots).map(list), st.sampled_from([*FILES, *PATHS]))
entries = st.dictionaries(st.sampled_from(INPUTS) | names, inputs_of, max_size=4)
classes = st.sampled_from(KNOWN) | scalars
nodes = st.fixed_dictionaries({"class_type": classes, "inputs": entries | scalars}) | values
changes = st.lists(
    st.tuples(st.sampled_from(["input", "node", "class", "gone"]), node_ids, st.sampled_from(INPUTS), inputs_of, nodes), max_size=5
)


def changed(parts: list[tuple[str, str, str, Any, Any]]) -> dict[str, Any]:
    """A prompt that was right before."""
    prompt: dict[str, Any] = two_experts(seed=3)
    for what, node_id, name, value, node in parts:
        own = prompt.get(node_id)
        if what == "gone":
            prompt.pop(node_id, None)
        elif what == "node" or not isinstance(own, dict) or not isinstance(own.get("inputs"), dict):
            prompt[node_id] = node
        elif what == "input":
            own["inputs"][name] = value
        else:
            own["class_type"] = value
    return prompt


prompts = changes.map(changed) | st.dictionaries(node_ids, nodes, max_size=5) | values


def finite(told: Any) -> bool:
    """Whether each number in it is one that JSON has."""
    if isinstance(told, float):
        return isfinite(told)
    return all(map(finite, told.values() if isinstance(told, dict) else told if isinstance(told, list) else ()))


def posted(server: Server, name: str, body: Any) -> tuple[int, Any]:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Host": f"127.0.0.1:{server.port}", "Content-Type": "application/json"}
    status, _, content = asked(server, "POST", f"/residency/{name}", headers, sent)
    return status, json.loads(content)


def refused(told: Any) -> bool:
    """Whether it is one sentence."""
    return set(told) == {"error"} and 0 < len(told["error"]) < LONGEST and "\n" not in told["error"] and "Traceback" not in told["error"]


def with_paths(value: Any, base: Path) -> Any:
    """The value, with the path of the canary wherever one is drawn."""
    if isinstance(value, dict):
        return {key: with_paths(one, base) for key, one in value.items()}
    if isinstance(value, list) and len(value) != 1:
        return [with_paths(one, base) for one in value]
    return value.format(base / "canary") if isinstance(value, str) and value in PATHS else value


@many
@given(prompts)
def test_any_prompt_is_estimated_or_refused_and_no_path_of_it_is_opened(watched: Server, canary: Path, prompt: Any):
    status, told = posted(watched, "estimate", {"prompt": with_paths(prompt, canary)})
    assert status in (200, 400), (status, told)
    if status == 400:
        assert refused(told)
    else:
        assert finite(told) and min(told["total_s"], told["first_step_s"], told["read_bytes"], told["compute_unknown_nodes"]) >= 0
    assert watched.get_json("/opened") == []


requests = st.one_of(
    prompts.map(lambda prompt: {"prompt": prompt}),
    st.fixed_dictionaries({"files": st.lists(st.text(max_size=4) | st.sampled_from([*PATHS, "1-x", "9" * 5_000, "\ud800"]), max_size=4)}),
    st.fixed_dictionaries({"files": values}),
    st.fixed_dictionaries({"cancel": values}),
    st.dictionaries(st.sampled_from(["prompt", "files", "cancel", "x"]), values, max_size=3),
    values,
)


@many
@given(requests)
def test_what_is_asked_to_be_warm_is_read_or_refused_and_no_path_of_it_is_opened(watched: Server, canary: Path, request_: Any):
    status, told = posted(watched, "warm", with_paths(request_, canary))
    assert status in (200, 400), (status, told)
    assert refused(told) if status == 400 else finite(told) and told["state"] in ("idle", "reading", "done", "stopped")
    assert watched.get_json("/opened") == []


@pytest.mark.parametrize("name", ["estimate", "warm"])
@pytest.mark.parametrize(
    ("body", "content_type", "words"),
    [
        (b'{"prompt": {}}', "application/json; charset=klingon", "'klingon' is not a charset"),
        (b"\xff\xfe{", "application/json", "not JSON in"),
        (b"", "application/json", "not JSON in"),
        (b"[" * 200_000, "application/json", "nested too deeply"),
        (b"[1]", "application/json", '{"prompt": {…}}'),
        (b"null", "application/json", '{"prompt": {…}}'),
        (b'{"prompt": 1e999}', "application/json", '{"prompt": {…}}'),
        (b'{"prompt": {}, "prompt": {}}', "application/json", "names 'prompt' twice"),
        (b'{"prompt": ' + b"9" * 5000 + b"}", "application/json", "not JSON in"),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else "",
)
def test_a_body_that_is_no_prompt_is_refused_in_one_sentence(watched: Server, name: str, body: bytes, content_type: str, words: str):
    headers = {"Host": f"127.0.0.1:{watched.port}", "Content-Type": content_type}
    status, _, content = asked(watched, "POST", f"/residency/{name}", headers, body)
    assert status == 400 and refused(json.loads(content)) and words in json.loads(content)["error"]


@pytest.mark.parametrize(
    ("method", "name", "origin", "size", "expected"),
    [
        ("GET", "estimate", None, 0, 404),
        ("PUT", "warm", None, 2, 405),
        ("POST", "state", None, 2, 405),
        ("DELETE", "ready", None, 0, 405),
        ("POST", "estimate", STRANGE, 2, 403),
        ("POST", "warm", STRANGE, 2, 403),
        ("GET", "state", STRANGE, 0, 403),
        ("GET", "ready", STRANGE, 0, 403),
        ("POST", "estimate", None, 101 * 2**20, 413),
        ("POST", "warm", None, 101 * 2**20, 413),
    ],
)
def test_a_wrong_method_another_origin_and_a_huge_body_are_refused(
    watched: Server, method: str, name: str, origin: str | None, size: int, expected: int
):
    headers = {"Host": f"127.0.0.1:{watched.port}", "Content-Type": "application/json"} | ({"Origin": origin} if origin else {})
    assert asked(watched, method, f"/residency/{name}", headers, b"x" * size)[0] == expected
