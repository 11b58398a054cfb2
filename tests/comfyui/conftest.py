"""A real ComfyUI for every test in this folder: found as the README says, or each test here skips with one loud line."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from front_end import RENDERERS, chromium, front_ends, load, opened

from residency.installation.locate import ComfyUI, find_comfyui
from residency.installation.server_process import Server, serve

COMFYUI = find_comfyui()

EXPERT_MIB = 12
# Each takes 0.5 to 1.2 GB, also when it is idle: with a dozen of them less is kept and read ahead in the stories of the others.
MOST_SERVERS = 4 if os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1") == "1" else 3

# The models are tiny: a second thread only waits. With six servers on two cores a prompt took 8 s, with one thread each 0.6 s.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Where Python is told to write no bytecode, each server compiles ComfyUI's 500 modules again, 2.4 of the 9.7 s of processor time that its
# start takes: the bytecode is written here instead, and stays for the next run.
BYTECODE = Path(__file__).parents[2] / ".pytest_cache" / "bytecode"
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(BYTECODE))

if COMFYUI is None:
    collect_ignore_glob = ["test_[!a]*.py"]  # all but test_a_comfyui_is_here.py, which skips and says why


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A story with a real server that falls is told once more, and the summary says that it was: of 3,400 on a machine that others use
    too, two fell in a run, never the same (a page that the kernel took back, a history that was not written yet)."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("comfyui")
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="session", autouse=True)
def bytecode_of_temporary_folders_goes_with_them() -> Iterator[None]:
    """Each server has its links to the pack in a folder of its own, under whose name nobody asks for this bytecode again."""
    yield
    shutil.rmtree(BYTECODE.joinpath(*Path(tempfile.gettempdir()).resolve().parts[1:]), ignore_errors=True)


@pytest.fixture(scope="session")
def comfyui() -> ComfyUI:
    if COMFYUI is None:
        pytest.skip("NOTHING HERE WAS TESTED AGAINST COMFYUI: none found; set COMFYUI_PATH, or comfy-cli's default workspace")
    return COMFYUI


@pytest.fixture(scope="session")
def found_pins(comfyui: ComfyUI) -> None:
    """For tests of what is copied from pinned memory: skips on a ComfyUI older than 0.33, where a module does not tell its pins."""
    if "_pins" not in (comfyui.path / "comfy" / "pinned_memory.py").read_text(encoding="utf-8"):
        pytest.skip(f"ComfyUI {comfyui.version} keeps its pins elsewhere than 0.33 does: nothing is brought over ahead of its use")


@pytest.fixture(scope="session")
def models(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder of random weights: two small experts, a text encoder, a VAE, a ControlNet and a LoRA."""
    folder = tmp_path_factory.mktemp("models")
    script = Path(__file__).parents[2] / "residency" / "comfyui" / "sample_models" / "tiny.py"
    command = [str(comfyui.python), str(script), str(comfyui.path), str(folder), str(EXPERT_MIB), "more"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-3000:]
    return folder


@pytest.fixture(scope="session")
def start(comfyui: ComfyUI, models: Path) -> Iterator[Callable[..., Server]]:
    """start("--cache-none") gives the server with these arguments, started once for all tests that ask for it while it is among the last
    MOST_SERVERS; `packs`: names of folders in packs/."""
    servers: OrderedDict[tuple[Any, ...], tuple[Server, ExitStack]] = OrderedDict()

    def get(*arguments: str, front_end: bool = False, packs: tuple[str, ...] = ()) -> Server:
        key = (arguments, front_end, packs)
        if key not in servers:
            while len(servers) >= MOST_SERVERS:
                servers.popitem(last=False)[1][1].close()
            others = [Path(__file__).with_name("packs") / name for name in packs]
            stack = ExitStack()
            servers[key] = stack.enter_context(serve(comfyui, models, ["--cpu", *arguments], front_end=front_end, others=others)), stack
        servers.move_to_end(key)
        return servers[key][0]

    try:
        yield get
    finally:
        for _, stack in servers.values():
            stack.close()


@pytest.fixture
def server(start: Callable[..., Server]) -> Iterator[Server]:
    """The plain server, its mode auto again afterwards."""
    server = start()
    yield server
    server.post("/residency/mode", {"mode": "auto"})


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Browser tests run on each front end that the environment names, and tell which in their ids; else on the one installed."""
    named = front_ends() if "front_end" in metafunc.fixturenames else {}
    if named:
        arguments = [["--front-end-root", str(pages)] for pages in named.values()]
        metafunc.parametrize("front_end", arguments, ids=list(named), indirect=True, scope="session")


@pytest.fixture(scope="session")
def front_end(request: pytest.FixtureRequest) -> list[str]:
    """The server's arguments for the front end that is tested."""
    return getattr(request, "param", [])


@pytest.fixture
def comfy_server(start: Callable[..., Server], front_end: list[str]) -> Server:
    """The server with ComfyUI's front end, for a browser."""
    return start(*front_end, front_end=True)


@pytest.fixture(scope="module")  # its driver keeps an event loop running in this thread, which no other file expects
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Any, comfy_server: Server) -> Iterator[Any]:
    """ComfyUI's front end, ready; nodes are drawn on the canvas."""
    with opened(browser, comfy_server.url) as page:
        yield page


@pytest.fixture(scope="module")
def kept_page(browser: Any, start: Callable[..., Server], front_end: list[str]) -> Iterator[Any]:
    with opened(browser, start(*front_end, front_end=True).url) as page:
        yield page


@pytest.fixture
def used_page(request: pytest.FixtureRequest, kept_page: Any, comfy_server: Server) -> Iterator[Any]:
    """ComfyUI's front end as the stories before have left it, for those that open a workflow of their own, change no setting and leave
    nothing but that workflow: loading it takes 5 s of processor time. No message is shown, and no script of ours fails meanwhile."""
    failures: list[str] = []

    def fails(error: Any) -> None:
        failures.append(f"{error}\n{error.stack}")

    if getattr(request.node, "execution_count", 1) > 1:  # told once more: whatever the page is in, it is not that which fails
        load(kept_page, comfy_server.url)
    kept_page.evaluate("() => app.extensionManager.toast.removeAll()")
    kept_page.wait_for_function("() => !document.querySelector('.p-toast-message')")
    kept_page.on("pageerror", fails)
    yield kept_page
    kept_page.remove_listener("pageerror", fails)
    assert [failure for failure in failures if "residency" in failure.lower()] == []


@pytest.fixture(params=RENDERERS)
def editor(request: pytest.FixtureRequest, browser: Any, comfy_server: Server) -> Iterator[Any]:
    """ComfyUI's front end, ready, in each of its renderers."""
    with opened(browser, comfy_server.url, request.param) as page:
        yield page
