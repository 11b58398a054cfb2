"""A ComfyUI server in a process of its own, with this pack and nothing else of the user's: started, asked, watched, ended.

The server gets its own base folder, so that neither its settings nor its outputs touch the user's. When it dies, whoever waits for it
learns so at once, with the end of its log.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from .locate import PACK, ComfyUI

START_TIMEOUT_S = 180.0
LOG_TAIL_LINES = 25
_NOT_COPIED = (".git", ".venv", "out", "tests", "benchmarks", "__pycache__", ".*_cache")


class ServerError(Exception):
    """The server did not start, died, or refused a prompt. The message carries what it said."""


@dataclass(frozen=True, slots=True)
class Run:
    """One prompt as the client saw it: `seconds` from posting it to its end, nodes as (id, start, end) on the same clock."""

    prompt_id: str
    seconds: float
    nodes: tuple[tuple[str, float, float], ...]
    images: tuple[bytes, ...]


class Server:
    """A running server; made by `serve`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return self._url("")

    def tail(self, lines: int = LOG_TAIL_LINES) -> str:
        """The end of the server's log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def check(self) -> None:
        """Raises ServerError, with the end of the log, when the process is gone."""
        status = self.process.poll()
        if status is not None:
            raise ServerError(f"ComfyUI ended with status {status}; the end of its log:\n{self.tail()}")

    def get(self, path: str, timeout_s: float = 30.0) -> bytes:
        """The body of an answer. Raises ServerError for an error status or a dead server."""
        return self._ask(urllib.request.Request(self._url(path)), timeout_s)

    def post(self, path: str, body: Mapping[str, Any], timeout_s: float = 30.0) -> bytes:
        data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        return self._ask(urllib.request.Request(self._url(path), data, headers), timeout_s)

    def get_json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def run(self, prompt: Mapping[str, Any], extra_data: Mapping[str, Any] | None = None, timeout_s: float = 600.0) -> Run:
        """Run one API prompt to its end. Raises ServerError when it is refused, fails, or takes more than `timeout_s`."""
        import websocket

        client = uuid.uuid4().hex
        link = websocket.create_connection(self._url(f"/ws?clientId={client}", "ws"), timeout=30)
        try:
            started_s = time.perf_counter()
            body = {"prompt": prompt, "client_id": client, "extra_data": dict(extra_data or {})}
            prompt_id = json.loads(self.post("/prompt", body))["prompt_id"]
            nodes = tuple(self._follow(link, prompt_id, started_s, timeout_s))
            seconds = time.perf_counter() - started_s
        finally:
            link.close()
        return Run(prompt_id, seconds, nodes, tuple(self.images(prompt_id)))

    def _follow(self, link: Any, prompt_id: str, started_s: float, timeout_s: float) -> Iterator[tuple[str, float, float]]:
        running: tuple[str, float] | None = None
        for kind, data in self._messages(link, started_s + timeout_s):
            now_s = time.perf_counter() - started_s
            if data.get("prompt_id") != prompt_id:
                continue
            if kind in ("execution_error", "execution_interrupted"):
                what = data.get("exception_message", kind)
                node = f"{data.get('node_type')} {data.get('node_id')}"
                raise ServerError(f"{node} failed: {what}\nthe end of the log:\n{self.tail()}")
            if kind == "executing":
                if running:
                    yield (*running, now_s)
                if data["node"] is None:
                    return
                running = (data["node"], now_s)

    def _messages(self, link: Any, deadline_s: float) -> Iterator[tuple[str, dict[str, Any]]]:
        import websocket

        link.settimeout(1.0)
        while time.perf_counter() < deadline_s:
            try:
                text = link.recv()
            except websocket.WebSocketTimeoutException:
                self.check()
                continue
            except (websocket.WebSocketException, OSError) as error:
                self._settle()
                raise ServerError(f"ComfyUI closed the connection ({error}); the end of its log:\n{self.tail()}") from error
            if isinstance(text, str) and text:  # bytes are previews
                message = json.loads(text)
                yield message["type"], message["data"]
        raise ServerError(f"the prompt did not end in time; the end of the log:\n{self.tail()}")

    def _settle(self) -> None:
        """A dying server closes its connections a moment before it is gone: give it that moment to say why."""
        try:
            self.process.wait(2.0)
        except subprocess.TimeoutExpired:
            return
        self.check()

    def images(self, prompt_id: str) -> Iterator[bytes]:
        """The files that a prompt has saved, by node."""
        outputs = self.get_json(f"/history/{prompt_id}")[prompt_id]["outputs"]
        for node_id in sorted(outputs):
            for image in outputs[node_id].get("images", ()):
                yield self.get("/view?" + urllib.parse.urlencode(image))

    def _ask(self, request: urllib.request.Request, timeout_s: float) -> bytes:
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                return cast(bytes, answer.read())
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")[:2000]
            raise ServerError(f"{request.get_method()} {request.selector} answered {error.code}: {said}") from error
        except OSError as error:
            self._settle()
            raise ServerError(f"{request.get_method()} {request.selector}: {error}") from error

    def _url(self, path: str, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}{path}"


@contextmanager
def serve(
    comfyui: ComfyUI,
    models: Path,
    arguments: Sequence[str] = (),
    pack: Path | None = PACK,
    front_end: bool = False,
    others: Sequence[Path] = (),
) -> Iterator[Server]:
    """A server on a free port with `pack` (None: without) and `others` as its only custom nodes, ended and cleaned up on leaving.

    With `front_end` it serves ComfyUI's own pages, for a browser. Raises ServerError when it does not come up.
    """
    base = Path(tempfile.mkdtemp(prefix="residency-"))
    try:
        for folder in ("custom_nodes", "input", "output", "temp", "user", "front_end"):
            (base / folder).mkdir()
        if pack is not None:
            link_pack(pack, base / "custom_nodes" / "residency")
        for other in others:
            link_pack(other, base / "custom_nodes" / other.name)
        port = _free_port()
        command = [str(comfyui.python), "main.py", "--port", str(port), "--base-directory", str(base)]
        try:
            (base / "models").symlink_to(models.resolve(), target_is_directory=True)  # --models-directory is younger than v0.26
        except OSError:
            command += ["--models-directory", str(models.resolve())]
        command += ["--database-url", "sqlite:///:memory:", "--disable-api-nodes", *arguments]
        if not front_end:
            command += ["--front-end-root", str(base / "front_end")]
        # ComfyUI runs from where its own `python` is the first one, as its venv's activate script arranges it
        search = os.pathsep.join([str(comfyui.python.parent), os.environ.get("PATH", "")])
        environment = {**os.environ, "PATH": search, "PYTHONUNBUFFERED": "1"}
        log = base / "server.log"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                command, cwd=comfyui.path, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            server = Server(process, port, log)
            _wait_until_up(server)
            yield server
        finally:
            _end(process)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def link_pack(pack: Path, place: Path) -> None:
    """Put the pack at `place`: a link, or a copy where links are not allowed (Windows)."""
    if not (pack / "__init__.py").is_file():
        raise ServerError(f"{pack} holds no __init__.py of the pack: run this from a checkout (git clone), not from an installed wheel")
    try:
        place.symlink_to(pack, target_is_directory=True)
    except OSError:
        shutil.copytree(pack, place, ignore=shutil.ignore_patterns(*_NOT_COPIED))


def _wait_until_up(server: Server) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        server.check()
        try:
            with socket.create_connection(("127.0.0.1", server.port), timeout=1.0):
                pass
            server.get("/system_stats")
            return
        except (OSError, ServerError):
            time.sleep(0.1)
    raise ServerError(f"ComfyUI did not answer within {START_TIMEOUT_S:.0f} s; the end of its log:\n{server.tail()}")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(15.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
