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
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from .locate import PACK, ComfyUI
from .messages import Messages

START_TIMEOUT_S = 180.0
LOG_TAIL_LINES = 25
_NOT_COPIED = (".git", ".venv", "out", "tests", "benchmarks", "__pycache__", ".*_cache")


class ServerError(Exception):
    """The server did not start, died, or refused a prompt. The message carries its words."""


@dataclass(frozen=True, slots=True)
class Run:
    """One prompt as the client saw it: `seconds` from posting it to its end, nodes as (id, start, end) on the same clock."""

    prompt_id: str
    seconds: float
    nodes: tuple[tuple[str, float, float], ...]
    images: tuple[bytes, ...]


@dataclass(slots=True)
class Ran:
    """One prompt of a queue. Seconds since the queue was posted; `nodes` are (id, start, end).

    `end_s` is its `execution_success`, which ComfyUI sends for cached prompts too. `free_s` is the `executing` without a node behind it,
    which is no measure: when more than ten seconds have passed since the last collection, main.py's prompt_worker runs `gc.collect()`
    between the two and holds the interpreter for 0.3 s; on an H100's host that message left the server only then. With prompts of ten
    seconds that is every second one, on either side, by chance: 3 % by the toss of a coin. It is waited for all the same and kept, where
    whoever suspects that one side works on after its success finds it.
    """

    prompt_id: str
    nodes: list[tuple[str, float, float]] = field(default_factory=list)
    end_s: float = 0.0
    free_s: float = 0.0


Event = tuple[float, str, Mapping[str, Any]]
"""(seconds since the queue was posted, kind, data)."""


class Server:
    """A running server; made by `serve`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    @property
    def url(self) -> str:
        """The address for a browser."""
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
        (ran,) = self.run_queue([prompt], timeout_s, extra_data)
        return Run(ran.prompt_id, ran.free_s, tuple(ran.nodes), tuple(self.images(ran.prompt_id)))

    def run_queue(self, prompts: Sequence[Mapping[str, Any]], timeout_s: float, extra_data: Mapping[str, Any] | None = None) -> list[Ran]:
        """Post them all at once and follow them to their ends. Raises ServerError like `run`."""
        client = uuid.uuid4().hex
        try:
            with Messages(self.port, f"/ws?clientId={client}") as messages:
                started_s = time.perf_counter()
                ran: dict[str, Ran] = {}
                for prompt in prompts:
                    body = {"prompt": prompt, "client_id": client, "extra_data": dict(extra_data or {})}
                    prompt_id = json.loads(self.post("/prompt", body))["prompt_id"]
                    ran[prompt_id] = Ran(prompt_id)
                follow(self._events(messages, started_s, timeout_s), ran, self.tail)
                return list(ran.values())
        except OSError as error:
            self._settle()
            raise ServerError(f"ComfyUI closed the connection ({error}); the end of its log:\n{self.tail()}") from error

    def _events(self, messages: Messages, started_s: float, timeout_s: float) -> Iterator[Event]:
        """Every message; looks once a second whether the server lives."""
        while (now_s := time.perf_counter() - started_s) < timeout_s:
            text = messages.next(min(1.0, timeout_s - now_s + 0.01))
            if text is None:
                self.check()
            else:
                message = json.loads(text)
                yield time.perf_counter() - started_s, message["type"], message["data"]
        raise ServerError(f"the prompts did not end within {timeout_s:.0f} s; the end of the log:\n{self.tail()}")

    def why_off(self) -> str | None:
        """Why the pack is not installed in this server's ComfyUI; None where it is."""
        status = self.get_json("/residency/status")
        if status.get("installed", True):
            return None
        return "; ".join(feature["reason"] for feature in status.get("features", ()) if not feature["on"])

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

    def texts(self, prompt_id: str) -> list[str]:
        """The texts that a prompt has shown, by node."""
        outputs = self.get_json(f"/history/{prompt_id}")[prompt_id]["outputs"]
        return [text for node_id in sorted(outputs) for text in outputs[node_id].get("text", ())]

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

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


def follow(events: Iterable[Event], ran: Mapping[str, Ran], log: Callable[[], str]) -> None:
    """Fill in the prompts until the server is done with each. Raises ServerError, with the log's end, for one that does not succeed."""
    left = set(ran)
    running: tuple[str, float] | None = None
    for now_s, kind, data in events:
        one = ran.get(data.get("prompt_id", ""))
        if one is None:
            continue
        if kind in ("execution_error", "execution_interrupted"):
            what = f"{data.get('node_type')} {data.get('node_id')} failed: {data.get('exception_message', kind)}"
            raise ServerError(f"{what}\nthe end of the log:\n{log()}")
        if kind not in ("executing", "execution_success"):
            continue
        if running:
            one.nodes.append((*running, now_s))
        running = None
        if kind == "execution_success":
            one.end_s = now_s
        elif data["node"] is not None:
            running = data["node"], now_s
        elif not one.end_s:
            raise ServerError(f"prompt {one.prompt_id} is over without execution_success; the end of the log:\n{log()}")
        else:
            one.free_s = now_s
            left.discard(one.prompt_id)
            if not left:
                return


@contextmanager
def serve(
    comfyui: ComfyUI,
    models: Path,
    arguments: Sequence[str] = (),
    pack: Path | None = PACK,
    front_end: bool = False,
    others: Sequence[Path] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """A server on a free port with `pack` (None: without) and `others` as its only custom nodes, ended and cleaned up on leaving.

    `environment` comes on top of this process's. With `front_end` it serves ComfyUI's own pages, for a browser. Raises ServerError when it
    does not come up.
    """
    base = Path(tempfile.mkdtemp(prefix="residency-"))
    held = _bound()
    try:
        for folder in ("custom_nodes", "input", "output", "temp", "user", "front_end"):
            (base / folder).mkdir()
        if pack is not None:
            link_pack(pack, base / "custom_nodes" / "residency")
        for other in others:
            link_pack(other, base / "custom_nodes" / other.name)
        port = int(held.getsockname()[1])
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
        whole = {**os.environ, "PATH": search, "PYTHONUNBUFFERED": "1", **(environment or {})}
        log = base / "server.log"
        if sys.platform != "linux":
            held.close()
        with open(log, "wb") as output:
            process = subprocess.Popen(
                command, cwd=comfyui.path, env=whole, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            server = Server(process, port, log)
            _wait_until_up(server)
            yield server
        finally:
            _end(process)
    finally:
        held.close()
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


def _bound() -> socket.socket:
    """A socket on a free port. On Linux it stays open beside the server's own, so that the system gives the port to nobody else in the
    seconds that the server takes to come up."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held
