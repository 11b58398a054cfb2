"""A stranger's pack: a file format of its own, a model folder of its own, a loader class of its own. It has never heard of Residency.

Its files are safetensors under another name; what counts is that nobody but this loader lists, names or reads them.
"""

from pathlib import Path

import comfy.sd
import folder_paths
import safetensors.torch

_places = folder_paths.folder_names_and_paths["diffusion_models"][0]
folder_paths.folder_names_and_paths["unet_gguf"] = (list(_places), {".gguf"})


class UnetLoaderLikeGGUF:
    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"unet_name": (folder_paths.get_filename_list("unet_gguf"),)}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load_unet"
    CATEGORY = "bootleg"

    def load_unet(self, unet_name):
        path = folder_paths.get_full_path_or_raise("unet_gguf", unet_name)
        return (comfy.sd.load_diffusion_model_state_dict(safetensors.torch.load(Path(path).read_bytes())),)


NODE_CLASS_MAPPINGS = {"UnetLoaderLikeGGUF": UnetLoaderLikeGGUF}
