"""A stranger's node in the middle of a workflow that frees whatever it can, as packs for small machines do."""

import gc
import os

import comfy.model_management
import folder_paths
from server import PromptServer

EVERY_BYTES = 5 * 1024**2


class FreeMemory:
    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"anything": ("*",), "take": ("INT", {"default": 0, "max": 1 << 40}), "pages": (["none", "some", "all"],)}}

    RETURN_TYPES = ("*",)
    FUNCTION = "free"
    CATEGORY = "cleanup"

    @classmethod
    def VALIDATE_INPUTS(cls, input_types):  # noqa: N802
        return True

    def free(self, anything, take, pages):
        comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()
        gc.collect()
        PromptServer.instance.prompt_queue.set_flag("free_memory", True)  # the results too, when this prompt has ended
        for folder in ("diffusion_models", "text_encoders", "vae") if pages != "none" else ():
            for name in folder_paths.get_filename_list(folder):
                fd = os.open(folder_paths.get_full_path_or_raise(folder, name), os.O_RDONLY)
                for start in range(0, os.fstat(fd).st_size, EVERY_BYTES):
                    os.posix_fadvise(fd, start, 4096 if pages == "some" else EVERY_BYTES, os.POSIX_FADV_DONTNEED)
                os.close(fd)
        return (anything,)


NODE_CLASS_MAPPINGS = {"FreeMemory": FreeMemory}
