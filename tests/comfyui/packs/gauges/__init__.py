"""For stories about what a server takes: GET /gauges tells it of this process, now. GET /gauges/owners tells whose the functions are,
GET /gauges/objects how many objects there are when what nobody refers to is gone."""

import gc
import importlib
import sys
import threading
from collections import Counter

import comfy.model_management as model_management
import psutil
import torch
from aiohttp import web
from server import PromptServer

POOLS = ("asyncio", "ThreadPoolExecutor")  # as many threads as their pools ever get work for


def _threads():
    """The pack's, and all that are in no pool, those of libraries as well."""
    names = [thread.name for thread in threading.enumerate()]
    pooled = sum(name.startswith(POOLS) for name in names)
    return [name for name in names if name.startswith("residency")], psutil.Process().num_threads() - pooled


@PromptServer.instance.routes.get("/gauges")
async def _gauges(request):
    process, (ours, threads) = psutil.Process(), _threads()
    handles = process.num_handles() if sys.platform == "win32" else process.num_fds()
    device = model_management.get_torch_device()
    cuda = device.type == "cuda"
    told = {
        "rss_bytes": process.memory_info().rss,
        "threads": threads,
        "our_threads": sorted(ours),
        "handles": handles,
        "files": sorted(file.path for file in process.open_files() if file.path.endswith((".safetensors", ".part"))),
        "pinned_bytes": int(model_management.TOTAL_PINNED_MEMORY),
        "pin_limit_bytes": int(model_management.MAX_PINNED_MEMORY),
        "device_bytes": torch.cuda.mem_get_info(device)[1] - torch.cuda.mem_get_info(device)[0] if cuda else 0,
    }
    return web.json_response(told)


def _seams():
    name = next((name for name in list(sys.modules) if name.endswith("residency.comfyui.seams.functions")), "")
    return importlib.import_module(name) if name else None


@PromptServer.instance.routes.get("/gauges/owners")
async def _owners(request):
    """By the name of the function that the pack wraps: the pack whose code is called first, and whom ours knows of besides itself."""
    seams, told = _seams(), {}
    for seam in seams.ALL if seams else ():
        try:
            told[seam.name] = {"first": seams.pack_of(seam._now()), "others": seam.others()}
        except (ImportError, AttributeError):
            continue
    return web.json_response(told)


@PromptServer.instance.routes.get("/gauges/objects")
async def _objects(request):
    """All that Python's collector follows, and the pack's own by class."""
    gc.collect()
    found = gc.get_objects()
    ours = [one for one in found if ".residency." in f".{type(one).__module__}."]
    blocks = sys.getallocatedblocks()  # of Python's allocator: strings and numbers too
    return web.json_response({"all": len(found), "blocks": blocks, "ours": Counter(type(one).__qualname__ for one in ours)})


NODE_CLASS_MAPPINGS = {}
