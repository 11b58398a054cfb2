"""The wrappers that the seams put around ComfyUI's functions: each calls the original, and tells the host of it.

`tell_…` arguments and those that only ask (`chooses`, `teaches`, `stalled`, `hold`) never raise: the host guards them. An error here would
end the node, and in `pick` ComfyUI's worker with it. `runs()` says whether a prompt runs under the pack; without one a wrapper only passes
on.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from .chain import Wrapper

Tell = Callable[..., Any]
Runs = Callable[[], bool]


def prompt(tell_begin: Tell, tell_end: Tell) -> Wrapper:
    """Around execute_async: `tell_begin(prompt, prompt_id, extra_data, outputs)`, and `tell_end(executor)` however it ends."""

    def wrapper(original: Any) -> Any:
        @functools.wraps(original)
        async def execute_async(executor: Any, *args: Any, **kwargs: Any) -> Any:
            tell_begin(*_arguments(args, kwargs))
            try:
                return await original(executor, *args, **kwargs)
            finally:
                tell_end(executor)

        return execute_async

    return wrapper


def pick(chooses: Runs, tell_choice: Tell) -> Wrapper:
    """Around ux_friendly_pick_node: `tell_choice(execution_list, node_list, own)` gives the node that runs instead of ComfyUI's own; not
    asked unless `chooses()`."""

    def wrapper(original: Any) -> Any:
        @functools.wraps(original)
        def ux_friendly_pick_node(execution_list: Any, node_list: Any, *args: Any, **kwargs: Any) -> Any:
            own = original(execution_list, node_list, *args, **kwargs)
            if len(node_list) < 2 or not chooses():
                return own
            chosen = tell_choice(execution_list, node_list, own)
            return chosen if chosen in node_list else own

        return ux_friendly_pick_node

    return wrapper


def stage(runs: Runs, tell_start: Tell, hold: Callable[[Any], Awaitable[None]]) -> Wrapper:
    """Around stage_node_execution: `tell_start(execution_list, node_id)` gives the node's holds."""

    def wrapper(original: Any) -> Any:
        @functools.wraps(original)
        async def stage_node_execution(execution_list: Any, *args: Any, **kwargs: Any) -> Any:
            staged = await original(execution_list, *args, **kwargs)
            if runs() and staged[0] is not None:
                holds = tell_start(execution_list, staged[0])
                if holds:
                    await hold(holds)
            return staged

        return stage_node_execution

    return wrapper


def unstage(runs: Runs, tell_return: Tell) -> Wrapper:
    """Around unstage_node_execution: `tell_return(execution_list)`, the staged node goes back."""

    def wrapper(original: Any) -> Any:
        @functools.wraps(original)
        def unstage_node_execution(execution_list: Any, *args: Any, **kwargs: Any) -> Any:
            if runs():
                tell_return(execution_list)
            return original(execution_list, *args, **kwargs)

        return unstage_node_execution

    return wrapper


def complete(runs: Runs, tell_finish: Tell) -> Wrapper:
    """Around complete_node_execution: the staged node has run."""

    def wrapper(original: Any) -> Any:
        @functools.wraps(original)
        def complete_node_execution(execution_list: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(execution_list, *args, **kwargs)
            if runs():
                tell_finish()
            return result

        return complete_node_execution

    return wrapper


def outputs(teaches: Callable[[str], bool], tell_outputs: Tell) -> Wrapper:
    """Around cache_update: `tell_outputs(execution_list, node_id, value)` before the results of a node that `teaches(node_id)` are kept."""

    def wrapper(original: Any) -> Any:
        @functools.wraps(original)
        def cache_update(execution_list: Any, node_id: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
            if teaches(node_id):
                tell_outputs(execution_list, node_id, value)
            return original(execution_list, node_id, value, *args, **kwargs)

        return cache_update

    return wrapper


def load(runs: Runs, tell_before: Tell, tell_after: Tell, clock: Callable[[], float], stalled: Callable[[float], object]) -> Wrapper:
    """Around load_models_gpu: `tell_before` and `tell_after(patchers, working_set_bytes)`; all of it is stall."""

    def wrapper(original: Any) -> Any:
        @functools.wraps(original)
        def load_models_gpu(models: Any, memory_required: Any = 0, *args: Any, **kwargs: Any) -> Any:
            if not runs():
                return original(models, memory_required, *args, **kwargs)
            started_s, models = clock(), list(models)
            tell_before(models, int(memory_required))
            try:
                result = original(models, memory_required, *args, **kwargs)
                tell_after(models, int(memory_required))
                return result
            finally:
                stalled(clock() - started_s)

        return load_models_gpu

    return wrapper


def unload(tell_before: Tell) -> Wrapper:
    """Around unpatch_model of the legacy patcher: `tell_before(patcher, device_to)` when its weights go with it."""

    def wrapper(original: Any) -> Any:
        @functools.wraps(original)
        def unpatch_model(patcher: Any, device_to: Any = None, unpatch_weights: Any = True, *args: Any, **kwargs: Any) -> Any:
            if unpatch_weights and not patcher.is_dynamic():
                tell_before(patcher, device_to)
            return original(patcher, device_to, unpatch_weights, *args, **kwargs)

        return unpatch_model

    return wrapper


def cast(asks: Callable[[Any], Any], before_use: Callable[[Any], bool], given: Callable[[Any, Any, Any, bool], object]) -> Wrapper:
    """Around cast_modules_with_vbar, which every module of a dynamic model goes through before its weights are used. An error of
    `before_use` must stop the node: its weights have not arrived. `given(asked, modules, stream, waited)` afterwards: the answer of `asks`,
    the stream that copies were announced on, and the answer of `before_use`; `asks` and `given` never raise."""

    def wrapper(original: Any) -> Any:
        @functools.wraps(original)
        def cast_modules_with_vbar(comfy_modules: Any, *args: Any, **kwargs: Any) -> Any:
            asked = asks(comfy_modules)
            waited = before_use(comfy_modules)
            result = original(comfy_modules, *args, **kwargs)
            given(asked, comfy_modules, result[0] if isinstance(result, tuple) else result, waited)
            return result

        return cast_modules_with_vbar

    return wrapper


def fault(before_use: Callable[[Any, int, int], None]) -> Wrapper:
    """Around ModelVBAR.fault, without which no page is used, whether for a module or for a block of them. As with `cast`, an error of
    `before_use(buffer, address, size_bytes)` must stop the node."""

    def wrapper(original: Any) -> Any:
        @functools.wraps(original)
        def fault(buffer: Any, alloc: Any, size: Any, *args: Any, **kwargs: Any) -> Any:
            before_use(buffer, alloc, size)
            return original(buffer, alloc, size, *args, **kwargs)

        return fault

    return wrapper


def layout(runs: Runs, arranged: Callable[[Any, list[Any]], list[Any]]) -> Wrapper:
    """Around _load_list: `arranged(patcher, loading)` gives a dynamic model's modules in the order in which they get their places."""

    def wrapper(original: Any) -> Any:
        @functools.wraps(original)
        def _load_list(patcher: Any, for_dynamic: Any = False, *args: Any, **kwargs: Any) -> Any:
            loading = original(patcher, for_dynamic, *args, **kwargs)
            found = arranged(patcher, loading) if for_dynamic and runs() else None
            return loading if found is None else found

        return _load_list

    return wrapper


def pin(before: Callable[[], None], may_pin: Callable[[str], bool]) -> Wrapper:
    """Around pin_memory: a copy that may not be made is not made; ComfyUI takes that as "no room"."""

    def wrapper(original: Any) -> Any:
        @functools.wraps(original)
        def pin_memory(module: Any, subset: str = "weights", *args: Any, **kwargs: Any) -> Any:
            if not may_pin(subset):
                return None
            before()
            return original(module, subset, *args, **kwargs)

        return pin_memory

    return wrapper


def cached(runs: Runs, tell_spared: Tell, tell_dropped: Tell, as_if_used: Callable[[Any, Any], AbstractContextManager[None]]) -> Wrapper:
    """Around ram_release, which drops results that the running prompt does not use: not those that `tell_spared(cache, target)` gives the
    keys of; `tell_dropped(cache)` afterwards. Not asked where active ones may go as well: then memory is short, and ComfyUI decides."""

    def wrapper(original: Any) -> Any:
        @functools.wraps(original)
        def ram_release(cache: Any, target: Any, free_active: bool = False, *args: Any, **kwargs: Any) -> Any:
            if free_active or not runs():
                return original(cache, target, free_active, *args, **kwargs)
            spared = tell_spared(cache, target)
            with as_if_used(cache, spared) if spared else nullcontext():
                result = original(cache, target, free_active, *args, **kwargs)
            tell_dropped(cache)
            return result

        return ram_release

    return wrapper


def queue(tell_change: Tell) -> Wrapper:
    """Around a function that changes the queue."""

    def wrapper(original: Any) -> Any:
        @functools.wraps(original)
        def change_queue(*args: Any, **kwargs: Any) -> Any:
            try:
                return original(*args, **kwargs)
            finally:
                tell_change()

        return change_queue

    return wrapper


def _arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, str, Any, list[str]]:
    """prompt, prompt_id, extra_data and execute_outputs of execute_async, however they were passed."""
    names = ("prompt", "prompt_id", "extra_data", "execute_outputs")
    values = dict(zip(names, args, strict=False)) | {name: kwargs[name] for name in names if name in kwargs}
    return values["prompt"], values["prompt_id"], values.get("extra_data"), list(values.get("execute_outputs") or ())
