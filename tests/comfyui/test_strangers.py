"""Whatever is sent to a route of the pack: an answer in one sentence, never a traceback, and settings within their limits.

`STRANGERS=10000 pytest tests/comfyui/test_strangers.py` sends that many requests of each kind.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from residency.installation.server_process import Server
from residency.settings.user import LIMITS, UserSettings, parse

GET = ("status", "settings", "trace", "traces")
POST = ("mode", "settings", "watch")
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
NAMES = ["mode", *LIMITS, "version", "client_id", "on", "console_line", "queue_depth", "read_threads", ""]
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
