"""A stranger's loader of checkpoints: its text encoder leaves it in a pipe only, or not at all."""

import comfy.sd
import folder_paths


class PipeLoader:
    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"ckpt_name": (folder_paths.get_filename_list("checkpoints"),)}}

    RETURN_TYPES = ("PIPE_LINE", "MODEL", "VAE")
    FUNCTION = "load"
    CATEGORY = "pipes"
    TEXT = True

    def load(self, ckpt_name):
        path = folder_paths.get_full_path_or_raise("checkpoints", ckpt_name)
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(path, output_clip=self.TEXT)
        return ({"model": model, "clip": clip, "vae": vae}, model, vae)


class TextlessPipeLoader(PipeLoader):
    TEXT = False


class PipeEncode:
    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"pipe": ("PIPE_LINE",), "text": ("STRING",)}}

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "encode"
    CATEGORY = "pipes"
    OUTPUT_NODE = True

    def encode(self, pipe, text):
        clip = pipe["clip"]
        return (clip.encode_from_tokens_scheduled(clip.tokenize(text)) if clip is not None else [],)


NODE_CLASS_MAPPINGS = {kind.__name__: kind for kind in (PipeLoader, TextlessPipeLoader, PipeEncode)}
