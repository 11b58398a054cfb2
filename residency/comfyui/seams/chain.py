"""Links in the chain of wrappers that several packs put around one function of ComfyUI.

A link is one installation of one wrapper. While it is on, calls pass through the wrapper; once retired it hands them to its original for
ever: whoever has saved it meanwhile, to call it, wrap it or put it back, goes on without us. Of the links of a seam one at most is on.
That, and no flag that several share, is why a call runs a wrapper once however packs patch each other. Needs no ComfyUI.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

Wrapper = Callable[..., Any]  # original -> replacement

_MARK = "_residency_link"
_CONTAINER_SIZE = 64  # more values than a pack keeps of its originals are not looked through


class Link:
    """`function` takes the place of `original`. `reached` says whether a retired one is still called."""

    def __init__(self, original: Any, wrapper: Wrapper, *, asynchronous: bool) -> None:
        self.original = original
        self.reached = False
        self._call = wrapper(original)
        # functools.wraps also copies attributes: packs mark what they have patched, and look for the mark before they patch again
        if asynchronous:

            @functools.wraps(original)
            async def function(*args: Any, **kwargs: Any) -> Any:
                return await self._call(*args, **kwargs)
        else:

            @functools.wraps(original)
            def function(*args: Any, **kwargs: Any) -> Any:
                return self._call(*args, **kwargs)

        self.function: Any = function
        self.function.__dict__[_MARK] = self

    def retire(self) -> None:
        """Only pass on from now on. A call that is inside the wrapper ends there."""
        self._call = self._pass_on

    def _pass_on(self, *args: Any, **kwargs: Any) -> Any:
        self.reached = True
        return self.original(*args, **kwargs)


def bare(function: Any) -> Any:
    """The function below our links, where they are on top."""
    while (link := _link_of(function)) is not None:
        function = link.original
    return function


def leads_to(function: Any, link: Link) -> bool:
    """Whether `function` calls the link, as far as its code shows: it captures or names it, or something that it captures does.

    `__wrapped__` proves nothing of a plain function: functools.wraps also decorates replacements that call no original. A True that is
    wrong leaves the link unreached, a False that is wrong only puts another link on top: anything uncertain is False.
    """
    todo, seen = [function], set[int]()
    while todo:
        one = todo.pop()
        if one is link.function:
            return True
        if id(one) not in seen:
            seen.add(id(one))
            captured, named = _calls(one)
            if any(value is link.function for value in named):
                return True
            todo += filter(callable, captured)
    return False


def module_of(function: Any) -> str:
    """The name of the module whose code runs. `__module__` would be the one that functools.wraps has copied."""
    inner = _innermost(function)
    return str(inner.__globals__.get("__name__")) if isinstance(inner, FunctionType) else type(inner).__module__


def pack_of(function: Any) -> str:
    """Whose function this is, in words: the folder or file in custom_nodes, else the module."""
    inner = _innermost(function)
    parts = Path(inner.__code__.co_filename).parts if isinstance(inner, FunctionType) else ()
    folder = parts.index("custom_nodes") + 1 if "custom_nodes" in parts else len(parts)
    return parts[folder] if folder < len(parts) else module_of(function)


def _link_of(function: Any) -> Link | None:
    link = function.__dict__.get(_MARK) if isinstance(function, FunctionType) else None
    return link if isinstance(link, Link) and link.function is function else None


def _innermost(function: Any) -> Any:
    while isinstance(function, MethodType | functools.partial):
        function = function.__func__ if isinstance(function, MethodType) else function.func
    call = inspect.getattr_static(type(function), "__call__", None)
    return call if isinstance(call, FunctionType) and not isinstance(function, FunctionType) else function


def _calls(one: Any) -> tuple[list[Any], Iterable[Any]]:
    """The values that a callable captures, and those that it names."""
    own = _link_of(one)
    if own is not None:
        return [own.original], ()
    if isinstance(one, functools.partial):
        return [one.func, *one.args, *one.keywords.values()], ()
    if not isinstance(one, FunctionType):  # a bound method, an object that can be called
        inner, bound = _innermost(one), one.__self__ if isinstance(one, MethodType) else one
        if not isinstance(inner, FunctionType):  # made in C
            return [inspect.getattr_static(one, "__wrapped__", None)], ()
        return [inner, *_attributes([bound], _names(inner.__code__))], ()
    names = _names(one.__code__)
    captured = [*_contents(one), *(one.__defaults__ or ()), *(one.__kwdefaults__ or {}).values()]
    named = [one.__globals__[name] for name in names if name in one.__globals__]
    return captured, [*named, *_attributes([*captured, *named], names)]


def _contents(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # still empty
            pass


def _names(code: CodeType) -> set[str]:
    """Globals and attributes, those of the functions inside it as well."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _attributes(owners: Iterable[Any], names: set[str]) -> Iterator[Any]:
    """The values of the names in modules, classes and objects, and those of containers; nobody's own code runs."""
    for owner in owners:
        if isinstance(owner, dict | list | tuple | set):
            if len(owner) <= _CONTAINER_SIZE:
                yield from tuple(owner.values() if isinstance(owner, dict) else owner)
            continue
        for name in names:
            value = vars(owner).get(name) if isinstance(owner, ModuleType) else inspect.getattr_static(owner, name, None)
            yield value.__func__ if isinstance(value, staticmethod | classmethod) else value
