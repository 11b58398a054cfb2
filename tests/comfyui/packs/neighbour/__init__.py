"""A stranger's pack that patches ComfyUI as packs do: it wraps without functools.wraps, and replaces without calling what was there.

POST /neighbour {"patch": "wrap put"} does so at once, {"undo": "wrap put"} puts back what it found there; the node ReplaceLoad does it
when it runs. GET /neighbour tells how often each was called.
"""

import gc
import inspect
import threading
import time

import comfy.model_management as mm
import comfy.model_patcher
import comfy.ops
import execution
from aiohttp import web
from server import PromptServer

# ComfyUI collects garbage wherever it frees all memory, 0.36 s each time, of which the objects that its imports have made take the most.
gc.freeze()

calls = {"wrap put": 0, "wrap load": 0, "replace load": 0, "replace prompt": 0}


def _wrap_put():
    mine = execution.PromptQueue.put

    def put(self, item):
        calls["wrap put"] += 1
        return mine(self, item)

    execution.PromptQueue.put = put


def _wrap_load():
    mine = mm.load_models_gpu

    def load_models_gpu(models, *args, **kwargs):
        calls["wrap load"] += 1
        return mine(models, *args, **kwargs)

    mm.load_models_gpu = load_models_gpu


# ComfyUI's own functions stand for versions of the pack's own
_own_load = inspect.unwrap(mm.load_models_gpu)
_own_execute = inspect.unwrap(execution.PromptExecutor.execute_async)


def _replace_load():
    def load_models_gpu(models, memory_required=0, *args, **kwargs):
        calls["replace load"] += 1
        return _own_load(models, memory_required, *args, **kwargs)

    mm.load_models_gpu = load_models_gpu


def _replace_prompt():
    async def execute_async(self, prompt, prompt_id, extra_data=None, execute_outputs=()):
        calls["replace prompt"] += 1
        return await _own_execute(self, prompt, prompt_id, extra_data or {}, execute_outputs)

    execution.PromptExecutor.execute_async = execute_async


class ReplaceLoad:
    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",), "seed": ("INT", {"default": 0})}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "replace"
    CATEGORY = "neighbour"

    def replace(self, model, seed):
        _replace_load()
        return (model,)


class OwnPatcher(comfy.model_patcher.ModelPatcher):
    """A patcher of the pack's own, as one for quantized files needs."""

    def unpatch_model(self, device_to=None, unpatch_weights=True):
        calls["own patcher"] += 1
        return super().unpatch_model(device_to=device_to, unpatch_weights=unpatch_weights)

    def clone(self, *args, **kwargs):
        copy = super().clone(*args, **kwargs)
        copy.__class__ = OwnPatcher
        return copy


class TakeOwnPatcher:
    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",), "seed": ("INT", {"default": 0})}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "take"
    CATEGORY = "neighbour"

    def take(self, model, seed):
        copy = model.clone()
        copy.__class__ = OwnPatcher
        return (copy,)


# kind of pack: what it changes
PLACES = {
    "devices": [(mm, "get_torch_device"), (mm, "unet_offload_device"), (mm, "text_encoder_device"), (mm, "soft_empty_cache")],
    "unloading": [(comfy.model_patcher.ModelPatcher, "unpatch_model"), (comfy.model_patcher.ModelPatcher, "partially_load")],
    "weights": [(comfy.ops, "cast_modules_with_vbar"), (comfy.ops, "cast_bias_weight")],
    "loading": [(mm, "load_models_gpu"), (mm, "free_memory")],
}
_saved = {}


class _Disabled:
    """A callable that is no function, as a compiler's marks are."""

    def __init__(self, function, what):
        self.function, self.what = function, what

    def __call__(self, *args, **kwargs):
        calls[self.what] += 1
        return self.function(*args, **kwargs)


def _patch(what):
    for owner, name in PLACES[what]:
        found = getattr(owner, name, None)
        if found is None:
            continue
        _saved.setdefault(what, []).append((owner, name, found))
        if what == "weights":
            setattr(owner, name, _Disabled(found, what))
        else:
            setattr(owner, name, _counting(found, what))


def _counting(found, what):
    def mine(*args, **kwargs):
        calls[what] += 1
        return found(*args, **kwargs)

    return mine


def _undo(what):
    for owner, name, found in _saved.pop(what):
        setattr(owner, name, found)


_watching = threading.Event()


def _watch():
    """As a monitor of memory does: on a thread of its own, while others change the list."""
    while _watching.is_set():
        for loaded in list(mm.current_loaded_models):
            model = loaded.model
            if model is not None:
                calls["watch"] += bool(model.model_size() + model.loaded_size())
        time.sleep(0.005)


def _patched(what):
    if what == "watch":
        _watching.set()
        threading.Thread(target=_watch, daemon=True).start()
    else:
        _patch(what)


def _undone(what):
    if what == "watch":
        _watching.clear()
    else:
        _undo(what)


calls |= dict.fromkeys([*PLACES, "watch", "own patcher"], 0)


@PromptServer.instance.routes.get("/neighbour")
async def _told(request):
    return web.json_response(calls)


@PromptServer.instance.routes.post("/neighbour")
async def _asked(request):
    asked = await request.json()
    if "undo" in asked:
        _undone(asked["undo"])
        return web.json_response(calls)
    named = {"wrap put": _wrap_put, "wrap load": _wrap_load, "replace prompt": _replace_prompt}
    patch = asked["patch"]
    named[patch]() if patch in named else _patched(patch)
    return web.json_response(calls)


NODE_CLASS_MAPPINGS = {"ReplaceLoad": ReplaceLoad, "TakeOwnPatcher": TakeOwnPatcher}
