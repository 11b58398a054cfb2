"""Our links between the wrappers of other packs, in every order of patches: a call runs each wrapper of the chain once, ours as well."""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from residency.comfyui.seams.chain import pack_of
from residency.comfyui.seams.functions import MAX_BURIED, Seam

# Stands for a module of ComfyUI: real functions in a module of their own, which other modules patch.
SOURCE = """
ran = []

def load(item, more=0):
    ran.append("comfyui")
    return item

class Queue:
    def put(self, item, more=0):
        ran.append("comfyui")
        return item

    async def execute(self, item, more=0):
        ran.append("comfyui")
        return item
"""
TARGETS = {"load": ("item", "more"), "Queue.put": ("self", "item", "more"), "Queue.execute": ("self", "item", "more")}


class Stage:
    """One function to patch, the seam on it, and the names of the wrappers that the last call ran, from the outside in."""

    def __init__(self, path: str) -> None:
        self.module = ModuleType("stand_in")
        exec(SOURCE, vars(self.module))  # noqa: S102
        self.ran: list[str] = self.module.ran
        self.asynchronous = path == "Queue.execute"
        self.seam = Seam("the seam", f"stand_in:{path}", TARGETS[path], asynchronous=self.asynchronous)
        self.owner, self.attribute = (self.module.Queue, path.split(".")[1]) if "." in path else (self.module, path)

    @property
    def now(self) -> Any:
        return getattr(self.owner, self.attribute)

    @now.setter
    def now(self, function: Any) -> None:
        setattr(self.owner, self.attribute, function)

    def call(self) -> list[str]:
        self.ran.clear()
        argument = object()
        result = self.now(argument) if self.owner is self.module else getattr(self.owner(), self.attribute)(argument)
        if self.asynchronous:
            with pytest.raises(StopIteration) as ended:
                result.send(None)
            result = ended.value.value
        assert result is argument
        return list(self.ran)

    def ours(self, original: Any) -> Any:
        def wrapped(*args: Any) -> Any:
            self.ran.append("ours")
            return original(*args)

        return wrapped

    def theirs(self, name: str, call: Callable[..., Any]) -> Any:
        """A pack's function; `call` is what it does besides."""
        if self.asynchronous:

            async def other(*args: Any) -> Any:
                self.ran.append(name)
                return await call(*args)
        else:

            def other(*args: Any) -> Any:
                self.ran.append(name)
                return call(*args)

        return other


@contextmanager
def staged(path: str) -> Iterator[Stage]:
    stage = Stage(path)
    sys.modules["stand_in"] = stage.module
    try:
        yield stage
    finally:
        del sys.modules["stand_in"]


@pytest.fixture(params=list(TARGETS))
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with staged(request.param) as stage:
        yield stage


def instead(*args: Any) -> Any:
    """A wrapper of a pack that calls no original."""
    return args[-1]


async def instead_later(*args: Any) -> Any:
    return args[-1]


def test_a_seam_wrapped_without_functools_wraps_is_switched_off_and_on_again_and_again(stage: Stage):
    stage.seam.install(stage.ours)
    stage.now = stage.theirs("theirs", stage.now)
    for _ in range(3):
        stage.seam.remove()
        assert stage.call() == ["theirs", "comfyui"]
        stage.seam.install(stage.ours)
        assert stage.call() == ["ours", "theirs", "comfyui"]


def test_a_link_that_was_taken_out_stays_a_plain_pass_through_for_whoever_saved_it(stage: Stage):
    stage.seam.install(stage.ours)
    saved = stage.now
    stage.seam.remove()
    stage.seam.install(stage.ours)
    stage.now = stage.theirs("theirs", saved)
    assert stage.call() == ["theirs", "comfyui"]
    assert stage.seam.check().reason == f"replaced by {__name__}; chained again"
    assert stage.call() == ["ours", "theirs", "comfyui"]
    stage.now = saved
    stage.seam.remove()
    assert stage.call() == ["comfyui"]


def test_what_replaces_us_is_named_and_chained_again(stage: Stage):
    stage.seam.install(stage.ours)
    stage.now = stage.theirs("theirs", instead_later if stage.asynchronous else instead)
    assert stage.call() == ["theirs"]
    assert stage.seam.look().reason == f"replaced by {__name__}; chained again when the next prompt begins" and not stage.seam.look().fits
    assert stage.seam.check() == stage.seam.look() and stage.seam.look().fits
    assert stage.call() == ["ours", "theirs"]


def test_functools_wraps_around_a_replacement_does_not_pass_for_a_chain(stage: Stage):
    stage.seam.install(stage.ours)
    stage.now = functools.wraps(stage.now)(stage.theirs("theirs", instead_later if stage.asynchronous else instead))
    assert not stage.seam.look().fits
    stage.seam.check()
    assert stage.call() == ["ours", "theirs"]


def test_what_takes_less_than_comfyuis_own_is_left_alone_until_it_has_gone(stage: Stage):
    stage.seam.install(stage.ours)
    mine = stage.now
    odd = stage.now = lambda everything: everything
    assert "('everything',)" in stage.seam.check().reason and stage.now is odd and not stage.seam.look().fits
    stage.now = mine
    assert stage.seam.check().fits and stage.call() == ["ours", "comfyui"]


def test_a_pack_names_the_parameters_as_it_likes_and_comfyui_does_not():
    with staged("Queue.put") as stage:
        own = stage.now
        stage.now = lambda queue, thing, extra=0, own=own: own(queue, thing)
        assert stage.seam.install(stage.ours).fits and stage.call() == ["ours", "comfyui"]
        stage.seam.remove()
        stage.now = FunctionType(stage.now.__code__, vars(stage.module))  # of another ComfyUI
        assert "('queue', 'thing', 'extra', 'own')" in stage.seam.fit().reason


def test_a_static_method_in_the_place_of_a_method_is_left_alone():
    with staged("Queue.put") as stage:
        stage.now = staticmethod(lambda *args: args[-1])
        assert stage.seam.install(stage.ours).reason == f"stand_in:Queue.put is a staticmethod of {__name__}, not a plain method"


def test_a_pack_is_named_by_its_folder_whatever_it_has_copied_from_the_function_it_wraps(stage: Stage):
    names: dict[str, Any] = {}
    exec(compile("def other(*args): return args[-1]", "/comfy/custom_nodes/ComfyUI-Neighbour/patch.py", "exec"), names)  # noqa: S102
    assert pack_of(functools.wraps(stage.now)(names["other"])) == "ComfyUI-Neighbour"
    assert pack_of(functools.partial(stage.now, 1)) == "stand_in"


def test_who_puts_itself_on_top_for_ever_in_a_way_we_cannot_follow_gets_the_place_before_the_chain_is_too_long(stage: Stage):
    stage.seam.install(stage.ours)
    kept: dict[str, dict[int, Any]] = {"originals": {}}
    for number in range(3 * MAX_BURIED):
        kept["originals"][number] = stage.now
        stage.now = stage.theirs("theirs", lambda *args, number=number: kept["originals"][number](*args))
        stage.seam.check()
        stage.call()
    assert stage.ran.count("ours") == 0 and stage.ran.count("comfyui") == 1
    assert stage.seam.look().reason == f"replaced by {__name__}, again and again, on top of ours"
    assert not stage.seam.look().fits


# --- every order ---


@dataclass(frozen=True)
class Node:
    """The meaning of a function: who runs when it is called, and what it then calls."""

    who: str  # "comfyui", "ours 1", or the name of a pack's function
    below: Node | None = None
    odd: bool = False  # takes other parameters
    shown: bool = True  # its code shows what it calls

    def chain(self) -> Iterator[Node]:
        yield self
        if self.below is not None:
            yield from self.below.chain()


class Patching(RuleBasedStateMachine):
    """Packs and we patch one function in any order. The model is the chain that each function stands for."""

    path: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.context = staged(self.path)
        self.stage = self.context.__enter__()
        self.seam = self.stage.seam
        self.nodes: dict[Any, Node] = {self.stage.now: Node("comfyui")}
        self.installed = False
        self.on = ""  # the link that is on
        self.made = 0

    def teardown(self) -> None:
        self.context.__exit__(None, None, None)

    @property
    def top(self) -> Node:
        return self.nodes[self.stage.now]

    @property
    def below_ours(self) -> Node:
        return next(node for node in self.top.chain() if not node.who.startswith("ours"))

    def new(self, who: str) -> str:
        self.made += 1
        return f"{who} {self.made}"

    def ours_was_put(self, below: Node) -> None:
        self.on = self.new("ours")
        assert self.stage.now not in self.nodes  # never a link that was there before
        self.nodes[self.stage.now] = Node(self.on, below)

    @rule()
    def install(self) -> None:
        below = self.below_ours
        fit = self.seam.install(self.stage.ours)
        if not self.installed and not below.odd:
            self.installed = True
            self.ours_was_put(below)
        assert fit.fits is self.installed

    @rule()
    def remove(self) -> None:
        below = self.below_ours
        self.seam.remove()
        if self.installed:
            assert self.top == below  # the very function
        self.installed, self.on = False, ""

    @rule()
    def check(self) -> None:
        before, below = self.stage.now, self.below_ours
        above = list(itertools.takewhile(lambda node: node.who != self.on, self.top.chain()))
        reached = above[-1].below is not None if above else True
        assert reached or not self.seam.look().fits  # never told to be on when it is not
        fit = self.seam.check()
        if not self.installed:
            assert self.stage.now is before
        elif reached and all(node.shown for node in above):
            assert self.stage.now is before and fit.fits
        elif fit.fits and self.stage.now is before:
            assert reached
        elif fit.fits:
            self.ours_was_put(below)
        else:
            assert below.odd
            self.on = ""
        assert self.seam.look() == fit

    @rule(wraps=st.booleans(), odd=st.booleans(), how=st.sampled_from(["closure", "partial", "default", "object", "hidden"]))
    def other_wraps(self, wraps: bool, odd: bool, how: str) -> None:
        self.other(calling(self.stage.now, how), self.top, wraps, odd, how != "hidden")

    @rule(wraps=st.booleans(), odd=st.booleans())
    def other_replaces(self, wraps: bool, odd: bool) -> None:
        self.other(instead_later if self.stage.asynchronous else instead, None, wraps, odd, True)

    def other(self, call: Callable[..., Any], below: Node | None, wraps: bool, odd: bool, shown: bool) -> None:
        name = self.new("pack")
        function = self.stage.theirs(name, call)
        function = oddly(function, method="." in self.path) if odd else function
        self.stage.now = functools.wraps(self.stage.now)(function) if wraps else function
        self.nodes[self.stage.now] = Node(name, below, odd, shown)

    @rule(data=st.data())
    def other_puts_back_what_it_saved(self, data: st.DataObject) -> None:
        """Whatever was there once: ComfyUI's own, a pack's, a link of ours that is on, or one that was taken out."""
        self.stage.now = data.draw(st.sampled_from(list(self.nodes)))

    @rule()
    def call(self) -> None:
        expected = [node.who for node in self.top.chain()]
        assert self.stage.call() == ["ours" if who == self.on else who for who in expected if who == self.on or not who.startswith("ours")]

    @precondition(lambda self: self.installed and self.on)
    @rule()
    def prompt(self) -> None:
        self.check()
        assert not self.on or self.stage.call().count("ours") == 1

    @invariant()
    def only_what_is_known_is_there(self) -> None:
        assert self.stage.now in self.nodes

    @initialize()
    def start(self) -> None:
        assert self.stage.call() == ["comfyui"]


def calling(mine: Any, how: str) -> Callable[..., Any]:
    """Calls what a pack has found in its place, kept in one of the ways in which packs keep it."""
    if how == "closure":
        return mine
    if how == "partial":
        return functools.partial(mine)
    if how == "default":
        return lambda *args, mine=mine: mine(*args)
    if how == "object":

        class Keeper:
            def __init__(self) -> None:
                self.original = mine

            def __call__(self, *args: Any) -> Any:
                return self.original(*args)

        return Keeper()
    kept = [[mine]]
    return lambda *args: kept[0][0](*args)


def oddly(function: Any, method: bool) -> Any:
    """The same, but takes less than ComfyUI's own."""

    def odd(thing: Any) -> Any:
        return function(thing)

    def odd_method(this: Any, thing: Any) -> Any:
        return function(this, thing)

    return odd_method if method else odd


for _path in TARGETS:
    _case = type(f"Patching{_path.title().replace('.', '')}", (Patching,), {"path": _path}).TestCase
    _case.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
    globals()[f"Test{_path.title().replace('.', '')}"] = _case
del _case, _path
