"""A stranger's pack that patches ComfyUI as packs do: it wraps without functools.wraps, and replaces without calling what was there.

POST /neighbour {"patch": "wrap put"} does so at once, the node ReplaceLoad when it runs; GET /neighbour tells how often each was called.
"""

import inspect

import comfy.model_management as mm
import execution
from aiohttp import web
from server import PromptServer

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


@PromptServer.instance.routes.get("/neighbour")
async def _told(request):
    return web.json_response(calls)


@PromptServer.instance.routes.post("/neighbour")
async def _asked(request):
    patch = (await request.json())["patch"]
    {"wrap put": _wrap_put, "wrap load": _wrap_load, "replace prompt": _replace_prompt}[patch]()
    return web.json_response(calls)


NODE_CLASS_MAPPINGS = {"ReplaceLoad": ReplaceLoad}
