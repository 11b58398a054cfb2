"""For stories about LoRAs: which weights ComfyUI has made anew with their patches since this was asked last, each as often as it was."""

import functools

import comfy.lora
from aiohttp import web
from server import PromptServer

made = []
calculate_weight = comfy.lora.calculate_weight


@functools.wraps(calculate_weight)
def counted(patches, weight, key, *args, **kwargs):
    made.append(key)
    return calculate_weight(patches, weight, key, *args, **kwargs)


comfy.lora.calculate_weight = counted


@PromptServer.instance.routes.get("/rebuilds")
async def rebuilds(request):
    told = sorted(made)
    made.clear()
    return web.json_response(told)


NODE_CLASS_MAPPINGS = {}
