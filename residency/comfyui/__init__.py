"""The ComfyUI host: how the deciding core meets a running ComfyUI. The only package, with nodes/, that imports ComfyUI."""
